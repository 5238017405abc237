"""Spectral audio features: log-mel and MFCC."""

from __future__ import annotations

import numpy as np

from stsa_lightning.constants import SAMPLE_RATE_HZ
from stsa_lightning.features.base import FEATURE_DIMS, HOP, SPAN, AudioFeatures, samples_of
from stsa_lightning.utils.errors import required


class LogMel(AudioFeatures):
    """Log power in 80 mel bands (Slaney's scale, 0-8000 Hz), 25 ms Hann windows every 20 ms.

    Powers are in dB of a full-scale sine, floored at -100, then mapped by fixed constants: -100 dB -> -4, 0 dB -> 4.
    Nothing is normalised over the file, so a stream cut into pieces gives the same numbers.
    """

    kind = "logmel"
    dim = FEATURE_DIMS["logmel"]
    fft = 512

    def __init__(self) -> None:
        window = np.hanning(SPAN + 1)[:-1]
        # So scaled, a full-scale sine at a bin's centre has power 1.
        self.window = (window / (window.sum() / 2)).astype(np.float32)
        self.filters = mel_filters(self.dim, self.fft, SAMPLE_RATE_HZ).astype(np.float32)

    def rows(self, wave: np.ndarray, first: int, last: int) -> np.ndarray:
        frames = np.lib.stride_tricks.sliding_window_view(samples_of(wave, first, last), SPAN)[::HOP]  # (steps, 400)
        bands = np.abs(np.fft.rfft(frames * self.window, self.fft)) ** 2 @ self.filters.T
        return self.scaled(10 * np.log10(np.maximum(bands, 1e-10)))

    @classmethod
    def centres_hz(cls) -> np.ndarray:
        """Where each band is."""
        return hz_of(np.linspace(0, float(mels_of(np.array(SAMPLE_RATE_HZ / 2))), cls.dim + 2))[1:-1]

    @staticmethod
    def scaled(decibels: np.ndarray) -> np.ndarray:
        """Decibels of full scale -> feature values, floored."""
        return ((np.maximum(decibels, -100) + 50) / 12.5).astype(np.float32)

    @staticmethod
    def decibels(features: np.ndarray) -> np.ndarray:
        """The inverse of `scaled`."""
        return features * 12.5 - 50


class MFCC(AudioFeatures):
    """13 mel cepstral coefficients, 25 ms windows every 20 ms: python_speech_features' defaults, log energy first."""

    kind = "mfcc"
    dim = FEATURE_DIMS["mfcc"]

    def __init__(self) -> None:
        self._mfcc = required("python_speech_features", "mfcc features: pip install python_speech_features").mfcc

    def rows(self, wave: np.ndarray, first: int, last: int) -> np.ndarray:
        before = min(first, 1)  # the pre-emphasis of a chunk's first sample wants the sample before it
        pcm = samples_of(wave, first - before, last) * 32768  # the package's energies are those of 16-bit samples
        rows = self._mfcc(pcm, SAMPLE_RATE_HZ, winlen=SPAN / SAMPLE_RATE_HZ, winstep=0.02, nfft=512)
        return rows[before:].astype(np.float32)


def hz_of(mels: np.ndarray) -> np.ndarray:
    """Frequencies on Slaney's scale: linear below 1 kHz (15 mel), logarithmic above (27 mel to a factor of 6.4)."""
    return np.where(mels < 15, mels * 200 / 3, 1000 * 6.4 ** ((mels - 15) / 27))


def mels_of(hz: np.ndarray) -> np.ndarray:
    """The inverse of `hz_of`."""
    return np.where(hz < 1000, hz * 3 / 200, 15 + 27 * np.log(np.maximum(hz, 1) / 1000) / np.log(6.4))


def mel_filters(bands: int, fft: int, rate_hz: int) -> np.ndarray:
    """(bands, fft // 2 + 1) triangles of height 1, evenly spaced on Slaney's mel scale from 0 to half of `rate_hz`."""
    corners = hz_of(np.linspace(0, float(mels_of(np.array(rate_hz / 2))), bands + 2))
    bins = np.arange(fft // 2 + 1) * rate_hz / fft
    rise = (bins - corners[:-2, None]) / np.diff(corners)[:-1, None]
    fall = (corners[2:, None] - bins) / np.diff(corners)[1:, None]
    return np.maximum(0, np.minimum(rise, fall))
