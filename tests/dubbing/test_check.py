"""What becomes of frames whose generated face is wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch import Tensor

from stsa_lightning.audio import write_wav
from stsa_lightning.dubbing import Dubber
from stsa_lightning.dubbing.faces import ramp_frames
from stsa_lightning.face.check import ResultCheck
from stsa_lightning.video import VideoReader, write_video
from tests.dubbing.test_dubber import Detector, numbered, stub_dubber

FRAMES, BAD = 40, range(18, 22)


class Verdicts(ResultCheck):
    """Calls the faces of some frames wrong."""

    def __call__(self, faces: Any, seen: np.ndarray, landmarks: np.ndarray, numbers: np.ndarray) -> np.ndarray:
        return np.isin(numbers, BAD)


@pytest.fixture
def clip(tmp_path: Path) -> tuple[Path, Path]:
    write_video(tmp_path / "a.mp4", numbered(FRAMES), 25)
    write_wav(tmp_path / "a.wav", np.full(FRAMES * 640, 0.1, np.float32), 16_000)
    return tmp_path / "a.mp4", tmp_path / "a.wav"


def dubber(monkeypatch: pytest.MonkeyPatch, block: int) -> Dubber:
    made = stub_dubber(detector=Detector(), block=block)
    monkeypatch.setattr(made, "check", True)
    monkeypatch.setattr(made, "_result_check", Verdicts)
    monkeypatch.setattr("stsa_lightning.dubbing.faces.no_lips", lambda contrast, frames: np.zeros(len(contrast), bool))
    return made


def changes(frames: list[np.ndarray], video: Path) -> np.ndarray:
    """(F,) how far each frame is from the source's, the most green one 1."""
    with VideoReader(video) as reader:
        true = reader.get(range(len(reader)))
    apart = np.abs(np.stack(frames).astype(int) - true).mean(axis=(1, 2, 3))
    return apart / apart.max()


@pytest.mark.parametrize("block", [1, 7, 32])
def test_frames_that_fail_pass_through_with_ramps_on_both_sides(
    clip: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, block: int
) -> None:
    change = changes(list(dubber(monkeypatch, block).frames(*clip)), clip[0])
    ramp = ramp_frames(25)
    assert not change[BAD].any()
    assert (np.diff(change[BAD.start - ramp : BAD.start + 1]) < 0).all()
    assert (np.diff(change[BAD.stop - 1 : BAD.stop + ramp]) > 0).all()
    rest = np.r_[: BAD.start - ramp, BAD.stop + ramp : FRAMES]
    assert change[rest].min() > 0.9


def test_live_speech_waits_for_no_later_frame(clip: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    chunks = [np.full(640, 0.1, np.float32)] * FRAMES
    change = changes(list(dubber(monkeypatch, 1).frames(clip[0], chunks))[:FRAMES], clip[0])
    assert not change[BAD].any()
    assert change[BAD.start - 1] > 0.9
    assert 0 < change[BAD.stop] < 0.5


def test_frames_that_fail_are_counted_and_warned_of(
    clip: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    report = dubber(monkeypatch, 16).dub(*clip, tmp_path / "out.mp4", progress=False)
    assert report.passed == {"failed check": len(BAD)}
    assert report.faces == FRAMES - len(BAD)
    assert "failed the check" in report.warnings[0]


def test_a_face_of_nan_passes_through(clip: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    made = stub_dubber(detector=Detector(), block=8)
    render = made.engine.render

    def broken(*inputs: Any) -> Tensor:
        faces = render(*inputs).clone()
        faces[3] = float("nan")
        return faces

    monkeypatch.setattr(made.engine, "render", broken)
    change = changes(list(made.frames(*clip)), clip[0])
    assert not change[3::8].any()
    assert change.max() == 1
