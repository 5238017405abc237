"""Pictures of a clip of any length: on disk, mapped, so that memory holds no more of them than are looked at."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from tempfile import TemporaryFile
from typing import Any

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


class Spool:
    """An array that only grows, in a nameless file that no crash leaves behind; read by slices, from any thread.

    Read, not mapped: pages of a mapped file count as the process's memory until the system wants them back.

    Args:
        width: columns; 0 for samples without a second axis.
    """

    dtype = np.dtype(np.float32)

    def __init__(self, width: int = 0) -> None:
        self.width, self._rows = width, 0
        self.file: Any = TemporaryFile(buffering=0)  # noqa: SIM115

    @property
    def ndim(self) -> int:
        return 2 if self.width else 1

    def append(self, rows: np.ndarray) -> None:
        """(n,) or (n, width)."""
        self.file.write(np.ascontiguousarray(rows, self.dtype).data)
        self._rows += len(rows)

    def claim(self, rows: int) -> None:
        """Count `rows` rows that somebody else wrote to `file`."""
        self._rows = rows

    def __len__(self) -> int:
        return self._rows

    def __getitem__(self, part: slice) -> np.ndarray:
        """The rows of a slice of step 1."""
        start, stop, _ = part.indices(self._rows)
        row = 4 * max(1, self.width)
        data = os.pread(self.file.fileno(), max(0, stop - start) * row, start * row)
        found = np.frombuffer(data, self.dtype)
        return found.reshape(-1, self.width) if self.width else found

    def close(self) -> None:
        self.file.close()
