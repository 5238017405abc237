"""Matroska recordings put end to end, read as one: FFmpeg alone reads the first two."""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from pathlib import Path

_EBML, _SEGMENT, _VOID = 0x1A45DFA3, 0x18538067, 0xEC
# What a recording has beside its clusters: SeekHead, Info, Tracks, Cues, Chapters, Tags, Attachments.
_HEADERS = {_EBML, _SEGMENT, 0x114D9B74, 0x1549A966, 0x1654AE6B, 0x1C53BB6B, 0x1043A770, 0x1254C367, 0x1941A469}


def as_one_recording(path: Path) -> mmap.mmap | None:
    """A file of several recordings as one: the headers of the later ones are blank, their clusters follow the first's.

    Returns:
        The file's bytes, open for reading, with changes that are never written; None for any other file.

    Raises:
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        if file.read(4) != _EBML.to_bytes(4, "big"):
            return None
        data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
    headers = [element for element in _elements(data) if element[0] in _HEADERS]  # of the rest there may be millions
    names = [name for name, *_ in headers]
    if names.count(_SEGMENT) < 2:
        data.close()
        return None
    first = names.index(_SEGMENT)
    _, start, body, _ = headers[first]
    data[start + 4 : body] = _size(None, body - start - 4)
    second = next(n for n in range(first + 1, len(names)) if names[n] in (_EBML, _SEGMENT))
    for name, start, body, stop in headers[second:]:
        _blank(data, start, body if name == _SEGMENT else stop)
    return data


def _elements(data: mmap.mmap) -> Iterator[tuple[int, int, int, int]]:
    """EBML elements: name, first byte, first byte of the body, end. Segments are entered, and what has no stated size.

    Ends where something else than elements follows.
    """
    at, several = 0, False
    while at < len(data):
        name, size_at, _ = _number(data, at, marked=True)
        size, body, endless = _number(data, size_at, marked=False)
        if not name or body == size_at:
            return
        stop = len(data) if endless else min(body + size, len(data))
        yield name, at, body, stop
        if name == _SEGMENT and stop == len(data) and not endless and not several:
            return  # the usual file
        several |= name == _SEGMENT
        at = body if endless or name == _SEGMENT else stop


def _number(data: mmap.mmap, at: int, marked: bool) -> tuple[int, int, bool]:
    """A number of EBML's variable length, with its mark of length or without: it, its end, and whether it is "unknown".

    Where there is none, 0 and the place itself.
    """
    length = 9 - data[at].bit_length() if at < len(data) else 9
    if length > 8 or at + length > len(data):
        return 0, at, False
    number = int.from_bytes(data[at : at + length], "big")
    value = number & ((1 << 7 * length) - 1)
    return number if marked else value, at + length, value == (1 << 7 * length) - 1


def _size(size: int | None, length: int) -> bytes:
    """A size as EBML writes it in so many bytes; None: unknown."""
    unknown = (1 << 7 * length) - 1
    return (1 << 7 * length | (unknown if size is None else size)).to_bytes(length, "big")


def _blank(data: mmap.mmap, start: int, stop: int) -> None:
    length = min(8, stop - start - 1)
    data[start : start + 1 + length] = bytes([_VOID]) + _size(stop - start - 1 - length, length)
