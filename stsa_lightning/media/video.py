"""Frames in, and video with sound out, in bounded memory; frame rates converted by time.

Frames are uint8 RGB of shape (n, height, width, 3) as players show them (`shown`). Time 0 is the first frame:
`audio.load_audio` puts sound on the same clock.
"""

from __future__ import annotations

import stat
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from tempfile import TemporaryFile
from types import TracebackType
from typing import Any

import cv2
import numpy as np

from stsa_lightning.constants import SAMPLE_RATE_HZ
from stsa_lightning.media.container import VideoError, open_output
from stsa_lightning.media.decode import Decoder
from stsa_lightning.media.decord_frames import DecordFrames, decord_frames
from stsa_lightning.media.frames import Frames
from stsa_lightning.media.rgb_converter import LIMITED, Colours, stored_frame, usual_matrix
from stsa_lightning.utils.disk_array import DiskArray
from stsa_lightning.utils.files import Part

AAC_RATES_HZ = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000, 64000, 88200, 96000)
MOST_CHANNELS = 8  # of sound
_USUAL_LAYOUTS = ("mono", "stereo", "3.0", "quad", "5.0", "5.1", "6.1", "7.1")  # of so many channels
# Channels at the sides are labelled as channels at the back, which lie in the same order: AAC's standard has no others.
_AAC_LAYOUTS = {
    **{name: name for name in ("mono", "stereo", "2.1", "3.0", "4.0", "quad", "5.0", "5.1", "6.1", "7.1")},
    **{"quad(side)": "quad", "5.0(side)": "5.0", "5.1(side)": "5.1"},
}
_AVX_512F = 13  # OpenCV's number of the instructions
SUFFIXES = {".mp4": "mp4", ".mov": "mov", ".mkv": "matroska"}  # of a name -> the container, as FFmpeg calls it


@dataclass(frozen=True)
class VideoInfo:
    """What a file says of its picture.

    `width` and `height` are of the picture as shown: upright, of square pixels. `fps` is the average. A still picture
    is a video of one frame. `note` is what to say where it has several picture tracks, or empty.
    """

    path: Path
    width: int
    height: int
    fps: Fraction
    frames: int
    duration_s: float
    has_audio: bool
    note: str = ""


def probe(path: str | Path) -> VideoInfo:
    """Read a video's size, rate, length and whether it has sound, decoding one frame.

    Raises:
        FileNotFoundError: there is no such file.
        VideoError: the file cannot be read, or holds no picture.
    """
    with Decoder(path) as decoder:
        return info_of(decoder)


def info_of(decoder: Decoder) -> VideoInfo:
    """What an opened file says of its picture."""
    frames, seconds = decoder.stated()
    return VideoInfo(decoder.path, *decoder.size, decoder.fps, frames, seconds, decoder.has_audio, decoder.note)


class VideoReader:
    """Frames of a file by number, whatever its rate; a context manager.

    Args:
        path: the video, or a picture.
        fps: None serves the file's own frames; a number serves that many a second, each the nearest one in time.
        exact: False has Decord read ordinary files, up to 3 levels off, without a pass over the file first: for those
            who look for faces and lips, not at colours.

    Attributes:
        info: the file's `VideoInfo` (of the source, also when the rate is converted); `frames` are those decoded.
        fps: frames a second as served (the average, where the file's rate varies).
        timestamps_s: (len,) float64, when each served frame is shown; the first at 0.

    Raises:
        FileNotFoundError, VideoError: as `probe`.
    """

    def __init__(self, path: str | Path, fps: float | Fraction | None = None, exact: bool = True) -> None:
        if fps is not None and not fps > 0:
            raise ValueError(f"fps must be positive, got {fps}")
        frames = Frames(path)
        self._frames: Frames | DecordFrames = (None if exact else decord_frames(frames)) or frames
        if self._frames is frames:
            frames.index()
        own_s = self._frames.times_s
        self.info = replace(info_of(frames), frames=len(own_s))
        self.colours = frames.colours
        if self._frames is not frames:
            frames.close()
        if fps is None:
            self.fps, self.timestamps_s, self._source = self._frames.rate, own_s, np.arange(len(own_s))
        else:
            self.fps = Fraction(fps).limit_denominator(1001)
            count = max(1, round((own_s[-1] + 1 / float(self._frames.rate)) * float(self.fps)))
            self.timestamps_s = np.arange(count) / float(self.fps)
            self._source = nearest(own_s, self.timestamps_s)

    def __len__(self) -> int:
        return len(self._source)

    def get(self, indices: Sequence[int] | np.ndarray | range) -> np.ndarray:
        """The frames of these numbers, in this order (any order, repeats allowed): (n, H, W, 3) uint8 RGB."""
        wanted = np.asarray(indices, dtype=np.int64).reshape(-1)
        if len(wanted) and (wanted.min() < 0 or wanted.max() >= len(self)):
            raise IndexError(
                f"{self.info.path}: has frames 0 to {len(self) - 1}, asked for {wanted.min()} to {wanted.max()}"
            )
        # Decoding runs forward: a frame before the last one read costs a seek, so each is read once and in order.
        unique, back = np.unique(self._source[wanted], return_inverse=True)
        frames = np.empty((len(unique), self.info.height, self.info.width, 3), np.uint8)
        for place, pixels in enumerate(self._frames.read(unique.tolist())):
            frames[place] = pixels
        return frames if np.array_equal(back, np.arange(len(frames))) else frames[back]

    def blocks(self, size: int = 32) -> Iterator[np.ndarray]:
        """All frames from the first to the last, `size` at a time."""
        if size < 1:
            raise ValueError(f"size must be at least 1, got {size}")
        for start in range(0, len(self), size):
            yield self.get(range(start, min(start + size, len(self))))

    def close(self) -> None:
        self._frames.close()

    def __enter__(self) -> VideoReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def nearest(times_s: np.ndarray, targets_s: np.ndarray) -> np.ndarray:
    """For each target the index of the nearest of the rising `times_s`; of two equally near, the earlier."""
    return np.searchsorted((times_s[1:] + times_s[:-1]) / 2, targets_s, side="left")


class VideoWriter:
    """Writes H.264, its colours tagged, with AAC sound; a context manager.

    The file appears under its name when the block ends well; until then it grows beside it as a `Part`, which is
    removed when the block ends with an exception.

    Args:
        path: .mp4, .mov or .mkv in a folder that exists.
        fps: frames a second.
        size: (width, height). Odd sizes are kept, by 4:4:4 colour, which not every player shows.
        audio: (samples,) or (samples, channels) float in [-1, 1], up to 8 channels, from the first frame on; written
            whole, even past the last frame. A `DiskArray` is read as it is written.
        sample_rate_hz: of `audio`.
        crf: 0 (lossless) to 51; 16 is visually transparent.
        preset: x264's, how much time it takes for a smaller file.
        timestamps: when each frame is shown, in seconds and rising, for a rate that varies; None for an even rate.
        layout: of the sound's channels, by FFmpeg's name; None, or one that AAC does not have: the usual one of so
            many.
        colours: what the frames' RGB means; None for sRGB, by the matrix that players assume for the size.
    """

    TIME_BASE = Fraction(1, 90_000)

    def __init__(
        self,
        path: str | Path,
        fps: Fraction | float,
        size: tuple[int, int],
        audio: np.ndarray | DiskArray | None = None,
        sample_rate_hz: int = SAMPLE_RATE_HZ,
        crf: int = 16,
        preset: str = "medium",
        timestamps: Sequence[float] | np.ndarray | None = None,
        layout: str | None = None,
        colours: Colours | None = None,
    ) -> None:
        self.path = Path(path)
        check_output(self.path, fps, size, audio, sample_rate_hz)
        self.fps, self.size, self.frames = Fraction(fps).limit_denominator(1001), size, 0
        self._times = None if timestamps is None else _ticks(timestamps, self.TIME_BASE)
        self.colours = colours or Colours(usual_matrix(*size))
        self._audio, self._rate_hz, self._sent = audio, sample_rate_hz, 0
        self._layout = _aac_layout(audio, layout)
        self._part = Part(self.path)
        self._container: Any = None
        try:
            container = SUFFIXES[self.path.suffix.lower()]
            self._container = open_output(self._part.path, container, options={"movflags": "+faststart"})
            self._picture = self._add_picture(crf, preset)
            self._sound = None if audio is None else self._add_sound()
        except BaseException:
            self.abort()
            raise

    def _add_picture(self, crf: int, preset: str) -> Any:
        options = {"crf": str(crf), "preset": preset}
        if cv2.checkHardwareSupport(_AVX_512F):
            # x264's 512-bit code of the macroblock tree reads memory that nothing wrote where the picture's width is no
            # multiple of 128 pixels: the same frames gave other bytes each time.
            options["x264-params"] = "asm=AVX2"
        stream: Any = self._container.add_stream("libx264", rate=self.fps, options=options)
        stream.width, stream.height = self.size
        stream.pix_fmt = "yuv444p" if self.size[0] % 2 or self.size[1] % 2 else "yuv420p"
        context = stream.codec_context
        context.time_base = 1 / self.fps if self._times is None else self.TIME_BASE
        context.colorspace, context.color_range = self.colours.tag, LIMITED
        context.color_primaries, context.color_trc = self.colours.primaries, self.colours.transfer
        return stream

    def _add_sound(self) -> Any:
        stream: Any = self._container.add_stream("aac", rate=self._rate_hz, layout=self._layout)
        stream.bit_rate = min(128_000, 6 * self._rate_hz) * stream.channels  # AAC allows 6 bits a sample
        return stream

    def write(self, frames: np.ndarray) -> None:
        """Append (n, height, width, 3) uint8 RGB frames."""
        width, height = self.size
        if frames.dtype != np.uint8 or frames.shape[1:] != (height, width, 3):
            raise VideoError(
                f"{self.path}: frames must be uint8 of shape (n, {height}, {width}, 3), "
                f"got {frames.dtype} {frames.shape}"
            )
        for pixels in frames:
            if self._times is not None and self.frames >= len(self._times):
                raise VideoError(f"{self.path}: got more frames than the {len(self._times)} timestamps given")
            frame = stored_frame(np.ascontiguousarray(pixels), self.colours.matrix)
            frame.pts = self.frames if self._times is None else int(self._times[self.frames])
            frame.time_base = self._picture.codec_context.time_base
            self._container.mux(self._picture.encode(frame))
            self.frames += 1
            self._send_sound(float(frame.pts * frame.time_base) + 0.5)

    def _send_sound(self, until_s: float) -> None:
        """Encode the sound up to a time: kept near the picture, so that neither waits for the other in memory."""
        import av

        if self._audio is None or self._sound is None:
            return
        end = min(len(self._audio), int(min(until_s * self._rate_hz, len(self._audio))))
        if end <= self._sent:
            return
        block = np.ascontiguousarray(self._audio[self._sent : end], np.float32).reshape(1, -1)
        frame = av.AudioFrame.from_ndarray(block, format="flt", layout=self._layout)
        frame.sample_rate, frame.pts, frame.time_base = self._rate_hz, self._sent, Fraction(1, self._rate_hz)
        self._container.mux(self._sound.encode(frame))
        self._sent = end

    def close(self) -> None:
        """Finish the file and give it its name. Without a single frame: VideoError, and no file."""
        if not self.frames:
            self.abort()
            raise VideoError(f"{self.path}: no frames were written")
        try:
            self._send_sound(float("inf"))
            for stream in (self._picture, self._sound):
                if stream is not None:
                    self._container.mux(stream.encode())
            self._container.close()
            self._part.keep()
        except BaseException:
            self.abort()
            raise

    def abort(self) -> None:
        """Give up: remove what was written."""
        try:
            if self._container is not None:
                self._container.close()
        finally:
            self._part.drop()

    def __enter__(self) -> VideoWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, _error: object, _trace: TracebackType | None) -> None:
        if kind is None:
            self.close()
        else:
            self.abort()


def check_output(
    path: Path, fps: Fraction | float, size: tuple[int, int], audio: np.ndarray | DiskArray | None, rate_hz: int
) -> None:
    """What `VideoWriter` asks of its arguments, for those who work long before they write. Raises as it does."""
    if path.suffix.lower() not in SUFFIXES:
        raise VideoError(f"{path}: the name must end in {', '.join(SUFFIXES)}")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"{path.parent}: no such folder to write {path.name} into; create it first")
    try:
        if stat.S_ISDIR(path.stat().st_mode):  # `is_dir` says no of a name that is too long, since Python 3.14
            raise VideoError(f"{path}: is a folder; give the name of a file")
    except FileNotFoundError:
        pass
    except OSError as error:
        raise VideoError(f"{path}: cannot be a file's name here ({error.strerror}); choose another one") from error
    try:
        TemporaryFile(dir=path.parent).close()
    except OSError as error:
        raise VideoError(f"{path}: its folder takes no files ({error.strerror}); choose another one") from error
    if not fps > 0:
        raise ValueError(f"fps must be positive, got {fps}")
    if min(size) < 2:
        raise ValueError(f"size must be (width, height) of 2 pixels or more, got {size}")
    if audio is None:
        return
    if isinstance(audio, np.ndarray) and not (
        audio.ndim in (1, 2) and np.issubdtype(audio.dtype, np.floating) and np.isfinite(audio).all()
    ):
        raise ValueError(
            "audio must be finite floats of shape (samples,) or (samples, channels), "
            f"got {audio.dtype} of shape {audio.shape}"
        )
    if not 1 <= _channels(audio) <= MOST_CHANNELS:
        raise ValueError(f"audio must have 1 to {MOST_CHANNELS} channels, got {_channels(audio)}")
    if rate_hz not in AAC_RATES_HZ:
        raise ValueError(f"sample_rate_hz must be one of {AAC_RATES_HZ} for AAC sound, got {rate_hz}")


def _channels(audio: np.ndarray | DiskArray) -> int:
    width = audio.width if isinstance(audio, DiskArray) else audio.shape[-1]
    return 1 if audio.ndim == 1 else width


def _aac_layout(audio: np.ndarray | DiskArray | None, layout: str | None) -> str:
    """The layout to write; ValueError where the one asked for has another number of channels."""
    import av

    channels = 1 if audio is None else _channels(audio)
    if audio is not None and layout is not None and av.AudioLayout(layout).nb_channels != channels:
        raise ValueError(f"layout: expected one of {channels} channels, as the audio has, got {layout!r}")
    return _AAC_LAYOUTS.get(layout or "", _USUAL_LAYOUTS[channels - 1])


def _ticks(timestamps: Sequence[float] | np.ndarray, time_base: Fraction) -> np.ndarray:
    ticks = np.round(np.asarray(timestamps, np.float64) / float(time_base)).astype(np.int64)
    if ticks.ndim != 1 or (len(ticks) and ticks[0] < 0) or (np.diff(ticks) <= 0).any():
        raise ValueError("timestamps must be rising seconds from 0 on, one to a frame")
    return ticks


def write_video(
    path: str | Path,
    frames: Iterable[np.ndarray],
    fps: Fraction | float,
    audio: np.ndarray | None = None,
    sample_rate_hz: int = SAMPLE_RATE_HZ,
    crf: int = 16,
) -> None:
    """Write single (H, W, 3) frames, or one (n, H, W, 3) array, with sound; see `VideoWriter`."""
    iterator = iter(frames)
    first = next(iterator, None)
    if first is None:
        raise VideoError(f"{path}: no frames to write")
    with VideoWriter(path, fps, (first.shape[1], first.shape[0]), audio, sample_rate_hz, crf) as writer:
        writer.write(first[None])
        for frame in iterator:
            writer.write(frame[None])
