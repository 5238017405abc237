"""A folder of videos as people have them: every kind of entry that a file system can hold."""

from __future__ import annotations

import os
import shutil
import socket
import unicodedata
from collections.abc import Callable
from pathlib import Path

NAMES = {
    "not UTF-8": b"\xff.mp4",
    "Latin-1": "fran\xe7ois.mp4".encode("latin-1"),
    "newline": b"two\nlines.mp4",
    "tab": b"a\tb.mp4",
    "carriage return": b"a\rb.mp4",
    "escape": b"\x1b[31mred.mp4",
    "emoji": "\U0001f600.mp4".encode(),
    "right to left": "\u05e9\u05dc\u05d5\u05dd.mp4".encode(),
    "turned around": "\u202e4pm.mp4".encode(),
    "line separator": "a\u2028b.mp4".encode(),
    "backslash": b"a\\xff.mp4",
    "brackets": b"[red]a[/blue].mp4",
    "quotes": b"'\"`$(touch x)`.mp4",
    "dash": b"-take.mp4",
    "percent": b"100%s%20{0}.mp4",
    "colon": b"take:2.mp4",
    "space": b" a .mp4",
    "part": b"x.part-1.mp4",
    "decomposed": unicodedata.normalize("NFD", "\xe9t\xe9.mp4").encode(),
    "240 letters": b"a" * 240 + b".mp4",
    "251 letters": b"b" * 251 + b".mp4",
    "252 bytes": "\u4e2d".encode() * 83 + b".mp4",
    "60 emoji": "\U0001f600".encode() * 60 + b".mp4",
    "200 odd bytes": b"\xfe" * 200 + b".mp4",
}


def build(root: Path, video: Path, device: bool = False) -> dict[str, set[str]]:
    """Fill `root`; the names that each kind of entry has, below it, as Python holds them.

    Kinds: "good": to be prepared; "bad": to be rejected; "others" and "hidden": to be counted.
    """
    made: dict[str, set[str]] = {"good": set(), "bad": set(), "others": set(), "hidden": set()}

    def add(kind: str, name: str | bytes, make: Callable[[Path], object]) -> Path:
        path = root / os.fsdecode(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        make(path)
        made[kind].add(os.fsdecode(name))
        return path

    def copy(path: Path) -> None:
        shutil.copyfile(video, path)

    def write(data: bytes) -> Callable[[Path], object]:
        return lambda path: path.write_bytes(data)

    def link(target: str | Path) -> Callable[[Path], object]:
        return lambda path: path.symlink_to(target)

    def bind(path: Path) -> None:
        here = os.open(path.parent, os.O_RDONLY)  # a socket's own path is limited to 108 bytes
        with socket.socket(socket.AF_UNIX) as bound:
            bound.bind(f"/proc/self/fd/{here}/{path.name}")
        os.close(here)

    good = add("good", "ann/good.mp4", copy)
    for suffix in ("MP4", "mov", "m4v", "ts"):
        add("good", f"ann/good.{suffix}", copy)
    for name in NAMES.values():
        add("good", b"odd/" + name, copy)
    add("good", b"odd \xff\n/inside.mp4", copy)
    outside = root.parent / f"{root.name} outside"
    (outside / "folder").mkdir(parents=True)
    copy(outside / "file.mp4")
    copy(outside / "folder" / "in.mp4")
    add("good", "cid/outside.mp4", link(outside / "file.mp4"))
    (root / "cid" / "far").symlink_to(outside / "folder")
    made["good"].add("cid/far/in.mp4")
    add("good", "video.mp4/inside.mp4", copy)

    add("bad", "bob/dead.mp4", link("gone.mp4"))
    add("bad", b"bob/dead \xfe.mp4", link(os.fsdecode(b"gone \xfd")))
    add("bad", "bob/latest", link(".."))
    add("bad", "bob/ann", link("../ann"))
    add("bad", "bob/up", link("../.."))
    add("bad", "bob/itself.mp4", link("itself.mp4"))
    add("bad", "bob/one.mp4", link("two.mp4"))
    add("bad", "bob/two.mp4", link("one.mp4"))
    add("bad", "bob/again.mp4", link("../ann/good.mp4"))
    add("bad", "bob/hard.mp4", lambda path: os.link(good, path))
    add("bad", "bob/null.mp4", link("/dev/null"))
    add("bad", "dev/pipe.mp4", os.mkfifo)
    add("bad", "dev/to_pipe.mp4", link("pipe.mp4"))
    add("bad", "dev/socket.mp4", bind)
    add("bad", "dev/folder.mp4", Path.mkdir)
    if device:
        add("bad", "dev/device.mp4", lambda path: os.mknod(path, 0o20666, os.makedev(1, 5)))
    add("bad", "cut/empty.mp4", write(b""))
    add("bad", "cut/zeros.mp4", write(bytes(5000)))
    add("bad", "cut/text.mp4", write(b"ffconcat version 1.0\nfile /etc/passwd\n"))
    add("bad", "cut/playlist.mkv", write(b"#EXTM3U\n#EXTINF:1,\n/etc/passwd\n"))
    add("bad", "cut/noise.mp4", write(bytes(range(256)) * 40))
    add("bad", "cut/half.mp4", write(video.read_bytes()[: video.stat().st_size // 2]))
    add("bad", "cut/start.mp4", write(video.read_bytes()[:64]))

    add("others", "ann/notes.txt", write(b"notes"))
    add("others", "ann/README", write(b"notes"))
    add("others", "ann/sound.wav", write(b"RIFF1234WAVE"))
    add("others", b"ann/\xff.\xfe", write(b"?"))
    add("others", "dev/pipe", os.mkfifo)
    add("others", "ann/clip.xyz", copy)
    add("hidden", "ann/.hidden.mp4", copy)
    add("hidden", ".git", Path.mkdir)
    add("hidden", "._good.mp4", write(b"x"))
    return made
