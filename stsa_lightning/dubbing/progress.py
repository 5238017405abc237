"""Progress of a dub: bars on the terminal, or a callback."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Protocol, TextIO, TypeVar

from stsa_lightning.utils.progress_bar import progress_bar

Item = TypeVar("Item")
ProgressCallback = Callable[[str, int, int], None]
"""Called with the current stage, how many of its frames are done, and how many there are as far as is known (0: not at
all); from 0 on, and once more at the stage's end. An exception that it raises ends the dub, and leaves nothing."""

_OFTEN_S = 0.2  # between two lines


class Bars(Protocol):
    """Where a dub reports its progress."""

    def track(self, sequence: Iterable[Item], total: float | None = None, *, description: str) -> Iterable[Item]:
        """Iterate over the items and report how many of `total` were taken."""


class _CallbackBars:
    def __init__(self, callback: ProgressCallback) -> None:
        self.callback = callback

    def track(self, sequence: Iterable[Item], total: float | None = None, *, description: str) -> Iterator[Item]:
        done, expected = 0, int(total or 0)
        for item in sequence:
            self.callback(description, done, max(done, expected))
            yield item
            done += 1
        self.callback(description, done, done)


class ProgressLines:
    """A `ProgressCallback` that prints JSON lines for another program: the first and last of each stage, and a few each
    second between them.

    Args:
        stream: where to; None: standard error.
    """

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream, self._stage, self._printed = stream, "", 0.0

    def __call__(self, stage: str, frame: int, total: int) -> None:
        now = time.monotonic()
        if stage == self._stage and frame != total and now - self._printed < _OFTEN_S:
            return
        self._stage, self._printed = stage, now
        fields = {"stage": stage, "frame": frame, "total": total}
        print(json.dumps(fields), file=self._stream or sys.stderr, flush=True)


@contextmanager
def progress_bars(progress: bool | ProgressCallback) -> Iterator[Bars]:
    """Bars on the terminal (True), none (False), or a callback."""
    if callable(progress):
        yield _CallbackBars(progress)
    else:
        with progress_bar(shown=progress) as bars:
            yield bars
