"""Two processes that stay for a whole session: starting an interpreter with torch costs more than most tests.

They are forked by a server that has imported what they need, once for both, and end without taking it all down.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from datetime import timedelta
from multiprocessing import get_context, parent_process, set_forkserver_preload
from pathlib import Path
from typing import Any

import torch


class Pair:
    """Ranks 0 and 1 of a gloo group on this machine, a process each, begun when first asked.

    Args:
        folder: an empty folder, through which the two find each other.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._ranks: list[ProcessPoolExecutor] = []

    def __call__(self, function: Callable[..., Any], *arguments: Any) -> list[Any]:
        """What `function(rank, *arguments)` returns on either rank. Its module has to be importable by name."""
        if not self._ranks:
            set_forkserver_preload(["torchmetrics"])  # and with it torch
            self._ranks = [
                ProcessPoolExecutor(1, get_context("forkserver"), _join, (rank, f"file://{self._folder}/init"))
                for rank in range(2)
            ]
        running = [process.submit(function, rank, *arguments) for rank, process in enumerate(self._ranks)]
        return [each.result() for each in running]

    def __enter__(self) -> Pair:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._ranks:
            process.shutdown()


def _end_with_the_tests() -> None:
    parent = parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _join(rank: int, address: str) -> None:
    # Work is waited for at a pipe that does not end where the tests are killed.
    threading.Thread(target=_end_with_the_tests, daemon=True).start()
    # LOCAL_RANK is how Lightning knows that it need not start processes itself.
    os.environ |= {"GLOO_SOCKET_IFNAME": "lo", "LOCAL_RANK": str(rank)}
    torch.set_num_threads(1)
    # A rank whose other one failed would wait for ever.
    limit = timedelta(minutes=10)
    torch.distributed.init_process_group("gloo", init_method=address, rank=rank, world_size=2, timeout=limit)
