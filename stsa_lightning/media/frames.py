"""The frames of a file in any order, in bounded memory, once it has been gone through."""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Iterable, Iterator
from fractions import Fraction
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from stsa_lightning.media.container import VideoError
from stsa_lightning.media.decode import Decoder

BACK_BYTES = 64 * 2**20  # decoded frames held while a video runs backward
_FAR = 250  # frames: a jump ahead that is longer is sought, not decoded through
_EVEN_S = 2e-3  # time stamps nearer than that to an even rate's are those of an even rate
_EVEN_SHARE = 0.75  # of the gaps between frames, from which on the rate is an even one
_LIE = 0.05  # relative difference from which on a stated rate is not believed


class Frames(Decoder):
    """Frames by number, of a file whose frames are known: `scan` or `index` goes first.

    Going through all of it is what tells how many frames there are and when each is shown: a file's own index counts
    packets, some of which give no frame.

    Raises:
        FileNotFoundError, VideoError: as `Decoder`.
    """

    def __init__(self, path: str | Path, threads: int = 0) -> None:
        super().__init__(path, threads)
        self.cut_short = ""  # what to say where all was scanned and less came than the file states
        self._stamps: list[int] = []  # of each known frame
        self._position: int | None = None  # number of the frame that comes next; None: not known

    @property
    def times_s(self) -> np.ndarray:
        """(F,) float64 seconds, when each known frame is shown; those of an even rate are exact.

        The first frame is shown from 0 on, also where frames before it were lost.
        """
        times_s = (np.asarray(self._stamps, np.int64) - self.origin) * float(self.base)
        times_s[:1] = 0
        even = np.arange(len(times_s)) / float(self.fps)
        return even if np.abs(times_s - even).max(initial=0.0) < _EVEN_S else times_s

    @property
    def rate(self) -> Fraction:
        """Frames a second of those known; as the file says, where they bear it out."""
        gaps_s = np.diff(self._stamps) * float(self.base)
        if not len(gaps_s):
            return self.fps
        usual_s = np.median(gaps_s)
        regular = np.abs(gaps_s - usual_s) <= 0.1 * usual_s + 1.5e-3  # Matroska rounds to milliseconds
        # Holes in an even rate are not counted: they are no reason to call it slow.
        found = 1 / float(gaps_s[regular if regular.mean() > _EVEN_SHARE else slice(None)].mean())
        stated = min(self.stated_rates, key=lambda rate: abs(float(rate) - found))
        return stated if abs(float(stated) / found - 1) < _LIE else Fraction(found).limit_denominator(1001)

    # ------------------------------------------------------------------------------------------------------- first time

    def scan(self, until_s: float = float("inf")) -> Iterator[np.ndarray]:
        """(H, W, 3) uint8 RGB as shown, from the first frame on to the last that is shown before a time.

        Raises:
            VideoError: the file cannot be decoded.
        """
        for stamp, frame in self.frames():
            if self._stamps and (stamp - self.origin) * self.base >= until_s:
                return
            self._stamps.append(stamp)
            yield self.pixels(frame)
        self.cut_short = self.missing(len(self._stamps))

    def index(self) -> None:
        """Go through all of the file for its time stamps alone.

        Raises:
            VideoError: the file cannot be decoded.
        """
        status = self.path.stat()
        stamps, self.sought = _stamps(str(self.path), status.st_size, status.st_mtime_ns)
        self._stamps, self._position = list(stamps), 0

    # ------------------------------------------------------------------------------------------------------ later times

    def read(self, numbers: Iterable[int]) -> Iterator[np.ndarray]:
        """Frames by number, (H, W, 3) uint8 RGB each, in any order; not to be written to.

        While frames are asked for backward, a few are decoded ahead of their asking and held.

        Raises:
            IndexError: a number that is not known.
            VideoError: the file cannot be decoded again.
        """
        held: deque[tuple[int, np.ndarray]] = deque()
        room = max(1, BACK_BYTES // (3 * self.size[0] * self.size[1]))
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
        if self._position is None or not self._position <= first <= self._position + _FAR:
            self._go(first)
        assert self._position is not None
        while self._position <= last:
            number, frame = self._position, self._next()
            if number >= first:
                yield number, self.pixels(frame)

    def _next(self) -> Any:
        found = next(self._frames, None)
        if found is None:
            raise VideoError(f"{self.path}: frame {self._position} cannot be decoded a second time; is it damaged?")
        self._position = (self._position or 0) + 1
        return found[1]

    def _go(self, number: int) -> None:
        """Stand on a known frame at or before the given one: on its key frame where the file can be sought."""
        # The key frame that is found may be shown after the frame: then the one before it is wanted.
        for target in (number, number - _FAR):
            if target <= 0 or not self.sought:
                break
            try:
                self.seek(self._stamps[target])
                self._position = self._align()
            except VideoError:  # no index
                break
            if 0 <= self._position <= number:
                return
        self.restart()
        self._position = self._align()

    def _align(self) -> int:
        """Have `_frames` give the known frames from where the file stands; the number of the first, or -1."""
        known = ((bisect_left(self._stamps, stamp), stamp, frame) for stamp, frame in self._frames)
        known = ((n, s, frame) for n, s, frame in known if n < len(self._stamps) and self._stamps[n] == s)
        first = next(known, None)
        if first is None:
            return -1
        self._frames = ((stamp, frame) for _, stamp, frame in chain([first], known))
        return first[0]


@lru_cache(maxsize=64)
def _stamps(path: str, _size: int, _mtime_ns: int) -> tuple[tuple[int, ...], bool]:
    """Stamps of all frames, and whether they tell where to seek. Kept, for an evaluation opens a file several times."""
    with Decoder(path) as decoder:
        stamps = tuple(stamp for stamp, _ in decoder.frames())
        decoder.check_whole(len(stamps))
        return stamps, decoder.sought
