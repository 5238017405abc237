"""LRS2: sentences from British television, 160 px, 25 frames/s, with the lists of its authors.

Certain (many public loaders agree): `mvlrs_v1/main/<id>/<clip>.mp4` with a transcript `.txt` beside each,
`mvlrs_v1/pretrain/` in the same form; the lists `train.txt`, `val.txt`, `test.txt` (of `main`) and `pretrain.txt` are
downloads of their own, one `<id>/<clip>` on a line, in `test.txt` followed by `NF` or `MV`. Assumed: that `<id>` stands
for one speaker (it is a broadcast), and that the marks mean near-frontal and multi-view; they are not used.
"""

from __future__ import annotations

import os
import warnings
from functools import partial
from pathlib import Path

from stsa_lightning.data.corpora.source import (
    LayoutError,
    MissingVideosWarning,
    Source,
    existing_folder,
    first_there,
    source_of,
    splits_by_name,
    those_there,
)
from stsa_lightning.utils.errors import UserError
from stsa_lightning.utils.tables import list_rows

TREE = """
mvlrs_v1/                       <- --root (or the folder above it)
  main/5535415699068794046/00001.mp4, 00001.txt
  pretrain/5535415699068794046/00003.mp4   (used by --with-pretrain)
train.txt, val.txt, test.txt    beside mvlrs_v1, in it, or in --lists: 5535415699068794046/00001 on each line
"""
SPLITS = ("train", "val", "test")


def find(
    root: Path | str, lists: Path | str | None = None, with_pretrain: bool = False, encoding: str | None = None
) -> list[Source]:
    """The clips that the lists name, each with its split; the speaker is the folder `<id>`.

    A clip of `pretrain` trains, is called `<id>/pretrain/<clip>`, and is left out if its broadcast validates or tests.
    Without `pretrain.txt` all of the folder is taken.

    Args:
        root: `mvlrs_v1`, the folder above it, or its `main`.
        lists: folder of the lists; None: looked for beside and in `mvlrs_v1`.
        with_pretrain: use `pretrain` too (twice as many clips as `main`).
        encoding: of the lists; None: told by themselves, or by which videos there are.

    Raises, and warns, as `find_sources`; UserError also for a line that names no clip, or a clip in two lists.
    """
    root = existing_folder(root)
    base = next((folder for folder in (root, root / "mvlrs_v1", root.parent) if (folder / "main").is_dir()), None)
    if base is None or (base == root.parent and root.name not in {"main", "pretrain"}):
        raise LayoutError(root, "expected LRS2 as its authors give it out, found no folder main", TREE)
    places = [existing_folder(lists)] if lists else [base, base.parent, base / "main", base.parent / "filelists"]
    paths = {name: first_there(places, f"{name}.txt") for name in SPLITS}
    if not any(paths.values()):
        raise LayoutError(
            root,
            "expected the lists train.txt, val.txt and test.txt, found none of them",
            TREE,
            "they are downloads of their own on LRS2's page; or leave the authors' split aside: "
            f"stsa prepare folder --root {base / 'main'}",
        )
    if absent := [name for name, path in paths.items() if path is None]:
        warnings.warn(
            f"{root}: no {', '.join(f'{name}.txt' for name in absent)}: no clips of this split",
            MissingVideosWarning,
            stacklevel=2,
        )
    main = base / "main"
    splits = splits_by_name(root, {split: _names(path, main, encoding) for split, path in paths.items() if path})
    named = [("main", name, split) for name, split in splits.items()]
    if with_pretrain:
        held_out = {name.split("/")[0] for _, name, split in named if split != "train"}
        pretrain = [name for name in _pretrain(base, places, encoding) if name.split("/")[0] not in held_out]
        named += [("pretrain", name, "train") for name in pretrain]
    return _sources(root, base, named)


def _sources(root: Path, base: Path, named: list[tuple[str, str, str]]) -> list[Source]:
    builders = {}
    for part, name, split in named:
        speaker, clip = name.split("/")
        inside = clip if part == "main" else f"pretrain/{clip}"
        file = f"{part}/{name}.mp4"
        builders[file] = partial(
            source_of, root, base / file, speaker=speaker, clip=f"{speaker}/{inside}", split=split, language="en"
        )
    return those_there(root, TREE, builders)


def _pretrain(base: Path, places: list[Path], encoding: str | None) -> list[str]:
    if listed := first_there(places, "pretrain.txt"):
        return _names(listed, base / "pretrain", encoding)
    if not (base / "pretrain").is_dir():
        raise LayoutError(base, "--with-pretrain: expected the folder pretrain, found none", TREE)
    return sorted(f"{path.parent.name}/{path.stem}" for path in (base / "pretrain").glob("*/*.mp4"))


def _names(path: Path, videos: Path, encoding: str | None) -> list[str]:
    names = []
    for row in list_rows(path, encoding, lambda word: os.path.exists(videos / f"{_name(word)}.mp4")):
        name = _name(row.fields[0])
        if name.count("/") != 1 or not all(name.split("/")):
            found = " ".join(row.fields)
            raise UserError(f"{row.where}: expected ID/CLIP such as 5535415699068794046/00001, got {found!r}")
        names.append(name)
    return names


def _name(word: str) -> str:
    return word.replace("\\", "/").removesuffix(".mp4")
