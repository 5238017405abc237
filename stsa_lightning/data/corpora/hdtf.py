"""HDTF: minutes of talking heads from public videos, by its authors' lists of time ranges and crops.

Certain (the lists themselves): three sets, RD, WDA and WRA; `<set>_annotion_time.txt` (spelt so) with lines like
`Radio11.mp4 00:30-01:00 01:30-02:30`; `<set>_crop_wh.txt`, `Radio11_0.mp4 412 599 0 599`: x, width, y, height of the
first clip; `<set>_resolution.txt`, `Radio11.mp4 720`: lines of the frame that the crops refer to, 0 where unknown.
About fifteen clips have no crop: their authors' own script leaves them out, and so does this. There is no split.

Assumed: that a video is called by its name in the lists (`Radio11.mp4`, or `RD_Radio11.mp4` as public download scripts
write it), and a cut clip `Radio11_0.mp4` or `RD_Radio11_000.mp4`; that the name without the number at its end is the
speaker (`JohnBoehner1`: JohnBoehner), but that each `Radio11` is a speaker of its own, for nothing says who speaks.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Collection
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from pathlib import Path

from stsa_lightning.data.corpora.source import (
    LayoutError,
    MissingVideosWarning,
    Source,
    existing_folder,
    report_missing,
    some_missing,
    source_of,
    unique_clips,
)
from stsa_lightning.data.corpora.tree import search
from stsa_lightning.utils.errors import UserError
from stsa_lightning.utils.names import legible, some
from stsa_lightning.utils.tables import list_rows

TREE = """
HDTF/                           <- --root
  RD_annotion_time.txt, RD_crop_wh.txt, RD_resolution.txt (also WDA_..., WRA_...), here, in a subfolder, or in --lists
  Radio11.mp4 or RD_Radio11.mp4 at any depth: the whole videos, from the addresses in RD_video_url.txt
or
  RD_Radio11_000.mp4 or Radio11_0.mp4 at any depth: clips that are already cut (no lists needed)
"""
_SET = re.compile(r"^(RD|WDA|WRA)_")
_CUT = re.compile(r"(?P<video>.+)_(?P<number>\d{1,3})")


@dataclass(frozen=True)
class Listed:
    """A clip of the lists; `crop` is x, y, width, height in a frame `lines` high (None: unknown).

    `fault`: why it cannot be used, "" where it can.
    """

    video: str
    number: int
    start_s: float
    stop_s: float
    crop: tuple[int, int, int, int] | None
    lines: int | None
    fault: str = ""


def find(root: Path | str, lists: Path | str | None = None, encoding: str | None = None) -> list[Source]:
    """The clips of the lists whose videos are below `root`, or clips that are already cut.

    A clip is called SPEAKER/VIDEO_NUMBER. A cut clip is used as it is; otherwise a clip is a time range and a crop of
    the whole video. Without lists, all cut clips are taken.

    Args:
        lists: folder of the lists; None: looked for below `root`.
        encoding: of the lists; None: told by themselves, or by which videos there are.

    Raises, and warns, as `find_sources`; UserError also for a line of another form; it warns of clips without a crop.
    """
    root = existing_folder(root)
    videos: dict[str, Path] = {}
    tree = search(root, once=False)
    for relative in (*tree.videos, *sorted(tree.faults)):
        videos.setdefault(_SET.sub("", legible(relative.stem)), root / relative)
    listed = read_lists(existing_folder(lists) if lists else root, videos, encoding)
    if not listed:
        return _cut_clips(root, videos)
    cropped = [clip for clip in listed if clip.crop]
    usable = cropped or listed  # without crops at all, whole pictures
    sources, missing = [], []
    for clip in usable:
        cut = videos.get(f"{clip.video}_{clip.number}") or videos.get(f"{clip.video}_{clip.number:03d}")
        if cut:
            sources.append(_source(root, cut, clip.video, clip.number))
        elif whole := videos.get(clip.video):
            source = _source(root, whole, clip.video, clip.number)
            part = {"start_s": clip.start_s, "stop_s": clip.stop_s, "crop": clip.crop, "crop_height": clip.lines}
            sources.append(replace(source, **part, fault=source.fault or clip.fault))  # type: ignore[arg-type]
        else:
            missing.append(f"{clip.video}.mp4")
    if not sources:
        raise LayoutError(
            root,
            f"none of the {len(set(missing))} videos that the lists name is there ({some_missing(missing, 1)})",
            TREE,
        )
    report_missing(root, missing, len(listed), "their videos are not there")
    uncropped = [f"{clip.video}_{clip.number}" for clip in listed if clip not in usable]
    report_missing(root, uncropped, len(listed), "the lists have no crop for them")
    _report_overlaps(root, usable)
    return unique_clips(root, sources)


def speaker(video: str) -> str:
    """Who speaks in a video of this name: JohnBoehner1: JohnBoehner; Radio11: Radio11."""
    return video if re.fullmatch(r"Radio\d+", video) else re.sub(r"(?<=.)\d+$", "", video)


def read_lists(folder: Path, videos: Collection[str] = (), encoding: str | None = None) -> list[Listed]:
    """All clips of the lists below a folder, in their order; empty without `*_annotion_time.txt`.

    Where the encoding of the lists is not given, the names of the videos that are there tell it.

    Raises:
        UserError: a line of another form.
    """
    clips: dict[tuple[str, int], Listed] = {}
    table = partial(_table, videos=videos, encoding=encoding)
    for times in sorted(folder.rglob("*_anno*tion_time.txt")):  # should the spelling be put right one day
        name = times.name.split("_anno")[0]
        crops = table(times.with_name(f"{name}_crop_wh.txt"))
        lines = table(times.with_name(f"{name}_resolution.txt"))
        for video, (where, ranges) in table(times).items():
            for number, text in enumerate(ranges):
                start_s, stop_s = _range(text, where)
                crop = _crop(crops.get(f"{video}_{number}"))
                fault = "" if start_s < stop_s else f"has an empty time range, {text} ({where})"
                clips.setdefault(
                    (video, number), Listed(video, number, start_s, stop_s, crop, _lines(lines.get(video)), fault)
                )
    return list(clips.values())


def _report_overlaps(root: Path, clips: list[Listed]) -> None:
    """A warning about clips of a video that share some of its time."""
    by_start = sorted((clip for clip in clips if not clip.fault), key=lambda clip: (clip.video, clip.start_s))
    shared = [
        f"{one.video}_{one.number} and {other.number}"
        for one, other in pairwise(by_start)
        if one.video == other.video and other.start_s < one.stop_s
    ]
    if shared:
        warnings.warn(
            f"{root}: {len(shared)} pairs of clips overlap in time, and are prepared ({some(shared, 3)})",
            MissingVideosWarning,
            stacklevel=3,
        )


_Row = tuple[str, list[str]]  # where it stands, for messages; the values


def _table(path: Path, videos: Collection[str], encoding: str | None) -> dict[str, _Row]:
    """Name without suffix -> its row of a list; empty where there is no such list."""
    if not path.is_file():
        return {}
    table: dict[str, _Row] = {}
    for row in list_rows(path, encoding, lambda word: re.sub(r"_\d+$", "", _name(word)) in videos):
        name, values = _name(row.fields[0]), row.fields[1:]
        first, known = table.setdefault(name, (row.where, values))
        if known != values:
            raise UserError(f"{row.where}: expected each name once, found {name} here and in {first}")
    return table


def _name(word: str) -> str:
    return legible(word.removesuffix(".mp4"))


def _range(text: str, where: str) -> tuple[float, float]:
    match = re.fullmatch(r"([\d:.]+)-([\d:.]+)", text)
    try:
        start_s, stop_s = (_seconds(part) for part in match.groups()) if match else (0.0, 0.0)
    except ValueError:
        match = None
    if match is None:
        raise UserError(f"{where}: expected a time range such as 00:30-01:00, got {text!r}")
    return start_s, stop_s


def _seconds(text: str) -> float:
    seconds = 0.0
    for part in text.split(":"):
        seconds = 60 * seconds + float(part)
    return seconds


def _crop(row: _Row | None) -> tuple[int, int, int, int] | None:
    if row is None:
        return None
    where, words = row
    if len(words) != 4 or not all(word.isdigit() for word in words):
        raise UserError(f"{where}: expected X WIDTH Y HEIGHT, four whole numbers, got {' '.join(words)!r}")
    x, width, y, height = map(int, words)
    return x, y, width, height


def _lines(row: _Row | None) -> int | None:
    if row is None:
        return None
    where, words = row
    if len(words) != 1 or not words[0].isdigit():
        raise UserError(f"{where}: expected the height of the video's frame, got {' '.join(words)!r}")
    return int(words[0]) or None


def _cut_clips(root: Path, videos: dict[str, Path]) -> list[Source]:
    sources = []
    for name, path in videos.items():
        if match := _CUT.fullmatch(name):
            sources.append(_source(root, path, match["video"], int(match["number"])))
    if not sources:
        raise LayoutError(root, "expected HDTF's lists or cut clips, found neither", TREE)
    return unique_clips(root, sources)


def _source(root: Path, path: Path, video: str, number: int) -> Source:
    who = speaker(video)
    return source_of(root, path, speaker=who, clip=f"{who}/{video}_{number}", language="en")
