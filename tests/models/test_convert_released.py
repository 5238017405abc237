from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from stsa_lightning.cli import main
from stsa_lightning.dubbing import Dubber
from stsa_lightning.features.base import steps_of
from stsa_lightning.inference.engine import Calibrate, Engine, Guided, Rendered
from stsa_lightning.inference.frame_inputs import ChosenReferences, FrameInputs, ReferenceInputs
from stsa_lightning.losses.cil import CILLoss
from stsa_lightning.losses.mutual_information import MINE
from stsa_lightning.media.audio import write_wav
from stsa_lightning.models.checkpoint import load_networks
from stsa_lightning.models.convert_released import convert_cil, convert_guidance, convert_synthesis, import_released
from stsa_lightning.models.guidance import Guidance
from stsa_lightning.models.presets import GUIDANCE, SYNTHESIS
from stsa_lightning.models.synthesis import Synthesis, mask_lower_half
from stsa_lightning.utils.errors import UserError

State = dict[str, Tensor]


@pytest.fixture(scope="module")
def guidance_state(seeded: ModuleType) -> State:
    return seeded.seeded_state("guidance_state.json")


@pytest.fixture(scope="module")
def synthesis_state(seeded: ModuleType) -> State:
    return seeded.seeded_state("synthesis_state.json")


@pytest.fixture(scope="module")
def published(
    tmp_path_factory: pytest.TempPathFactory, guidance_state: State, synthesis_state: State
) -> tuple[Path, Path]:
    """Two files as they are published: one of them from data-parallel training, with a step count beside."""
    folder = tmp_path_factory.mktemp("published")
    stage1, stage2 = folder / "guidance.pth", folder / "synthesis.pth"
    torch.save({"state_dict": {f"module.{k}": v for k, v in guidance_state.items()}, "global_step": 7}, stage1)
    torch.save({"state_dict": synthesis_state}, stage2)
    return stage1, stage2


@pytest.mark.slow
@torch.no_grad()
def test_imported_networks_give_rgb(
    published: tuple[Path, Path], parity: Path, seeded: ModuleType, tmp_path: Path
) -> None:
    said: list[str] = []
    out = import_released(*published, tmp_path / "released.safetensors", said.append)
    for line, path, what in zip(said, published, ("guidance (stage 1)", "synthesis (stage 2)"), strict=True):
        assert line.startswith(f"{path}: {what}, ")
        assert re.search(r"\d+ of \d+ tensors taken, \d+\.\d\d M numbers", line)
    assert "message_j2l.0 (" in said[0]
    guidance, synthesis, meta = load_networks(out)
    assert meta["features"] == "wav2vec2"
    assert meta["num_frames"] == 5
    assert guidance.settings["add_masked"] is False
    assert synthesis.settings["face_size"] == 128

    record = np.load(parity / "synthesis.npz")
    output = synthesis(
        mask_lower_half(seeded.seeded_input("frame", (2, 1, 3, 128, 128))[:, 0]).flip(1),
        seeded.seeded_input("driving_heatmap", (2, 1, 1, 128, 128))[:, 0],
        seeded.seeded_input("frame_audio", (2, 1, 768, 10), "normal")[:, 0],
        seeded.seeded_input("reference_image", (2, 5, 3, 128, 128)).flip(2),
        seeded.seeded_input("reference_image_heatmap", (2, 5, 1, 128, 128)),
    )
    np.testing.assert_allclose(output.face.flip(1), record["face"], atol=1e-4, rtol=0)
    np.testing.assert_allclose(output.warped.flip(1), record["warped_reference"], atol=1e-4, rtol=0)

    record = np.load(parity / "guidance.npz")
    answer = guidance(
        seeded.seeded_input("audio", (2, 5, 768, 10), "normal"),
        seeded.seeded_input("masked_heatmap", (2, 5, 1, 128, 128)),
        seeded.seeded_input("reference_heatmap", (2, 5, 1, 128, 128)),
    )
    np.testing.assert_allclose(answer.heatmap.flatten(0, 1), record["heatmap"].clip(max=1), atol=1e-4, rtol=0)


def test_swapped_files_are_named(guidance_state: State, synthesis_state: State, tmp_path: Path) -> None:
    stage1, stage2 = tmp_path / "guidance.pth", tmp_path / "synthesis.pth"
    for path, state in ((stage1, guidance_state), (stage2, synthesis_state)):
        # Of the published names and shapes, one number each: a hundredth of the bytes.
        torch.save({"state_dict": {name: torch.zeros(()).expand(t.shape) for name, t in state.items()}}, path)
    with pytest.raises(UserError, match=r"synthesis\.pth: not a released guidance .* missing .* unexpected .* swapped"):
        import_released(stage2, stage1, tmp_path / "out.safetensors")
    with pytest.raises(UserError, match=r"guidance\.pth: not a released synthesis .* missing .* unexpected .* swapped"):
        import_released(stage1, stage1, tmp_path / "out.safetensors")
    assert not (tmp_path / "out.safetensors").exists()


def test_files_of_another_kind_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"absent\.pth: no such file"):
        import_released(tmp_path / "absent.pth", tmp_path / "absent.pth", tmp_path / "out")
    text = tmp_path / "page.pth"
    text.write_text("<html>404</html>")
    with pytest.raises(UserError, match=r"page\.pth: cannot be read as a PyTorch file of tensors"):
        import_released(text, text, tmp_path / "out")
    bare = tmp_path / "bare.pth"
    torch.save({"weights": torch.zeros(1)}, bare)
    with pytest.raises(UserError, match=r"bare\.pth: expected a dictionary with a `state_dict`, found: weights"):
        import_released(bare, bare, tmp_path / "out")
    torch.save({"state_dict": {1: torch.zeros(1)}}, bare)
    with pytest.raises(UserError, match=r"bare\.pth: expected names and tensors in its `state_dict`, .* at 1"):
        import_released(bare, bare, tmp_path / "out")


def test_missing_unexpected_and_misshapen_entries_are_named(guidance_state: State, synthesis_state: State) -> None:
    without = {k: v for k, v in guidance_state.items() if k != "Norm.weight"}
    with pytest.raises(UserError, match=r"1 missing \(first: norm\.weight\)"):
        convert_guidance(without)
    with pytest.raises(UserError, match=r"1 unexpected \(first: head\.weight\)"):
        convert_guidance({**guidance_state, "head.weight": torch.zeros(1)})
    with pytest.raises(UserError, match=r"1 misshapen \(first: norm\.weight is \(3,\) instead of \(512,\)"):
        convert_guidance({**guidance_state, "Norm.weight": torch.zeros(3)})
    narrow = {**synthesis_state, "temporal_module.conv1.weight": torch.zeros(32, 4, 7, 7)}
    with pytest.raises(UserError, match="first layers see other channels"):
        convert_synthesis(narrow, bgr=True)


def test_the_loss_network_and_the_idle_encoder_are_left_out(synthesis_state: State) -> None:
    plain = convert_synthesis(synthesis_state, bgr=False)
    with_loss = convert_synthesis({**synthesis_state, "perceptual.vgg.0.weight": torch.zeros(1)}, bgr=False)
    assert plain.keys() == with_loss.keys()
    assert not any("source_img_encoder" in name or "mine" in name for name in plain)


def test_cil_of_a_released_network_is_whole(synthesis_state: State) -> None:
    cil = CILLoss((32, 128, 256), MINE(128))
    cil.load_state_dict(convert_cil(synthesis_state))
    assert cil.estimator.fc1.weight.equal(synthesis_state["mine.fc1.weight"])


def test_the_lists_count_where_they_differ_from_the_sized_names(synthesis_state: State) -> None:
    ours = convert_synthesis(synthesis_state, bgr=False)
    listed = synthesis_state["spatial_module.adaAT.2.scale.0.weight"]
    assert ours["spatial.transforms.2.scale.weight"].equal(listed)
    assert not listed.equal(synthesis_state["spatial_module.adaAT_32.scale.0.weight"])


def test_one_message_block_serves_both_directions(guidance_state: State) -> None:
    ours = convert_guidance(guidance_state)
    released = guidance_state["heatmap_decoder.message_l2j.0.conv_block.0.weight"]
    assert ours["decoder.lip_to_jaw.conv.weight"].equal(released)
    assert ours["decoder.jaw_to_lip.conv.weight"].equal(released)


# ------------------------------------------------------------------------------------------- from .pth files to a video


class Babble:
    """In place of wav2vec 2.0: features of its kind and size."""

    kind, dim = "wav2vec2", 768

    def __init__(self, **_: object) -> None:
        """Takes what the true one takes."""

    def __call__(self, wave: np.ndarray) -> np.ndarray:
        return np.random.default_rng(0).standard_normal((steps_of(wave), self.dim)).astype(np.float32)

    def chunks(self, wave: np.ndarray) -> Iterator[np.ndarray]:
        yield self(wave)


class Witness:
    """Notes what the dubber's engine is asked and what it answers."""

    def __init__(self, engine: Engine) -> None:
        self.engine, self.encoded = engine, list[ReferenceInputs]()
        self.rendered = list[tuple[FrameInputs, Tensor]]()

    def encode(self, references: ReferenceInputs) -> Any:
        self.encoded.append(references)
        return self.engine.encode(references)

    def guide(self, frames: FrameInputs, references: Any, calibrate: Calibrate | None = None) -> Guided:
        return self.engine.guide(frames, references, calibrate)

    def render(self, frames: FrameInputs, guided: Guided, chosen: ChosenReferences, references: Any) -> Rendered:
        answer = self.engine.render(frames, guided, chosen, references)
        self.rendered.append((frames, answer.faces))
        return answer


@torch.no_grad()
def released_answer(
    guidance_state: State, synthesis_state: State, references: ReferenceInputs, frames: FrameInputs
) -> Tensor:
    """As the published program works: on BGR images, its guidance ignorant of the masked heatmap's own features."""
    guidance = Guidance(**GUIDANCE["released"], add_masked=False).eval()
    guidance.load_state_dict(convert_guidance(guidance_state))
    synthesis = Synthesis(**SYNTHESIS["released"]).eval()
    synthesis.load_state_dict(convert_synthesis(synthesis_state, bgr=False))
    images, heatmaps = references.images.flip(2), references.heatmaps
    faces = []
    for k in range(len(frames)):
        audio, masked_heatmaps = frames.audio[k : k + 1], frames.masked_heatmaps[k : k + 1]
        drive = guidance(audio, masked_heatmaps, heatmaps).heatmap[:, 2]
        faces.append(synthesis(frames.masked_faces[k : k + 1].flip(1), drive, audio[:, 2], images, heatmaps).face)
    return torch.cat(faces).flip(1)


@pytest.mark.slow
def test_released_files_dub_as_the_released_program_renders(
    published: tuple[Path, Path],
    guidance_state: State,
    synthesis_state: State,
    sample_root: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("stsa_lightning.features.wav2vec2.Wav2Vec2", Babble)
    out = tmp_path / "released.safetensors"
    main(["weights", "import", *map(str, published), "-o", str(out)])
    assert str(out) in capsys.readouterr().out
    write_wav(tmp_path / "speech.wav", np.full(16_000 // 25, 0.1, np.float32))  # one frame

    dubber = Dubber.from_checkpoint(out, precision="exact", check=False)
    dubber.engine = witness = Witness(dubber.engine)
    report = dubber.dub(min(sample_root.rglob("*.mp4")), tmp_path / "speech.wav", tmp_path / "o.mp4", progress=False)
    assert (report.frames, report.faces) == (1, 1)
    (references,), ((frames, generated),) = witness.encoded, witness.rendered
    assert references.images.shape == (1, 5, 3, 128, 128)
    assert references.images.std() > 0.1
    expected = released_answer(guidance_state, synthesis_state, references, frames)
    np.testing.assert_allclose(generated.float(), expected, atol=1e-3, rtol=0)
    # The lower half is the network's own, and colour is not colour: BGR taken for RGB would show.
    assert (generated - frames.masked_faces)[:, :, 64:].abs().mean() > 0.05
    assert (expected.flip(1) - expected).abs().max() > 0.05
