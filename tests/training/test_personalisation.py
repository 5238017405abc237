"""Fine-tuning on the video at hand: what it gives, what is kept, what it refuses."""

from __future__ import annotations

import json
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
import torch

from stsa_lightning.cli import main
from stsa_lightning.media.video import write_video
from stsa_lightning.models.checkpoint import load_networks, save_networks
from stsa_lightning.models.guidance import Guidance
from stsa_lightning.models.presets import GUIDANCE, SYNTHESIS
from stsa_lightning.models.synthesis import Synthesis
from stsa_lightning.training import personalisation as adaptation
from stsa_lightning.training.personalisation import adapt
from stsa_lightning.utils.errors import UserError


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Untrained networks, which any step makes better."""
    torch.manual_seed(0)
    guidance, synthesis = Guidance(**GUIDANCE["tiny"]), Synthesis(**SYNTHESIS["tiny"])
    path = tmp_path_factory.mktemp("untrained") / "tiny.safetensors"
    return save_networks(path, guidance, synthesis, {"features": "logmel", "num_frames": 5, "heatmap_sigma": 1.0})


@pytest.fixture
def video(sample_root: Path) -> Path:
    return sorted(sample_root.rglob("*.mp4"))[0]


@pytest.mark.slow
def test_the_held_out_second_gets_better_and_the_result_is_kept(checkpoint, video, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(adaptation, "LEAST_SECONDS", 1.5)
    monkeypatch.setattr(adaptation, "STEPS", 4)
    progress: list[tuple[str, int, int]] = []
    copy = shutil.copy(video, tmp_path / "another name.mp4")

    first = adapt(
        checkpoint, video, 0.25, device="cpu", cache=tmp_path / "kept", progress=lambda *args: progress.append(args)
    )

    assert first.steps >= 4
    assert first.after["psnr_mouth"] > first.before["psnr_mouth"] + 0.1
    assert not first.cached
    assert first.path.parent == tmp_path / "kept"
    before, after = load_networks(checkpoint), load_networks(first.path)
    moved = [not torch.equal(a, b) for a, b in zip(before[1].parameters(), after[1].parameters(), strict=True)]
    assert any(moved)
    assert after[2]["features"] == "logmel"
    assert {what for what, _, _ in progress} == {"reading the speaker", "adapting to the speaker"}
    assert all(0 <= done <= total for _, done, total in progress)

    again = adapt(checkpoint, copy, 0.25, device="cpu", cache=tmp_path / "kept", progress=False)
    assert (again.path, again.before, again.after) == (first.path, first.before, first.after)
    assert again.cached
    assert "from the cache" in str(again)


@pytest.mark.slow
def test_networks_that_get_no_better_stay_as_they_were(checkpoint, video, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(adaptation, "LEAST_SECONDS", 1.5)
    monkeypatch.setattr(adaptation, "STEPS", 1)

    done = adapt(checkpoint, video, 0.05, device="cpu", cache=tmp_path, lr=1.0, progress=False)

    assert done.after == done.before
    assert "nothing better was found" in str(done)
    for mine, theirs in zip(load_networks(checkpoint)[:2], load_networks(done.path)[:2], strict=True):
        torch.testing.assert_close(theirs.state_dict(), mine.state_dict(), rtol=0, atol=0)


def test_a_video_that_shows_too_little_is_refused(checkpoint, video, tmp_path) -> None:
    with pytest.raises(UserError, match=r"adapting needs 3 s of the speaker .*found 2\.0 s"):
        adapt(checkpoint, video, 1, device="cpu", cache=tmp_path, progress=False)
    assert not list(tmp_path.iterdir())


def test_a_video_without_sound_is_refused(checkpoint, video, tmp_path) -> None:
    mute = tmp_path / "mute.mp4"
    write_video(mute, np.zeros((80, 64, 64, 3), np.uint8), 25)
    with pytest.raises(UserError, match=r"mute\.mp4: nothing to adapt to: has no sound"):
        adapt(checkpoint, mute, 1, device="cpu", cache=tmp_path / "kept", progress=False)


@pytest.mark.parametrize("minutes", [0.0, -1.0, float("nan")])
def test_minutes_must_be_some(checkpoint, video, minutes) -> None:
    with pytest.raises(UserError, match="expected minutes above 0"):
        adapt(checkpoint, video, minutes)


def test_ctrl_c_reaches_the_caller_and_leaves_nothing(checkpoint, video, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(adaptation, "LEAST_SECONDS", 1.5)
    answer = signal.getsignal(signal.SIGINT)

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(adaptation._HeldOut, "on_train_batch_end", interrupted)
    with pytest.raises(KeyboardInterrupt):
        adapt(checkpoint, video, 1, device="cpu", cache=tmp_path, progress=False)
    assert signal.getsignal(signal.SIGINT) is answer
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_dub_adapts_first_and_reports_it(checkpoint, video, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setattr(adaptation, "LEAST_SECONDS", 1.5)
    monkeypatch.setattr(adaptation, "STEPS", 2)
    monkeypatch.setenv("STSA_CACHE", str(tmp_path / "cache"))
    out = tmp_path / "out.mp4"
    words = ["dub", str(video), str(video), "-o", str(out), "--checkpoint", str(checkpoint), "--device", "cpu"]

    main([*words, "--adapt", "0.1", "--json"])

    fields = json.loads(capsys.readouterr().out)
    assert out.is_file()
    assert fields["adaptation"]["before"].keys() == {"psnr_mouth", "ssim_mouth", "lmd_normalised"}
    assert Path(fields["adaptation"]["checkpoint"]).parent == tmp_path / "cache" / "adapted"


@pytest.mark.parametrize("wrong", [["--adapt", "-1"], ["--adapt", "1", "--manifest", "list.csv"]])
def test_adapting_to_nothing_is_refused(wrong, checkpoint, capsys) -> None:
    words = ["v.mp4", "s.wav", "-o", "o.mp4"] if len(wrong) == 2 else []
    with pytest.raises(SystemExit):
        main(["dub", *words, *wrong, "--checkpoint", str(checkpoint)])
    assert "--adapt" in capsys.readouterr().err
