"""Sound files in and out; the sound of a video on the clock of its picture."""

from __future__ import annotations

import io
import wave as wave_file
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain, groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from stsa_lightning.media.audio_clock import Piece, decoded, in_seconds, measured, placed, stretch, time_of
from stsa_lightning.media.container import VideoError, open_input, picture_stream, reason, tag
from stsa_lightning.media.joins import carried_on, shifts_of
from stsa_lightning.media.mixing import to_mono
from stsa_lightning.utils.errors import UserError
from stsa_lightning.utils.examine import check_file, fault_of_contents
from stsa_lightning.utils.files import written_whole

if TYPE_CHECKING:
    import av
    from av.container import InputContainer
from stsa_lightning.constants import SAMPLE_RATE_HZ, SAMPLES_PER_FRAME

INAUDIBLE = 1e-4  # of full scale: -80 dB

_WARM_UP_S = 1  # decoders need some packets before they sound right
_LOWEST_HZ = 2000  # of a sound that can be speech; a damaged header states less
_MIXED_S = 1  # and the mix a second, see `to_mono`
# What channels are taken for that come without names.
_LAYOUTS = {1: "mono", 2: "stereo", 3: "3.0", 4: "quad", 5: "5.0", 6: "5.1", 7: "6.1", 8: "7.1"}


class AudioError(UserError):
    """Sound that cannot be used: unreadable, absent, or not of the form expected."""


@dataclass(frozen=True)
class AudioTrack:
    """One of the sound tracks of a file.

    Attributes:
        path: the file.
        number: of the track, from 1 on.
        count: how many tracks the file has.
        rate_hz: rate at which its sound is stored.
        layout: of its channels, by FFmpeg's name ("mono", "stereo", "5.1").
        channels: how many.
        name: language and title, as far as the file says; may be empty.
        chosen: whether the user, and not the file, said which.
    """

    path: Path
    number: int
    count: int
    rate_hz: int
    layout: str
    channels: int
    name: str = ""
    chosen: bool = False

    @property
    def note(self) -> str:
        """What to say where there are several tracks and the user chose none; empty elsewhere."""
        if self.count == 1 or self.chosen:
            return ""
        name = f" ({self.name})" if self.name else ""
        return f"{self.path} has {self.count} sound tracks: track {self.number}{name}, its default, was taken"


def load_audio(
    path: str | Path,
    sample_rate_hz: int = SAMPLE_RATE_HZ,
    start_s: float | None = None,
    stop_s: float | None = None,
    out_file: BinaryIO | None = None,
    track: int | None = None,
    mono: bool = True,
) -> np.ndarray:
    """The sound of a media file, or of a part of it, on the clock of its picture.

    Sample 0 sounds when the first video frame is shown: a stream that starts early is cut, one that starts late or has
    a hole is filled with silence, and the encoder's priming samples are left out. Without a picture, sample 0 is the
    first sample. A part is the whole from sample round(start_s * rate) to round(stop_s * rate); neither decodes more
    than a few seconds of the rest, or holds more than a few seconds in memory.

    Args:
        path: any container that FFmpeg reads (wav, mp3, m4a, mp4, mkv, ts ...).
        sample_rate_hz: rate of the result; the file's own rate is converted.
        start_s: where the part begins, seconds; None: the beginning.
        stop_s: where it ends; None: the end of the sound, where a longer part ends too.
        out_file: open for reading and writing; it takes the samples in place of memory, and the result maps it.
        track: which of several sound tracks, from 1 on; None: the file's default track.
        mono: mix all channels into one, see `mixing.to_mono`; False keeps those that `probe_audio` states.

    Returns:
        (samples,) float32 in [-1, 1]; (samples, channels) where channels are kept.

    Raises:
        FileNotFoundError: there is no such file.
        AudioError: the file cannot be read, or holds no sound, or not in this part, or no such track.
    """
    if sample_rate_hz <= 0:
        raise ValueError(f"sample_rate_hz must be positive, got {sample_rate_hz}")
    file = io.BytesIO() if out_file is None else out_file
    sound = _Sound(path, track)
    channels = 1 if mono else sound.track.channels
    for block in sound.blocks(sample_rate_hz, mono, start_s or 0.0, stop_s):
        if not np.isfinite(block).all():
            raise AudioError(f"{path}: its sound holds NaN or infinite samples; export it anew")
        file.write(np.clip(block, -1.0, 1.0).T.tobytes())
    count = file.tell() // (4 * channels)
    if not count:
        raise AudioError(f"{path}: its audio stream holds no samples" + (" in this part" if start_s else ""))
    shape = (count,) if mono else (count, channels)
    if isinstance(file, io.BytesIO):
        return np.frombuffer(file.getbuffer(), np.float32, count * channels).reshape(shape)
    file.flush()
    return np.memmap(file, np.float32, "r", shape=shape)


def probe_audio(path: str | Path, track: int | None = None) -> AudioTrack:
    """What a file says of its sound, or of one of its sound tracks. Raises as `load_audio` does."""
    return _Sound(path, track).track


def other_audible_tracks(track: AudioTrack) -> list[int]:
    """Numbers of the file's other sound tracks in which anything can be heard; of a loud one little is decoded."""
    numbers = range(1, track.count + 1)
    return [number for number in numbers if number != track.number and _is_audible(track.path, number)]


def _is_audible(path: str | Path, track: int) -> bool:
    try:
        blocks = _Sound(path, track).blocks(SAMPLE_RATE_HZ, True, 0.0, None)
        return any(np.abs(block).max() > INAUDIBLE for block in blocks)
    except AudioError:  # a track that cannot be decoded says nothing
        return False


def write_wav(path: str | Path, wave: np.ndarray, sample_rate_hz: int = SAMPLE_RATE_HZ) -> None:
    """Write (samples,) float in [-1, 1] as a 16-bit mono wav file; the file appears whole or not at all."""
    wave = finite_wave(wave, "wave")
    pcm = np.clip(np.round(wave * 32768.0), -32768, 32767).astype("<i2")
    with written_whole(path) as part, wave_file.open(str(part), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(sample_rate_hz)
        file.writeframes(pcm.tobytes())


def finite_wave(wave: np.ndarray, name: str) -> np.ndarray:
    """The wave as float32. Raises AudioError where it holds NaN or infinity, and as `checked_wave`."""
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


# -------------------------------------------------------------------------------------------------------------- reading


class _Sound:
    """One sound track of a file, on the clock of its picture.

    Raises:
        FileNotFoundError, AudioError: as `load_audio`.
    """

    def __init__(self, path: str | Path, track: int | None) -> None:
        self.path = Path(path)
        with self._opened() as container:
            streams = container.streams.audio
            number = _default(streams) if track is None else track
            if not 1 <= number <= len(streams):
                raise AudioError(
                    f"{path}: expected a sound track (--audio-track) from 1 to {len(streams)}, got {track}"
                )
            stream = streams[number - 1]
            self._base = Fraction(stream.time_base or Fraction(1, stream.sample_rate))
            self._shifts = shifts_of(self.path, container, stream)
            self._stated_end_s = _stated_end_s(container, stream)
            first = next(decoded(container.demux(stream)), None)
            if first is None:
                why = "has no decoder for it" if stream.codec_context is None else "decodes no samples of it"
                raise AudioError(f"{path}: has a sound track, but FFmpeg {why}; convert it to WAV")
            if first.sample_rate < _LOWEST_HZ:
                raise AudioError(
                    f"{path}: expected sound of {_LOWEST_HZ} samples a second or more, found {first.sample_rate}; "
                    "is it damaged?"
                )
            channels = first.layout.nb_channels
            layout = _layout(first.layout.name, channels)
            said = (tag(stream, key) for key in ("language", "title"))
            name = ", ".join(text for text in said if text and text != "und")
            self.track = AudioTrack(
                self.path, number, len(streams), first.sample_rate, layout, channels, name, track is not None
            )
        picture_s = self._picture_s()
        self._follows_picture = picture_s is not None
        self._origin_s = picture_s if picture_s is not None else time_of(first) or Fraction(0)

    @contextmanager
    def _opened(self) -> Iterator[InputContainer]:
        """The file; errors while it is open name it."""
        import av

        check_file(self.path, "audio or video file", AudioError)
        if fault := fault_of_contents(self.path):
            raise AudioError(f"{self.path}: {fault}")
        try:
            with open_input(self.path) as container:
                if not container.streams.audio:
                    raise AudioError(f"{self.path}: has no audio stream; give a file with sound")
                yield container
        except VideoError as error:
            raise AudioError(str(error)) from error
        except av.error.FFmpegError as error:
            raise AudioError(
                f"{self.path}: cannot be read as audio ({reason(error)}); is it a sound or video file?"
            ) from error

    def _picture_s(self) -> Fraction | None:
        """Time 0 of the picture, as `Decoder.origin` has it; None where there is no (moving) picture."""
        with self._opened() as container:
            stream = picture_stream(container)
            if stream is None:
                return None
            stated_s = Fraction(stream.start_time or 0) * (stream.time_base or 0)
            if stream.codec_context is None:
                return stated_s
            time_s = next((time_of(frame) for frame in decoded(container.demux(stream))), None)
            return stated_s if time_s is None else min(stated_s, time_s)

    def blocks(self, rate_hz: int, mono: bool, start_s: float, stop_s: float | None) -> Iterator[np.ndarray]:
        """(channels, n) float32 each, one channel where `mono`, of the part from `start_s` to `stop_s`."""
        first = round(start_s * rate_hz)
        last = None if stop_s is None else max(first, round(stop_s * rate_hz))
        pieces = self._pieces(rate_hz, mono, max(0, int(start_s) - _MIXED_S))
        yield from stretch(pieces, rate_hz, first, last)

    def _pieces(self, rate_hz: int, mono: bool, begin_s: int) -> Iterator[Piece]:
        """Sound from a second on, at the rate of the result; each stretch of one form begins at a whole second."""
        frames = measured(self._frames(begin_s), self._base, self._stated_end_s)
        for (own_hz, name, channels), group in groupby(frames, _form):
            layout = _layout(name, channels)
            pieces = placed(group, own_hz, self._base, self._origin_s, self._follows_picture)
            seconds = in_seconds(pieces, own_hz, begin_s)
            if mono:
                seconds, layout, target = to_mono(seconds, own_hz, _channel_names(layout)), "mono", "mono"
            else:
                target = self.track.layout
            yield from _resampled(seconds, own_hz, layout, rate_hz, target)

    def _frames(self, begin_s: int) -> Iterator[av.AudioFrame]:
        """Frames from before a second on, or from the first where the file cannot be sought."""
        import av

        wanted_s = self._origin_s + begin_s
        if begin_s and not self._shifts:
            with self._opened() as container:
                stream = container.streams.audio[self.track.number - 1]
                frames = decoded(container.demux(stream))
                try:
                    container.seek(int((wanted_s - _WARM_UP_S) / (stream.time_base or 1)), stream=stream)
                    first = next(frames, None)
                except av.error.FFmpegError:
                    first = None
                time_s = None if first is None else time_of(first)
                if first is not None and time_s is not None and time_s <= wanted_s:
                    yield from chain([first], frames)
                    return
        with self._opened() as container:
            stream = container.streams.audio[self.track.number - 1]
            yield from decoded(carried_on(container, stream, self._shifts))


def _default(streams: Any) -> int:
    """Number of the track that a player takes: the first that is marked as default, else the first."""
    from av.stream import Disposition

    return next((n for n, stream in enumerate(streams, 1) if stream.disposition & Disposition.default), 1)


def _stated_end_s(container: InputContainer, stream: Any) -> Fraction | None:
    """Where an edit list ends the sound, which is exact to a millisecond; others state what they guess."""
    if "mp4" not in container.format.name or stream.duration is None or stream.time_base is None:
        return None
    return ((stream.start_time or 0) + stream.duration) * stream.time_base + Fraction(1, 1000)


def _form(pair: tuple[av.AudioFrame, int]) -> tuple[int, str, int]:
    frame, _ = pair
    layout = frame.layout
    return frame.sample_rate, layout.name, layout.nb_channels


def _layout(name: str, channels: int) -> str:
    """FFmpeg's name of a layout, where the frame's may be "4 channels" or "4 channels (FL+FR+SL+SR)"."""
    if "(" in name and "+" in name:
        return name.split("(")[1].rstrip(")")
    return _LAYOUTS.get(channels, name) if name.endswith("channels") else name


def _channel_names(layout: str) -> list[str]:
    import av

    return [channel.name for channel in av.AudioLayout(layout).channels]


def _resampled(pieces: Iterator[Piece], own_hz: int, own_layout: str, rate_hz: int, layout: str) -> Iterator[Piece]:
    """Pieces without a break, from a whole second on, at another rate and under another layout."""
    import av

    if (own_hz, own_layout) == (rate_hz, layout):
        yield from pieces
        return
    resampler = av.AudioResampler(format="flt", layout=layout, rate=rate_hz)
    channels, position, given = av.AudioLayout(layout).nb_channels, 0, 0
    for begin, block in chain(pieces, [(0, None)]):
        frame = None
        if block is not None:
            position = position if given else begin // own_hz * rate_hz
            frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(block.T).reshape(1, -1), "flt", own_layout)
            frame.sample_rate, frame.pts, frame.time_base = own_hz, given, Fraction(1, own_hz)
            given += block.shape[1]
        for converted in resampler.resample(frame) if given else []:
            samples = converted.to_ndarray().reshape(-1, channels).T
            yield position, samples
            position += samples.shape[1]


def shift_sound(wave: np.ndarray, offset: int) -> np.ndarray:
    """The sound moved so that a clip of this offset gets offset 0: (samples,) -> (samples,).

    A positive offset delays the sound, a negative one brings it forward; what comes in at the beginning or at the end
    is silence.
    """
    wave = np.asarray(wave)
    if wave.ndim != 1:
        raise ValueError(f"wave must be mono, of shape (samples,), got shape {wave.shape}")
    by = min(abs(int(offset)) * SAMPLES_PER_FRAME, len(wave))
    silence = np.zeros(by, wave.dtype)
    return np.concatenate([silence, wave[: len(wave) - by]] if offset > 0 else [wave[by:], silence])
