"""The frames of a video, once from first to last and then in the order in which they are shown, in bounded memory."""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Iterable, Iterator
from fractions import Fraction
from itertools import chain
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from stsa_lightning.video import VideoError, probe

BACK_BYTES = 64 * 2**20  # decoded frames held while a video runs backward
_FAR = 250  # frames: a jump ahead that is longer is sought, not decoded through
_HDR = {16: "PQ (HDR10)", 18: "HLG"}  # FFmpeg's numbers of the transfer curves
_EVEN_S = 2e-3  # time stamps nearer than that to an even rate's are those of an even rate


class Footage:
    """A video, or a still picture, opened once; a context manager.

    `scan` goes first. It says when each frame is shown, so that no index of the file is needed; `read` then serves any
    order of the frames that were scanned. Decoding runs forward: while frames are asked for backward, a few are decoded
    ahead of their asking and held.

    Attributes:
        info: the file's `VideoInfo`.
        hdr: name of the transfer curve of a high-dynamic-range video, which is shown as if it were an ordinary one.
        times_s: when each scanned frame is shown, from 0.

    Raises:
        FileNotFoundError, VideoError: as `video.probe`.
    """

    def __init__(self, path: str | Path) -> None:
        import av

        self.info = probe(path)
        self.path = self.info.path
        self._container: Any = av.open(str(path), metadata_errors="replace")
        self._stream = self._picture()
        self.hdr = _HDR.get(int(getattr(self._stream.codec_context, "color_trc", 0) or 0))
        self._stamps: list[int] = []  # of each scanned frame, in the stream's own unit
        self._counted = False  # the file has no time stamps: frames are told apart by counting
        self._position = 0  # number of the frame that `_frames` gives next
        self._frames: Iterator[Any] | None = None

    @property
    def fps(self) -> Fraction:
        return self.info.fps

    @property
    def size(self) -> tuple[int, int]:
        """Width and height, upright."""
        return self.info.width, self.info.height

    @property
    def times_s(self) -> np.ndarray:
        """(F,) float64 seconds; those of an even rate are exact."""
        stamps = np.asarray(self._stamps, np.int64)
        times_s = (stamps - stamps[:1]) * float(self._stream.time_base or Fraction(1, 1000))
        even = np.arange(len(times_s)) / float(self.fps)
        return even if np.abs(times_s - even).max(initial=0.0) < _EVEN_S else times_s

    def _picture(self) -> Any:
        from av.stream import Disposition

        stream = next(s for s in self._container.streams.video if not s.disposition & Disposition.attached_pic)
        stream.thread_type = "AUTO"
        return stream

    # ------------------------------------------------------------------------------------------------------- first time

    def scan(self, until_s: float = float("inf")) -> Iterator[np.ndarray]:
        """(H, W, 3) uint8 RGB, upright, from the first frame on to the last that is shown before a time.

        Raises:
            VideoError: the file cannot be decoded.
        """
        base = self._stream.time_base or Fraction(1, 1000)
        for stamp, frame in self._decoded():
            if self._stamps and (stamp - self._stamps[0]) * base >= until_s:
                return
            self._stamps.append(stamp)
            yield _pixels(frame)
        if not self._stamps:
            raise VideoError(f"{self.path}: no frame could be decoded; is it damaged?")

    def _decoded(self) -> Iterator[tuple[int, Any]]:
        """Frames from where the container stands, with rising time stamps."""
        import av

        last, step = None, max(1, round(1 / (self.fps * (self._stream.time_base or Fraction(1, 1000)))))
        try:
            for packet in self._container.demux(self._stream):
                try:
                    frames = packet.decode()
                except av.error.InvalidDataError:  # a damaged packet is a hole: its neighbours are shown longer
                    continue
                for frame in frames:
                    self._counted |= frame.pts is None
                    stamp = frame.pts if frame.pts is not None else (0 if last is None else last + step)
                    if last is None or stamp > last:  # a frame that is shown at no time of its own is left out
                        last = stamp
                        yield stamp, frame
        except av.error.FFmpegError as error:
            raise VideoError(f"{self.path}: cannot be decoded ({error.strerror}); is it damaged?") from error

    # ------------------------------------------------------------------------------------------------------ later times

    def read(self, numbers: Iterable[int]) -> Iterator[np.ndarray]:
        """Frames by number, (H, W, 3) uint8 RGB each, in any order; not to be written to.

        Raises:
            IndexError: a number that was not scanned.
            VideoError: the file cannot be decoded again.
        """
        held: deque[tuple[int, np.ndarray]] = deque()
        room = max(1, BACK_BYTES // (3 * self.size[0] * self.size[1]))
        self._frames = None
        for number in numbers:
            if not 0 <= number < len(self._stamps):
                raise IndexError(f"{self.path}: frames 0 to {len(self._stamps) - 1} were scanned, asked for {number}")
            found = next((pixels for n, pixels in held if n == number), None)
            if found is None:
                backward = bool(held) and number < held[-1][0]
                first = max(0, number - room + 1) if backward else number
                held = deque(self._run(first, number))
                found = held[-1][1]
            yield found

    def _run(self, first: int, last: int) -> Iterator[tuple[int, np.ndarray]]:
        """The frames from one number to another, with their numbers."""
        if self._frames is None or not self._position <= first <= self._position + _FAR:
            self._seek(first)
        while self._position <= last:
            number, frame = self._position, self._next()
            if number >= first:
                yield number, _pixels(frame)

    def _next(self) -> Any:
        frame = None if self._frames is None else next(self._frames, None)
        if frame is None:
            raise VideoError(f"{self.path}: frame {self._position} cannot be decoded a second time; is it damaged?")
        self._position += 1
        return frame

    def _seek(self, number: int) -> None:
        """Stand on a known frame at or before the given one: on its key frame where the file can be sought."""
        import av

        try:
            self._container.seek(self._stamps[number], stream=self._stream)
            landed = -1 if self._counted else self._align()
        except av.error.FFmpegError:
            landed = -1
        if not 0 <= landed <= number:  # no index, or a wrong one
            self._container.close()
            self._container = av.open(str(self.path), metadata_errors="replace")
            self._stream = self._picture()
            landed = self._align()
        self._position = landed

    def _align(self) -> int:
        """Have `_frames` give the known frames from where the container stands; the number of the first, or -1."""
        known = ((bisect_left(self._stamps, stamp), stamp, frame) for stamp, frame in self._decoded())
        known = ((n, s, frame) for n, s, frame in known if n < len(self._stamps) and self._stamps[n] == s)
        first = next(known, None)
        if first is None:
            return -1
        self._frames = (frame for _, _, frame in chain([first], known))
        return first[0]

    def again(self) -> Footage:
        """The same frames for another reader, such as one in another thread."""
        other = Footage(self.path)
        other._stamps, other._counted = self._stamps, self._counted
        return other

    def close(self) -> None:
        self._container.close()

    def __enter__(self) -> Footage:
        return self

    def __exit__(self, _kind: type[BaseException] | None, _error: object, _trace: TracebackType | None) -> None:
        self.close()


def _pixels(frame: Any) -> np.ndarray:
    pixels: np.ndarray = frame.to_ndarray(format="rgb24")
    if frame.rotation % 360:
        pixels = np.rot90(pixels, frame.rotation // 90)
    return np.ascontiguousarray(pixels)
