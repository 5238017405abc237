"""Encoder states of a small speech recogniser: they predict lips far better than a spectrum, without a download."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from stsa_lightning.features.base import FEATURE_DIMS, FEATURE_RATE_HZ, HOP, SPAN, AudioFeatures, samples_of, steps_of
from stsa_lightning.features.spectral import LogMel
from stsa_lightning.utils.onnx_session import onnx_session

ENCODER = Path(__file__).parents[1] / "assets" / "moonshine_tiny_en" / "encoder.ort"


class Moonshine(AudioFeatures):
    """Last hidden state of the encoder of Moonshine tiny (English; Jeffries et al. 2024) beside log-mel: 288 + 80.

    The recogniser tells which sounds are said; log-mel, how loud, and whether anybody speaks. The encoder's states come
    every 24 ms and are interpolated to steps. It attends to all that it is given, so each 4 s are heard together with
    2 s before and after, whatever the sound's length: memory does not grow with it, and an hour is heard as a clip is.
    """

    kind = "moonshine"
    dim = FEATURE_DIMS["moonshine"]
    chunk_steps, margin = 4 * FEATURE_RATE_HZ, 2 * FEATURE_RATE_HZ

    # A state every 384 samples, of 895 samples: convolutions of 127, 7 and 3 with strides 64, 3 and 2.
    _hop, _span = 384, 895
    _scale = 2.0  # states deviate by about 1/2, log-mel by about 1

    def __init__(self) -> None:
        self._session = onnx_session(ENCODER)
        self._logmel = LogMel()

    def rows(self, wave: np.ndarray, first: int, last: int) -> np.ndarray:
        begin, end = max(0, first - self.margin), min(steps_of(wave), last + self.margin)
        states = self._states(samples_of(wave, begin, end), end - begin)[first - begin : last - begin]
        return np.concatenate([states, self._logmel.rows(wave, first, last)], axis=1)

    def _states(self, wave: np.ndarray, steps: int) -> np.ndarray:
        """(steps, 288) encoder states of the samples that those steps cover."""
        wave = np.pad(wave, (0, max(0, self._span + self._hop - len(wave))))[None]  # two states at least
        inputs = {"input_values": wave, "attention_mask": np.ones(wave.shape, np.int64)}
        states = self._session.run(None, inputs)[0][0]
        places = (np.arange(steps) * HOP + (SPAN - self._span) / 2) / self._hop  # of the steps' centres among states
        before = np.clip(np.floor(places), 0, len(states) - 2).astype(int)
        share = np.clip(places - before, 0, 1)[:, None]
        return ((1 - share) * states[before] + share * states[before + 1]).astype(np.float32) * self._scale
