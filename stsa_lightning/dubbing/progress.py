"""How far a dub has come: bars on the terminal, or whoever wants to be told."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Protocol, TypeVar

from rich.progress import Progress

Item = TypeVar("Item")
Tell = Callable[[str, float], None]
"""Told what is being done, and which part of it is, 0 to 1; what it raises ends the dub."""


class Bars(Protocol):
    """What a dub asks of either."""

    def track(self, sequence: Iterable[Item], total: float | None = None, *, description: str) -> Iterable[Item]:
        """The items, while it is told how many of `total` were taken."""


class _Told:
    def __init__(self, tell: Tell) -> None:
        self.tell = tell

    def track(self, sequence: Iterable[Item], total: float | None = None, *, description: str) -> Iterator[Item]:
        for number, item in enumerate(sequence):
            self.tell(description, min(1.0, number / total) if total else 0.0)
            yield item


@contextmanager
def progress_bars(progress: bool | Tell) -> Iterator[Bars]:
    """Bars on the terminal (True), none (False), or a function that is told."""
    if callable(progress):
        yield _Told(progress)
    else:
        with Progress(disable=not progress, transient=True) as bars:
            yield bars
