from __future__ import annotations

import numpy as np
import pytest

from stsa_lightning.face import smoothing
from stsa_lightning.face.box import face_box
from stsa_lightning.face.smoothing import smooth_boxes, smooth_landmarks


def noisy(shift: np.ndarray, noise_px: float = 0.25) -> tuple[np.ndarray, np.ndarray]:
    """Landmarks (n, 131, 2) that move by `shift` (n,) in x: true, and as found."""
    rng = np.random.default_rng(0)
    face = rng.uniform(50, 150, (131, 2))
    true = face[None] + np.stack([shift, np.zeros_like(shift)], -1)[:, None]
    return true, (true + noise_px * rng.standard_normal(true.shape)).astype(np.float32)


def test_at_rest_the_noise_goes() -> None:
    true, found = noisy(np.zeros(100))
    before = np.abs(found - true).mean()
    smooth_landmarks(found, 25)
    assert np.abs(found - true).mean() < 0.6 * before
    assert np.abs(np.diff(found, axis=0)).mean() < 0.3 * 0.25 * 1.13 * 1.5


@pytest.mark.parametrize("speed", [1.0, 3.0, 8.0])
def test_in_motion_nothing_lags(speed: float) -> None:
    true, found = noisy(speed * np.arange(60.0))
    smooth_landmarks(found, 25)
    assert np.abs((found - true)[..., 0].mean(axis=1)).max() < 0.1  # a frame's delay would be `speed`


def test_a_start_is_not_smeared() -> None:
    true, found = noisy(np.where(np.arange(60) < 30, 0.0, 40.0))
    smooth_landmarks(found, 25)
    assert np.abs((found - true)[..., 0].mean(axis=1)).max() < 0.15


def test_blocks_make_no_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    _, whole = noisy(np.sin(np.arange(50) / 9) * 3)
    parts = whole.copy()
    smooth_landmarks(whole, 25)
    monkeypatch.setattr(smoothing, "_BLOCK", 7)
    smooth_landmarks(parts, 25)
    np.testing.assert_array_equal(parts, whole)


def test_boxes_keep_still_and_follow() -> None:
    _, found = noisy(np.zeros(60), noise_px=0.15)
    boxes = smooth_boxes(found, (300, 300))
    plain = np.stack([face_box(points, (300, 300)) for points in found])
    assert np.abs(np.diff(boxes, axis=0)).sum() < 0.3 * np.abs(np.diff(plain, axis=0)).sum()
    assert np.abs(boxes - plain).max() <= 2
    _, found = noisy(3.0 * np.arange(40), noise_px=0)
    boxes = smooth_boxes(found, (300, 300))
    plain = np.stack([face_box(points, (300, 300)) for points in found])
    assert np.abs(boxes - plain).max() <= 2
    assert boxes[:, [0, 2]].max() <= 300
    outside = np.repeat(found[:1] + 1000, 3, axis=0)
    assert not smooth_boxes(outside, (300, 300)).any()
