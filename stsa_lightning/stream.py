"""Frames of a video from first to last at an even rate, or of a part of it, one at a time in bounded memory (PyAV).

`video.VideoReader` serves frames in any order, for which it must know all of the file; this reads a file once, forward.
"""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from stsa_lightning.video import VideoError

if TYPE_CHECKING:
    import av
    from av.container import InputContainer

Crop = tuple[int, int, int, int]
_MISSING = 0.05  # the share of the stated frames that may be absent before a file counts as cut short


class VideoStream:
    """The frames of a file that are nearest to the ticks of an even clock; iterating again decodes again, the same.

    Served are the ticks k / fps from `start_s` on, as far as the video (or `stop_s`) goes: the frames that
    `VideoReader(path, fps)` serves. Reading a part begins at the key frame before it.

    Args:
        path: the video.
        fps: frames a second.
        start_s: first instant, seconds from the first frame; None: the beginning.
        stop_s: end of the part; None: the end.
        crop: x, y, width, height in pixels of the upright frame; None: all of it.

    Raises:
        VideoError: while iterating: the file cannot be decoded, ends before the part does, or holds fewer frames than
            it states.
    """

    def __init__(
        self,
        path: str | Path,
        fps: float = 25,
        start_s: float | None = None,
        stop_s: float | None = None,
        crop: Crop | None = None,
    ) -> None:
        if not fps > 0:
            raise ValueError(f"fps must be positive, got {fps}")
        self.path = Path(path)
        self.fps = fps
        self.start_s = start_s or 0.0
        self.stop_s = stop_s
        self.crop = crop

    def blocks(self, size: int) -> Iterator[np.ndarray]:
        """(n, H, W, 3) uint8 RGB, `size` frames at a time, fewer at the end."""
        frames = iter(self)
        for first in frames:
            block = np.empty((size, *first.shape), np.uint8)
            block[0], count = first, 1
            for frame in islice(frames, size - 1):
                block[count] = frame
                count += 1
            yield block[:count]

    def __iter__(self) -> Iterator[np.ndarray]:
        """(H, W, 3) uint8 RGB, upright."""
        import av

        try:
            with av.open(str(self.path)) as container:
                yield from self._frames(container)
        except av.error.FFmpegError as error:
            raise VideoError(f"{self.path}: cannot be decoded ({error.strerror}); is it damaged?") from error

    def _frames(self, container: InputContainer) -> Iterator[np.ndarray]:
        tick, pixels = 0, None
        held: tuple[float, av.VideoFrame] | None = None  # the frame before the one just decoded
        for time_s, frame in self._decoded(container):
            if held is not None:
                # Of two equally near frames the earlier is served, as `video.nearest` does.
                while self._time_s(tick) <= (held[0] + time_s) / 2:
                    if self._ended(tick):
                        return
                    pixels = self._pixels(held[1]) if pixels is None else pixels
                    yield pixels
                    tick += 1
            held, pixels = (time_s, frame), None
        if held is None:
            raise VideoError(f"{self.path}: holds no frame from {self.start_s:g} s on")
        end_s = held[0] + self._shown_s(held[1])
        if self.stop_s is not None and end_s < self.stop_s - 0.5:
            raise VideoError(f"{self.path}: ends at {end_s:.1f} s, before the end of the part, {self.stop_s:g} s")
        last = self._pixels(held[1])
        for _ in range(tick, max(tick + (tick == 0), round((end_s - self.start_s) * self.fps))):
            if self._ended(tick):
                return
            yield last
            tick += 1

    def _decoded(self, container: InputContainer) -> Iterator[tuple[float, av.VideoFrame]]:
        """Frames with the time at which each is shown, rising, from the key frame before the part on."""
        import av

        stream = _picture(container)
        # One thread: preparation runs a process on each core.
        stream.codec_context.thread_count = 1
        base, first = stream.time_base or Fraction(1, 1000), stream.start_time
        if self.start_s:
            container.seek((first or 0) + int(self.start_s / base), stream=stream)
        self._rate = Fraction(stream.average_rate or stream.guessed_rate or 25)
        count, time_s = 0, -1.0
        for packet in container.demux(stream):
            try:
                frames: Any = packet.decode()
            except av.error.InvalidDataError:  # a damaged packet is a hole: its neighbours are shown longer
                continue
            for frame in frames:
                if first is None:
                    first = frame.pts or 0
                own_s = float((frame.pts - first) * base) if frame.pts is not None else float(count / self._rate)
                count += 1
                if own_s > time_s:  # a frame that is shown at no time of its own is left out
                    time_s = own_s
                    yield time_s, frame
        if not self.start_s and self.stop_s is None and count < (1 - _MISSING) * stream.frames:
            raise VideoError(f"{self.path}: holds {count} of the {stream.frames} frames it states; is it cut short?")

    def _time_s(self, tick: int) -> float:
        return self.start_s + tick / self.fps

    def _ended(self, tick: int) -> bool:
        return self.stop_s is not None and tick >= round((self.stop_s - self.start_s) * self.fps)

    def _shown_s(self, frame: av.VideoFrame) -> float:
        """How long a frame is shown, seconds."""
        if frame.duration and frame.time_base:
            return float(frame.duration * frame.time_base)
        return float(1 / self._rate)

    def _pixels(self, frame: av.VideoFrame) -> np.ndarray:
        pixels: np.ndarray = frame.to_ndarray(format="rgb24")
        if frame.rotation % 360:
            pixels = np.rot90(pixels, frame.rotation // 90)
        if self.crop is not None:
            x, y, width, height = self.crop
            pixels = pixels[y : y + height, x : x + width]
        return np.ascontiguousarray(pixels)


def _picture(container: InputContainer) -> av.VideoStream:
    """The first stream of moving pictures (not a cover)."""
    from av.stream import Disposition

    return next(s for s in container.streams.video if not s.disposition & Disposition.attached_pic)
