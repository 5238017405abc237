"""What is heard where nobody speaks: silence, and the noise of rooms and machines."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from stsa_lightning.constants import SAMPLE_RATE_HZ
from stsa_lightning.features.base import FeatureKind
from stsa_lightning.features.build import audio_features

SECONDS = 4  # of each sound
SLOPES = (0.0, 0.5, 1.0)  # amplitude falls with the frequency to this power: white, pink and brown noise
LEVELS_DB = (-70.0, -55.0, -40.0, -25.0)  # of full scale, root mean square: a quiet room to a loud machine


@lru_cache(maxsize=2)
def quiet_features(kind: FeatureKind) -> np.ndarray:
    """(steps, D) features of digital silence, a third of them, and of steady noise, always the same.

    Raises:
        MissingPackageError: the kind's package is missing (the message says how to install it).
    """
    extractor, rng = audio_features(kind), np.random.default_rng(0)
    silence = np.zeros(SECONDS * SAMPLE_RATE_HZ, np.float32)
    noises = [noise(len(silence), slope, level, rng) for slope in SLOPES for level in LEVELS_DB]
    # Each on its own, for a speech recogniser hears what stands beside it.
    return np.concatenate([extractor(wave) for wave in [silence] * (len(noises) // 2) + noises])


def noise(samples: int, slope: float, level_db: float, rng: np.random.Generator) -> np.ndarray:
    """(samples,) float32 of steady noise: see `SLOPES` and `LEVELS_DB`."""
    frequencies = np.fft.rfftfreq(samples, 1 / SAMPLE_RATE_HZ)
    shape = np.maximum(frequencies, 20.0) ** -slope  # what lies below cannot be heard, and would be all there is
    wave = np.fft.irfft(np.fft.rfft(rng.standard_normal(samples)) * shape, samples)
    return (wave * 10 ** (level_db / 20) / np.sqrt(np.mean(wave**2))).astype(np.float32)
