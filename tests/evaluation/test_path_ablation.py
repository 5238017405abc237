"""Each ablated prediction against the network built without that part, and the network as it was afterwards."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from stsa_lightning.evaluation.path_ablation import ablated_predictions
from stsa_lightning.evaluation.protocol import Protocol
from stsa_lightning.evaluation.run import evaluate_checkpoint, evaluate_videos
from stsa_lightning.inference.reference import PlainEngine
from stsa_lightning.models.checkpoint import save_networks
from stsa_lightning.models.guidance import Guidance
from stsa_lightning.models.presets import GUIDANCE, SYNTHESIS
from stsa_lightning.models.synthesis import Paths, Synthesis, mask_lower_half
from stsa_lightning.utils.errors import UserError

NAMES = ["no spatial path", "no temporal path", "warped references", "heatmap shuffled", "audio shuffled"]


def network(paths: Paths = "both") -> Synthesis:
    torch.manual_seed(0)
    return Synthesis(**{**SYNTHESIS["tiny"], "on_warped": False, "paths": paths}).eval()


@pytest.fixture
def inputs() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    shapes = {"masked": (4, 3, 64, 64), "heatmap": (4, 1, 64, 64), "images": (1, 3, 3, 64, 64)}
    made = {name: torch.rand(shape, generator=generator) for name, shape in shapes.items()}
    return {**made, "masked": mask_lower_half(made["masked"]), "heatmaps": made["images"][:, :, :1]}


def generated(synthesis: Synthesis, inputs: dict[str, Tensor], speech: np.ndarray, order: list[int] | None = None):
    """Faces under heatmaps in another `order`; the speech gives each frame's audio window."""
    references = synthesis.encode_references(inputs["images"], inputs["heatmaps"]).expand(4)
    audio = torch.from_numpy(speech).float().unflatten(0, (4, 10)).mT
    with torch.inference_mode():
        return synthesis.render(inputs["masked"], inputs["heatmap"][order or [0, 1, 2, 3]], audio, references)


def test_ablated_predictions_each_equal_what_is_left_without_that_part(inputs: dict[str, Tensor]) -> None:
    speech = np.random.default_rng(0).normal(size=(40, 80)).astype(np.float32)
    synthesis = network()
    whole = generated(synthesis, inputs, speech)
    found = ablated_predictions(synthesis, lambda speech: generated(synthesis, inputs, speech).face, speech)
    assert list(found) == NAMES
    expected = {
        "no spatial path": generated(network("temporal"), inputs, speech).face,
        "no temporal path": generated(network("spatial"), inputs, speech).face,
        "warped references": torch.cat([inputs["masked"][..., :32, :], whole.warped[..., 32:, :]], dim=-2),
        "heatmap shuffled": generated(synthesis, inputs, speech, [2, 3, 0, 1]).face,
        "audio shuffled": generated(synthesis, inputs, np.concatenate([speech[20:], speech[:20]])).face,
    }
    for name, faces in expected.items():
        torch.testing.assert_close(found[name], faces, msg=lambda text, name=name: f"{name}: {text}")
        assert not torch.equal(found[name], whole.face), name
    torch.testing.assert_close(generated(synthesis, inputs, speech).face, whole.face, rtol=0, atol=0)


@pytest.mark.slow
def test_evaluation_with_ablated_paths_has_a_row_for_each_part(
    prepared_sample: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded = []
    encode = PlainEngine.encode
    monkeypatch.setattr(PlainEngine, "encode", lambda engine, inputs: encoded.append(inputs) or encode(engine, inputs))
    torch.manual_seed(0)
    guidance = Guidance(**{**GUIDANCE["tiny"], "heatmap_sigma": 1.0})
    synthesis = Synthesis(**{**SYNTHESIS["tiny"], "on_warped": False, "align_references": True})
    networks = save_networks(
        tmp_path / "random.safetensors", guidance, synthesis, {"features": "logmel", "num_frames": 5}
    )
    protocol = Protocol(speakers=("speaker01",), metrics=("psnr",), tasks=("paired",), ablate_paths=True)
    report = evaluate_checkpoint(networks, prepared_sample, tmp_path / "report", protocol)
    assert len(encoded) == len(report.settings["clips measured"])  # a clip's references serve all rows
    rows = [row.method for row in report.task_rows("paired")]
    names = [*NAMES, "not calibrated"]
    assert [name for name in rows if name in names] == names
    assert report.main == rows[-2] == "STSA"
    values = {name: report.row("paired", name).value("psnr_mouth") for name in [*names, "STSA"]}
    assert len(set(values.values())) == len(values)


def test_videos_with_ablated_paths_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="ablate_paths: expected a checkpoint, got videos"):
        evaluate_videos(tmp_path / "a", tmp_path / "b", tmp_path / "out", Protocol(ablate_paths=True))
