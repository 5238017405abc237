"""What every corpus is found as: a list of sources, each a clip to prepare; the error of a tree of another form."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from stsa_lightning.utils.errors import UserError
from stsa_lightning.utils.examine import examine
from stsa_lightning.utils.files import sha256_of
from stsa_lightning.utils.names import legible, some

_CROP_ROUNDING = 0.02  # of a crop's side: crops are measured in whole pixels of a smaller copy


class LayoutError(UserError):
    """A tree that is not the corpus it should be."""

    def __init__(self, root: Path, what: str, tree: str, hint: str = "") -> None:
        """`what` is amiss; `tree` draws what was expected; what was found is added."""
        drawn = "\n".join(f"    {line}" for line in tree.strip().splitlines())
        found = "\n".join(f"    {line}" for line in _first_entries(root)) or "    (nothing)"
        super().__init__(f"{root}: {what}\n  expected:\n{drawn}\n  found:\n{found}" + (f"\n  {hint}" if hint else ""))


class MissingVideosWarning(UserWarning):
    """Part of a corpus is not on the disk, or not usable; the rest is prepared."""


class OtherFilesWarning(UserWarning):
    """A folder of videos holds other files."""


@dataclass(frozen=True)
class Source:
    """One clip to be made of a video, or of a part of one.

    Attributes:
        relative: its path below the corpus's folder, with forward slashes, as valid text (`legible`).
        speaker: who speaks; a split by speaker goes by it.
        clip: name, unique in the corpus: SPEAKER/...
        bytes: size of what is read, the sound file included; with `mtime_ns` it tells whether a source changed.
        split: "train", "val" or "test" by the corpus's authors; "" where they say nothing.
        language: of the speech, ISO 639-1 ("en", "zh"); "" where unknown.
        audio: the sound, where it lies in a file of its own; None: in the video.
        start_s: where in the video (and its sound) the clip begins, seconds; None: at its start.
        stop_s: where it ends; None: at its end.
        crop: x, y, width, height of the part of the picture to use, pixels of a frame `crop_height` high; see
            `crop_box`. None: the whole picture.
        crop_height: height of the frame that `crop` was measured in, pixels; None: the video's own.
        fault: why it cannot be prepared, which shows before it is opened, in words that follow its name; "": it may be.
    """

    path: Path
    relative: str
    speaker: str
    clip: str
    bytes: int
    mtime_ns: int
    split: str = ""
    language: str = ""
    audio: Path | None = None
    start_s: float | None = None
    stop_s: float | None = None
    crop: tuple[int, int, int, int] | None = None
    crop_height: int | None = None
    fault: str = ""

    def absolute(self) -> Source:
        """The same, found from any folder."""
        return replace(self, path=self.path.absolute(), audio=self.audio and self.audio.absolute())

    @property
    def part(self) -> str:
        """Which part of the video it is, as text ("" for all of it); another part of the same file is another clip."""
        words = []
        if self.start_s is not None or self.stop_s is not None:
            words.append(f"{self.start_s or 0:g}-{'' if self.stop_s is None else format(self.stop_s, 'g')} s")
        if self.crop is not None:
            x, y, width, height = self.crop
            words.append(f"{width}x{height}+{x}+{y}" + (f" of {self.crop_height} lines" if self.crop_height else ""))
        return ", ".join(words)

    def crop_box(self, width: int, height: int) -> tuple[int, int, int, int]:
        """The part of a frame of this size (pixels) that belongs to the clip: x, y, width, height, within the frame.

        A crop measured in a copy of another resolution is scaled; what rounding lets it stand out is cut off. All of
        the frame where there is no crop.

        Raises:
            UserError: the crop lies outside of the frame, or stands out of it further.
        """
        if self.crop is None:
            return (0, 0, width, height)
        scale = height / self.crop_height if self.crop_height else 1.0
        x, y, wide, high = (round(scale * value) for value in self.crop)
        left, top = max(x, 0), max(y, 0)
        right, bottom = min(x + wide, width), min(y + high, height)
        if min(right - left, bottom - top) <= 0:
            where = "outside"
        elif (right - left) < (1 - _CROP_ROUNDING) * wide or (bottom - top) < (1 - _CROP_ROUNDING) * high:
            where = "partly outside"
        else:
            return left, top, right - left, bottom - top
        scaled = f" ({scale:.3g} times as many pixels as in the list)" if scale != 1 else ""
        raise UserError(
            f"the crop lies {where} the picture: {wide}x{high} pixels from ({x}, {y}) on{scaled}, in a picture of "
            f"{width}x{height}; another version of the video?"
        )

    def sha256(self) -> str:
        """Hex digest of the contents: the video, and the sound where it lies apart."""
        return _contents(self.path, self.audio, self.bytes, self.mtime_ns)


@lru_cache(maxsize=64)  # dozens of clips are cut from one long video
def _contents(video: Path, audio: Path | None, size: int, mtime_ns: int) -> str:
    return sha256_of(video, *([audio] if audio else []))


def source_of(root: Path, path: Path, *, audio: Path | None = None, fault: str = "", **named: Any) -> Source:
    """A source of a whole file, named relative to `root`; size, time and faults are asked of the disk.

    Args:
        fault: what is known to be amiss already.
        named: speaker, clip, split and language, see `Source`.

    Raises:
        FileNotFoundError: the video, or the sound file, is not there.
    """
    parts = {"": examine(path), **({"its sound, a file of its own, ": examine(audio)} if audio else {})}
    return Source(
        path=path,
        relative=legible(Path(os.path.relpath(path, root)).as_posix()),  # LRS2's pretrain may lie beside the root
        bytes=sum(part.bytes for part in parts.values()),
        mtime_ns=max(part.mtime_ns for part in parts.values()),
        audio=audio,
        fault=fault or next((f"{whose}{part.fault}" for whose, part in parts.items() if part.fault), ""),
        **named,
    )


def existing_folder(root: Path | str) -> Path:
    """The folder as a path; raises FileNotFoundError where there is none."""
    root = Path(root)
    if not root.is_dir():
        raise FileNotFoundError(f"{root}: no such folder of videos")
    return root


def first_there(places: Iterable[Path], *names: str) -> Path | None:
    """The first file of one of these names, name by name within each folder."""
    return next((place / name for place in places for name in names if (place / name).is_file()), None)


def splits_by_name(root: Path, lists: dict[str, Iterable[str]]) -> dict[str, str]:
    """Name -> split, from split -> names; raises UserError for a name in the lists of two splits."""
    splits: dict[str, str] = {}
    for split, names in lists.items():
        for name in names:
            if splits.setdefault(name, split) != split:
                raise UserError(
                    f"{root}: expected each clip in one list, found {name} in {splits[name]} and in {split}"
                )
    return splits


def report_missing(root: Path, missing: Sequence[str], total: int, why: str) -> None:
    """A warning that counts what of a corpus is left out, and names some of it."""
    if missing:
        warnings.warn(
            f"{root}: {len(missing)} of {total} clips are left out: {why} ({some_missing(missing)})",
            MissingVideosWarning,
            stacklevel=3,
        )


def those_there(root: Path, tree: str, named: Mapping[str, Callable[[], Source]]) -> list[Source]:
    """The sources of the videos that lists name (by file name) and that are there, as `unique_clips`.

    Raises:
        LayoutError: none of them is there.

    Warns:
        MissingVideosWarning: some are not.
    """
    sources, missing = [], []
    for name, make in named.items():
        try:
            sources.append(make())
        except FileNotFoundError:
            missing.append(name)
    if not sources:
        raise LayoutError(
            root, f"none of the {len(named)} videos that the lists name is there ({some_missing(missing, 1)})", tree
        )
    report_missing(root, missing, len(named), "named by the lists, but not there")
    return unique_clips(root, sources)


def unique_clips(root: Path, sources: Iterable[Source]) -> list[Source]:
    """The sources, sorted by path (clips of one video by name).

    Raises:
        UserError: two of one clip name.
    """
    by_clip: dict[str, Source] = {}
    for source in sorted(sources, key=lambda source: (bool(source.fault), source.relative)):
        if source.fault and source.clip in by_clip:  # it only needs a line of its own in the index
            source = replace(source, clip=f"{source.clip} ({source.relative})")
        other = by_clip.setdefault(source.clip, source)
        if other is not source:
            raise UserError(
                f"{root}: {other.relative} and {source.relative} would both become the clip {source.clip}; "
                f"rename one, or move the videos of a speaker into one folder"
            )
    return sorted(by_clip.values(), key=lambda source: (source.relative, source.clip))


def some_missing(names: Sequence[str], count: int = 3) -> str:
    """The first of the names that nothing has, for a message; and where they may come from, if they are no ASCII."""
    odd = "" if all(map(str.isascii, names)) else "; if names look wrong, give the encoding of the lists: --encoding"
    return some(list(map(legible, names)), count) + odd


def _first_entries(root: Path, count: int = 8) -> list[str]:
    """The first entries of a folder, and one step into its first subfolder."""
    entries = sorted(entry for entry in root.iterdir() if not entry.name.startswith("."))
    lines = [f"{legible(entry.name)}{'/' if entry.is_dir() else ''}" for entry in entries[:count]]
    if len(entries) > count:
        lines.append(f"... {len(entries)} entries in all")
    for folder in [entry for entry in entries if entry.is_dir()][:1]:
        with suppress(OSError):  # it may not be entered
            inside = sorted(f"{folder.name}/{entry.name}{'/' if entry.is_dir() else ''}" for entry in folder.iterdir())
            lines += map(legible, inside[:3])
    return lines
