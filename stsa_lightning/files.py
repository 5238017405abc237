"""Files that appear whole or not at all, and what identifies them."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path


@contextmanager
def written_whole(path: str | Path) -> Iterator[Path]:
    """A name beside ``path`` to write to: it takes the place of ``path`` when the block ends well, else it goes."""
    path = Path(path)
    part = path.with_name(f"{path.name}.part-{os.getpid()}")
    try:
        yield part
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def sha256_of(*paths: Path) -> str:
    """Hex digest of the contents of files, one after another."""
    digest = hashlib.sha256()
    for path in paths:
        with open(path, "rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def unused(path: Path) -> Path:
    """``path``, or the first of ``NAME-2.EXT``, ``NAME-3.EXT`` ... that is not there yet."""
    names = (path if n == 1 else path.with_name(f"{path.stem}-{n}{path.suffix}") for n in count(1))
    return next(name for name in names if not name.exists())


def set_aside(path: Path) -> None:
    """Give an existing file the name ``NAME-1.EXT``, or that of the next free number."""
    if path.exists():
        names = (path.with_name(f"{path.stem}-{n}{path.suffix}") for n in count(1))
        path.rename(next(name for name in names if not name.exists()))
