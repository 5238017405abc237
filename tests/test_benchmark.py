"""The evaluation table: what it says of answers whose worth is known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from stsa_lightning.benchmark import Networks, evaluate, load_report, resized
from stsa_lightning.errors import UserError
from stsa_lightning.nets.checkpoint import save_networks
from stsa_lightning.nets.guidance import Guidance
from stsa_lightning.nets.presets import GUIDANCE, SYNTHESIS
from stsa_lightning.nets.synthesis import Synthesis


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("networks") / "random.safetensors"
    meta = {"features": "logmel", "window": 5}
    synthesis = Synthesis(**{**SYNTHESIS["tiny"], "on_warped": False})  # untrained, it knows nothing of the face
    return save_networks(path, Guidance(**GUIDANCE["tiny"]), synthesis, meta)


def test_untrained_networks_lose_and_the_truth_wins(checkpoint: Path, prepared_sample: Path, tmp_path: Path):
    sheet = tmp_path / "sheet.png"
    report = evaluate(checkpoint, prepared_sample, ["speaker01", "speaker02"], sheet=sheet)
    truth, drawn = report.row("own speech", "ground truth"), report.row("own speech", "STSA")
    mean = report.row("own speech", "mean of references")
    assert truth.frames == drawn.frames > 90
    assert truth.unmeasured == 0
    assert truth.lmd == 0
    assert truth.opening_r == pytest.approx(1)
    assert truth.ssim_mouth == pytest.approx(1)
    assert drawn.psnr_mouth < mean.psnr_mouth
    assert mean.psnr_mouth > report.row("own speech", "masked input").psnr_mouth
    assert mean.opening_r < 0.5
    # In the unpaired task nobody's source frames know what is being said.
    assert abs(report.row("other speech", "source frame").opening_r) < 0.6
    assert sheet.stat().st_size > 10_000

    report.save(tmp_path / "report.json")
    again = load_report(tmp_path / "report.json")
    assert again.row("own speech", "mean of references") == mean
    assert again.settings == report.settings


def test_a_perfect_answer_scores_as_the_truth(checkpoint, prepared_sample, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(
        Networks, "draw", lambda self, clip, frames, speech, references: resized(clip.faces(frames), self.size)
    )
    report = evaluate(checkpoint, prepared_sample, ["speaker01"])
    drawn, truth = report.row("own speech", "STSA"), report.row("own speech", "ground truth")
    assert (drawn.ssim_mouth, drawn.lmd, drawn.opening_r) == (truth.ssim_mouth, truth.lmd, truth.opening_r)
    assert np.isinf(drawn.psnr_mouth)


def test_bad_input_is_named(checkpoint: Path, prepared_sample: Path, tmp_path: Path):
    with pytest.raises(UserError, match="no usable clips of speakers nobody"):
        evaluate(checkpoint, prepared_sample, ["nobody"])
    with pytest.raises(UserError, match="--speakers"):
        evaluate(checkpoint, prepared_sample)
    with pytest.raises(FileNotFoundError, match=r"none\.ckpt"):
        evaluate(tmp_path / "none.ckpt", prepared_sample)
    with pytest.raises(FileNotFoundError, match="stsa evaluate --out"):
        load_report(tmp_path / "none.json")
