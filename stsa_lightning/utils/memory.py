"""Memory of processes that live long: both functions act on Linux with the GNU C library, elsewhere nothing is done."""

from __future__ import annotations

import ctypes
import os
import sys
from typing import Any

_M_ARENA_MAX = -8  # of <malloc.h>


def limit_arenas() -> None:
    """Let the allocator keep as many heaps as there are processors, in place of eight times as many.

    Threads come and go with each dub, and each takes whichever heap is free. What is free at the end of a heap stays
    resident, also when memory is released: in the end every heap holds what the hungriest of all threads needed, 20 MB
    each (measured). It works before the process has many threads, and where `MALLOC_ARENA_MAX` is not set.
    """
    mallopt = _c_function("mallopt")
    if mallopt is not None and "MALLOC_ARENA_MAX" not in os.environ:
        mallopt(_M_ARENA_MAX, os.cpu_count() or 1)


def release_free_memory() -> None:
    """Hand freed memory back to the system.

    The allocator keeps what is freed: nothing is lost, but over dozens of dubs a process grows by hundreds of
    megabytes.
    """
    trim = _c_function("malloc_trim")
    if trim is not None:
        trim(0)


def _c_function(name: str) -> Any:
    """A function of the C library; None where it has no such one."""
    return getattr(ctypes.CDLL(None), name, None) if sys.platform == "linux" else None
