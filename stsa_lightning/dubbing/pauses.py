"""Pauses of speech: where no voice is heard, and what is heard is not as loud as one."""

from __future__ import annotations

import numpy as np

from stsa_lightning.features.base import FEATURE_RATE_HZ, HOP
from stsa_lightning.features.voice_activity import voice_probability
from stsa_lightning.utils.disk_array import DiskArray

_LOUD = 95  # percentile of the level that stands for the voice
_DB_BELOW = 12.0  # by which a pause is quieter: what is louder may be song, of which the detector hears half
_VOICE = 0.4  # probability from which on somebody speaks
_SMOOTH, _LEAST_S = 5, 0.3  # steps; a shorter rest is part of a word
_EDGE_S = 0.06  # lips close a little after the sound ends, and open before it begins
_FADE = 3  # steps
_BLOCK = 3000  # steps


def step_levels_db(wave: DiskArray | np.ndarray) -> np.ndarray:
    """(samples,) at 16 kHz -> (steps,) dB of full scale, a step each 20 ms."""
    levels = []
    for start in range(0, len(wave), _BLOCK * HOP):
        piece = wave[start : start + _BLOCK * HOP]
        padded = np.pad(piece, (0, -len(piece) % HOP)).reshape(-1, HOP)
        levels.append(10 * np.log10(np.maximum((padded**2).mean(axis=1), 1e-10)))
    return np.concatenate(levels)


def pauses(wave: DiskArray | np.ndarray) -> np.ndarray:
    """How much each step of 20 ms belongs to a pause: (samples,) at 16 kHz -> (steps,) float32 in [0, 1].

    A pause lasts 0.3 s or more; noise, music and breath in it are no speech, unless they are nearly as loud.
    """
    level = step_levels_db(wave)
    level = np.convolve(np.pad(level, _SMOOTH // 2, mode="edge"), np.full(_SMOOTH, 1 / _SMOOTH), mode="valid")
    silent = (voice_probability(wave) < _VOICE) & (level < np.percentile(level, _LOUD) - _DB_BELOW)
    quiet = np.zeros(len(level), np.float32)
    edges = np.flatnonzero(np.diff(np.concatenate([[0], silent.astype(np.int8), [0]])))
    edge = round(_EDGE_S * FEATURE_RATE_HZ)
    for start, stop in zip(edges[::2], edges[1::2], strict=True):
        if stop - start >= _LEAST_S * FEATURE_RATE_HZ:
            # At the ends of the sound there is no word to make room for.
            quiet[start + edge * (start > 0) : stop - edge * (stop < len(level))] = 1
    fade = np.convolve(np.pad(quiet, _FADE, mode="edge"), np.full(2 * _FADE + 1, 1 / (2 * _FADE + 1)), mode="valid")
    return np.minimum(fade, 1).astype(np.float32)
