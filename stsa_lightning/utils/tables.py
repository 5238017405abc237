"""Lists and tables that people write: any encoding and separator that spreadsheets and editors save."""

from __future__ import annotations

import codecs
import csv
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from stsa_lightning.utils.errors import UserError

SEPARATORS = (",", ";", "\t", "|")
_ADVICE = "save it as text in UTF-8 (in a spreadsheet: CSV UTF-8)"
_MARKS = {  # UTF-32's little-endian mark begins like UTF-16's
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
_NOT_TEXT = re.compile(r"[\x00-\x08\x0e-\x1f]")


@dataclass(frozen=True)
class Text:
    """A file's text with `\\n` for every line end, and the encoding it was read in.

    `guessed`: nothing in the file tells its encoding; Windows-1252 was assumed.
    """

    path: Path
    text: str
    encoding: str
    guessed: bool = False

    @property
    def doubt(self) -> str:
        """What to add to a message about a name of this file that is not found; empty where its encoding is sure."""
        if not self.guessed:
            return ""
        return f"; {self.path.name} is not UTF-8 and was read as Windows-1252: if names look wrong, {_ADVICE}"


@dataclass(frozen=True)
class Row:
    """A line of a list: where it stands, for messages, and its fields."""

    where: str
    fields: list[str]


def read_text(path: str | Path) -> Text:
    """Read a text in UTF-8, UTF-16 or UTF-32, by its byte order mark or its zero bytes, else in Windows-1252.

    Raises:
        FileNotFoundError: there is no such file.
        UserError: it cannot be opened, or is no text in any of these; the message says how to save it.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    if data.startswith(b"PK\x03\x04"):
        raise UserError(f"{path}: expected text, found a workbook or an archive; {_ADVICE}")
    encoding, guessed = _encoding(data)
    try:
        # A guess may be wrong, and what matters in the list may be ASCII all the same.
        text = data.decode(encoding, errors="replace" if guessed else "strict")
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise UserError(f"{path}: line {line}: expected {encoding}, found bytes that are none; {_ADVICE}") from None
    if odd := _NOT_TEXT.search(text):
        line = text.count("\n", 0, odd.start()) + 1
        raise UserError(f"{path}: line {line}: expected text, found the byte {ord(odd[0])}; {_ADVICE}")
    return Text(path, text.replace("\r\n", "\n").replace("\r", "\n"), encoding, guessed)


def _encoding(data: bytes) -> tuple[str, bool]:
    """The encoding of a text, and whether it is a guess."""
    marked = next((encoding for mark, encoding in _MARKS.items() if data.startswith(mark)), None)
    if marked is not None:
        return marked, False
    # Without a mark: of UTF-16 every second byte is zero wherever it holds separators and Latin letters; no text in
    # the other encodings has any.
    zeros = data[::2].count(0), data[1::2].count(0)
    if max(zeros) > max(len(data) // 16, 4 * min(zeros)):
        return ("utf-16-be" if zeros[0] > zeros[1] else "utf-16-le"), False
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        return "cp1252", True
    return "utf-8", False


def list_rows(path: str | Path) -> Iterator[Row]:
    """The lines of a list as words, split at blanks and separators, quotes taken off; empty lines are passed over.

    A first line without a digit is a header.

    Raises:
        As `read_text`.
    """
    for number, line in list_lines(read_text(path)):
        words = [word.strip("\"'") for word in re.split(r"[\s,;|]+", line)]
        words = [word for word in words if word]
        if words and (number > 1 or re.search(r"\d", line)):
            yield Row(f"{path}: line {number}", words)


def list_lines(text: Text) -> Iterator[tuple[int, str]]:
    """Number (from 1) and text of each line that is not empty, without space around it."""
    # Not splitlines, which also ends lines at characters that a name may hold.
    return ((number, line.strip()) for number, line in enumerate(text.text.split("\n"), 1) if line.strip())


def read_table(path: str | Path, columns: Sequence[str]) -> tuple[Text, list[Row]]:
    """The rows of a table whose first line names its columns; of each row the fields of `columns`, in this order.

    Fields are separated by commas, semicolons, tabs or bars (`|`), whichever the first line uses, and may stand in
    quotes. Order and case of the names, space around them, and further columns are of no matter.

    Raises:
        FileNotFoundError: there is no such file.
        UserError: as `read_text`; a column is missing or there twice, a line has more fields than the first or lacks
            one of `columns`, a quote is not closed.
    """
    text = read_text(path)
    lines = text.text.split("\n")
    separator, start = _separator(lines)
    reader = csv.reader((f"{line}\n" for line in lines[start:]), delimiter=separator, strict=True)
    rows: list[Row] = []
    places: list[int] | None = None
    width, end = 0, start
    try:
        for fields in reader:
            begin, end = end + 1, start + reader.line_num
            fields = [field.strip() for field in fields]
            where = f"{text.path}: line {begin}"
            if not any(fields):
                continue
            if places is None:
                places, width = _places(text, fields, columns), len(fields)
                continue
            if any(fields[width:]):
                raise UserError(
                    f"{where}: expected {width} fields as in the first line, got {len(fields)}; a name that holds "
                    f"{separator!r} must stand in quotes"
                )
            chosen = [fields[place] if place < len(fields) else "" for place in places]
            if not all(chosen):
                raise UserError(f"{where}: expected {_listed(columns)}, got {chosen}")
            rows.append(Row(where, chosen))
    except csv.Error as error:
        raise UserError(f"{text.path}: line {end + 1}: expected fields with closed quotes ({error})") from None
    if places is None:
        _places(text, [], columns)
    return text, rows


def _separator(lines: list[str]) -> tuple[str, int]:
    """What separates fields, and the number of lines to pass over before the header."""
    for number, line in enumerate(lines):
        if found := re.fullmatch(r'"?sep=([,;\t|])"?[,;\t|]*', line.strip(" "), re.IGNORECASE):  # a line of Excel's own
            return found[1], number + 1
        if line.strip(" ,;\t|"):
            return max(SEPARATORS, key=line.count), number
    return SEPARATORS[0], 0


def _places(text: Text, header: list[str], columns: Sequence[str]) -> list[int]:
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
    return [names.index(name) for name in columns]


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:-1]) + f" and {names[-1]}" if len(names) > 1 else names[0]
