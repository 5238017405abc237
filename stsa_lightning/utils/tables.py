"""Lists and tables that people write: any encoding and separator that spreadsheets and editors save."""

from __future__ import annotations

import codecs
import csv
import io
import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from stsa_lightning.utils.errors import UserError
from stsa_lightning.utils.examine import not_a_file

SEPARATORS = (",", ";", "\t", "|")
_ADVICE = "save it as text in UTF-8 (in a spreadsheet: CSV UTF-8)"
_MARKS = {  # UTF-32's little-endian mark begins like UTF-16's
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
# What a text may be in that is no Unicode: of Windows, of the Macintosh, of DOS and of older systems, the commonest
# first. Nothing in such a file tells which.
LEGACY = (
    *("cp1252", "cp1250", "cp1251", "cp1253", "cp1254", "cp1255", "cp1256", "cp1257", "cp1258", "cp874"),
    *("gb18030", "cp932", "cp950", "cp949", "euc_jp", "big5hkscs"),
    *("mac_roman", "mac_latin2", "mac_cyrillic", "mac_greek", "mac_turkish"),
    *("cp850", "cp437", "cp852", "cp866", "cp855", "cp857", "cp737", "cp862", "cp865", "koi8_r", "koi8_u"),
    *("iso8859_2", "iso8859_5", "iso8859_7", "iso8859_9", "iso8859_15"),
)
_CONTROLS = re.compile(r"[\x80-\x84\x86-\x9f]")  # a legacy text that has them is in another encoding
_NOT_TEXT = re.compile(r"[\x00-\x08\x0e-\x1f]")


@dataclass(frozen=True)
class Text:
    """A file's text with `\\n` for every line end, and the encoding that it was read in.

    `others`: readings in other encodings that are as likely, for nothing tells which it is.
    """

    path: Path
    text: str
    encoding: str
    others: tuple[Text, ...] = ()

    @property
    def doubt(self) -> str:
        """What to add to a message about a name of this file that is not found; empty where its encoding is sure."""
        if not self.others:
            return ""
        return (
            f"; {self.path.name} is not UTF-8 and was read as {self.encoding}: if names look wrong, name its encoding, "
            f"or {_ADVICE}"
        )


@dataclass(frozen=True)
class Row:
    """A line of a list: where it stands, for messages, and its fields."""

    where: str
    fields: list[str]


def read_text(path: str | Path, encoding: str | None = None, found: Callable[[Text], int] | None = None) -> Text:
    """Read a text in UTF-8, UTF-16 or UTF-32, by its byte order mark or its zero bytes, else in one of `LEGACY`.

    Args:
        encoding: what it is in, where that is known; any that Python knows.
        found: how many of the names in a reading are there. Of legacy encodings the one with most is taken, of several
            with as many the first.

    Raises:
        FileNotFoundError: there is no such file.
        UserError: it cannot be opened, or is no text in any of these; the message says how to save it.
    """
    path = Path(path)
    if not path.is_file():
        raise not_a_file(path, "file")
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    if data.startswith(b"PK\x03\x04"):
        raise UserError(f"{path}: expected text, found a workbook or an archive; {_ADVICE}")
    known = checked_encoding(encoding) if encoding else _unicode(data)
    if known is None:
        return _likeliest(path, data, found)
    try:
        text = data.decode(known)
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise UserError(f"{path}: line {line}: expected {known}, found bytes that are none; {_ADVICE}") from None
    return _text(path, text, known)


def read_yaml(path: Path) -> Any:
    """What a YAML file says, in any encoding of `read_text`.

    Raises:
        UserError: it is damaged; as `read_text`.
    """
    import yaml

    try:
        return yaml.safe_load(read_text(path).text)
    except yaml.YAMLError as error:
        raise UserError(f"{path}: expected YAML, found a damaged file ({error})") from None


def checked_encoding(name: str) -> str:
    """The name of an encoding as Python has it.

    Raises:
        UserError: there is none of this name.
    """
    try:
        io.TextIOWrapper(io.BytesIO(), encoding=name).close()  # other than a look-up it refuses base64 and the like
    except LookupError:
        raise UserError(
            f"--encoding: expected the name of an encoding, such as cp1251 or gb18030, got {name!r}"
        ) from None
    return codecs.lookup(name).name


def _text(path: Path, text: str, encoding: str) -> Text:
    if odd := _NOT_TEXT.search(text):
        line = text.count("\n", 0, odd.start()) + 1
        raise UserError(f"{path}: line {line}: expected text, found the byte {ord(odd[0])}; {_ADVICE}")
    # Files that were joined have their marks in between.
    return Text(path, text.replace("\r\n", "\n").replace("\r", "\n").replace("\ufeff", ""), encoding)


def _unicode(data: bytes) -> str | None:
    """The Unicode encoding that a text is in; None: another one."""
    marked = next((encoding for mark, encoding in _MARKS.items() if data.startswith(mark)), None)
    if marked is not None:
        return marked
    # Without a mark: of UTF-16 every second byte is zero wherever it holds separators and Latin letters; no text in
    # the other encodings has any.
    zeros = data[::2].count(0), data[1::2].count(0)
    if max(zeros) > max(len(data) // 16, 4 * min(zeros)):
        return "utf-16-be" if zeros[0] > zeros[1] else "utf-16-le"
    return "utf-8" if _decoded(data, "utf-8") is not None else None


def _likeliest(path: Path, data: bytes, found: Callable[[Text], int] | None) -> Text:
    """Of the readings in legacy encodings the one with most of its names there."""
    readings: dict[str, Text] = {}
    for name in LEGACY:
        for text in (_decoded(data, name), _decoded_by_lines(data, name)):
            if text is not None and not _CONTROLS.search(text):
                readings.setdefault(text, _text(path, text, name))
    # Files may be called by such bytes, too. Last, and always to be had: what matters may be ASCII all the same.
    readings.setdefault(os.fsdecode(data), _text(path, os.fsdecode(data), "bytes as file names have them"))
    texts = list(readings.values())
    counts = [found(text) if found else 0 for text in texts]
    first, *others = (text for text, count in zip(texts, counts, strict=True) if count == max(counts))
    return replace(first, others=tuple(others))


def _decoded(data: bytes, encoding: str) -> str | None:
    try:
        return data.decode(encoding)
    except UnicodeDecodeError:
        return None


def _decoded_by_lines(data: bytes, encoding: str) -> str | None:
    """A text that several programs have added to: its lines in UTF-8 where they are, else in another encoding."""
    lines = [_decoded(line, "utf-8") or _decoded(line, encoding) for line in data.split(b"\n")]
    return None if None in lines else "\n".join(line for line in lines if line is not None)


def list_rows(
    path: str | Path, encoding: str | None = None, known: Callable[[str], bool] | None = None
) -> Iterator[Row]:
    """The lines of a list as words, split at blanks and separators, quotes taken off; empty lines are passed over.

    A first line without a digit is a header.

    `known` says whether there is something of the name that a line begins with, which tells the encoding. Otherwise as
    `read_text`.
    """

    def found(text: Text) -> int:
        return sum(known(row.fields[0]) for row in _word_rows(text)) if known else 0

    return _word_rows(read_text(path, encoding, found))


def _word_rows(text: Text) -> Iterator[Row]:
    for number, line in list_lines(text):
        words = [word.strip("\"'") for word in re.split(r"[\s,;|]+", line)]
        words = [word for word in words if word]
        if words and (number > 1 or re.search(r"\d", line)):
            yield Row(f"{text.path}: line {number}", words)


def list_lines(text: Text) -> Iterator[tuple[int, str]]:
    """Number (from 1) and text of each line that is not empty, without space around it."""
    # Not splitlines, which also ends lines at characters that a name may hold.
    return ((number, line.strip()) for number, line in enumerate(text.text.split("\n"), 1) if line.strip())


def table_rows(text: Text, columns: Sequence[str], optional: Sequence[str] = ()) -> list[Row]:
    """The rows of a table whose first line names its columns; of each row the fields of `columns`, in this order, and
    of `optional`, empty where there are none.

    Fields are separated by commas, semicolons, tabs or bars (`|`), whichever the first line uses, and may stand in
    quotes. Order and case of the names, space around them, and further columns are of no matter.

    Raises:
        UserError: a column is missing or there twice, a line has more fields than the first or lacks one of `columns`,
            a quote is not closed.
    """
    lines = text.text.split("\n")
    separator, start = _separator(lines)
    reader = csv.reader((f"{line}\n" for line in lines[start:]), delimiter=separator, strict=True)
    rows: list[Row] = []
    places: dict[str, int] | None = None
    width, end = 0, start
    try:
        for fields in reader:
            begin, end = end + 1, start + reader.line_num
            fields = [field.strip() for field in fields]
            where = f"{text.path}: line {begin}"
            if not any(fields):
                continue
            if places is None:
                there = [name for name in optional if name in map(str.casefold, fields)]
                places, width = _places(text, fields, [*columns, *there]), len(fields)
                continue
            if any(fields[width:]):
                raise UserError(
                    f"{where}: expected {width} fields as in the first line, got {len(fields)}; a name that holds "
                    f"{separator!r} must stand in quotes"
                )
            found = {name: fields[place] if place < len(fields) else "" for name, place in places.items()}
            chosen = [found[name] for name in columns]
            if not all(chosen):
                empty = next(name for name, field in zip(columns, chosen, strict=True) if not field)
                raise UserError(f"{where}: expected {_listed(columns)}, {empty} is empty")
            chosen += [found.get(name, "") for name in optional]
            rows.append(Row(where, chosen))
    except csv.Error as error:
        raise UserError(f"{text.path}: line {end + 1}: expected fields with closed quotes ({error})") from None
    if places is None:
        _places(text, [], columns)
    return rows


def _separator(lines: list[str]) -> tuple[str, int]:
    """What separates fields, and the number of lines to pass over before the header."""
    for number, line in enumerate(lines):
        if found := re.fullmatch(r'"?sep=([,;\t|])"?[,;\t|]*', line.strip(" "), re.IGNORECASE):  # a line of Excel's own
            return found[1], number + 1
        if line.strip(" ,;\t|"):
            return max(SEPARATORS, key=line.count), number
    return SEPARATORS[0], 0


def _places(text: Text, header: list[str], columns: Sequence[str]) -> dict[str, int]:
    """Where in a row the columns stand."""
    names = [name.casefold() for name in header]
    missing = [name for name in columns if name not in names]
    if missing:
        raise UserError(
            f"{text.path}: expected the columns {', '.join(columns)} in its first line, {', '.join(missing)} is missing"
            + (f" (found {', '.join(header)})" if header else " (it is empty)")
        )
    twice = [name for name in columns if names.count(name) > 1]
    if twice:
        raise UserError(f"{text.path}: expected each column once, found {twice[0]} {names.count(twice[0])} times")
    return {name: names.index(name) for name in columns}


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:-1]) + f" and {names[-1]}" if len(names) > 1 else names[0]
