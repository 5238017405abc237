"""Which videos lie below a folder, who speaks in each, and what its clip is called."""

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from stsa_lightning.errors import UserError

VIDEO_SUFFIXES = (".mp4", ".mov", ".mkv", ".avi", ".webm", ".mpg", ".m4v")


@dataclass(frozen=True)
class Source:
    """One video. `relative` is its path below the folder, with forward slashes; `clip` is unique in the corpus."""

    path: Path
    relative: str
    speaker: str
    clip: str
    bytes: int
    mtime_ns: int

    def sha256(self) -> str:
        """Hex digest of the file's contents."""
        digest = hashlib.sha256()
        with open(self.path, "rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
        return digest.hexdigest()


def find_sources(root: Path | str, speaker_pattern: str | None = None) -> list[Source]:
    """All videos below a folder, sorted by path; hidden files and folders are passed over.

    The speaker is the first folder below `root`; of a video that lies in `root` itself, its name without a number at
    the end (`ann_02.mp4`: ann). The clip is called SPEAKER/REST: the path below the speaker's folder without `.mp4`
    (other suffixes stay, so that `a.mp4` and `a.avi` are two clips).

    Args:
        root: the folder.
        speaker_pattern: a regular expression, searched for in the path below `root` (forward slashes); its first group,
            or what it matches where it has none, is the speaker.

    Raises:
        FileNotFoundError: `root` is no folder.
        UserError: no video, a bad pattern, one that finds no speaker, or two videos of one clip name.
    """
    root = Path(root)
    if not root.is_dir():
        raise FileNotFoundError(f"{root}: no such folder of videos")
    pattern = _compiled(speaker_pattern)
    sources = [_source(root, relative, pattern) for relative in _videos(root)]
    if not sources:
        raise UserError(f"{root}: expected videos ({', '.join(VIDEO_SUFFIXES)}) at any depth, found none")
    by_clip: dict[str, Source] = {}
    for source in sources:
        other = by_clip.setdefault(source.clip, source)
        if other is not source:
            raise UserError(
                f"{root}: {other.relative} and {source.relative} would both become the clip {source.clip}; "
                f"rename one, or move the videos of a speaker into one folder"
            )
    return sources


def _videos(root: Path) -> list[PurePosixPath]:
    found = []
    for folder, subfolders, files in os.walk(root, followlinks=True):
        subfolders[:] = [name for name in subfolders if not name.startswith(".")]
        below = Path(folder).relative_to(root)
        found += [
            PurePosixPath((below / name).as_posix())
            for name in files
            if not name.startswith(".") and Path(name).suffix.lower() in VIDEO_SUFFIXES
        ]
    return sorted(found)


def _compiled(pattern: str | None) -> re.Pattern[str] | None:
    try:
        return None if pattern is None else re.compile(pattern)
    except re.error as error:
        raise UserError(f"speaker_pattern: expected a regular expression, got {pattern!r} ({error})") from None


def _source(root: Path, relative: PurePosixPath, pattern: re.Pattern[str] | None) -> Source:
    path = root / relative
    stat = path.stat()
    speaker = _speaker(relative, pattern)
    inside = relative.relative_to(speaker) if relative.parts[0] == speaker else relative
    name = inside.with_suffix("") if inside.suffix == ".mp4" else inside
    return Source(path, str(relative), speaker, f"{speaker}/{name}", stat.st_size, stat.st_mtime_ns)


def _speaker(relative: PurePosixPath, pattern: re.Pattern[str] | None) -> str:
    if pattern is None:
        return relative.parts[0] if len(relative.parts) > 1 else re.sub(r"(?<=.)[_-]\d+$", "", relative.stem)
    match = pattern.search(str(relative))
    speaker = match and match.group(min(1, pattern.groups))
    if not speaker or "/" in speaker or speaker in {".", ".."}:
        raise UserError(
            f"speaker_pattern: expected {pattern.pattern!r} to find a name without / in {relative}, got {speaker!r}"
        )
    return speaker
