"""Lists of segments: who says what from when to when, as CSV, JSON or subtitles (SRT)."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from stsa_lightning.dubbing.people import checked_person
from stsa_lightning.dubbing.report import DubError
from stsa_lightning.utils.examine import not_a_file
from stsa_lightning.utils.names import as_stored
from stsa_lightning.utils.tables import Text, read_text, table_rows

REQUIRED, OPTIONAL = ("start", "speech"), ("end", "face", "speaker", "gain", "offset")
NOBODY = "none"  # a voice without a mouth
SUFFIXES = (".csv", ".json", ".srt")
_TIMECODE = re.compile(r"(?:(?:(\d+):)?(\d{1,2}):)?(\d+(?:[.,]\d*)?)")
_SRT_TIMES = re.compile(r"^\s*(\S+)\s*-->\s*(\S+)")
_SRT_NAME = re.compile(r"^\[([^\]\n]+)\]\s*|^(p\d+)\s*:\s*")  # before a text: who says it


@dataclass(frozen=True)
class Segment:
    """One person's speech in a part of the video.

    Attributes:
        start_s, end_s: of the part, seconds; `end_s` None: where the speech ends.
        speech: a sound file, or a video whose sound is taken.
        face: whose mouth: one of `people.FORMS`, looked at within the segment, or "none" for a voice from off screen.
        speaker: segments of one name are one mouth's; where `face` is "auto", it is looked for in all of them together.
        gain_db: by which the speech is louder (or, below 0, softer) in the result.
        offset_s: second of the speech's file at which it begins.
        where: where in a list it stands, for messages.
    """

    start_s: float
    end_s: float | None
    speech: str | Path
    face: str = "auto"
    speaker: str = ""
    gain_db: float = 0.0
    offset_s: float = 0.0
    where: str = "segment"

    def __post_init__(self) -> None:
        for name, value in (("start", self.start_s), ("offset", self.offset_s)):
            if not (math.isfinite(value) and value >= 0):
                self.refuse(name, "seconds from 0 on", value)
        if self.end_s is not None and not (math.isfinite(self.end_s) and self.end_s > self.start_s):
            self.refuse("end", f"a time after the start, {self.start_s:g} s", self.end_s)
        if not -60 <= self.gain_db <= 60:
            self.refuse("gain", "decibels from -60 to 60", self.gain_db)
        if self.face != NOBODY:
            try:
                checked_person(self.face)
            except DubError as error:
                raise DubError(f"{self.where}, column {error}; or {NOBODY}, for a voice from off screen") from None

    def refuse(self, column: str, expected: str, found: object) -> NoReturn:
        """Raises DubError that names the row and the column."""
        raise DubError(f"{self.where}, column {column}: expected {expected}, got {found!r}")


def read_segments(path: str | Path, folder: str | Path | None = None, encoding: str | None = None) -> list[Segment]:
    """The segments of a list, in the order of their starts.

    CSV: a first line that names the columns start, speech and, where wanted, end, face, speaker, gain (dB), offset.
    JSON: a list of objects with these names, or an object that holds it under "segments". Times are seconds or
    `HH:MM:SS.mmm`; files are relative to the list. SRT: the text is the name of the speech's file, or, with `folder`,
    anything: then the speech is the folder's file of the subtitle's number (`7.wav`, `0007.mp3`, `line_7.wav`). A text
    that begins with `[NAME]` names the face, or else the speaker.

    Args:
        path: ends in .csv, .json or .srt.
        folder: of numbered files, for SRT alone.
        encoding: of the list, where it is not Unicode.

    Raises:
        FileNotFoundError: no such list, or no such speech; the message names the row.
        DubError, UserError: a row that cannot be read; the message names it and its column.
    """
    path = Path(path)
    readers: dict[str, Callable[[Text], Iterator[Segment]]] = {
        ".csv": _csv,
        ".json": _json,
        ".srt": lambda text: _srt(text, None if folder is None else Path(folder)),
    }
    suffix = path.suffix.lower()
    if suffix not in readers:
        raise DubError(f"{path}: expected a list of segments that ends in {', '.join(SUFFIXES)}")
    if folder is not None and suffix != ".srt":
        raise DubError(f"{path}: its rows name their speech; a folder of numbered files goes with .srt alone")
    text = read_text(path, encoding)
    segments = sorted(readers[suffix](text), key=lambda segment: segment.start_s)
    if not segments:
        raise DubError(f"{path}: holds no segments")
    for segment in segments:
        if not Path(segment.speech).is_file():
            raise not_a_file(Path(segment.speech), "file", f"{segment.where}, column speech: ", text.doubt)
    return segments


def _csv(text: Text) -> Iterator[Segment]:
    for row in table_rows(text, REQUIRED, OPTIONAL):
        yield _segment(text, row.where, dict(zip((*REQUIRED, *OPTIONAL), row.fields, strict=True)))


def _json(text: Text) -> Iterator[Segment]:
    try:
        held = json.loads(text.text)
    except json.JSONDecodeError as error:
        raise DubError(f"{text.path}: line {error.lineno}: expected JSON ({error.msg})") from None
    rows = held.get("segments") if isinstance(held, dict) else held
    if not isinstance(rows, list):
        raise DubError(f'{text.path}: expected a list of segments, or an object with such a list under "segments"')
    for number, row in enumerate(rows, 1):
        where = f"{text.path}: segment {number}"
        if not isinstance(row, dict):
            raise DubError(f"{where}: expected an object with {', '.join(REQUIRED)}, got {row!r}")
        unknown = sorted(set(row) - {*REQUIRED, *OPTIONAL, "text"})
        if unknown:
            known = ", ".join((*REQUIRED, *OPTIONAL))
            raise DubError(f"{where}, column {unknown[0]}: expected one of {known}, found no such name")
        yield _segment(text, where, {name: "" if value is None else str(value) for name, value in row.items()})


def _srt(text: Text, folder: Path | None) -> Iterator[Segment]:
    numbered = None if folder is None else _numbered(folder)
    lines = text.text.split("\n")
    starts = [i for i, line in enumerate(lines) if _SRT_TIMES.match(line)]
    for place, (i, following) in enumerate(zip(starts, [*starts[1:], len(lines) + 1], strict=True), 1):
        where = f"{text.path}: line {i + 1}"
        times = _SRT_TIMES.match(lines[i])
        assert times is not None
        stated = lines[i - 1].strip() if i else ""
        number = int(stated) if stated.isdecimal() else place
        said = " ".join(line.strip() for line in lines[i + 1 : following - 1] if line.strip())
        fields = {"start": times[1], "end": times[2]}
        if named := _SRT_NAME.match(said):
            name, said = named[1] or named[2], said[named.end() :]
            fields["face" if _is_face(name) else "speaker"] = name
        fields["speech"] = said if numbered is None else str(_of_number(numbered, number, where, folder))
        yield _segment(text, where, fields)


def _is_face(name: str) -> bool:
    try:
        return name == NOBODY or bool(checked_person(name))
    except DubError:
        return False


def _numbered(folder: Path) -> dict[int, list[Path]]:
    """Files of a folder by the last number in their names."""
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder of numbered speech files")
    found: dict[int, list[Path]] = {}
    for path in sorted(folder.iterdir()):
        if path.is_file() and (numbers := re.findall(r"\d+", path.stem)):
            found.setdefault(int(numbers[-1]), []).append(path.absolute())
    return found


def _of_number(numbered: dict[int, list[Path]], number: int, where: str, folder: Path | None) -> Path:
    paths = numbered.get(number, [])
    if len(paths) == 1:
        return paths[0]
    if not paths:
        raise FileNotFoundError(f"{where}: expected a file numbered {number} in {folder}, found none")
    names = ", ".join(path.name for path in paths[:3])
    raise DubError(f"{where}: expected one file numbered {number} in {folder}, found {names}")


def _segment(text: Text, where: str, fields: dict[str, str]) -> Segment:
    for name in REQUIRED:
        if not fields.get(name):
            raise DubError(f"{where}, column {name}: expected {'a time' if name == 'start' else 'a file'}, found none")
    start_s, end_s = (_time(fields[name], where, name) if fields.get(name) else None for name in ("start", "end"))
    numbers = {name: _decimal(fields.get(name) or "0", where, name) for name in ("gain", "offset")}
    return Segment(
        start_s or 0.0,
        end_s,
        as_stored(text.path.parent / fields["speech"]),
        fields.get("face") or "auto",
        fields.get("speaker") or "",
        numbers["gain"],
        numbers["offset"],
        where,
    )


def _time(value: str, where: str, column: str) -> float:
    """Seconds of `12.5`, `1:02.5` or `00:01:02,500`."""
    found = _TIMECODE.fullmatch(value.strip())
    if found is None:
        raise DubError(f"{where}, column {column}: expected seconds or HH:MM:SS.mmm, got {value!r}")
    hours, minutes, seconds = (float((part or "0").replace(",", ".")) for part in found.groups())
    return 3600 * hours + 60 * minutes + seconds


def _decimal(value: Any, where: str, column: str) -> float:
    try:
        return float(value)
    except ValueError:
        raise DubError(f"{where}, column {column}: expected a number, got {value!r}") from None
