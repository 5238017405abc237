"""Stages that overlap: each works in a thread of its own, a bounded number of items ahead of the next.

Decoders, OpenCV, torch and encoders all let go of Python's lock while they work, so the slowest stage sets the pace.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from queue import Empty, Full, Queue
from typing import Any, TypeVar

from stsa_lightning.utils.stage_times import StageTimes

Item = TypeVar("Item")
Result = TypeVar("Result")

_DONE = object()
_POLL_S = 0.2  # how soon a stage notices that nobody wants its items any more


class Pipeline(StageTimes):
    """Makes stages and keeps their times, without waiting; a context manager that ends all of their threads.

    An exception in a stage ends that stage, and is raised where its items are taken.

    Args:
        depth: finished items that may wait after each stage.
    """

    def __init__(self, depth: int = 1) -> None:
        super().__init__()
        self._depth, self._stop = depth, threading.Event()
        self._threads: list[threading.Thread] = []

    def source(self, name: str, items: Iterable[Item]) -> Iterator[Item]:
        """The items, made ahead of their taking."""
        iterator = iter(items)

        def produce() -> Iterator[Item]:
            while True:
                with self.timed(name):
                    item = next(iterator, _DONE)
                if item is _DONE:
                    return
                yield item  # type: ignore[misc]

        return self._ahead(name, produce())

    def stage(self, name: str, work: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        """What `work` makes of each item, in order, ahead of its taking."""

        def produce() -> Iterator[Result]:
            for item in items:
                with self.timed(name):
                    result = work(item)
                yield result

        return self._ahead(name, produce())

    def _ahead(self, name: str, items: Iterator[Item]) -> Iterator[Item]:
        queue: Queue[tuple[Any, BaseException | None]] = Queue(self._depth)

        def run() -> None:
            try:
                for item in items:
                    if not self._put(queue, (item, None)):
                        return
                self._put(queue, (_DONE, None))
            except BaseException as error:
                self._put(queue, (_DONE, error))

        thread = threading.Thread(target=run, name=name, daemon=True)
        self._threads.append(thread)
        thread.start()
        return self._taken(queue)

    def _put(self, queue: Queue, entry: tuple[Any, BaseException | None]) -> bool:
        """False once nobody takes entries any more."""
        while not self._stop.is_set():
            try:
                queue.put(entry, timeout=_POLL_S)
                return True
            except Full:
                continue
        return False

    def _taken(self, queue: Queue) -> Iterator[Any]:
        while not self._stop.is_set():
            try:
                item, error = queue.get(timeout=_POLL_S)
            except Empty:
                continue
            if error is not None:
                raise error
            if item is _DONE:
                return
            yield item

    def close(self) -> None:
        """End all threads, at the latest when each has finished the item it is at."""
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def __enter__(self) -> Pipeline:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
