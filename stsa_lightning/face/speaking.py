"""Who of several people speaks: whose mouth follows the sound."""

from __future__ import annotations

import numpy as np

from stsa_lightning.face.heatmaps import inner_lip_opening

_RATE_HZ = 16_000
_FPS = 25
_LEAST_FRAMES = 50  # less says nothing
_LARGEST_SHIFT = 3  # frames by which the sound of a recording may be early or late
_QUIET_DB = 50.0  # below the loudest frame: silence


def sound_level(wave: np.ndarray, frames: int) -> np.ndarray:
    """How loud each video frame is: (samples,) at 16 kHz -> (frames,) decibels above silence; 0 past the end."""
    hop = _RATE_HZ // _FPS
    padded = np.zeros(frames * hop, np.float64)
    padded[: len(wave)] = wave[: len(padded)]
    power = (padded.reshape(frames, hop) ** 2).mean(axis=1)
    loudest = float(power.max(initial=0.0))
    if loudest <= 1e-10:  # digital silence, and the rounding of 16 bits
        return np.zeros(frames)
    return _QUIET_DB + np.maximum(10 * np.log10(power / loudest + 1e-12), -_QUIET_DB)


def mouth_follows_sound(landmarks: np.ndarray, level: np.ndarray) -> float:
    """How well a mouth follows the sound: the best correlation of opening and level, up to 3 frames early or late.

    Args:
        landmarks: (F, 131, 2), pixels; NaN where the face is not seen.
        level: (F,) of `sound_level`.

    Returns:
        A correlation within [-1, 1]; NaN if the face is seen in fewer than 50 frames, or mouth or sound do not change.
    """
    seen = np.isfinite(landmarks[:, 0, 0])
    if seen.sum() < _LEAST_FRAMES:
        return float("nan")
    height = np.ptp(landmarks[..., 1], axis=1)
    opening = inner_lip_opening(landmarks) / np.where(seen, np.maximum(height, 1), np.nan)
    shifts = range(-_LARGEST_SHIFT, _LARGEST_SHIFT + 1)
    return max((_correlation(opening, _shifted(level, shift)) for shift in shifts), key=lambda r: -2 if r != r else r)


def _shifted(level: np.ndarray, frames: int) -> np.ndarray:
    out = np.full(len(level), np.nan)
    out[max(frames, 0) : len(level) + min(frames, 0)] = level[max(-frames, 0) : len(level) - max(frames, 0)]
    return out


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
    both = np.isfinite(a) & np.isfinite(b)
    a, b = a[both], b[both]
    if len(a) < 2 or min(a.std(), b.std()) < 1e-6:
        return float("nan")
    return float(((a - a.mean()) * (b - b.mean())).mean() / (a.std() * b.std()))
