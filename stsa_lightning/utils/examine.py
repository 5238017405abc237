"""What is wrong with a file that people give, in words for them, before anything reads it."""

from __future__ import annotations

import errno
import os
import stat
from dataclasses import dataclass
from pathlib import Path

from stsa_lightning.utils.errors import UserError
from stsa_lightning.utils.names import legible

_KINDS = {
    stat.S_ISDIR: "is a folder, not a file",
    stat.S_ISFIFO: "is a named pipe, not a file",
    stat.S_ISSOCK: "is a socket, not a file",
    stat.S_ISCHR: "is a device, not a file",
    stat.S_ISBLK: "is a device, not a file",
}
_LOOKED_AT = 4096  # first bytes that tell what is neither video nor sound
# First bytes, in small letters, of what is handed over as a video by mistake: what it is, and what to do.
_FOREIGN = {
    b"version https://git-lfs": ("a pointer of Git LFS", "fetch what it stands for: git lfs pull"),
    b"<!doctype html": ("a web page", "download the file anew"),
    b"<html": ("a web page", "download the file anew"),
    b"<svg": ("a drawing (SVG)", "save it as PNG"),
    b"ffconcat": ("a list of files", "give one of them"),
    b"#extm3u": ("a list of files", "give one of them"),
    b"%pdf-": ("a PDF document", "save its picture as PNG"),
    b"pk\3\4": ("a zip archive", "unpack it"),
    b"rar!\x1a\7": ("a RAR archive", "unpack it"),
    b"7z\xbc\xaf\x27\x1c": ("a 7z archive", "unpack it"),
    b"\x1f\x8b": ("a gzip archive", "unpack it"),
}


@dataclass(frozen=True)
class Examined:
    """Size (bytes) and time of a file; `fault` is why it cannot be read, in words that follow its name, or empty."""

    bytes: int
    mtime_ns: int
    fault: str


def examine(path: Path) -> Examined:
    """What the disk says of a file, without opening it: a pipe would wait for ever.

    Raises:
        FileNotFoundError: there is no such entry, not even a link.
    """
    try:
        found = path.stat()
    except OSError as error:
        return Examined(0, 0, fault_of_link(path, error))
    fault = next((words for is_kind, words in _KINDS.items() if is_kind(found.st_mode)), "")
    if fault:  # a folder's time and size are of no matter
        return Examined(0, 0, fault)
    if not found.st_size:
        fault = "is empty (0 bytes)"
    elif not os.access(path, os.R_OK):
        fault = "may not be read; change its permissions"
    return Examined(found.st_size, found.st_mtime_ns, fault)


def fault_of_link(path: Path, error: OSError) -> str:
    try:
        is_link = stat.S_ISLNK(path.lstat().st_mode)
    except FileNotFoundError:
        raise
    except OSError:  # its folder may not be entered
        is_link = False
    if not is_link:
        return f"cannot be reached ({error.strerror})"
    target = legible(os.readlink(path))
    if isinstance(error, FileNotFoundError):
        return f"is a link to {target}, which is not there"
    if error.errno == errno.ELOOP:
        return f"is a link to {target}, which leads back to it"
    return f"is a link to {target}, which cannot be reached ({error.strerror})"


def check_file(path: Path, wanted: str, error: type[UserError]) -> None:
    """Raises where a path is no file with content: FileNotFoundError, or `error` with what it is."""
    try:
        fault = examine(path).fault
    except FileNotFoundError:
        raise FileNotFoundError(f"{path}: no such {wanted}") from None
    if fault:
        raise error(f"{path}: {fault}")


def not_a_file(path: Path, wanted: str, where: str = "", doubt: str = "") -> OSError | UserError:
    """What to raise where a path is no `wanted` file: none of this name is there, or it is something else.

    The message begins with `where` and, if there is none, ends with `doubt`.
    """
    try:
        check_file(path, wanted, UserError)
    except (OSError, UserError) as error:
        return type(error)(f"{where}{error}{doubt if isinstance(error, OSError) else ''}")
    return FileNotFoundError(f"{where}{path}: no such {wanted}{doubt}")


def fault_of_contents(path: Path) -> str:
    """Why the contents of a file are neither video nor sound, where its first bytes tell; else empty.

    Lists of files (ffconcat, m3u8) are no videos either: decoders would follow them to wherever they lead.
    """
    try:
        with open(path, "rb") as file:
            data = file.read(_LOOKED_AT)
    except OSError as error:
        return f"cannot be opened ({error.strerror})"
    if not data.strip(b"\0"):
        return "holds nothing but zeros" if _is_zero(path) else ""
    begin = data.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    for mark, (what, advice) in _FOREIGN.items():
        if begin.startswith(mark):
            return f"is {what}, neither video nor sound; {advice}"
    is_text = not any(byte < 9 or 13 < byte < 32 for byte in data) and not data.startswith(b"YUV4MPEG2")
    return "is a text, neither video nor sound" if is_text else ""


def _is_zero(path: Path) -> bool:
    with open(path, "rb") as file:
        return not any(block.strip(b"\0") for block in iter(lambda: file.read(1 << 20), b""))
