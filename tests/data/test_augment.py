"""Augmentation: landmarks stay on what they mark, all pictures of an item change alike, strength 0 is nothing."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
import pytest

from stsa_lightning.constants import SAMPLE_RATE_HZ
from stsa_lightning.data import augment
from stsa_lightning.face.topology import MIRROR
from stsa_lightning.features.spectral import LogMel

SIZE = 128
PHOTOMETRIC = (augment.augment_colour, augment.augment_resolution, augment.augment_jpeg)
MARKED = np.arange(0, 131, 10)


def _pictures(count: int = 2, seed: int = 0) -> np.ndarray:
    """(count, S, S, 3): smooth random colours."""
    coarse = np.random.default_rng(seed).integers(0, 256, (count, 9, 9, 3), dtype=np.uint8)
    return np.stack([cv2.resize(picture, (SIZE, SIZE), interpolation=cv2.INTER_CUBIC) for picture in coarse])


def _dotted(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Landmarks in the middle of the picture, alike in all pictures, and in picture i a soft dot at MARKED[i]."""
    landmarks = np.random.default_rng(seed).uniform(0.2, 0.8, (131, 2)).astype(np.float32)
    rows, columns = np.mgrid[:SIZE, :SIZE] + 0.5
    x, y = (landmarks[MARKED] * SIZE).T[..., None, None]
    dots = np.rint(255 * np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / (2 * 2.0**2))).astype(np.uint8)
    return dots[..., None].repeat(3, axis=-1), np.stack([landmarks] * len(MARKED))


def _found(pictures: np.ndarray) -> np.ndarray:
    """(n, 2) centres of gravity in pixels from the picture's corner."""
    weight = pictures[..., 0].astype(np.float64)
    rows, columns = np.mgrid[:SIZE, :SIZE] + 0.5
    return np.stack([(weight * axis).sum(axis=(1, 2)) / weight.sum(axis=(1, 2)) for axis in (columns, rows)], axis=-1)


@pytest.mark.parametrize("seed", range(8))
def test_turned_zoomed_and_shifted_landmarks_stay_on_their_dots(seed: int) -> None:
    pictures, landmarks = _dotted(seed)
    moved, there = augment.augment_geometry(pictures, landmarks, 1.0, np.random.default_rng(seed))
    assert np.abs(there - landmarks).max() * SIZE > 1
    assert np.linalg.norm(_found(moved) - there[0, MARKED] * SIZE, axis=1).max() < 0.1
    np.testing.assert_array_equal(there, there[:1].repeat(len(there), axis=0))


def test_mirrored_landmarks_stay_on_their_dots() -> None:
    pictures, landmarks = _dotted(0)
    mirrored, there = augment.mirror(pictures, landmarks)
    assert np.linalg.norm(_found(mirrored) - there[0, MIRROR[MARKED]] * SIZE, axis=1).max() < 0.1


def test_mirrored_twice_is_the_picture_itself() -> None:
    pictures, landmarks = _dotted(1)
    again, there = augment.mirror(*augment.mirror(pictures, landmarks))
    np.testing.assert_array_equal(again, pictures)
    np.testing.assert_allclose(there, landmarks, atol=1e-6)


def test_no_landmark_leaves_the_picture() -> None:
    """Faces fill their box up to a narrow margin; a landmark that was outside already holds nothing back."""
    rng = np.random.default_rng(0)
    pictures = _pictures()
    turns = []
    for seed in range(60):
        landmarks = rng.uniform(0.02, 0.98, (2, 131, 2)).astype(np.float32)
        landmarks[0, 0], landmarks[0, 1], landmarks[1, 7] = (0.0, 1.0), (1.0, 0.5), (0.4, 1.3)
        _, moved = augment.augment_geometry(pictures, landmarks, 1.0, np.random.default_rng(seed))
        outside = (landmarks > 1).any(axis=-1)
        assert 0 <= moved[~outside].min() <= moved[~outside].max() <= 1
        across = moved[0, 1] - moved[0, 0]
        turns.append(np.rad2deg(np.arctan2(*across[::-1]) - np.arctan2(-0.5, 1.0)))
    assert -10 <= min(turns) < -7
    assert 7 < max(turns) <= 10


def test_what_comes_in_at_the_edges_is_a_reflection() -> None:
    pictures = np.full((1, SIZE, SIZE, 3), 77, np.uint8)
    landmarks = np.linspace(0.3, 0.7, 262, dtype=np.float32).reshape(1, 131, 2)
    moved, _ = augment.augment_geometry(pictures, landmarks, 1.0, np.random.default_rng(0))
    assert (moved == 77).all()


@pytest.mark.parametrize("function", PHOTOMETRIC)
@pytest.mark.parametrize("seed", range(4))
def test_all_pictures_change_alike(function: Callable[..., np.ndarray], seed: int) -> None:
    picture = _pictures(1, seed)
    pictures = picture.repeat(3, axis=0)
    changed = function(pictures, 1.0, np.random.default_rng(seed))
    assert changed.shape == pictures.shape
    assert changed.dtype == np.uint8
    assert (changed == changed[:1]).all()
    assert (changed != pictures).any()
    np.testing.assert_array_equal(pictures, picture.repeat(3, axis=0))  # what went in is left alone
    np.testing.assert_array_equal(function(pictures, 1.0, np.random.default_rng(seed)), changed)


def test_strength_zero_is_nothing() -> None:
    rng = np.random.default_rng(0)
    before = rng.bit_generator.state
    pictures, landmarks = _dotted(0)
    for function in PHOTOMETRIC:
        assert function(pictures, 0.0, rng) is pictures
    same, there = augment.augment_geometry(pictures, landmarks, 0.0, rng)
    assert same is pictures
    assert there is landmarks
    assert rng.bit_generator.state == before


@pytest.mark.parametrize("function", PHOTOMETRIC)
def test_strength_bounds_the_change(function: Callable[..., np.ndarray]) -> None:
    pictures = _pictures()

    def change(strength: float) -> float:
        rng = np.random.default_rng(3)
        changes = [np.abs(function(pictures, strength, rng).astype(int) - pictures).mean() for _ in range(10)]
        return float(np.mean(changes))

    assert change(0.05) < 0.75 * change(1.0)


def test_resolution_loses_detail_and_keeps_the_rest() -> None:
    checks = (np.indices((SIZE, SIZE)).sum(axis=0) % 2 * 255).astype(np.uint8)[None, ..., None].repeat(3, axis=-1)
    changed = augment.augment_resolution(checks, 1.0, np.random.default_rng(0)).astype(float)
    assert changed.std() < checks.std() / 2
    assert abs(changed.mean() - checks.mean()) < 2


def test_jpeg_leaves_channels_where_they_are() -> None:
    red = np.zeros((1, 16, 16, 3), np.uint8)
    red[..., 0] = 200
    changed = augment.augment_jpeg(red, 1.0, np.random.default_rng(1)).astype(int)
    assert np.abs(changed - red).max() <= 6


def test_a_third_of_the_circle_exchanges_the_channels() -> None:
    # x -> y -> z -> x: the rotation about the grey axis that keeps the cube of colours in place.
    np.testing.assert_allclose(augment.hue_rotation(2 * np.pi / 3), np.roll(np.eye(3), 1, axis=0), atol=1e-12)
    np.testing.assert_allclose(augment.hue_rotation(1.0) @ np.ones(3), np.ones(3))


def _sung(pitch_hz: float, resonance_hz: float, volume: float = 0.3, seconds: float = 1.0) -> np.ndarray:
    """Log-mel features (steps, 80) of harmonics under one resonance that come and go twice a second."""
    times = np.arange(int(seconds * SAMPLE_RATE_HZ)) / SAMPLE_RATE_HZ
    harmonics = np.arange(pitch_hz, 7000, pitch_hz)
    heights = 1 / (1 + ((harmonics - resonance_hz) / 200) ** 2)
    tone = (heights[:, None] * np.sin(2 * np.pi * harmonics[:, None] * times)).sum(0) * (np.sin(4 * np.pi * times) > 0)
    return LogMel()(np.float32(volume * tone / np.abs(tone).max()))


def test_another_voice_says_the_same_at_the_same_time() -> None:
    plain = _sung(120, 800)
    loud = plain.max(1) > 1
    for seed in range(20):
        changed = augment.augment_voice(plain, 1.0, np.random.default_rng(seed))
        assert changed.shape == plain.shape
        assert changed.dtype == np.float32
        assert changed.min() >= -4
        assert changed[loud].max(1).mean() - changed[~loud].max(1).mean() > 0.3, seed


def test_voices_differ_in_loudness_resonance_and_noise() -> None:
    plain = _sung(120, 800)
    sounding = plain.max(1) > 1
    voices = [augment.augment_voice(plain, 1.0, np.random.default_rng(seed)) for seed in range(200)]
    levels = np.array([12.5 * (voice[sounding].max() - plain.max()) for voice in voices])
    assert 4 < np.ptp(levels) / 2 < augment.LOUDER + 3 * augment.TIMBRE
    peaks = np.array([LogMel.centres_hz()[voice[sounding].mean(0)[10:50].argmax() + 10] for voice in voices])
    assert np.percentile(peaks, 10) < 760 < 840 < np.percentile(peaks, 90)
    floors = np.array([voice[~sounding].mean() for voice in voices])
    assert 0.3 < np.mean(floors > floors.min() + 0.5) < 0.7  # half of them in a room


def test_a_longer_vocal_tract_is_what_a_lower_resonance_sounds_like(monkeypatch) -> None:
    monkeypatch.setattr(augment, "LOUDER", 0.0)
    monkeypatch.setattr(augment, "TIMBRE", 0.0)
    monkeypatch.setattr(augment, "NOISE", (-200.0, -199.0))
    rng = np.random.default_rng(3)
    ratio = (1 + augment.VOCAL_TRACT) ** np.random.default_rng(3).uniform(-1, 1)
    moved = augment.augment_voice(_sung(40, 1500), 1.0, rng)
    other = _sung(40, 1500 / ratio)
    sounding = other.max(1) > 1
    peaks = [LogMel.centres_hz()[voice[sounding].mean(0)[30:].argmax() + 30] for voice in (moved, other)]
    assert peaks[0] == pytest.approx(peaks[1], rel=0.06)
    assert abs(peaks[0] / 1500 - 1) > 0.05


def test_no_strength_no_other_voice() -> None:
    plain, rng = _sung(120, 800, seconds=0.2), np.random.default_rng(0)
    assert augment.augment_voice(plain, 0.0, rng) is plain
    assert rng.random() == np.random.default_rng(0).random()
