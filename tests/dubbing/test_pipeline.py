from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from stsa_lightning.dubbing.pipeline import Pipeline


def test_stages_overlap_and_keep_the_order() -> None:
    def work(item: int) -> int:
        time.sleep(0.02)
        return item * 10

    begun = time.perf_counter()
    with Pipeline() as pipeline:
        items = pipeline.stage("b", work, pipeline.stage("a", work, pipeline.source("s", range(20))))
        assert list(items) == [i * 100 for i in range(20)]
    assert time.perf_counter() - begun < 0.7  # one after the other: 0.8 s
    assert 0.4 <= pipeline.seconds["a"] < 0.7
    assert pipeline.seconds["s"] < 0.1  # waiting is no work


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
