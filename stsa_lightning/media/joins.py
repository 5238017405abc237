"""Recordings put end to end: time stamps that begin anew within a file are carried on, as players do.

`cat a.ts b.ts`, video recorders and servers make such files. Their stamps fall back, or jump ahead, where a recording
ends: the next picture then follows the last one without a gap, and the sound keeps its distance from the picture.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stsa_lightning.media.container import open_input, picture_stream

if TYPE_CHECKING:
    from av import Packet
    from av.container import InputContainer

# FFmpeg's names of formats that can be put end to end, and by how much stamps may rise in one step: FFmpeg's own limit,
# or any, where a picture that stands still needs no frames.
_AHEAD_S = {"mpegts": 10.0, "mpeg": 10.0, "flv": float("inf"), "matroska,webm": float("inf")}
# Stamps that fall by more begin anew: by FFmpeg's own limit where a decoder can begin, elsewhere by what the order of
# storing makes of them where times of decoding are missing.
_BACK_S, _BACK_MIDWAY_S = 0.1, 0.5
_NEAR_S = 5.0  # of its picture, a recording's sound begins


@dataclass
class _Part:
    """What one stream has of one recording.

    Attributes:
        packet: number of its first packet in the stream.
        place: of that packet in the file.
        first_s, end_s: when its first frame is shown, and when its last one ends.
    """

    packet: int
    place: int
    first_s: Fraction
    end_s: Fraction


@dataclass(frozen=True)
class Shifts:
    """By how much the stamps of a stream are moved.

    Attributes:
        packets: numbers of the packets with which a move begins, rising, the first 0.
        later_s: the moves, seconds.
    """

    packets: tuple[int, ...] = (0,)
    later_s: tuple[Fraction, ...] = (Fraction(0),)

    def __bool__(self) -> bool:
        return any(self.later_s)


def shifts_of(path: Path, container: InputContainer, stream: Any) -> Shifts:
    """What carries on the stamps of a stream of an opened file. Reads all of a file that might need it, once."""
    if container.format.name not in _AHEAD_S:
        return Shifts()
    status = path.stat()
    return _shifts(str(path), status.st_size, status.st_mtime_ns).get(stream.index, Shifts())


def carried_on(container: InputContainer, stream: Any, shifts: Shifts) -> Iterator[Packet]:
    """Packets of a stream from where the file stands: its beginning, where stamps are moved."""
    if not shifts:
        yield from container.demux(stream)
        return
    for number, packet in enumerate(container.demux(stream)):
        later = round(shifts.later_s[bisect_right(shifts.packets, number) - 1] / packet.time_base)
        packet.pts = None if packet.pts is None else packet.pts + later
        packet.dts = None if packet.dts is None else packet.dts + later
        yield packet


@lru_cache(maxsize=64)
def _shifts(path: str, _size: int, _mtime_ns: int) -> dict[int, Shifts]:
    """Of each stream that needs any, by its index."""
    with open_input(path) as container:
        picture = picture_stream(container)
        if picture is None:
            return {}
        step_s = 1 / Fraction(picture.average_rate or picture.guessed_rate or 25)
        ahead_s = _AHEAD_S[container.format.name]
        parts, index = _parts(container, [picture, *container.streams.audio], step_s, ahead_s), picture.index
    recordings = parts[index]
    if len(recordings) < 2:
        return {}
    later_s = [Fraction(0)]
    for before, after in pairwise(recordings):
        later_s.append(before.end_s + later_s[-1] - after.first_s)
    of_sound = {number: _as_picture(found, recordings, later_s) for number, found in parts.items()}
    return of_sound | {index: Shifts(tuple(part.packet for part in recordings), tuple(later_s))}


def _parts(container: InputContainer, streams: list[Any], step_s: Fraction, ahead_s: float) -> dict[int, list[_Part]]:
    """What each stream has of each recording."""
    parts: dict[int, list[_Part]] = {stream.index: [] for stream in streams}
    numbers, before = dict.fromkeys(parts, 0), dict[int, tuple[Fraction, Fraction]]()
    for place, packet in enumerate(_until_error(container.demux(streams))):
        index = packet.stream.index
        number, numbers[index] = numbers[index], numbers[index] + 1
        if packet.pts is None or not packet.size:
            continue
        base = Fraction(packet.time_base)
        shown_s, decoded_s = packet.pts * base, (packet.pts if packet.dts is None else packet.dts) * base
        end_s = shown_s + (packet.duration * base if packet.duration else step_s)
        # Times of showing fall wherever frames are stored in another order.
        last_shown_s, last_decoded_s = before.get(index, (shown_s, decoded_s))
        before[index] = shown_s, decoded_s
        fell_s = last_decoded_s - decoded_s
        anew = fell_s > (_BACK_S if packet.is_keyframe else _BACK_MIDWAY_S)
        if not parts[index] or anew or shown_s - last_shown_s > ahead_s:
            parts[index].append(_Part(number, place, shown_s, end_s))
        part = parts[index][-1]
        part.first_s, part.end_s = min(part.first_s, shown_s), max(part.end_s, end_s)
    return parts


def _until_error(packets: Iterator[Packet]) -> Iterator[Packet]:
    """Whoever decodes the file tells what is wrong with it."""
    import av

    with suppress(av.error.FFmpegError):
        yield from packets


def _as_picture(parts: list[_Part], recordings: list[_Part], later_s: list[Fraction]) -> Shifts:
    """Sound moved with the picture of its recording: of those that begin when it does, the nearest in the file."""
    packets, moves = [0], [Fraction(0)]
    for part in parts[1:]:
        near = [k for k, picture in enumerate(recordings) if abs(picture.first_s - part.first_s) < _NEAR_S]
        if near:  # elsewhere it is a hole of the sound alone
            packets.append(part.packet)
            moves.append(later_s[min(near, key=lambda k: abs(recordings[k].place - part.place))])
    return Shifts(tuple(packets), tuple(moves))
