"""Pictures of a clip of any length: on disk, mapped, so that memory holds no more of them than are looked at."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from tempfile import TemporaryFile

import numpy as np

BLOCK = 32  # pictures worked on at once


def spooled(blocks: Iterable[np.ndarray]) -> np.ndarray:
    """Blocks (n, H, W, 3) uint8 one after another, (N, H, W, 3), read-only.

    They lie in a nameless temporary file (of ``TMPDIR``), which goes with the last view of it.
    """
    count = 0
    shape: tuple[int, ...] = (0, 0, 3)
    with TemporaryFile() as file:
        for block in blocks:
            file.write(np.ascontiguousarray(block).data)
            count, shape = count + len(block), block.shape[1:]
        file.flush()
        if not count:
            return np.zeros((0, *shape), np.uint8)
        return np.memmap(file, np.uint8, "r", shape=(count, *shape))


def in_blocks(items: np.ndarray, size: int = BLOCK) -> Iterator[np.ndarray]:
    """Views of ``size`` items each, fewer at the end."""
    for start in range(0, len(items), size):
        yield items[start : start + size]
