"""Frames of a video from first to last at an even rate, or of a part of it, one at a time in bounded memory.

`video.VideoReader` serves frames in any order, for which it must know all of the file; this reads a file once, forward.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from stsa_lightning.media.container import VideoError
from stsa_lightning.media.decode import Decoder
from stsa_lightning.media.shown_frame import Crop, ShownFrame

if TYPE_CHECKING:
    from av import VideoFrame


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
        """(H, W, 3) uint8 RGB, as shown."""
        return map(np.asarray, self.frames())

    def frames(self) -> Generator[ShownFrame, None, None]:
        """The same, turned into RGB where they are looked at; a frame that is served several times is one object."""
        # One thread: preparation runs a process on each core.
        with Decoder(self.path, threads=1) as decoder:
            yield from self._frames(decoder)

    def _frames(self, decoder: Decoder) -> Iterator[ShownFrame]:
        tick, shown = 0, None
        held: tuple[float, VideoFrame] | None = None  # the frame before the one just decoded
        for time_s, frame in self._decoded(decoder):
            if held is not None:
                # Of two equally near frames the earlier is served, as `video.nearest` does.
                while self._time_s(tick) <= (held[0] + time_s) / 2:
                    if self._ended(tick):
                        return
                    shown = shown or decoder.shown(held[1], self.crop)
                    yield shown
                    tick += 1
            held, shown = (time_s, frame), None
        if held is None:
            raise VideoError(f"{self.path}: holds no frame from {self.start_s:g} s on")
        end_s = held[0] + _shown_s(decoder, held[1])
        if self.stop_s is not None and end_s < self.stop_s - 0.5:
            raise VideoError(f"{self.path}: ends at {end_s:.1f} s, before the end of the part, {self.stop_s:g} s")
        last = decoder.shown(held[1], self.crop)
        for _ in range(tick, max(tick + (tick == 0), round((end_s - self.start_s) * self.fps))):
            if self._ended(tick):
                return
            yield last
            tick += 1

    def _decoded(self, decoder: Decoder) -> Iterator[tuple[float, VideoFrame]]:
        """Frames with the time at which each is shown, rising, from the key frame before the part on."""
        if self.start_s:
            decoder.seek(decoder.origin + int(self.start_s / decoder.base))
        count = 0
        for stamp, frame in decoder.frames():
            count += 1
            # The first frame is shown from 0 on, also where frames before it were lost.
            yield float((stamp - decoder.origin) * decoder.base) if count > 1 or self.start_s else 0.0, frame
        if not self.start_s and self.stop_s is None:
            decoder.check_whole(count)

    def _time_s(self, tick: int) -> float:
        return self.start_s + tick / self.fps

    def _ended(self, tick: int) -> bool:
        return self.stop_s is not None and tick >= round((self.stop_s - self.start_s) * self.fps)


def _shown_s(decoder: Decoder, frame: VideoFrame) -> float:
    """How long a frame is shown, seconds."""
    return float(frame.duration * decoder.base if frame.duration else 1 / decoder.fps)
