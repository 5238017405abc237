from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from types import SimpleNamespace

import pytest

from stsa_lightning.dubbing.pipeline import Pipeline


def test_stages_overlap_and_keep_the_order() -> None:
    """The first stage is at an item while the second is at the one before: each waits for the other there."""
    meeting = threading.Barrier(2, timeout=300)

    def first(item: int) -> int:
        if item > 0:
            meeting.wait()
        return item * 10

    def second(item: int) -> int:
        if item < 190:
            meeting.wait()
        return item * 10

    with Pipeline() as pipeline:
        items = pipeline.stage("b", second, pipeline.stage("a", first, pipeline.source("s", range(20))))
        assert list(items) == [i * 100 for i in range(20)]


def test_seconds_of_a_stage_are_those_of_its_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waiting is no work. By a clock that moves at work alone."""
    now = threading.local()
    clock = SimpleNamespace(perf_counter=lambda: getattr(now, "seconds", 0.0))
    monkeypatch.setattr("stsa_lightning.utils.stage_times.time", clock)

    def work(item: int) -> int:
        now.seconds = getattr(now, "seconds", 0.0) + item
        return item

    with Pipeline() as pipeline:
        assert list(pipeline.stage("b", work, pipeline.stage("a", work, pipeline.source("s", range(5))))) == [*range(5)]
    assert pipeline.seconds == {"s": 0, "a": 10, "b": 10}


def test_no_stage_runs_far_ahead() -> None:
    made = []

    def items() -> Iterator[int]:
        for i in range(100):
            made.append(i)
            yield i

    with Pipeline(depth=2) as pipeline:
        taken = pipeline.stage("a", lambda i: i, pipeline.source("s", items()))
        next(taken)
        time.sleep(0.1)
        assert len(made) <= 8  # one taken; two waiting and one in hand at each stage


def test_errors_reach_who_takes_the_items_and_threads_end() -> None:
    def fail(item: int) -> int:
        if item == 3:
            raise RuntimeError("three")
        return item

    before = threading.active_count()
    with Pipeline() as pipeline:
        taken = pipeline.stage("last", lambda i: i, pipeline.stage("fail", fail, pipeline.source("s", range(10))))
        with pytest.raises(RuntimeError, match="three"):
            list(taken)
    assert threading.active_count() == before


def test_leaving_early_ends_the_threads() -> None:
    before = threading.active_count()
    with Pipeline() as pipeline:
        assert next(pipeline.stage("a", lambda i: i, pipeline.source("s", range(10**9)))) == 0
    assert threading.active_count() == before
