"""Cuts in painted scenes and in real videos."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import cv2
import numpy as np
import pytest

from stsa_lightning.face.cuts import CutDetector
from stsa_lightning.media.video import VideoReader


def _scene(seed: int, size: tuple[int, int] = (120, 160)) -> np.ndarray:
    """A picture of coloured rectangles."""
    rng = np.random.default_rng(seed)
    picture = np.full((*size, 3), rng.integers(256, size=3), np.uint8)
    for _ in range(12):
        x, y, w, h = (int(v) for v in rng.integers((size[1], size[0], size[1] // 2, size[0] // 2)))
        cv2.rectangle(picture, (x, y), (x + w, y + h), tuple(int(v) for v in rng.integers(256, size=3)), -1)
    return picture


def _cuts(frames: Iterable[np.ndarray]) -> list[int]:
    is_cut = CutDetector()
    return [number for number, frame in enumerate(frames) if is_cut(frame)]


def _shaken(picture: np.ndarray, count: int, reach: int = 2) -> list[np.ndarray]:
    shifts = np.random.default_rng(0).integers(-reach, reach + 1, (count, 2))
    return [np.roll(picture, tuple(shift), axis=(0, 1)) for shift in shifts.tolist()]


def test_first_frames_of_shots() -> None:
    frames = [frame for seed in range(6) for frame in _shaken(_scene(seed), 15)]
    assert _cuts(frames) == [15, 30, 45, 60, 75]


def test_cuts_from_and_to_black() -> None:
    black = np.zeros_like(_scene(0))
    assert _cuts([_scene(0)] * 5 + [black] * 5 + [_scene(1)] * 5) == [5, 10]


@pytest.mark.parametrize("size", [(90, 160), (1080, 1920)])
def test_size_does_not_matter(size: tuple[int, int]) -> None:
    assert _cuts([_scene(3, size)] * 3 + [_scene(4, size)] * 3) == [3]


def test_a_shot_of_one_frame() -> None:
    assert _cuts([_scene(0)] * 5 + [_scene(1)] + [_scene(2)] * 5) == [5, 6]


def test_what_is_no_cut() -> None:
    scene = _scene(0)
    assert _cuts([scene] * 20) == []
    assert _cuts(_shaken(scene, 30)) == []
    assert _cuts([scene] * 5 + [(scene * 0.7).astype(np.uint8)] * 5) == []  # a lamp is switched off
    fade = [(scene * (i / 15)).astype(np.uint8) for i in range(16)]
    assert _cuts(fade) == []
    noise = np.random.default_rng(0).integers(0, 4, (10, 120, 160, 3)).astype(np.uint8)
    assert _cuts(noise) == []  # an empty dark picture


def test_a_thing_that_moves_through_the_picture_is_no_cut() -> None:
    frames = []
    for i in range(30):
        frame = _scene(0)
        cv2.rectangle(frame, (i * 10 - 80, 20), (i * 10 - 20, 100), (250, 240, 20), -1)
        frames.append(frame)
    assert _cuts(frames) == []


@pytest.mark.parametrize(
    ("clip", "cuts"),
    [
        ("hard/crowd_shotcuts_01", [17, 68, 176]),
        ("hard/shotcut_broll_01", [65, 165]),
        ("hard/two_people_03", [147]),
        ("hard/arms_24fps_01", []),
        ("hard/lowres160_05", []),
        ("hard/nonspeech_dance_01", []),
        ("hard/profile_01", []),
        ("clips/spk35_01", []),
    ],
)
def test_real_videos(corpus: Path, clip: str, cuts: list[int]) -> None:
    with VideoReader(corpus / f"{clip}.mp4", fps=25) as reader:
        assert _cuts(frame for block in reader.blocks() for frame in block) == cuts
