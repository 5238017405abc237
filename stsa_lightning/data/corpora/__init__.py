"""Corpora in their real layouts: which clips there are, who speaks in each, and which split its authors put it in.

Nothing here opens a video; `stsa_lightning.data.prepare` does.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stsa_lightning.data.corpora import cmlr, folder, hdtf, lrs2
from stsa_lightning.data.corpora.source import LayoutError, MissingVideosWarning, OtherFilesWarning, Source
from stsa_lightning.data.corpora.tree import VIDEO_SUFFIXES
from stsa_lightning.utils.errors import UserError

__all__ = [
    "CORPORA",
    "VIDEO_SUFFIXES",
    "Corpus",
    "LayoutError",
    "MissingVideosWarning",
    "OtherFilesWarning",
    "Source",
    "find_sources",
]


@dataclass(frozen=True)
class Corpus:
    """A corpus by name.

    Attributes:
        find: (root, options) -> sources.
        obtain: how to come by it and prepare it; `{root}`: where it shall lie, `{features}`: their kind.
    """

    find: Callable[..., list[Source]]
    obtain: str


_OPTIONS = "--out {root} --features {features}"
CORPORA: dict[str, Corpus] = {
    "folder": Corpus(
        folder.find, f"prepare your videos, one folder for each speaker: stsa prepare folder --root VIDEOS {_OPTIONS}"
    ),
    "sample": Corpus(folder.find, f"render and prepare it: stsa prepare sample {_OPTIONS}"),
    "lrs2": Corpus(
        lrs2.find,
        "LRS2 is given to researchers who sign the BBC's agreement "
        "(https://www.robots.ox.ac.uk/~vgg/data/lip_reading/lrs2.html); then: "
        f"stsa prepare lrs2 --root mvlrs_v1 {_OPTIONS}",
    ),
    "hdtf": Corpus(
        hdtf.find,
        "HDTF is lists of public videos (https://github.com/MRzzm/HDTF); obtain the videos; then: "
        f"stsa prepare hdtf --root HDTF {_OPTIONS}",
    ),
    "cmlr": Corpus(
        cmlr.find,
        "CMLR is given to researchers (https://www.vipazoo.cn/CMLR.html); then: "
        f"stsa prepare cmlr --root CMLR {_OPTIONS}",
    ),
}


def find_sources(corpus: str, root: Path | str, **options: Any) -> list[Source]:
    """The clips of a corpus that lie below `root`, sorted; options are those of the corpus's own `find`.

    Raises:
        FileNotFoundError: `root`, or a folder of lists, is no folder.
        UserError: an unknown corpus, or a tree of another form (`LayoutError`, which draws both).

    Warns:
        MissingVideosWarning: the corpus's lists name videos that are not there.
        OtherFilesWarning: a folder of videos holds other files.
    """
    if corpus not in CORPORA:
        raise UserError(f"corpus: expected one of {list(CORPORA)}, got {corpus!r}")
    return CORPORA[corpus].find(root, **options)
