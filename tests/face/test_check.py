from __future__ import annotations

import cv2
import numpy as np
import pytest

from stsa_lightning.face.check import ResultCheck, looks_wrong
from stsa_lightning.face.topology import JAW, LANDMARKS, MOUTH

SIDE = 96


def landmarks() -> np.ndarray:
    """(131, 2) of a round face in its box, its mouth at (0.5, 0.75)."""
    angle = np.linspace(0, 2 * np.pi, len(LANDMARKS), endpoint=False)
    points = 0.5 + 0.45 * np.stack([np.sin(angle), np.cos(angle)], -1)
    points[JAW] = 0.5 + 0.45 * np.stack([np.sin(a := np.linspace(-1.4, 1.4, 17)), np.cos(a)], -1)
    circle = np.linspace(0, 2 * np.pi, len(MOUTH), endpoint=False)
    points[MOUTH] = [0.5, 0.75] + 0.1 * np.stack([1.4 * np.sin(circle), 0.6 * np.cos(circle)], -1)
    return points.astype(np.float32)


def face(lip_aperture: int = 3, seed: int = 0) -> np.ndarray:
    """A lit ball with eyes and lips and a little grain."""
    y, x = np.mgrid[:SIDE, :SIDE] / SIDE - 0.5
    light = 190 - 160 * ((x - 0.1) ** 2 + (y + 0.1) ** 2)
    picture = light[..., None] * [1, 0.8, 0.7]
    picture = picture + np.random.default_rng(seed).normal(0, 3, picture.shape)
    out = np.clip(picture, 0, 255).astype(np.uint8)
    for eye in (0.3, 0.7):
        cv2.circle(out, (int(eye * SIDE), int(0.35 * SIDE)), 7, (30, 25, 20), -1)
    cv2.ellipse(out, (SIDE // 2, int(0.75 * SIDE)), (13, 4 + lip_aperture), 0, 0, 360, (150, 60, 70), -1)
    cv2.ellipse(out, (SIDE // 2, int(0.75 * SIDE)), (9, lip_aperture), 0, 0, 360, (40, 10, 10), -1)
    return out


def shifted(picture: np.ndarray, down: int) -> np.ndarray:
    return cv2.warpAffine(picture, np.float32([[1, 0, 0], [0, 1, down]]), (SIDE, SIDE), borderMode=cv2.BORDER_REFLECT)


@pytest.mark.parametrize("lip_aperture", [1, 3, 8])
def test_looks_wrong_of_the_same_face_with_another_mouth_is_false(lip_aperture: int) -> None:
    assert not looks_wrong(face(lip_aperture, seed=1), face(), landmarks())


def test_looks_wrong_of_a_cast_that_blending_mends_is_false() -> None:
    assert not looks_wrong((face() * 0.92).astype(np.uint8), face(), landmarks())


@pytest.mark.parametrize(
    "spoiled",
    [
        np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), np.uint8),
        np.clip(face() + np.random.default_rng(0).normal(0, 30, (SIDE, SIDE, 3)), 0, 255).astype(np.uint8),
        np.full((SIDE, SIDE, 3), 128, np.uint8),
        np.zeros((SIDE, SIDE, 3), np.uint8),
        face()[::-1].copy(),
        np.clip(face() + np.array([0, 60, 0]), 0, 255).astype(np.uint8),
        255 - face(),
        cv2.GaussianBlur(face(), (0, 0), 9),
    ],
    ids=["noise", "grain", "grey", "black", "upside down", "green", "negative", "blurred"],
)
def test_looks_wrong_of_a_spoiled_face_is_true(spoiled: np.ndarray) -> None:
    assert looks_wrong(spoiled, face(), landmarks())


class Lips:
    """Finds the landmarks of the test's face, moved down by as many pixels as its lips."""

    def __init__(self) -> None:
        self.asked, self.closed = 0, False

    def __call__(self, frame: np.ndarray) -> np.ndarray:
        self.asked += 1
        border = 96  # `landmarks_in_crops` looks at 256 pixels with a border
        red = frame[border:-border, border:-border].astype(int)
        rows = np.flatnonzero(((red[..., 0] - red[..., 1]) > 70)[128:].any(axis=1)) + 128
        return landmarks() * 256 + border + np.float32([0, rows.mean() - 0.75 * 256])

    def all_faces(self, frame: np.ndarray) -> list[np.ndarray]:
        return [self(frame)]

    def forget(self) -> None:
        pass

    def close(self) -> None:
        self.closed = True


def test_lips_are_looked_for_now_and_then_and_everywhere_once_they_are_off() -> None:
    lips, points = Lips(), np.repeat(landmarks()[None], 16, 0)
    check = ResultCheck(lips, every=8)
    good, seen = [face(5, seed=i) for i in range(16)], np.stack([face()] * 16)
    assert not check(good, seen, points, np.arange(16)).any()
    assert lips.asked == 2
    lower = [shifted(picture, 8) if i % 8 < 4 else picture for i, picture in enumerate(good)]
    wrong = check(lower, seen, points, np.arange(16, 32))
    assert wrong[0]
    assert wrong[8]
    assert not wrong[[4, 7, 12, 15]].any()
    check.close()
    assert lips.closed
