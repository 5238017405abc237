"""Matroska recordings put end to end, read as one: FFmpeg alone reads the first two."""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterator
from pathlib import Path

from stsa_lightning.utils.errors import UserError

_EBML, _SEGMENT, _TRACKS, _VOID = 0x1A45DFA3, 0x18538067, 0x1654AE6B, 0xEC
# What a recording has beside its clusters: SeekHead, Info, Tracks, Cues, Chapters, Tags, Attachments.
_HEADERS = {_EBML, _SEGMENT, 0x114D9B74, 0x1549A966, _TRACKS, 0x1C53BB6B, 0x1043A770, 0x1254C367, 0x1941A469}


# What a track's entry says of how it is to be decoded, beside its number and type; lists of the others go deeper.
_ENTRY, _NUMBER, _TYPE, _CODEC, _PRIVATE = 0xAE, 0xD7, 0x83, 0x86, 0x63A2
_WIDTH, _HEIGHT, _RATE, _CHANNELS, _BITS = 0xB0, 0xBA, 0xB5, 0x9F, 0x6264
_LISTS, _FORM = (_ENTRY, 0xE0, 0xE1), (_WIDTH, _HEIGHT, _RATE, _CHANNELS, _BITS)
_PICTURE, _SOUND = b"\1", b"\2"  # types of tracks
_OF_ONE_FILE = (b"A_FLAC",)  # codecs whose private data hold sums of the recording, not its form alone

Track = dict[int, bytes]


class RecordingsDifferError(UserError):
    """Recordings put end to end that no decoder takes for one."""


def as_one_recording(path: Path) -> mmap.mmap | None:
    """A file of several recordings as one: the headers of the later ones are blank, their clusters follow the first's.

    Returns:
        The file's bytes, open for reading, with changes that are never written; None for any other file.

    Raises:
        OSError: the file cannot be read.
        RecordingsDifferError: a later recording has a picture or sound of another form under a track's number.
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
    _check_alike(path, [_tracks(data, body, stop) for name, _, body, stop in headers if name == _TRACKS])
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


def _tracks(data: mmap.mmap, at: int, stop: int) -> dict[bytes, Track]:
    """What the list of a recording's tracks says: number -> element -> its bytes."""
    tracks: list[Track] = []
    while at < stop:
        name, size_at, _ = _number(data, at, marked=True)
        size, body, _ = _number(data, size_at, marked=False)
        if not name or body == size_at:
            break
        if name == _ENTRY:
            tracks.append({})
        elif tracks and name in (_NUMBER, _TYPE, _CODEC, _PRIVATE, *_FORM):
            tracks[-1][name] = data[body : body + size].lstrip(b"\0") if name != _PRIVATE else data[body : body + size]
        at = body if name in _LISTS else body + size
    return {track.get(_NUMBER, b""): track for track in tracks}


def _check_alike(path: Path, recordings: list[dict[bytes, Track]]) -> None:
    """Raises RecordingsDifferError where a later recording's tracks are no continuation of the first's."""
    for place, later in enumerate(recordings[1:], 2):
        for number, track in later.items():
            first = recordings[0].get(number, {})
            if not {first.get(_TYPE), track.get(_TYPE)} & {_PICTURE, _SOUND}:
                continue
            if _form(first) != _form(track):
                raise RecordingsDifferError(
                    f"{path}: holds {len(recordings)} recordings end to end whose tracks differ: track "
                    f"{int.from_bytes(number, 'big')} is {_words(first)} in the first, {_words(track)} in number "
                    f"{place}; convert them to one form, or give them one by one"
                )


def _form(track: Track) -> Track:
    ignored = (_PRIVATE,) if track.get(_CODEC) in _OF_ONE_FILE else ()
    return {name: value for name, value in track.items() if name not in ignored}


def _words(track: Track) -> str:
    words = track.get(_CODEC, b"nothing").decode("ascii", "replace")
    if _WIDTH in track and _HEIGHT in track:
        width, height = (int.from_bytes(track[name], "big") for name in (_WIDTH, _HEIGHT))
        return f"{words} of {width} x {height} pixels"
    if len(rate := track.get(_RATE, b"")) in (4, 8):
        return f"{words} of {struct.unpack('>f' if len(rate) == 4 else '>d', rate)[0]:g} Hz"
    return words


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
