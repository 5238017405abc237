"""The video to dub: its frames, once from first to last and then in the order in which they are shown."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Protocol

import numpy as np

from stsa_lightning.media.frames import Frames
from stsa_lightning.media.rgb_converter import Colours
from stsa_lightning.media.video import info_of

SLOWEST_FPS, RAISED_FPS = Fraction("14.98"), Fraction(25)  # 15 as NTSC counts it, 15000 / 1001, also where rounded
_HOLE_S, _HOLE_FRAMES = 0.1, 2.5  # a frame that is shown longer than both stands where others are missing
_LISTED = 3  # gaps that are listed one by one


class KnownFrames(Protocol):
    """What a dub takes of a video whose frames are known: a scanned `VideoSource`, or a prepared person's file."""

    @property
    def path(self) -> Path: ...
    @property
    def size(self) -> tuple[int, int]: ...
    @property
    def fps(self) -> Fraction: ...
    @property
    def rate(self) -> Fraction: ...
    @property
    def out_fps(self) -> Fraction: ...
    @property
    def times_s(self) -> np.ndarray: ...
    @property
    def colours(self) -> Colours: ...
    def read(self, numbers: Iterable[int]) -> Iterator[np.ndarray]: ...
    def again(self) -> KnownFrames: ...
    def warnings(self, shown: int) -> list[str]: ...
    def close(self) -> None: ...


class VideoSource(Frames):
    """A video, or a still picture, opened once; a context manager. `scan` goes first, see `Frames`.

    Attributes:
        info: the file's `VideoInfo`.
        hdr: name of the transfer curve of a high-dynamic-range video, which is not tone-mapped.
        times_s: when each scanned frame is shown, from 0.

    Raises:
        FileNotFoundError, VideoError: as `video.probe`.
    """

    def __init__(self, path: str | Path) -> None:
        super().__init__(path)
        self.info = info_of(self)

    @property
    def out_fps(self) -> Fraction:
        """Frames a second of a dub: the video's own, or 25 where those are too few for a mouth to move."""
        return out_rate(self.rate)

    def again(self) -> VideoSource:
        """The same frames for another reader, such as one in another thread."""
        other = VideoSource(self.path)
        other._stamps, other.sought = self._stamps, self.sought
        return other

    def notes(self) -> list[str]:
        """What the user should know of the file, whatever is done with it."""
        return [text for text in (self.note, self.cut_short) if text]

    def warnings(self, shown: int) -> list[str]:
        """What the user should know of the first so many frames."""
        found = self.notes()
        if self.hdr:
            found.append(
                f"{self.path} is HDR, {self.hdr}; the result is marked so too, but holds 8 bits a colour, which may "
                "show as steps in smooth areas"
            )
        if self.rate < SLOWEST_FPS:
            found.append(
                f"{self.path} has {float(self.rate):.3g} frames/s, too few for lips to follow speech; the result has "
                f"{RAISED_FPS}, each of the video's shown several times"
            )
        starts_s, lengths_s = self.holes(shown)
        places = ", ".join(f"{s:.2f} s (for {n:.2f} s)" for s, n in zip(starts_s[:_LISTED], lengths_s, strict=False))
        if len(starts_s) > _LISTED:
            places += f" and {len(starts_s) - _LISTED} more, {lengths_s.sum():.2f} s together"
        if len(starts_s):
            found.append(f"{self.path}: frames are missing; the picture around the mouth stands still at {places}")
        return found

    def holes(self, shown: int | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Where among the first so many frames others are missing: from when on and for how long, seconds."""
        times_s = self.times_s[:shown]
        gaps = np.diff(times_s)
        found = np.flatnonzero(gaps > longest_gap_s(times_s))
        return times_s[found], gaps[found]


def out_rate(rate: Fraction) -> Fraction:
    """Frames a second of a dub: the video's own, or 25 where those are too few for a mouth to move."""
    return RAISED_FPS if rate < SLOWEST_FPS else rate


def longest_gap_s(times_s: np.ndarray) -> float:
    """How long a frame may be shown before it stands for others that are missing."""
    gaps = np.diff(times_s)
    return max(_HOLE_S, _HOLE_FRAMES * float(np.median(gaps))) if len(gaps) else float("inf")
