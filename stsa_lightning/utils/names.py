"""Names of files as text: any bytes that a file may be called by, visible on a terminal, and back."""

from __future__ import annotations

import hashlib
import os
import re
import unicodedata
from collections.abc import Sequence
from pathlib import Path

# Bytes that are no UTF-8 (as Python holds them), control characters, line ends and marks that turn the direction of
# writing, and the backslash, which begins what stands for them.
_ODD = re.compile("[\x00-\x1f\x7f-\x9f\\\\\u2028\u2029\u202a-\u202e\u2066-\u2069\udc80-\udcff]")
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")  # all but tabs and line ends
_ESCAPED = re.compile(rb"\\x([0-9a-f]{2})")
_LONGEST_NAME = 200  # bytes; file systems take 255, of which suffixes and the names of unfinished files need some
_LONGEST_PATH = 2000  # bytes; systems take 4096


def legible(name: str) -> str:
    """A file's name as valid text on one line: a byte of what is none becomes a backslash, x and two digits."""
    return _ODD.sub(lambda odd: "".join(f"\\x{byte:02x}" for byte in os.fsencode(odd[0])), name)


def legible_text(words: str) -> str:
    """A message as valid text, whatever names it quotes."""
    return words.encode(errors="backslashreplace").decode()


def shown_text(words: str) -> str:
    """A message for a terminal, which control characters in the names that it quotes would steer."""
    return _CONTROL.sub(lambda odd: f"\\x{ord(odd[0]):02x}", words)


def some(names: Sequence[str], count: int = 4) -> str:
    """The first names, for a message."""
    return ", ".join(names[:count]) + (", ..." if len(names) > count else "")


def from_legible(text: str) -> str:
    """The name that `legible` made `text` of."""
    return os.fsdecode(_ESCAPED.sub(lambda found: bytes([int(found[1], 16)]), os.fsencode(text)))


def as_stored(path: Path) -> Path:
    """The path, or, where nothing is there, one that is: systems compose the accents of names, or decompose them."""
    forms = (Path(unicodedata.normalize(form, str(path))) for form in ("NFC", "NFD"))
    return path if os.path.exists(path) else next(filter(os.path.exists, forms), path)


def storable(name: str) -> str:
    """A path below a folder, or one like it that file systems take: a part that is too long ends in a hash instead."""
    speaker, _, rest = name.partition("/")
    if len(name.encode()) > _LONGEST_PATH:
        return f"{_short(speaker)}/{_short(rest).replace('/', '~')}"
    return "/".join(map(_short, name.split("/")))


def _short(part: str) -> str:
    data = part.encode()
    if len(data) <= _LONGEST_NAME:
        return part
    digest = hashlib.sha256(data).hexdigest()[:16]
    return f"{data[: _LONGEST_NAME - 40].decode(errors='ignore')}~{digest}"
