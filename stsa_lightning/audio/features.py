"""What the networks hear: features of 50 steps a second, by name.

Step k of every kind describes the samples from 320 k to 320 k + 400, as in wav2vec 2.0, so that kinds can be exchanged
without shifting the sound against the picture. Video runs at 25 frames/s here: two steps to a frame.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal, Protocol, get_args

import numpy as np

from stsa_lightning.audio.reading import SAMPLE_RATE_HZ, checked_wave, finite_wave
from stsa_lightning.errors import MissingPackageError, UserError

FEATURE_RATE_HZ = 50
WINDOW_STEPS = 10  # steps of one video frame's window: 0.2 s
HOP = SAMPLE_RATE_HZ // FEATURE_RATE_HZ
SPAN = 400  # samples one step sees: 25 ms

FeatureKind = Literal["logmel", "mfcc", "moonshine", "wav2vec2"]
FEATURE_DIMS: dict[str, int] = {"logmel": 80, "mfcc": 13, "moonshine": 368, "wav2vec2": 768}


class AudioFeatures(Protocol):
    """What turns a wave into features: (samples,) float32 at 16 kHz -> (ceil(samples / 320), dim) float32 at 50 Hz."""

    kind: str
    dim: int

    def __call__(self, wave: np.ndarray) -> np.ndarray: ...

    def chunks(self, wave: np.ndarray) -> Iterator[np.ndarray]:
        """The same rows in pieces, in memory that does not grow with the wave (which may be mapped from a file)."""
        ...


def audio_features(kind: FeatureKind, **options: Any) -> AudioFeatures:
    """The extractor of one kind.

    Args:
        kind: "logmel" (80-d), "mfcc" (13-d), "moonshine" (368-d, comes with the package) or "wav2vec2" (768-d, the
            paper's, downloaded).
        options: of wav2vec2 alone, see `stsa_lightning.wav2vec2.Wav2Vec2`.

    Raises:
        UserError: an unknown kind, or options that it does not take.
        MissingPackageError: the kind's package is missing (the message says how to install it).
    """
    if kind not in get_args(FeatureKind):
        raise UserError(f"features must be one of {', '.join(get_args(FeatureKind))}, got {kind!r}")
    if kind == "wav2vec2":
        from stsa_lightning.wav2vec2 import Wav2Vec2

        return Wav2Vec2(**options)
    if options:
        raise UserError(f"{kind} features take no options, got {', '.join(options)}")
    if kind == "moonshine":
        from stsa_lightning.moonshine import Moonshine

        return Moonshine()
    return LogMel() if kind == "logmel" else MFCC()


class Chunked:
    """Features that are taken piece by piece, here a minute each: the spectra of an hour would take gigabytes."""

    kind: str
    dim: int
    chunk_steps = 3000

    def __call__(self, wave: np.ndarray) -> np.ndarray:
        return np.concatenate(list(self.chunks(wave)))

    def chunks(self, wave: np.ndarray) -> Iterator[np.ndarray]:
        """See `AudioFeatures.chunks`; a wave of any length gives exactly what it gives at once."""
        steps = steps_of(checked_wave(wave, "wave"))
        for first in range(0, steps, self.chunk_steps):
            yield self.rows(wave, first, min(first + self.chunk_steps, steps))

    def rows(self, wave: np.ndarray, first: int, last: int) -> np.ndarray:
        """Features of the steps first ... last - 1."""
        raise NotImplementedError


class LogMel(Chunked):
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
        frames = np.lib.stride_tricks.sliding_window_view(heard(wave, first, last), SPAN)[::HOP]  # (steps, 400)
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
        """The inverse of :meth:`scaled`."""
        return features * 12.5 - 50


class MFCC(Chunked):
    """13 mel cepstral coefficients, 25 ms windows every 20 ms: python_speech_features' defaults, log energy first."""

    kind = "mfcc"
    dim = FEATURE_DIMS["mfcc"]

    def __init__(self) -> None:
        try:
            from python_speech_features import mfcc
        except ImportError as error:
            raise MissingPackageError("mfcc features: pip install python_speech_features") from error
        self._mfcc = mfcc

    def rows(self, wave: np.ndarray, first: int, last: int) -> np.ndarray:
        before = min(first, 1)  # the pre-emphasis of a chunk's first sample wants the sample before it
        pcm = heard(wave, first - before, last) * 32768  # the package's energies are those of 16-bit samples
        rows = self._mfcc(pcm, SAMPLE_RATE_HZ, winlen=SPAN / SAMPLE_RATE_HZ, winstep=0.02, nfft=512)
        return rows[before:].astype(np.float32)


def hz_of(mels: np.ndarray) -> np.ndarray:
    """Frequencies on Slaney's scale: linear below 1 kHz (15 mel), logarithmic above (27 mel to a factor of 6.4)."""
    return np.where(mels < 15, mels * 200 / 3, 1000 * 6.4 ** ((mels - 15) / 27))


def mels_of(hz: np.ndarray) -> np.ndarray:
    """The inverse of :func:`hz_of`."""
    return np.where(hz < 1000, hz * 3 / 200, 15 + 27 * np.log(np.maximum(hz, 1) / 1000) / np.log(6.4))


def mel_filters(bands: int, fft: int, rate_hz: int) -> np.ndarray:
    """(bands, fft // 2 + 1) triangles of height 1, evenly spaced on Slaney's mel scale from 0 to half of `rate_hz`."""
    corners = hz_of(np.linspace(0, float(mels_of(np.array(rate_hz / 2))), bands + 2))
    bins = np.arange(fft // 2 + 1) * rate_hz / fft
    rise = (bins - corners[:-2, None]) / np.diff(corners)[:-1, None]
    fall = (corners[2:, None] - bins) / np.diff(corners)[1:, None]
    return np.maximum(0, np.minimum(rise, fall))


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


def heard(wave: np.ndarray, first: int, last: int, fill: float = 0.0) -> np.ndarray:
    """What the steps first ... last - 1 hear: (samples,) float32, with silence (`fill`) after the end of the wave."""
    wanted = (last - 1 - first) * HOP + SPAN
    samples = finite_wave(wave[first * HOP : first * HOP + wanted], "wave")
    return np.pad(samples, (0, wanted - len(samples)), constant_values=fill)
