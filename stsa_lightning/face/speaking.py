"""Who of several people speaks: whose mouth follows the sound."""

from __future__ import annotations

import numpy as np

from stsa_lightning.constants import SAMPLES_PER_FRAME
from stsa_lightning.face.heatmaps import inner_lip_aperture

_LEAST_FRAMES = 50  # less says nothing
_LARGEST_SHIFT = 3  # frames by which the sound of a recording may be early or late
_QUIET_DB = 50.0  # below the loudest frame: silence


def sound_level(wave: np.ndarray, frames: int) -> np.ndarray:
    """How loud each video frame is: (samples,) at 16 kHz -> (frames,) root mean square; 0 past the end."""
    hop = SAMPLES_PER_FRAME
    power, whole = np.zeros(frames), min(frames, len(wave) // hop)
    samples = wave[: whole * hop].reshape(whole, hop)  # a view: the sound of an hour is not copied
    power[:whole] = np.einsum("fs,fs->f", samples, samples)
    if whole < frames:
        power[whole] = np.square(wave[whole * hop :], dtype=np.float64).sum()
    return np.sqrt(power / hop)


def mouth_follows_sound(landmarks: np.ndarray, level: np.ndarray) -> float:
    """How well a mouth follows the sound.

    The mean of two correlations, at the best of the shifts up to 3 frames early or late: of the lips' velocity (opening
    or closing) with the growth of the sound, and of their speed (however they move) with its level in decibels. Lips
    meet in the midst of speech, so the lip aperture alone says less.

    Args:
        landmarks: (F, 131, 2), pixels; NaN where the face is not seen.
        level: (F,) of `sound_level`.

    Returns:
        Within [-1, 1]; NaN if the face is seen in fewer than 50 frames, or mouth or sound do not change.
    """
    seen = np.isfinite(landmarks[:, 0, 0])
    if seen.sum() < _LEAST_FRAMES or not level.any():
        return float("nan")
    lip_aperture = inner_lip_aperture(landmarks) / np.ptp(landmarks[..., 1], axis=1).clip(1)
    velocity, growth = np.gradient(_smooth(lip_aperture, 3)), np.gradient(_smooth(np.sqrt(level), 3))
    speed = _smooth(np.abs(np.gradient(lip_aperture)), 5)
    decibels = 20 * np.log10(np.maximum(level / level.max(), 10 ** (-_QUIET_DB / 20)))
    found = [
        (_correlation(velocity, growth, shift) + _correlation(speed, decibels, shift)) / 2
        for shift in range(-_LARGEST_SHIFT, _LARGEST_SHIFT + 1)
    ]
    return float("nan") if np.isnan(found).all() else float(np.nanmax(found))


def _smooth(x: np.ndarray, frames: int) -> np.ndarray:
    return np.convolve(x, np.full(frames, 1 / frames), mode="same")


def _correlation(a: np.ndarray, b: np.ndarray, shift: int) -> float:
    """Of a with b moved so many frames later; NaN where either hardly changes."""
    a, b = a[max(shift, 0) : len(a) + min(shift, 0)], b[max(-shift, 0) : len(b) - max(shift, 0)]
    both = np.isfinite(a) & np.isfinite(b)
    a, b = a[both], b[both]
    if len(a) < 2 or min(a.std(), b.std()) < 1e-6:
        return float("nan")
    return float(((a - a.mean()) * (b - b.mean())).mean() / (a.std() * b.std()))
