"""Mouths made to follow a sound, or not."""

from __future__ import annotations

import numpy as np
import pytest

from stsa_lightning.face.speaking import mouth_follows_sound, sound_level
from stsa_lightning.face.topology import LANDMARKS, positions

F = 100
HOP = 640


def _level(seed: int) -> np.ndarray:
    """(F,) of syllables: bumps of random height."""
    rng = np.random.default_rng(seed)
    return np.convolve(rng.random(F) * (rng.random(F) < 0.2), np.hanning(7), mode="same")


def _mouth(level: np.ndarray) -> np.ndarray:
    """Landmarks of a face of 100 px whose lips open as the sound swells: 20 px at level 1."""
    landmarks = np.zeros((len(level), len(LANDMARKS), 2), np.float32)
    landmarks[:, positions([152])[0], 1] = 100
    landmarks[:, positions([14])[0], 1] = 20 * np.sqrt(level)
    return landmarks


def test_level_is_the_root_mean_square_of_a_frame() -> None:
    wave = np.repeat([0.0, 0.5, 0.05], HOP) * np.tile([1.0, -1.0], 3 * HOP // 2)
    np.testing.assert_allclose(sound_level(wave, 5), [0, 0.5, 0.05, 0, 0], atol=1e-9)
    assert not sound_level(np.zeros(5 * HOP), 5).any()
    assert len(sound_level(np.ones(10 * HOP), 4)) == 4


@pytest.mark.parametrize("late", [-3, -1, 0, 2])
def test_mouth_that_follows(late: int) -> None:
    level = _level(0)
    # The sound's own ups and downs are all that the speed of the lips does not share with its level.
    assert mouth_follows_sound(_mouth(np.roll(level, late)), level) > 0.7


def test_mouth_that_follows_another_sound() -> None:
    found = [mouth_follows_sound(_mouth(_level(seed)), _level(seed + 50)) for seed in range(20)]
    assert np.median(found) < 0.25
    assert mouth_follows_sound(_mouth(np.roll(_level(0), 12)), _level(0)) < 0.4


def test_missing_frames_are_left_out() -> None:
    level = _level(1)
    mouth = _mouth(level)
    mouth[20:50] = np.nan
    assert mouth_follows_sound(mouth, level) > 0.7


def test_nothing_to_compare() -> None:
    level, mouth = _level(0), _mouth(_level(0))
    mouth[40:] = np.nan
    assert np.isnan(mouth_follows_sound(mouth, level))  # too few frames
    assert np.isnan(mouth_follows_sound(_mouth(np.full(F, 3.0)), level))  # a still mouth
    assert np.isnan(mouth_follows_sound(_mouth(level), np.zeros(F)))  # silence
