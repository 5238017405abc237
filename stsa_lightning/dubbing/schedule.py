"""Which source frame is shown when."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

import numpy as np

Fit = Literal["loop", "freeze", "trim", "remap"]


@dataclass(frozen=True)
class Schedule:
    """Which source frame is shown when: `source` (n,) numbers, `times_s` (n,) rising from 0."""

    source: np.ndarray
    times_s: np.ndarray

    def __len__(self) -> int:
        return len(self.source)

    def varying_times_s(self, fps: Fraction) -> np.ndarray | None:
        """The time stamps, None where they are those of an even rate."""
        even = np.arange(len(self)) / float(fps)
        return None if np.abs(self.times_s - even).max() < 1e-3 else self.times_s

    def held(self, fps: Fraction, longest_s: float) -> Schedule:
        """The same, with frames that are shown for longer than `longest_s` shown again and again, `fps` a second."""
        gaps = np.diff(self.times_s, append=self.times_s[-1])
        times = np.where(gaps > longest_s, np.maximum(1, np.round(gaps * float(fps))), 1).astype(np.int64)
        first = np.repeat(np.cumsum(times) - times, times)
        part = (np.arange(len(first)) - first) / np.repeat(times, times)
        return Schedule(np.repeat(self.source, times), np.repeat(self.times_s, times) + part * np.repeat(gaps, times))

    def at(self, fps: Fraction, seconds: float) -> Schedule:
        """What is shown at the ticks of an even clock, for so long."""
        ticks = np.arange(max(1, int(np.ceil(seconds * float(fps) - 1e-4)))) / float(fps)
        return Schedule(self.source[np.searchsorted(self.times_s, ticks + 1e-6, side="right") - 1], ticks)


def make_schedule(times_s: np.ndarray, fps: float, seconds: float, fit: Fit = "loop") -> Schedule:
    """A video beside speech of `seconds`.

    Args:
        times_s: (F,) time stamps of the source's frames, from 0.
        fps: frames a second.
        seconds: the speech's length; the result is the least number of frames that covers it, one at least.
        fit: what is shown where the speech is longer than the video: "loop" runs it forward and backward; "freeze"
            holds the last frame; "trim" ends with the video. "remap" shows all of it slower or faster, whichever is
            longer: every frame once, at another rate.
    """
    if fit == "remap":
        return Schedule(np.arange(len(times_s)), times_s * (seconds / (float(times_s[-1]) + 1 / fps)))
    if fit == "loop":
        return ping_pong(times_s, fps, seconds)
    count = max(1, int(np.searchsorted(times_s, seconds - 1e-6)))
    shown = Schedule(np.arange(count), times_s[:count])
    end_s = float(times_s[-1]) + 1 / fps
    if fit == "trim" or count < len(times_s) or seconds <= end_s:
        return shown
    more = int(np.ceil((seconds - end_s) * fps - 1e-4))
    held = np.full(more, len(times_s) - 1)
    return Schedule(np.concatenate([shown.source, held]), np.concatenate([times_s, end_s + np.arange(more) / fps]))


def ping_pong(times_s: np.ndarray, fps: float, seconds: float) -> Schedule:
    """The video forward, backward, forward ... for `seconds`, at its own pace, the turning frames shown once.

    Args:
        times_s: (F,) time stamps of the source's frames, from 0.
        fps: pace of a source of a single frame.
        seconds: length wanted; the result is the least number of frames that covers it, one at least.
    """
    gaps = np.diff(times_s) if len(times_s) > 1 else np.array([1 / fps])
    there = np.arange(len(times_s))
    cycle, pace = np.concatenate([there, there[-2:0:-1]]), np.concatenate([gaps, gaps[::-1]])
    if len(times_s) == 1:
        cycle, pace = np.zeros(1, np.int64), gaps
    turns = int(seconds / pace.sum()) + 2
    starts = np.concatenate([[0.0], np.cumsum(np.tile(pace, turns))])
    count = max(1, int(np.searchsorted(starts, seconds - 1e-6)))
    return Schedule(np.tile(cycle, turns)[:count], starts[:count])
