"""Any tree of videos; a rule says who speaks in each. Trees like VoxCeleb2's and MEAD's have their rule by name."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from stsa_lightning.data.corpora.source import OtherFilesWarning, Source, existing_folder, source_of, unique_clips
from stsa_lightning.data.corpora.tree import VIDEO_SUFFIXES, search
from stsa_lightning.utils.errors import UserError
from stsa_lightning.utils.names import legible


@dataclass(frozen=True)
class Layout:
    """The rules of a known tree.

    Attributes:
        speaker: regular expression, searched for in a video's path below the root; the first group is the speaker.
        splits: a folder's name -> the split of what lies below it.
        audio: path of a video -> where its sound would lie in a file of its own; None: never.
    """

    speaker: str
    splits: dict[str, str]
    audio: Callable[[Path], Path | None] = lambda _path: None


def _mead_audio(path: Path) -> Path | None:
    parts = list(path.parts)
    at = max((i for i, part in enumerate(parts) if part == "video"), default=None)
    # video/VIEW/EMOTION/level_N/001.mp4: the sound is the same for all views.
    return None if at is None else Path(*parts[:at], "audio", *parts[at + 2 :]).with_suffix(".m4a")


LAYOUTS: dict[str, Layout] = {
    # dev/mp4/id00012/21Uxsk56VDQ/00001.mp4; people of test/ do not occur in dev/.
    "voxceleb2": Layout(r"(?:^|/)(id\d{4,6})/", {"dev": "train", "test": "test"}),
    # M003/video/front/angry/level_1/001.mp4 and M003/audio/angry/level_1/001.m4a; W for women.
    "mead": Layout(r"(?:^|/)([MW]\d{3})/", {}, _mead_audio),
}


def find(root: Path | str, speaker: str | None = None, language: str = "") -> list[Source]:
    """All videos below a folder, sorted by path, each real file once; hidden files and folders are passed over.

    An entry that is called a video but cannot be read (a dead link, a pipe), and a folder that cannot be entered or
    was entered already, is a source with a `fault`.

    By default the speaker is the first folder below `root`; of a video that lies in `root` itself, its name without a
    number at the end (`ann_02.mp4`: ann). The clip is called SPEAKER/REST: the path below `root` without the speaker's
    folder and without `.mp4` (other suffixes stay, so that `a.mp4` and `a.avi` are two clips).

    Args:
        speaker: name of a known layout (`LAYOUTS`), or a regular expression, searched for in the path below `root`
            (forward slashes); its first group, or what it matches where it has none, is the speaker.
        language: of the speech in all of them (ISO 639-1).

    Raises, and warns, as `find_sources`; UserError for no video, a bad expression, one that finds no speaker, or two
    videos of one clip name.
    """
    root = existing_folder(root)
    layout = LAYOUTS.get(speaker or "")
    pattern = _compiled(layout.speaker if layout else speaker)
    tree = search(root)
    entries, left_out = list(tree.entries()), tree.left_out()
    if not entries:
        found = f" ({left_out})" if left_out else ""
        raise UserError(f"{root}: expected videos ({', '.join(VIDEO_SUFFIXES)}) at any depth, found none{found}")
    if left_out:
        warnings.warn(f"{root}: {left_out}", OtherFilesWarning, stacklevel=2)
    sources = (_source(root, relative, pattern, layout, language, fault) for relative, fault in entries)
    return unique_clips(root, sources)


def _compiled(pattern: str | None) -> re.Pattern[str] | None:
    try:
        return None if pattern is None else re.compile(pattern)
    except re.error as error:
        raise UserError(
            f"--speaker: expected one of {sorted(LAYOUTS)} or a regular expression, got {pattern!r} ({error})"
        ) from None


def _source(
    root: Path,
    relative: PurePosixPath,
    pattern: re.Pattern[str] | None,
    layout: Layout | None,
    language: str,
    fault: str,
) -> Source:
    path, name = root / relative, PurePosixPath(legible(str(relative)))
    speaker = _speaker(name, None if fault else pattern)
    rest = list(name.parts)
    if speaker in rest[:-1]:
        rest.remove(speaker)
    clip = "/".join([speaker, *rest]).removesuffix(".mp4")
    audio, split = None, ""
    if layout is not None:
        audio = layout.audio(path)
        split = next((layout.splits[part] for part in relative.parts if part in layout.splits), "")
    audio = audio if audio and audio.is_file() else None
    return source_of(root, path, speaker=speaker, clip=clip, audio=audio, split=split, language=language, fault=fault)


def _speaker(relative: PurePosixPath, pattern: re.Pattern[str] | None) -> str:
    if pattern is None:
        return relative.parts[0] if len(relative.parts) > 1 else re.sub(r"(?<=.)[_-]\d+$", "", relative.stem)
    match = pattern.search(str(relative))
    speaker = match and match.group(min(1, pattern.groups))
    if not speaker or "/" in speaker or speaker in {".", ".."}:
        raise UserError(
            f"--speaker: expected {pattern.pattern!r} to find a name without / in {relative}, got {speaker!r}"
        )
    return speaker
