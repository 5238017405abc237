"""CMLR: Mandarin sentences of eleven newsreaders, picture and sound in files of their own.

Certain: 102,072 sentences, split 71,448 / 10,206 / 20,418 by the authors; folders `video`, `audio` and `text`, in each
`<speaker>/<date>/<section>`, such as `video/s9/20120904/section_4_003.mp4` with the sound in
`audio/s9/20120904/section_4_003.wav`. Assumed: that the videos may or may not hold the sound as well (the separate file
wins), and what a line of `train.csv`, `val.csv` and `test.csv` looks like: any field with `s9/20120904/section_4_003`
in it, with or without a folder before and a suffix after, names the sentence; other fields are passed over.

The splits share all speakers: for a test on people never seen give `validation_speakers` when training.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from functools import partial
from pathlib import Path

from stsa_lightning.data.corpora.source import (
    LayoutError,
    Source,
    existing_folder,
    first_there,
    source_of,
    splits_by_name,
    those_there,
)
from stsa_lightning.utils.errors import UserError
from stsa_lightning.utils.tables import Text, list_lines, read_text

TREE = """
CMLR/                                       <- --root
  video/s1 ... s11/20120904/section_4_003.mp4   (or s1 ... s11 right here)
  audio/s1 ... s11/20120904/section_4_003.wav   (not needed where the videos hold the sound)
  train.csv, val.csv, test.csv              here, in video, or in --lists: s1/20120904/section_4_003 on each line
"""
SPLITS = {"train": ("train",), "val": ("val", "valid"), "test": ("test",)}
_SENTENCE = re.compile(r"(?:^|/)(s\d{1,2}/\w+/[^/]+)$")
_SUFFIX = re.compile(r"\.(mp4|avi|wav|txt|csv|align|npy)$")


def find(root: Path | str, lists: Path | str | None = None, encoding: str | None = None) -> list[Source]:
    """The sentences that the lists name, each with its split; all of the tree, without splits, where there are none.

    Args:
        root: folder of `video` and `audio`, or of `s1` ... `s11`.
        lists: folder of the csv files; None: looked for in `root` and in `video`.
        encoding: of the csv files; None: told by themselves, or by which videos there are.

    Raises, and warns, as `find_sources`; UserError also for a line that names no sentence, or a sentence in two lists.
    """
    root = existing_folder(root)
    video = next((folder for folder in (root / "video", root) if any(folder.glob("s[0-9]*/*/*.mp4"))), None)
    if video is None:
        raise LayoutError(root, "expected CMLR as its authors give it out, found no video/s1/DATE/SECTION.mp4", TREE)
    places = [existing_folder(lists)] if lists else [root, video, root.parent]
    splits = _splits(places, video, encoding)
    if not splits and lists:
        raise LayoutError(places[0], "expected the lists train.csv, val.csv and test.csv, found none", TREE)
    splits = splits or {path.relative_to(video).as_posix()[:-4]: "" for path in video.glob("s[0-9]*/*/*.mp4")}
    builders = {}
    for name, split in splits.items():
        builders[f"{name}.mp4"] = partial(
            source_of,
            root,
            video / f"{name}.mp4",
            speaker=name.split("/")[0],
            clip=name,
            audio=first_there((root / "audio", video.parent / "audio"), f"{name}.wav"),
            split=split,
            language="zh",
        )
    return those_there(root, TREE, builders)


def _splits(places: list[Path], video: Path, encoding: str | None) -> dict[str, str]:
    """Sentence -> split, of the lists that there are."""
    lists: dict[str, Iterable[str]] = {}
    for split, names in SPLITS.items():
        if path := first_there(places, *(f"{name}.csv" for name in names)):
            lists[split] = _sentences(path, video, encoding)
    return splits_by_name(places[0], lists)


def _sentences(path: Path, video: Path, encoding: str | None) -> list[str]:
    def found(text: Text) -> int:
        names = (_sentence(line) for _, line in list_lines(text))
        return sum(os.path.exists(video / f"{name}.mp4") for name in names if name)

    sentences = []
    for number, line in list_lines(read_text(path, encoding, found)):
        if name := _sentence(line):
            sentences.append(name)
        elif number > 1:  # the first line may be a header
            raise UserError(
                f"{path}: line {number}: expected a sentence such as s1/20120904/section_4_003, got {line!r}"
            )
    return sentences


def _sentence(line: str) -> str:
    """The name of the sentence that a line of a list holds; empty: none."""
    fields = (_SUFFIX.sub("", field.strip("\"'")) for field in re.split(r"[,;\t ]+", line.replace("\\", "/")))
    return next((match[1] for field in fields if (match := _SENTENCE.search(field))), "")
