"""Files that appear whole or not at all, and what identifies them."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows: parts of dead processes stay
    fcntl = None  # type: ignore[assignment]

_MARK = ".part-"
_PID_DIGITS = 10
_USUAL_NAME_BYTES = 255


class Part:
    """A file that grows beside the one it becomes, as NAME.part-PID, so that nothing takes it for a finished one.

    Locked while its process lives: those of the same name that nobody holds were left by processes that were killed,
    and are removed. A name too long for the ending is shortened. `path` is where to write.

    Raises:
        OSError: the folder does not take it.
    """

    def __init__(self, target: str | Path) -> None:
        self.target = Path(target)
        stem = _part_stem(self.target)
        _remove_dead(self.target.parent, stem)
        self.path = self.target.with_name(f"{stem}{os.getpid()}")
        try:
            self._file = open(self.path, "wb")  # noqa: SIM115
        except OSError as error:
            error.filename = str(self.target)  # people know of no other
            raise
        _lock(self._file.fileno())

    def keep(self) -> None:
        os.replace(self.path, self.target)
        self._file.close()

    def drop(self) -> None:
        """Remove it, unless it was kept."""
        if not self._file.closed:
            self.path.unlink(missing_ok=True)
            self._file.close()


@contextmanager
def written_whole(path: str | Path) -> Iterator[Path]:
    """A name beside `path` to write to: it takes the place of `path` when the block ends well, else it goes."""
    part = Part(path)
    try:
        yield part.path
        part.keep()
    finally:
        part.drop()


def shortened(name: str, room: int) -> str:
    """A name of at most `room` bytes: itself, or its beginning and what tells it from others that begin so."""
    encoded = os.fsencode(name)
    if len(encoded) <= room:
        return name
    mark = f"~{hashlib.sha256(encoded).hexdigest()[:8]}"
    return encoded[: room - len(mark)].decode(errors="ignore") + mark


def name_bytes(folder: Path) -> int:
    """How long a name may be in a folder, bytes."""
    try:
        return os.pathconf(folder, "PC_NAME_MAX")
    except (AttributeError, OSError, ValueError):
        return _USUAL_NAME_BYTES


def _part_stem(target: Path) -> str:
    return shortened(target.name, name_bytes(target.parent) - len(_MARK) - _PID_DIGITS) + _MARK


def _remove_dead(folder: Path, stem: str) -> None:
    """Parts of this stem that no process holds."""
    if fcntl is None:
        return
    found: list[Path] = []
    with suppress(OSError):
        found = [folder / name for name in os.listdir(folder) if name.startswith(stem) and name[len(stem) :].isdigit()]
    for path in found:
        # One whose lock is refused, for whatever reason, is somebody's.
        with suppress(OSError), open(path, "rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink()


def _lock(number: int) -> None:
    if fcntl is not None:
        with suppress(OSError):  # a file system without locks
            fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)


def sha256_of(*paths: Path) -> str:
    """Hex digest of the contents of files, one after another."""
    digest = hashlib.sha256()
    for path in paths:
        with open(path, "rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def unused(path: Path) -> Path:
    """`path`, or the first of `NAME-2.EXT`, `NAME-3.EXT` ... that is not there yet."""
    return _next_free(path, 2) if path.exists() else path


def set_aside(path: Path) -> None:
    """Give an existing file the name `NAME-1.EXT`, or that of the next free number."""
    if path.exists():
        path.rename(_next_free(path, 1))


def _next_free(path: Path, first: int) -> Path:
    names = (path.with_name(f"{path.stem}-{n}{path.suffix}") for n in count(first))
    return next(name for name in names if not name.exists())
