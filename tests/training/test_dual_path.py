"""The method is alive in what is trained: either path is worth a decibel, and the face beats the warped references."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from stsa_lightning.cli import main
from stsa_lightning.data.datamodule import STSADataModule
from stsa_lightning.data.windows import as_floats
from stsa_lightning.evaluation.path_ablation import ablated_predictions
from stsa_lightning.metrics.image import psnr
from stsa_lightning.models.checkpoint import load_networks
from stsa_lightning.models.synthesis import Synthesis, mask_lower_half

EXPERIMENTS = Path(__file__).parents[2] / "experiments"
UNSEEN = 0.25  # of every clip


def mouth_psnr_db(synthesis: Synthesis, corpus: Path) -> dict[str, float]:
    """Of faces under true heatmaps in the part of the clips that training never saw: whole, and without each part."""
    data = STSADataModule(
        str(corpus), "sample", face_size=64, num_references=3, num_workers=0, validation_part=UNSEEN,
        validation_windows_per_clip=16,
    )  # fmt: skip
    data.setup()
    batches = [as_floats(batch) for batch in data.val_dataloader()]

    def centre(name: str) -> Tensor:
        windows = torch.cat([batch[name] for batch in batches])
        return windows[:, windows.shape[1] // 2]

    true, driving, audio = (centre(name) for name in ("faces", "heatmaps", "audio"))
    images, heatmaps = (torch.cat([batch[name] for batch in batches]) for name in ("references", "reference_heatmaps"))

    def generate(speech: np.ndarray) -> Tensor:
        references = synthesis.encode_references(images, heatmaps)
        return synthesis.render(mask_lower_half(true), driving, torch.from_numpy(speech), references).face

    with torch.inference_mode():
        faces = {"whole": generate(audio.numpy())} | ablated_predictions(synthesis, generate, audio.numpy())
        return {name: float(psnr(face, true, "mouth").mean()) for name, face in faces.items()}


@pytest.mark.slow
def test_either_path_is_worth_a_decibel_after_a_short_run(prepared_sample: Path, tmp_path: Path) -> None:
    files = ["-c", str(EXPERIMENTS / "sample.yaml"), "-c", str(EXPERIMENTS / "dual_path.yaml")]
    data = {"root": prepared_sample, "num_workers": 0, "validation_speakers": "null", "validation_part": UNSEEN}
    short = {"guidance": 0, "warp": 4, "synthesis": 14, "end_to_end": 0}
    main(
        [
            "fit",
            *files,
            f"--run={tmp_path / 'run'}",
            *(f"--data.{name}={value}" for name, value in data.items()),
            "--data.windows_per_clip=100",  # 37 steps an epoch
            *(f"--phases.{name}.epochs={epochs}" for name, epochs in short.items()),
            "--trainer.limit_val_batches=0",
            "--model.cil.weight=0",  # three people are few to tell apart
        ]
    )
    _, synthesis, _ = load_networks(tmp_path / "run/last.ckpt")
    found = mouth_psnr_db(synthesis.eval(), prepared_sample)
    assert found["whole"] > found["warped references"] + 0.5, found
    for without in ("no spatial path", "no temporal path"):
        assert found["whole"] > found[without] + 1, found
