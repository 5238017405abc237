"""Where the time of a work in stages goes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class StageTimes:
    """Seconds spent in each stage: `with times.timed("decode"): ...`.

    Args:
        clock: of seconds; None: the wall's. `time.process_time` counts what the processors work, whatever else they do.
    """

    def __init__(self, clock: Callable[[], float] | None = None) -> None:
        self.seconds: dict[str, float] = {}
        self._clock = clock or time.perf_counter

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        begun = self._clock()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + self._clock() - begun
