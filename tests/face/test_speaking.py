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
    return np.convolve(rng.random(F) * (rng.random(F) < 0.3), np.hanning(7), mode="same") * 20


def _mouth(opening: np.ndarray) -> np.ndarray:
    """Landmarks of a face of 100 px whose inner lips are that far apart."""
    landmarks = np.zeros((len(opening), len(LANDMARKS), 2), np.float32)
    landmarks[:, positions([152])[0], 1] = 100
    landmarks[:, positions([14])[0], 1] = opening
    return landmarks


def test_level_is_decibels_above_silence() -> None:
    wave = np.repeat([0.0, 0.5, 0.05, 0.5e-4], HOP)
    np.testing.assert_allclose(sound_level(wave, 6), [0, 50, 30, 0, 0, 0], atol=1e-3)
    assert not sound_level(np.zeros(5 * HOP), 5).any()
    assert len(sound_level(np.ones(10 * HOP), 4)) == 4


@pytest.mark.parametrize("late", [-3, -1, 0, 2])
def test_mouth_that_follows(late: int) -> None:
    level = _level(0)
    assert mouth_follows_sound(_mouth(np.roll(level, late)), level) > 0.95


def test_mouth_that_follows_another_sound() -> None:
    found = [mouth_follows_sound(_mouth(_level(seed)), _level(seed + 50)) for seed in range(20)]
    assert np.median(found) < 0.3
    assert mouth_follows_sound(_mouth(np.roll(_level(0), 12)), _level(0)) < 0.5


def test_missing_frames_are_left_out() -> None:
    level = _level(1)
    mouth = _mouth(level)
    mouth[20:50] = np.nan
    assert mouth_follows_sound(mouth, level) > 0.95


def test_nothing_to_compare() -> None:
    level, mouth = _level(0), _mouth(_level(0))
    mouth[40:] = np.nan
    assert np.isnan(mouth_follows_sound(mouth, level))  # too few frames
    assert np.isnan(mouth_follows_sound(_mouth(np.full(F, 3.0)), level))  # a still mouth
    assert np.isnan(mouth_follows_sound(_mouth(level), np.zeros(F)))  # silence
