"""Which source frame is shown when."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Schedule:
    """Which source frame is shown when: `source` (n,) numbers, `times_s` (n,) rising from 0."""

    source: np.ndarray
    times_s: np.ndarray


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
