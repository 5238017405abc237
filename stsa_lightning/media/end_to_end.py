"""MP4, QuickTime, WAV and AVI files put end to end by copying, of which decoders read the first alone."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

_ONCE = (b"ftyp", b"moov")  # boxes that a recording has at most once
_FORMS = (b"WAVE", b"AVI ")  # a long AVI has more of another form


def second_recording(path: Path) -> int | None:
    """The byte at which another recording begins; None where there is none, and in files of other kinds.

    Raises:
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        head = file.read(12)
        found = _of_boxes(file) if head[4:8].isalpha() and head[:4] != b"RIFF" else _of_riff(file)
        return next((offset for offset in found if offset), None)


def _of_boxes(file: BinaryIO) -> Iterator[int]:
    """Where `ftyp` and `moov` come again."""
    seen, offset, end = set[bytes](), 0, os.fstat(file.fileno()).st_size
    while offset + 8 <= end:
        file.seek(offset)
        size, kind = struct.unpack(">I4s", file.read(8))
        if kind in seen:
            yield offset
        seen |= {kind} & {*_ONCE}
        if size == 1:
            size = int.from_bytes(file.read(8), "big")
        if size < 8:  # up to the end, or damaged
            return
        offset += size


def _of_riff(file: BinaryIO) -> Iterator[int]:
    """Where a RIFF of the first one's form begins, if that is WAVE or AVI."""
    offset, end, first = 0, os.fstat(file.fileno()).st_size, b""
    while offset + 12 <= end:
        file.seek(offset)
        name, size, form = struct.unpack("<4sI4s", file.read(12))
        first = first or form
        if name != b"RIFF" or first not in _FORMS:
            return
        if form == first:
            yield offset
        offset += 8 + size + size % 2
