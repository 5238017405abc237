"""Progress of a dub: bars on the terminal, or a callback."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Protocol, TypeVar

from rich.progress import Progress

Item = TypeVar("Item")
ProgressCallback = Callable[[str, float], None]
"""Called with the current stage and its completed fraction, 0 to 1; an exception that it raises ends the dub."""


class Bars(Protocol):
    """Where a dub reports its progress."""

    def track(self, sequence: Iterable[Item], total: float | None = None, *, description: str) -> Iterable[Item]:
        """Iterate over the items and report how many of `total` were taken."""


class _CallbackBars:
    def __init__(self, callback: ProgressCallback) -> None:
        self.callback = callback

    def track(self, sequence: Iterable[Item], total: float | None = None, *, description: str) -> Iterator[Item]:
        for number, item in enumerate(sequence):
            self.callback(description, min(1.0, number / total) if total else 0.0)
            yield item


@contextmanager
def progress_bars(progress: bool | ProgressCallback) -> Iterator[Bars]:
    """Bars on the terminal (True), none (False), or a callback."""
    if callable(progress):
        yield _CallbackBars(progress)
    else:
        with Progress(disable=not progress, transient=True) as bars:
            yield bars
