"""Speech of nobody, under which guidance shows what it takes for a person's mouth."""

from __future__ import annotations

import numpy as np

from stsa_lightning.constants import FPS
from stsa_lightning.features.base import AudioFeatures, feature_windows

_SECONDS = 8.0
_WINDOWS = 32
_STRIDE = 13  # between windows that follow each other, so that lips do not open and shut as a head turns
_LEVEL = 0.05  # root mean square


def calibration_windows(features: AudioFeatures, num_frames: int) -> np.ndarray:
    """Audio windows (32, `num_frames`, D, 10) float32 from all over a few synthesised sentences, always the same."""
    # SciPy is slow to import, and most programs that import dubbing never come here.
    from stsa_lightning.data.sample.speech import Voice, articulate, script, synthesise

    voice, rng = Voice(), np.random.default_rng(0)
    segments, _ = script(_SECONDS, voice, rng)
    wave = synthesise(segments, articulate(segments), voice, rng)
    wave *= _LEVEL / np.sqrt(np.square(wave).mean())
    order = np.arange(_WINDOWS) * _STRIDE % _WINDOWS
    centres = np.linspace(num_frames, _SECONDS * FPS - num_frames, _WINDOWS).round()[order]
    times = centres[:, None] + np.arange(num_frames) - num_frames // 2  # (32, T)
    windows = feature_windows(features(wave.astype(np.float32)), times.ravel())
    return windows.reshape(*times.shape, *windows.shape[1:])
