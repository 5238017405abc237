"""A checkpoint's report: what it says of predictions whose worth is known, absent weights, and resuming."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from stsa_lightning.data.clip import Clip
from stsa_lightning.data.index import empty_row, save_index
from stsa_lightning.evaluation import run as runs
from stsa_lightning.evaluation import scoring
from stsa_lightning.evaluation.checkpoint import PreparedClips, choose_clips
from stsa_lightning.evaluation.generate import Networks
from stsa_lightning.evaluation.metrics.registry import METRICS
from stsa_lightning.evaluation.protocol import Protocol
from stsa_lightning.evaluation.report.report import load_report
from stsa_lightning.evaluation.run import evaluate_checkpoint
from stsa_lightning.face.box import resize_faces
from stsa_lightning.models.checkpoint import save_networks
from stsa_lightning.models.guidance import Guidance
from stsa_lightning.models.presets import GUIDANCE, SYNTHESIS
from stsa_lightning.models.synthesis import Synthesis
from stsa_lightning.utils.errors import UserError
from stsa_lightning.utils.weights import WeightsError

FAST = Protocol(
    speakers=("speaker01", "speaker02"), metrics=("psnr", "ssim", "lmd", "lip_aperture", "jitter", "silence")
)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("networks") / "random.safetensors"
    meta = {"features": "logmel", "num_frames": 5}
    # Untrained, and drawing without the warped reference, it knows nothing of the face.
    synthesis = Synthesis(**{**SYNTHESIS["tiny"], "on_warped": False, "face_size": 64})
    return save_networks(path, Guidance(**{**GUIDANCE["tiny"], "face_size": 64}), synthesis, meta)


def generate_truth(self: Networks, clip: Clip, frames: np.ndarray, **_: object) -> np.ndarray:
    return resize_faces(clip.faces(frames), self.size)


@pytest.mark.slow
def test_untrained_networks_lose_and_the_truth_wins(checkpoint: Path, prepared_sample: Path, tmp_path: Path):
    report = evaluate_checkpoint(checkpoint, prepared_sample, tmp_path, FAST)
    ground_truth, drawn = report.row("paired", "ground truth"), report.row("paired", "STSA")
    mean = report.row("paired", "mean of references")
    assert ground_truth.frames == drawn.frames > 80
    assert ground_truth.unmeasured == 0
    assert (ground_truth.value("lmd"), ground_truth.value("psnr_mouth")) == (0, np.inf)
    assert ground_truth.value("lip_aperture_corr") == pytest.approx(1)
    assert ground_truth.value("ssim_mouth") == pytest.approx(1)
    assert drawn.value("psnr_mouth") < mean.value("psnr_mouth")
    assert mean.value("psnr_mouth") > report.row("paired", "masked input").value("psnr_mouth")
    assert mean.value("lip_aperture_corr") < 0.5
    assert ground_truth.value("lip_aperture_amplitude") == pytest.approx(1)
    assert mean.value("lip_aperture_amplitude") < 0.5
    # A rendered head keeps its size and light: its nearest frame differs in the mouth alone.
    nearest = report.row("paired", "nearest in pose")
    assert nearest.value("psnr_mouth") > report.row("paired", "random reference").value("psnr_mouth")
    assert nearest.value("psnr_mouth") < np.inf
    # The box ends at the chin: where brows and eyes lie in it tells something of the mouth (0.66 in the demo).
    assert nearest.value("lip_aperture_corr") < 0.7
    assert "no mouth was found" in report.absent["silence"]  # what it draws is no face
    assert drawn.unmeasured > 0
    # Unpaired, nobody's source frames know what is being said, and no true picture exists.
    source = report.row("unpaired", "source frame")
    assert abs(source.value("lip_aperture_corr")) < 0.6
    assert not {"psnr_mouth", "lmd"} & {name for row in report.task_rows("unpaired") for name in row.cells}
    assert report.row("unpaired", "ground truth").value("lip_aperture_corr") == pytest.approx(1)
    # The source's mouth beside another speaker's, in the same unit: neither is many times the other.
    assert 0.2 < source.value("lip_aperture_amplitude") < 5

    assert sorted(p.name for p in tmp_path.iterdir()) == [
        *("clips.csv", "report.html", "report.json", "report.md", "report.tex")
    ]
    again = load_report(tmp_path)
    assert again.row("paired", "mean of references") == mean
    assert again.row("paired", "ground truth").value("psnr_mouth") == np.inf
    page = (tmp_path / "report.html").read_text()
    assert "data:image/jpeg;base64," in page
    assert "speakers named: speaker01, speaker02" in page
    # One clip a speaker: references come from the clip itself, which is said.
    assert any("no other clip" in note for note in report.notes)


def test_a_perfect_prediction_scores_as_the_truth(
    checkpoint, prepared_sample, tmp_path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(Networks, "generate", generate_truth)
    protocol = FAST.changed(tasks=("paired",), metrics=("psnr", "ssim", "lmd", "lmv", "lip_aperture", "jitter", "flow"))
    report = evaluate_checkpoint(checkpoint, prepared_sample, tmp_path, protocol.changed(baselines=False))
    drawn, ground_truth = report.row("paired", "STSA"), report.row("paired", "ground truth")
    assert drawn.cells.keys() == ground_truth.cells.keys() >= {"psnr_face", "lmv", "flow_warped"}
    assert {name: cell.value for name, cell in drawn.cells.items()} == {
        n: c.value for n, c in ground_truth.cells.items()
    }
    assert [row.method for row in report.rows] == ["STSA", "ground truth"]


def test_absent_weights_are_reasons(checkpoint, prepared_sample, tmp_path, monkeypatch: pytest.MonkeyPatch):
    def absent(options):
        raise WeightsError("syncnet_v2.model is nowhere")

    for name in ("sync", "fid"):
        field = "build_set" if name == "fid" else "build"
        monkeypatch.setitem(METRICS, name, METRICS[name].__class__(**{**vars(METRICS[name]), field: absent}))
    protocol = Protocol(speakers=("speaker01",), metrics=("psnr", "sync", "fid"), tasks=("paired",), baselines=False)
    report = evaluate_checkpoint(checkpoint, prepared_sample, tmp_path, protocol)
    assert {"lse_d", "lse_c", "offset", "fid"} == report.absent.keys()
    assert all(not {"lse_d", "fid"} & row.cells.keys() for row in report.rows)
    for name in ("report.html", "report.md", "report.tex"):
        text = (tmp_path / name).read_text().replace("\\", "")
        assert "syncnet_v2.model is nowhere" in text
        assert "LSE-D" in text


@pytest.mark.slow
def test_an_interrupted_evaluation_goes_on(checkpoint, prepared_sample, tmp_path, monkeypatch: pytest.MonkeyPatch):
    measured: list[str] = []
    real = scoring.score_clip

    def counted(name, *args):
        if len(measured) == 2:
            raise KeyboardInterrupt
        measured.append(name)
        return real(name, *args)

    protocol = Protocol(
        speakers=("speaker01", "speaker02", "speaker03"), metrics=("psnr",), tasks=("paired",), baselines=False
    )
    monkeypatch.setattr(Networks, "generate", generate_truth)
    monkeypatch.setattr(scoring, "score_clip", counted)
    with pytest.raises(KeyboardInterrupt):
        evaluate_checkpoint(checkpoint, prepared_sample, tmp_path, protocol)
    first = list(measured)
    measured.clear()
    report = evaluate_checkpoint(checkpoint, prepared_sample, tmp_path, protocol)
    assert len(first) == 2
    assert len(measured) == 1
    assert report.row("paired", "STSA").videos == 3
    assert not (tmp_path / runs.PARTS).exists()
    # Other settings take nothing over.
    monkeypatch.setattr(scoring, "score_clip", real)
    whole = evaluate_checkpoint(checkpoint, prepared_sample, tmp_path / "whole", protocol)
    assert str(whole.rows) == str(report.rows)  # as text, since NaN equals nothing
    clip = scoring.Job("a", "1", list)
    assert scoring.part_key(clip, {"crop": 64}) != scoring.part_key(clip, {"crop": 128})
    assert scoring.part_key(clip, {}) != scoring.part_key(scoring.Job("a", "2", list), {})


def test_bad_input_is_named(checkpoint: Path, prepared_sample: Path, tmp_path: Path):
    with pytest.raises(UserError, match="no usable clips of speakers nobody"):
        evaluate_checkpoint(checkpoint, prepared_sample, tmp_path, Protocol(speakers=("nobody",)))
    with pytest.raises(UserError, match="--speakers"):
        evaluate_checkpoint(checkpoint, prepared_sample, tmp_path)
    with pytest.raises(FileNotFoundError, match=r"none\.ckpt"):
        evaluate_checkpoint(tmp_path / "none.ckpt", prepared_sample, tmp_path)
    with pytest.raises(FileNotFoundError, match="stsa evaluate"):
        load_report(tmp_path / "none")


def test_fewer_clips_keep_their_speakers_other_clips_as_references(tmp_path: Path):
    rows = [
        {**empty_row(), "clip": f"{who}/{n}", "speaker": who, "status": "ok", "features": "logmel", "longest_run": 9}
        for who in ("ann", "bob")
        for n in (1, 2)
    ]
    save_index(tmp_path, rows)
    pool, measured, how = choose_clips(tmp_path, Protocol(speakers=("ann", "bob"), clips=2), "logmel", None)
    assert measured == ["ann/1", "bob/2"]
    assert "2 of 4" in how
    prepared = PreparedClips(None, tmp_path, pool, Protocol())  # type: ignore[arg-type]
    assert [prepared.references_of(clip) for clip in measured] == ["ann/2", "bob/1"]
    assert prepared.driver_of("ann/1") == "bob/1"
