"""Audio features at 50 Hz: what every kind has in common.

Step k of every kind describes the samples from 320 k to 320 k + 400, as in wav2vec 2.0, so that kinds can be exchanged
without shifting the audio against the picture. Video runs at 25 frames/s: two steps to a frame.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

import numpy as np

from stsa_lightning.constants import SAMPLE_RATE_HZ
from stsa_lightning.media.audio import checked_wave, finite_wave

FEATURE_RATE_HZ = 50
WINDOW_STEPS = 10  # steps of one video frame's window: 0.2 s
HOP = SAMPLE_RATE_HZ // FEATURE_RATE_HZ
SPAN = 400  # samples one step sees: 25 ms

FeatureKind = Literal["logmel", "mfcc", "moonshine", "wav2vec2"]
FEATURE_DIMS: dict[str, int] = {"logmel": 80, "mfcc": 13, "moonshine": 368, "wav2vec2": 768}


class AudioFeatures:
    """What turns a wave into features: (samples,) float32 at 16 kHz -> (ceil(samples / 320), dim) float32 at 50 Hz.

    They are taken piece by piece, a minute each: the spectra of an hour would take gigabytes.
    """

    kind: str
    dim: int
    chunk_steps = 3000

    def __call__(self, wave: np.ndarray) -> np.ndarray:
        return np.concatenate(list(self.chunks(wave)))

    def chunks(self, wave: np.ndarray) -> Iterator[np.ndarray]:
        """The same rows in pieces, in memory that does not grow with the wave (which may be mapped from a file)."""
        steps = steps_of(checked_wave(wave, "wave"))
        for first in range(0, steps, self.chunk_steps):
            yield self.rows(wave, first, min(first + self.chunk_steps, steps))

    def rows(self, wave: np.ndarray, first: int, last: int) -> np.ndarray:
        """Features of the steps first ... last - 1."""
        raise NotImplementedError


def feature_windows(features: np.ndarray, centres: Sequence[float] | np.ndarray) -> np.ndarray:
    """The features that each video frame sees.

    Args:
        features: (steps, D) at 50 Hz.
        centres: (n,) times in frames of 25/s; may be fractional (seconds times 25) and lie outside the sound.

    Returns:
        (n, D, 10) float32: steps from floor((centre - 2) * 2) on, zeros where there is no sound.
    """
    features = np.asarray(features, np.float32)
    if features.ndim != 2:
        raise ValueError(f"features must be (steps, D), got shape {features.shape}")
    times = np.asarray(centres, np.float64).reshape(-1)
    if not np.isfinite(times).all():
        raise ValueError("centres must be finite numbers, in frames of 25/s")
    starts = np.floor((times - 2) * 2 + 1e-4).astype(np.int64)  # 1e-4: 0.12 s * 25 may come out as 2.9999999
    steps = starts[:, None] + np.arange(WINDOW_STEPS)  # (n, 10)
    inside = (steps >= 0) & (steps < len(features))
    windows = np.zeros((*steps.shape, features.shape[1]), np.float32)
    windows[inside] = features[steps[inside]]
    return windows.transpose(0, 2, 1)


def steps_of(wave: np.ndarray) -> int:
    return -(-len(wave) // HOP)


def samples_of(wave: np.ndarray, first: int, last: int, fill: float = 0.0) -> np.ndarray:
    """Samples that the steps first ... last - 1 cover: (samples,) float32, with `fill` after the end of the wave."""
    wanted = (last - 1 - first) * HOP + SPAN
    samples = finite_wave(wave[first * HOP : first * HOP + wanted], "wave")
    return np.pad(samples, (0, wanted - len(samples)), constant_values=fill)
