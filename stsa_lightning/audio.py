"""Sound in, and what the networks hear of it: features of 50 steps a second, by name.

Step k of every kind describes the samples from 320 k to 320 k + 400, as in wav2vec 2.0, so that kinds can be exchanged
without shifting the sound against the picture. Video runs at 25 frames/s here: two steps to a frame.
"""

from __future__ import annotations

import io
import wave as wave_file
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Literal, Protocol, cast, get_args

import numpy as np

from stsa_lightning.errors import MissingPackageError, UserError
from stsa_lightning.files import written_whole

if TYPE_CHECKING:
    import av
    from av.container import InputContainer

SAMPLE_RATE_HZ = 16_000
FEATURE_RATE_HZ = 50
WINDOW_STEPS = 10  # steps of one video frame's window: 0.2 s
HOP = SAMPLE_RATE_HZ // FEATURE_RATE_HZ
SPAN = 400  # samples one step sees: 25 ms

FeatureKind = Literal["logmel", "mfcc", "moonshine", "wav2vec2"]
FEATURE_DIMS: dict[str, int] = {"logmel": 80, "mfcc": 13, "moonshine": 368, "wav2vec2": 768}


class AudioError(UserError):
    """Sound that cannot be used: unreadable, absent, or not of the form expected."""


# ---------------------------------------------------------------------------------------------------------------- files


def load_audio(
    path: str | Path,
    sample_rate_hz: int = SAMPLE_RATE_HZ,
    start_s: float | None = None,
    stop_s: float | None = None,
    spool: BinaryIO | None = None,
) -> np.ndarray:
    """The sound of a media file, or of a part of it, mono, on the clock of its picture.

    Sample 0 sounds when the first video frame is shown: a stream that starts early is cut, one that starts late or has
    a hole is filled with silence, and the encoder's priming samples are left out. Without a picture, sample 0 is the
    first sample.

    Args:
        path: any container that FFmpeg reads (wav, mp3, m4a, mp4, mkv ...).
        sample_rate_hz: rate of the result; the file's own rate is converted.
        start_s: where the part begins, seconds; None: the beginning. What lies before is not decoded.
        stop_s: where it ends; None: the end.
        spool: a file open for reading and writing that takes the samples in place of memory; the result then maps it.

    Returns:
        (samples,) float32 in [-1, 1].

    Raises:
        FileNotFoundError: there is no such file.
        AudioError: the file cannot be read, or holds no sound.
    """
    if sample_rate_hz <= 0:
        raise ValueError(f"sample_rate_hz must be positive, got {sample_rate_hz}")
    file = io.BytesIO() if spool is None else spool
    with _opened(path) as container:
        part = _Part(container, sample_rate_hz, start_s, stop_s)
        for block in part.blocks():
            file.write(np.clip(block, -1.0, 1.0).astype(np.float32).tobytes())
        count = part.length(file.tell() // 4)
    if not count:
        raise AudioError(f"{path}: its audio stream holds no samples" + (" in this part" if start_s else ""))
    if isinstance(file, io.BytesIO):
        return np.frombuffer(file.getbuffer(), np.float32, count)
    file.flush()
    return np.memmap(file, np.float32, "r", shape=(count,))


def native_sample_rate(path: str | Path) -> int:
    """The rate (Hz) at which a file's sound is stored. Raises as `load_audio` does."""
    with _opened(path) as container:
        return int(container.streams.audio[0].sample_rate)


def write_wav(path: str | Path, wave: np.ndarray, sample_rate_hz: int = SAMPLE_RATE_HZ) -> None:
    """Write (samples,) float in [-1, 1] as a 16-bit mono wav file; the file appears whole or not at all."""
    wave = _checked(wave, "wave")
    pcm = np.clip(np.round(wave * 32768.0), -32768, 32767).astype("<i2")
    with written_whole(path) as part, wave_file.open(str(part), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(sample_rate_hz)
        file.writeframes(pcm.tobytes())


@contextmanager
def _opened(path: str | Path) -> Iterator[InputContainer]:
    """A media file that has sound; what goes wrong while it is open is told with its name."""
    import av

    if not Path(path).is_file():
        raise FileNotFoundError(f"{path}: no such audio or video file")
    try:
        with av.open(str(path)) as container:
            if not container.streams.audio:
                raise AudioError(f"{path}: has no audio stream; give a file with sound")
            yield container
    except av.error.FFmpegError as error:
        raise AudioError(f"{path}: cannot be read as audio ({error.strerror}); is it a sound or video file?") from error


class _Part:
    """The first audio stream, or a part of it, decoded block by block at one rate, mono.

    Without a start it begins with the first picture.
    """

    def __init__(
        self, container: InputContainer, rate_hz: int, start_s: float | None = None, stop_s: float | None = None
    ) -> None:
        self._container, self._stream, self._rate_hz = container, container.streams.audio[0], rate_hz
        self._start_s = _origin_s(container) + (start_s or 0.0)
        self._samples = None if stop_s is None else max(0, round((stop_s - (start_s or 0.0)) * rate_hz))
        if start_s:
            # A second early: decoders need some packets before they sound right.
            at_s = max(0.0, self._start_s - 1)
            container.seek(int(at_s / (self._stream.time_base or 1)), stream=self._stream)

    def blocks(self) -> Iterator[np.ndarray]:
        """(samples,) float32 each."""
        import av

        graph = av.filter.Graph()
        source = graph.add_abuffer(template=self._stream)
        # async=1 fills holes and cuts overlaps by time stamp, without stretching; first_pts pads or cuts the beginning.
        first = round(self._start_s * self._rate_hz)
        resample = graph.add("aresample", f"{self._rate_hz}:async=1:first_pts={first}")
        mono = graph.add("aformat", f"sample_fmts=flt:channel_layouts=mono:sample_rates={self._rate_hz}")
        sink = graph.add("abuffersink")
        graph.link_nodes(source, resample, mono, sink).configure()
        given = 0
        for frame in self._decoded():
            source.push(frame)
            for block in _drained(sink):
                given += len(block)
                yield block
            if self._samples is not None and given >= self._samples:
                return

    def _decoded(self) -> Iterator[av.AudioFrame | None]:
        """Frames of sound, and None after the last, which lets the filters give what they hold back."""
        import av

        for packet in self._container.demux(self._stream):
            try:
                yield from packet.decode()
            except av.error.InvalidDataError:  # a damaged packet is a hole, and holes are filled
                continue
        yield None

    def length(self, decoded: int) -> int:
        """Samples to keep of those decoded: encoders fill their last block with silence.

        The stream's stated duration leaves it out.
        """
        if self._samples is not None and decoded >= self._samples:
            return self._samples
        stream, rate_hz = self._stream, self._rate_hz
        if stream.duration is None or stream.time_base is None:
            return decoded
        stated = round(
            (float(((stream.start_time or 0) + stream.duration) * stream.time_base) - self._start_s) * rate_hz
        )
        padding = 4096 * rate_hz / stream.sample_rate  # four blocks of AAC; a larger excess is a wrong statement
        return stated if 0 < decoded - stated <= padding else decoded


def _drained(sink: Any) -> Iterator[np.ndarray]:
    """What a filter graph has ready."""
    import av

    while True:
        try:
            yield cast("av.AudioFrame", sink.pull()).to_ndarray().reshape(-1)
        except (av.error.BlockingIOError, av.error.EOFError):
            return


def _origin_s(container: InputContainer) -> float:
    """Time of the first picture, or of the first sample where there is no (moving) picture."""
    from av.stream import Disposition

    pictures = [s for s in container.streams.video if not s.disposition & Disposition.attached_pic]
    stream = pictures[0] if pictures else container.streams.audio[0]
    return float((stream.start_time or 0) * (stream.time_base or 0))


# ------------------------------------------------------------------------------------------------------------- features


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
    samples = _checked(wave[first * HOP : first * HOP + wanted], "wave")
    return np.pad(samples, (0, wanted - len(samples)), constant_values=fill)


def _checked(wave: np.ndarray, name: str) -> np.ndarray:
    wave = checked_wave(wave, name)
    if not np.isfinite(wave).all():
        raise AudioError(f"{name} holds NaN or infinite samples")
    return wave.astype(np.float32, copy=False)


def checked_wave(wave: np.ndarray, name: str) -> np.ndarray:
    """All that can be said without reading the samples."""
    wave = np.asanyarray(wave)
    if not np.issubdtype(wave.dtype, np.floating):
        raise TypeError(f"{name} must be float in [-1, 1], got {wave.dtype}; divide 16-bit samples by 32768")
    if wave.ndim != 1:
        raise ValueError(f"{name} must be mono, of shape (samples,), got shape {wave.shape}")
    if not len(wave):
        raise AudioError(f"{name} is empty: there is no sound")
    return wave
