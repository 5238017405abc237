"""Folders of videos as they are: dead links, loops, pipes, names that are no text; each real file is found once."""

from __future__ import annotations

import mimetypes
import os
import stat
from collections import Counter, deque
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from stsa_lightning.utils.examine import examine, fault_of_link
from stsa_lightning.utils.names import legible

# What PyAV reads as video, as cameras, phones, broadcasters and old players call it.
VIDEO_SUFFIXES = (
    *(".mp4", ".m4v", ".mov", ".qt", ".3gp", ".3g2", ".f4v", ".mkv", ".mk3d", ".webm", ".avi", ".divx"),
    *(".mpg", ".mpeg", ".mpe", ".m1v", ".m2v", ".mpv", ".vob", ".ts", ".mts", ".m2ts", ".m2t", ".tod", ".mod"),
    *(".wmv", ".asf", ".flv", ".ogv", ".ogm", ".mxf", ".gxf", ".dv", ".nut", ".rm", ".rmvb", ".amv", ".wtv", ".y4m"),
)
_BESIDE_VIDEOS = (".json", ".txt", ".csv", ".md", ".srt", ".vtt")  # what says something of them
_NO_VIDEO_BRANDS = (b"M4A ", b"M4B ", b"heic", b"heix", b"mif1", b"msf1", b"avif", b"avis", b"jp2 ")


@dataclass
class Tree:
    """What lies below a folder; paths are relative to it.

    Attributes:
        videos: files with a suffix of `VIDEO_SUFFIXES`, sorted, each real file once.
        faults: entry -> why it is none of them, though it seems to be, in words that follow its name.
        unnamed: suffix -> number of files that hold video, but are not called so.
        others: suffix -> number of other files.
        hidden: entries that were passed over, for their names begin with a dot.
    """

    videos: list[PurePosixPath] = field(default_factory=list)
    faults: dict[PurePosixPath, str] = field(default_factory=dict)
    unnamed: Counter[str] = field(default_factory=Counter)
    others: Counter[str] = field(default_factory=Counter)
    hidden: int = 0

    def entries(self) -> Iterator[tuple[PurePosixPath, str]]:
        """Videos and entries at fault, in order of their paths, with the fault or an empty text."""
        yield from sorted([*((video, "") for video in self.videos), *self.faults.items()])

    def left_out(self) -> str:
        """What of the tree is no source, in words; empty where there is nothing."""
        said = []
        if self.unnamed:
            said.append(
                f"{self.unnamed.total()} files hold video, but have another suffix and are left out: "
                f"{_counts(self.unnamed)}; rename them"
            )
        others = Counter({suffix: n for suffix, n in self.others.items() if suffix not in _BESIDE_VIDEOS})
        if others:
            said.append(f"{others.total()} files of other kinds left out: {_counts(others)}")
        if self.hidden:
            said.append(f"{self.hidden} hidden entries passed over")
        return "; ".join(said)


def _counts(suffixes: Counter[str], shown: int = 12) -> str:
    listed = [f"{legible(suffix) or 'no suffix'} ({count})" for suffix, count in sorted(suffixes.items())]
    return ", ".join(listed[:shown]) + (f" and {len(listed) - shown} more suffixes" if len(listed) > shown else "")


def search(root: Path, once: bool = True) -> Tree:
    """All of the tree below a folder. Links are followed, but no folder is entered twice, by whatever way.

    What lies in the tree itself comes before what links lead to; hidden entries are passed over. With `once`, of
    several names of one file (hard links, links) the first counts, and the others are faults.
    """
    walk = _Walk(root, once)
    walk.go()
    walk.tree.videos.sort()
    return walk.tree


class _Walk:
    def __init__(self, root: Path, once: bool) -> None:
        self.root, self.once = root, once
        self.tree = Tree()
        self._folders: dict[tuple[int, int], PurePosixPath] = {}  # by device and number on it
        self._files: dict[tuple[int, int], PurePosixPath] = {}
        self._links: list[PurePosixPath] = []
        self._above = {_identity(folder.stat()) for folder in root.resolve().parents}

    def go(self) -> None:
        self._enter(PurePosixPath(), self.root.stat())
        while self._links:
            links, self._links = sorted(self._links), []
            for link in links:
                self._link(link)
        for folder in self._folders.values():
            if _is_video(folder.name) and not any(folder in video.parents for video in self.tree.videos):
                self.tree.faults.setdefault(folder, "is a folder, not a file")

    def _enter(self, folder: PurePosixPath, found: os.stat_result) -> None:
        """This folder and all below it but what links lead to, which is noted for later."""
        pending = deque([(folder, found)])
        while pending:
            folder, found = pending.popleft()
            first = self._folders.setdefault(_identity(found), folder)
            if first is not folder:
                self.tree.faults[folder] = f"is the folder {legible(str(first))} once more"
                continue
            try:
                with os.scandir(self.root / folder) as entries:
                    listed = sorted(entries, key=lambda entry: entry.name)
            except OSError as error:
                self.tree.faults[folder] = f"is a folder that cannot be opened ({error.strerror})"
                continue
            for entry in listed:
                path = folder / entry.name
                if entry.name.startswith("."):
                    self.tree.hidden += 1
                elif entry.is_symlink():
                    self._links.append(path)
                else:
                    try:
                        status = entry.stat(follow_symlinks=False)
                    except OSError as error:
                        self.tree.faults[path] = f"cannot be reached ({error.strerror})"
                        continue
                    if stat.S_ISDIR(status.st_mode):
                        pending.append((path, status))
                    else:
                        self._file(path, status)

    def _link(self, path: PurePosixPath) -> None:
        try:
            found = (self.root / path).stat()
        except OSError as error:
            self.tree.faults[path] = fault_of_link(self.root / path, error)
            return
        if not stat.S_ISDIR(found.st_mode):
            self._file(path, found)
        elif _identity(found) in self._above:
            self.tree.faults[path] = "is a link to a folder that holds this one: a loop"
        elif (first := self._folders.get(_identity(found))) is not None:
            where = legible(str(first)) if first.parts else "the folder that is searched"
            self.tree.faults[path] = f"is a link to {where}, which counts already"
        else:
            self._enter(path, found)

    def _file(self, path: PurePosixPath, found: os.stat_result) -> None:
        if not _is_video(path.name):
            is_file = stat.S_ISREG(found.st_mode)
            counted = self.tree.unnamed if is_file and _holds_video(self.root / path) else self.tree.others
            counted[path.suffix.lower()] += 1
            return
        if fault := examine(self.root / path).fault:
            self.tree.faults[path] = fault
            return
        first = self._files.setdefault(_identity(found), path)
        if self.once and first is not path:
            self.tree.faults[path] = f"is the file {legible(str(first))} once more"
        else:
            self.tree.videos.append(path)


def _identity(found: os.stat_result) -> tuple[int, int]:
    return found.st_dev, found.st_ino


def _is_video(name: str) -> bool:
    return PurePosixPath(name).suffix.lower() in VIDEO_SUFFIXES


def _holds_video(path: Path) -> bool:
    """Whether the first bytes of a file of another suffix are those of a container of video."""
    kind = mimetypes.guess_type(path.name)[0] or ""
    if kind.split("/")[0] in {"audio", "image", "text"}:
        return False
    data = b""
    with suppress(OSError), open(path, "rb") as file:
        data = file.read(400)
    if data[4:8] == b"ftyp":
        return data[8:12] not in _NO_VIDEO_BRANDS
    if data[:4] == b"RIFF":
        return data[8:12] == b"AVI "
    if data[:1] == b"G":  # MPEG transport stream, in packets of 188 bytes
        return data[188:189] == b"G" and data[376:377] == b"G"
    return data.startswith((b"\x1aE\xdf\xa3", b"FLV\x01", b"0&\xb2u\x8ef\xcf\x11", b"\0\0\x01\xba", b"\x06\x0e+4"))
