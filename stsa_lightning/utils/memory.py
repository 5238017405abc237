"""Memory of processes that live long."""

from __future__ import annotations

import ctypes
import sys


def release_free_memory() -> None:
    """Hand freed memory back to the system, on Linux with the GNU C library; elsewhere nothing is done.

    Its allocator keeps what is freed, in heaps of their own for the threads of each dub: nothing is lost, but over
    dozens of dubs a process grows by hundreds of megabytes.
    """
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)
