"""Sound in, and what the networks hear of it: features of 50 steps a second, by name.

Step k of every kind describes the samples from 320 k to 320 k + 400, as in wav2vec 2.0, so that kinds can be exchanged
without shifting the sound against the picture. Video runs at 25 frames/s here: two steps to a frame.
"""

from __future__ import annotations

import wave as wave_file
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, cast, get_args

import numpy as np

from stsa_lightning.errors import UserError
from stsa_lightning.files import written_whole

if TYPE_CHECKING:
    from av.container import InputContainer

SAMPLE_RATE_HZ = 16_000
FEATURE_RATE_HZ = 50
WINDOW_STEPS = 10  # steps of one video frame's window: 0.2 s
HOP = SAMPLE_RATE_HZ // FEATURE_RATE_HZ
SPAN = 400  # samples one step sees: 25 ms

FeatureKind = Literal["logmel", "mfcc", "wav2vec2"]
FEATURE_DIMS: dict[str, int] = {"logmel": 80, "mfcc": 13, "wav2vec2": 768}


class AudioError(UserError):
    """Sound that cannot be used: unreadable, absent, or not of the form expected."""


# ---------------------------------------------------------------------------------------------------------------- files


def load_audio(path: str | Path, sample_rate_hz: int = SAMPLE_RATE_HZ) -> np.ndarray:
    """The sound of a media file, mono, on the clock of its picture.

    Sample 0 sounds when the first video frame is shown: a stream that starts early is cut, one that starts late or has
    a hole is filled with silence, and the encoder's priming samples are left out. Without a picture, sample 0 is the
    first sample.

    Args:
        path: any container that FFmpeg reads (wav, mp3, m4a, mp4, mkv ...).
        sample_rate_hz: rate of the result; the file's own rate is converted.

    Returns:
        (samples,) float32 in [-1, 1].

    Raises:
        FileNotFoundError: there is no such file.
        AudioError: the file cannot be read, or holds no sound.
    """
    if sample_rate_hz <= 0:
        raise ValueError(f"sample_rate_hz must be positive, got {sample_rate_hz}")
    with _opened(path) as container:
        samples = _decode(container, sample_rate_hz)
    if not len(samples):
        raise AudioError(f"{path}: its audio stream holds no samples")
    return samples


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


def _decode(container: InputContainer, rate_hz: int) -> np.ndarray:
    """All samples of the first audio stream at `rate_hz`, mono, from the time of the first picture on."""
    import av

    stream = container.streams.audio[0]
    origin_s = _origin_s(container)
    graph = av.filter.Graph()
    source = graph.add_abuffer(template=stream)
    # async=1 fills holes and cuts overlaps by time stamp, without stretching; first_pts pads or cuts the beginning.
    resample = graph.add("aresample", f"{rate_hz}:async=1:first_pts={round(origin_s * rate_hz)}")
    mono = graph.add("aformat", f"sample_fmts=flt:channel_layouts=mono:sample_rates={rate_hz}")
    sink = graph.add("abuffersink")
    graph.link_nodes(source, resample, mono, sink).configure()

    blocks: list[np.ndarray] = []

    def drain() -> None:
        while True:
            try:
                frame = cast("av.AudioFrame", sink.pull())
                blocks.append(frame.to_ndarray().reshape(-1))
            except (av.error.BlockingIOError, av.error.EOFError):
                return

    for packet in container.demux(stream):
        try:
            frames = packet.decode()
        except av.error.InvalidDataError:  # a damaged packet is a hole, and holes are filled
            continue
        for frame in frames:
            source.push(frame)
            drain()
    source.push(None)
    drain()
    samples = np.concatenate(blocks) if blocks else np.zeros(0, np.float32)
    return np.clip(samples[: _length(stream, origin_s, rate_hz, len(samples))], -1.0, 1.0).astype(np.float32)


def _origin_s(container: InputContainer) -> float:
    """Time of the first picture, or of the first sample where there is no (moving) picture."""
    from av.stream import Disposition

    pictures = [s for s in container.streams.video if not s.disposition & Disposition.attached_pic]
    stream = pictures[0] if pictures else container.streams.audio[0]
    return float((stream.start_time or 0) * (stream.time_base or 0))


def _length(stream: Any, origin_s: float, rate_hz: int, decoded: int) -> int:
    """Samples to keep: encoders fill their last block with silence, which the stream's stated duration leaves out."""
    if stream.duration is None:
        return decoded
    stated = round((float(((stream.start_time or 0) + stream.duration) * stream.time_base) - origin_s) * rate_hz)
    padding = 4096 * rate_hz / stream.sample_rate  # four blocks of AAC; a larger excess is a wrong statement
    return stated if 0 < decoded - stated <= padding else decoded


# ------------------------------------------------------------------------------------------------------------- features


class AudioFeatures(Protocol):
    """What turns a wave into features: (samples,) float32 at 16 kHz -> (ceil(samples / 320), dim) float32 at 50 Hz."""

    kind: str
    dim: int

    def __call__(self, wave: np.ndarray) -> np.ndarray: ...


def audio_features(kind: FeatureKind, **options: Any) -> AudioFeatures:
    """The extractor of one kind.

    Args:
        kind: "logmel" (80-d, needs nothing), "mfcc" (13-d) or "wav2vec2" (768-d, the paper's).
        options: of wav2vec2 alone, see `Wav2Vec2`.

    Raises:
        UserError: an unknown kind, or options that it does not take.
        ImportError: the kind's package is missing (the message says how to install it).
    """
    if kind not in get_args(FeatureKind):
        raise UserError(f"features must be one of {', '.join(get_args(FeatureKind))}, got {kind!r}")
    if kind == "wav2vec2":
        return Wav2Vec2(**options)
    if options:
        raise UserError(f"{kind} features take no options, got {', '.join(options)}")
    return LogMel() if kind == "logmel" else MFCC()


class LogMel:
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

    def __call__(self, wave: np.ndarray) -> np.ndarray:
        frames = np.lib.stride_tricks.sliding_window_view(_padded(wave), SPAN)[::HOP]  # (steps, 400)
        bands = [  # one minute at a time: the spectra of an hour would take gigabytes
            np.abs(np.fft.rfft(frames[i : i + 3000] * self.window, self.fft)) ** 2 @ self.filters.T
            for i in range(0, len(frames), 3000)
        ]
        decibels = 10 * np.log10(np.maximum(np.concatenate(bands), 1e-10))
        return ((decibels + 50) / 12.5).astype(np.float32)


class MFCC:
    """13 mel cepstral coefficients, 25 ms windows every 20 ms: python_speech_features' defaults, log energy first."""

    kind = "mfcc"
    dim = FEATURE_DIMS["mfcc"]

    def __init__(self) -> None:
        try:
            from python_speech_features import mfcc
        except ImportError as error:
            raise ImportError("mfcc features: pip install python_speech_features") from error
        self._mfcc = mfcc

    def __call__(self, wave: np.ndarray) -> np.ndarray:
        pcm = _padded(wave) * 32768  # the package is made for 16-bit samples: its energies are of that scale
        return self._mfcc(pcm, SAMPLE_RATE_HZ, winlen=SPAN / SAMPLE_RATE_HZ, winstep=0.02, nfft=512).astype(np.float32)


class Wav2Vec2:
    """Last hidden state of wav2vec 2.0 (768-d for base-960h; the paper's features).

    Up to `whole_s` seconds go through the network at once. Longer sound is cut into overlapping chunks of `chunk_s`;
    the outer half of each overlap is thrown away, so memory does not grow with length. Chunks do not give exactly what
    the whole gives, as the network normalises over time and attends to everything it hears: with random weights the
    difference is about 6 % (root mean square, relative) for one minute of speech.

    Args:
        model: name on the Hugging Face hub, or a local folder.
        chunk_s: length of a chunk, seconds.
        overlap_s: what neighbouring chunks share, seconds; less than `chunk_s`.
        whole_s: the longest sound taken at once, seconds.
        device: where the network runs.
    """

    kind = "wav2vec2"

    def __init__(
        self,
        model: str | Path = "facebook/wav2vec2-base-960h",
        chunk_s: float = 20.0,
        overlap_s: float = 4.0,
        whole_s: float = 60.0,
        device: str = "cpu",
    ) -> None:
        if not 0 <= overlap_s < chunk_s:
            raise ValueError(f"overlap_s must lie in [0, chunk_s = {chunk_s}), got {overlap_s}")
        self.chunk, self.overlap, self.whole = (round(s * FEATURE_RATE_HZ) for s in (chunk_s, overlap_s, whole_s))
        if self.chunk - self.overlap < 2:
            raise ValueError(f"chunk_s must exceed overlap_s by 0.04 s at least, got {chunk_s} and {overlap_s}")
        self.device = device
        self.network = _load_wav2vec2(str(model)).to(device)
        self.dim = int(self.network.config.hidden_size)

    def __call__(self, wave: np.ndarray) -> np.ndarray:
        wave = _checked(wave, "wave")
        steps = _steps(wave)
        wave = (wave - wave.mean()) / np.sqrt(wave.var() + 1e-7)  # as the network's own processor does
        wave = _padded(wave)
        if steps <= self.whole:
            return self._run(wave, 0, steps)
        out = np.empty((steps, self.dim), np.float32)
        margin, stride = self.overlap // 2, self.chunk - self.overlap
        for start in range(0, steps, stride):  # of steps first ... last, `kept` ones from `start` on are used
            first, last = max(0, start - margin), min(steps, start + stride + margin)
            kept = min(stride, steps - start)
            out[start : start + kept] = self._run(wave, first, last)[start - first : start - first + kept]
        return out

    def _run(self, wave: np.ndarray, first: int, last: int) -> np.ndarray:
        """Steps first ... last - 1 as the network sees them when it is given these alone."""
        import torch

        samples = torch.from_numpy(wave[first * HOP : (last - 1) * HOP + SPAN]).to(self.device)
        with torch.inference_mode():
            hidden = self.network(samples[None]).last_hidden_state[0]
        return hidden.float().cpu().numpy()


def _load_wav2vec2(model: str) -> Any:
    try:
        from transformers import Wav2Vec2Model
    except ImportError as error:
        raise ImportError("wav2vec2 features need transformers: pip install 'stsa-lightning[wav2vec]'") from error
    try:
        network = Wav2Vec2Model.from_pretrained(model)
    except (OSError, ValueError) as error:
        raise AudioError(
            f"wav2vec2 weights {model!r} cannot be loaded: they are neither a local folder, nor in the Hugging Face "
            "cache, nor reachable on the hub. Go online once, or give `model` a folder that holds config.json and the "
            f"weights. ({error})"
        ) from error
    return network.eval().requires_grad_(False)


def mel_filters(bands: int, fft: int, rate_hz: int) -> np.ndarray:
    """(bands, fft // 2 + 1) triangles of height 1, evenly spaced on Slaney's mel scale from 0 to half of `rate_hz`."""
    # Slaney: linear below 1 kHz (15 mel), logarithmic above (27 mel to a factor of 6.4).
    top = 15 + 27 * np.log(rate_hz / 2 / 1000) / np.log(6.4)
    mels = np.linspace(0, top, bands + 2)
    corners = np.where(mels < 15, mels * 200 / 3, 1000 * 6.4 ** ((mels - 15) / 27))  # Hz
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


def _steps(wave: np.ndarray) -> int:
    return -(-len(wave) // HOP)


def _padded(wave: np.ndarray) -> np.ndarray:
    """The wave with silence after it, so that the last step has all its 400 samples."""
    wave = _checked(wave, "wave")
    return np.pad(wave, (0, (_steps(wave) - 1) * HOP + SPAN - len(wave)))


def _checked(wave: np.ndarray, name: str) -> np.ndarray:
    wave = np.asarray(wave)
    if not np.issubdtype(wave.dtype, np.floating):
        raise TypeError(f"{name} must be float in [-1, 1], got {wave.dtype}; divide 16-bit samples by 32768")
    if wave.ndim != 1:
        raise ValueError(f"{name} must be mono, of shape (samples,), got shape {wave.shape}")
    if not len(wave):
        raise AudioError(f"{name} is empty: there is no sound")
    if not np.isfinite(wave).all():
        raise AudioError(f"{name} holds NaN or infinite samples")
    return wave.astype(np.float32, copy=False)
