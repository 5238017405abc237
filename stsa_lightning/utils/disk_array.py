"""Arrays on disk, for clips of any length in bounded memory."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Iterator
from tempfile import TemporaryFile
from typing import Any

import numpy as np
import numpy.typing as npt

BLOCK = 32  # images processed at once


def to_disk_array(blocks: Iterable[np.ndarray]) -> np.ndarray:
    """Concatenate blocks of images (n, H, W, 3) uint8 into one read-only memory map, (N, H, W, 3).

    The data is in an unlinked temporary file (in `TMPDIR`), which is freed with the last view of the array.
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


def to_disk_arrays(blocks: Iterable[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    """Two arrays as `to_disk_array` makes one, of blocks that come in pairs."""
    waiting: Iterator[tuple[np.ndarray, np.ndarray]] = iter(blocks)
    with TemporaryFile() as file:
        shapes = list[tuple[int, ...]]()

        def first() -> Iterator[np.ndarray]:
            for one, other in waiting:
                np.save(file, other)
                shapes.append(other.shape)
                yield one

        one = to_disk_array(first())
        file.seek(0)
        return one, to_disk_array(np.load(file) for _ in shapes)


def in_blocks(items: np.ndarray, size: int = BLOCK) -> Iterator[np.ndarray]:
    """Iterate over views of `size` items each, fewer at the end."""
    for start in range(0, len(items), size):
        yield items[start : start + size]


class DiskArray:
    """An append-only array in an unlinked temporary file; slices can be read from any thread.

    Slices are read, not mapped: pages of a mapped file count as memory of the process until the system reclaims them.
    Of width 0 it is one-dimensional.
    """

    def __init__(self, width: int = 0, dtype: npt.DTypeLike = np.float32) -> None:
        self.width, self.dtype, self._rows = width, np.dtype(dtype), 0
        self.file: Any = TemporaryFile(buffering=0)  # noqa: SIM115
        self._lock = threading.Lock()

    @property
    def ndim(self) -> int:
        return 2 if self.width else 1

    @property
    def _row_bytes(self) -> int:
        return self.dtype.itemsize * max(1, self.width)

    def append(self, rows: np.ndarray) -> None:
        """(n,) or (n, width)."""
        with self._lock:
            self.file.write(np.ascontiguousarray(rows, self.dtype).data)
            self._rows += len(rows)

    def claim(self, rows: int) -> None:
        """Set the length to `rows` rows that were written to `file` directly."""
        self._rows = rows

    def resize(self, rows: int) -> None:
        """Cut the end off, or add zeros."""
        with self._lock:
            self.file.truncate(self._row_bytes * rows)
            self.file.seek(0, os.SEEK_END)
            self._rows = rows

    def __len__(self) -> int:
        return self._rows

    def __getitem__(self, part: slice) -> np.ndarray:
        """The rows of a slice of step 1."""
        start, stop, _ = part.indices(self._rows)
        data = self._read(max(0, stop - start) * self._row_bytes, start * self._row_bytes)
        found = np.frombuffer(data, self.dtype)
        return found.reshape(-1, self.width) if self.width else found

    def _read(self, count: int, place: int) -> bytes:
        if hasattr(os, "pread"):
            return os.pread(self.file.fileno(), count, place)
        with self._lock:  # Windows: one place in the file for readers and the writer
            self.file.seek(place)
            data = self.file.read(count)
            self.file.seek(0, os.SEEK_END)
        return data

    def close(self) -> None:
        self.file.close()
