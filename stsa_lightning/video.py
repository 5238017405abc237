"""Frames in (decord) and video with sound out (PyAV), in bounded memory; frame rates converted by time.

Frames are uint8 RGB of shape (n, height, width, 3), turned upright where the file says so. Time 0 is the first frame:
`audio.load_audio` puts sound on the same clock.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from tempfile import TemporaryFile
from types import TracebackType
from typing import Any

import numpy as np

from stsa_lightning.errors import UserError
from stsa_lightning.spool import Spool

AAC_RATES_HZ = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000, 64000, 88200, 96000)
SUFFIXES = (".mp4", ".mov", ".mkv")
READ_AHEAD_BYTES = 512 * 2**20  # decoded frames that may wait in memory, beside those asked for
BT709, LIMITED = 1, 1  # FFmpeg's numbers of the colour matrix and of the 16-235 range


class VideoError(UserError):
    """A video that cannot be read or written as asked."""


@dataclass(frozen=True)
class VideoInfo:
    """What a file says of its picture. `width` and `height` are of the upright picture; `fps` is the average."""

    path: Path
    width: int
    height: int
    fps: Fraction
    frames: int
    duration_s: float
    has_audio: bool


def probe(path: str | Path) -> VideoInfo:
    """Read a video's size, rate, length and whether it has sound, decoding one frame.

    Raises:
        FileNotFoundError: there is no such file.
        VideoError: the file cannot be read, or holds no picture.
    """
    import av
    from av.stream import Disposition

    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such video file")
    try:
        with av.open(str(path), metadata_errors="replace") as container:
            pictures = [s for s in container.streams.video if not s.disposition & Disposition.attached_pic]
            if not pictures:
                raise VideoError(f"{path}: has no video stream; give a file with a moving picture")
            stream = pictures[0]
            frame = next(iter(container.decode(stream)), None)
            if frame is None:
                raise VideoError(f"{path}: its video stream holds no frames")
            width, height = (frame.height, frame.width) if frame.rotation % 180 else (frame.width, frame.height)
            frames = stream.frames or _count_packets(path)
            if stream.duration is not None and stream.time_base is not None:
                duration_s = float(stream.duration * stream.time_base)
            else:
                duration_s = (container.duration or 0) / av.time_base
            fps = stream.average_rate or stream.guessed_rate or Fraction(frames / duration_s).limit_denominator(1001)
            return VideoInfo(path, width, height, Fraction(fps), frames, duration_s, bool(container.streams.audio))
    except av.error.PermissionError as error:
        raise VideoError(f"{path}: may not be read ({error.strerror}); change its permissions") from error
    except av.error.FFmpegError as error:
        raise VideoError(f"{path}: cannot be read as video ({error.strerror}); is it damaged?") from error


def _count_packets(path: Path) -> int:
    """Frames of a container that does not state them (mkv, webm)."""
    import av

    with av.open(str(path), metadata_errors="replace") as container:
        return sum(packet.size > 0 for packet in container.demux(video=0))


class VideoReader:
    """Frames of a file by number, whatever its rate; a context manager.

    Args:
        path: the video.
        fps: None serves the file's own frames; a number serves that many a second, each the nearest one in time.

    Attributes:
        info: the file's `VideoInfo` (of the source, also when the rate is converted).
        fps: frames a second as served (the average, where the file's rate varies).
        timestamps_s: (len,) float64, when each served frame is shown; the first at 0.

    Raises:
        FileNotFoundError, VideoError: as `probe`.
    """

    def __init__(self, path: str | Path, fps: float | Fraction | None = None) -> None:
        import decord

        if fps is not None and not fps > 0:
            raise ValueError(f"fps must be positive, got {fps}")
        decord.logging.set_level(decord.logging.QUIET)
        info = probe(path)
        with _told(info.path):
            self._reader: Any = decord.VideoReader(str(path), ctx=decord.cpu(0))
            spans = self._reader.get_frame_timestamp(range(len(self._reader))).astype(np.float64)
        self.info = replace(info, frames=len(self._reader))
        # Decord decodes ahead without a limit for as long as nobody reads (its issue 157). A seek makes it stop, at the
        # price of decoding from the last key frame again: worth it where a whole video does not fit.
        self._stops = self.info.frames * self.info.width * self.info.height * 3 > READ_AHEAD_BYTES
        own_s = _exact(spans[:, 0] - spans[0, 0], float(info.fps))
        if fps is None:
            self.fps, self.timestamps_s, self._source = info.fps, own_s, np.arange(len(own_s))
        else:
            self.fps = Fraction(fps).limit_denominator(1001)
            count = max(1, round((own_s[-1] + spans[-1, 1] - spans[-1, 0]) * float(self.fps)))
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
        if not len(unique):
            return np.zeros((0, self.info.height, self.info.width, 3), np.uint8)
        with _told(self.info.path):
            frames = self._reader.get_batch(unique).asnumpy()
            if self._stops:
                self._reader.seek(0)
        return frames if np.array_equal(back, np.arange(len(frames))) else frames[back]

    def blocks(self, size: int = 32) -> Iterator[np.ndarray]:
        """All frames from the first to the last, `size` at a time."""
        if size < 1:
            raise ValueError(f"size must be at least 1, got {size}")
        for start in range(0, len(self), size):
            yield self.get(range(start, min(start + size, len(self))))

    def close(self) -> None:
        self._reader = None

    def __enter__(self) -> VideoReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def nearest(times_s: np.ndarray, targets_s: np.ndarray) -> np.ndarray:
    """For each target the index of the nearest of the rising `times_s`; of two equally near, the earlier."""
    return np.searchsorted((times_s[1:] + times_s[:-1]) / 2, targets_s, side="left")


def _exact(times_s: np.ndarray, fps: float) -> np.ndarray:
    """Time stamps of a constant rate without the decoder's single-precision noise; others as they are."""
    even = np.arange(len(times_s)) / fps
    return even if np.abs(times_s - even).max() < 2e-3 else times_s


@contextmanager
def _told(path: Path) -> Iterator[None]:
    """Errors of the decoder, told with the file's name."""
    import decord

    try:
        yield
    except (decord.DECORDError, RuntimeError) as error:
        raise VideoError(f"{path}: cannot be decoded; is it damaged or cut short?") from error


class VideoWriter:
    """Writes H.264 (BT.709, tagged so) with AAC sound; a context manager.

    The file appears under its name when the block ends well; until then it grows beside it as NAME.part-<pid>, which is
    removed when the block ends with an exception.

    Args:
        path: .mp4, .mov or .mkv in a folder that exists.
        fps: frames a second.
        size: (width, height). Odd sizes are kept, by 4:4:4 colour, which not every player shows.
        audio: (samples,) float mono in [-1, 1], from the first frame on; written whole, even past the last frame. A
            spool is read as it is written.
        sample_rate_hz: of `audio`.
        crf: 0 (lossless) to 51; 16 is visually transparent.
        preset: x264's, how much time it takes for a smaller file.
        timestamps: when each frame is shown, in seconds and rising, for a rate that varies; None for an even rate.
    """

    TIME_BASE = Fraction(1, 90_000)

    def __init__(
        self,
        path: str | Path,
        fps: Fraction | float,
        size: tuple[int, int],
        audio: np.ndarray | Spool | None = None,
        sample_rate_hz: int = 16_000,
        crf: int = 16,
        preset: str = "medium",
        timestamps: Sequence[float] | np.ndarray | None = None,
    ) -> None:
        import av

        self.path = Path(path)
        check_output(self.path, fps, size, audio, sample_rate_hz)
        self.fps, self.size, self.frames = Fraction(fps).limit_denominator(1001), size, 0
        self._times = None if timestamps is None else _ticks(timestamps, self.TIME_BASE)
        self._part = self.path.with_name(f"{self.path.name}.part-{os.getpid()}{self.path.suffix}")
        self._audio, self._rate_hz, self._sent = audio, sample_rate_hz, 0
        self._reformatter = av.video.reformatter.VideoReformatter()
        self._container = av.open(str(self._part), "w", options={"movflags": "+faststart"})
        self._picture = self._add_picture(crf, preset)
        self._sound = None if audio is None else self._add_sound()

    def _add_picture(self, crf: int, preset: str) -> Any:
        options = {"crf": str(crf), "preset": preset}
        stream: Any = self._container.add_stream("libx264", rate=self.fps, options=options)
        stream.width, stream.height = self.size
        stream.pix_fmt = "yuv444p" if self.size[0] % 2 or self.size[1] % 2 else "yuv420p"
        context = stream.codec_context
        context.time_base = 1 / self.fps if self._times is None else self.TIME_BASE
        context.colorspace = context.color_primaries = context.color_trc = BT709
        context.color_range = LIMITED
        return stream

    def _add_sound(self) -> Any:
        stream: Any = self._container.add_stream("aac", rate=self._rate_hz, layout="mono")
        stream.bit_rate = min(128_000, 6 * self._rate_hz)  # AAC allows 6 bits a sample
        return stream

    def write(self, frames: np.ndarray) -> None:
        """Append (n, height, width, 3) uint8 RGB frames."""
        import av

        width, height = self.size
        if frames.dtype != np.uint8 or frames.shape[1:] != (height, width, 3):
            raise VideoError(
                f"{self.path}: frames must be uint8 of shape (n, {height}, {width}, 3), "
                f"got {frames.dtype} {frames.shape}"
            )
        for pixels in frames:
            if self._times is not None and self.frames >= len(self._times):
                raise VideoError(f"{self.path}: got more frames than the {len(self._times)} timestamps given")
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
            frame = self._reformatter.reformat(
                frame, format=self._picture.pix_fmt, dst_colorspace=BT709, dst_color_range=LIMITED
            )
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
        block = np.ascontiguousarray(self._audio[self._sent : end], np.float32)[None]
        frame = av.AudioFrame.from_ndarray(block, format="fltp", layout="mono")
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
            os.replace(self._part, self.path)
        except BaseException:
            self.abort()
            raise

    def abort(self) -> None:
        """Give up: remove what was written."""
        try:
            self._container.close()
        finally:
            self._part.unlink(missing_ok=True)

    def __enter__(self) -> VideoWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, _error: object, _trace: TracebackType | None) -> None:
        if kind is None:
            self.close()
        else:
            self.abort()


def check_output(
    path: Path, fps: Fraction | float, size: tuple[int, int], audio: np.ndarray | Spool | None, rate_hz: int
) -> None:
    """What `VideoWriter` asks of its arguments, for those who work long before they write. Raises as it does."""
    if path.suffix.lower() not in SUFFIXES:
        raise VideoError(f"{path}: the name must end in {', '.join(SUFFIXES)}")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"{path.parent}: no such folder to write {path.name} into; create it first")
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
        audio.ndim == 1 and np.issubdtype(audio.dtype, np.floating) and np.isfinite(audio).all()
    ):
        raise ValueError(f"audio must be finite floats of shape (samples,), got {audio.dtype} of shape {audio.shape}")
    if rate_hz not in AAC_RATES_HZ:
        raise ValueError(f"sample_rate_hz must be one of {AAC_RATES_HZ} for AAC sound, got {rate_hz}")


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
    sample_rate_hz: int = 16_000,
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
