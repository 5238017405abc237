"""Corpora in their real layouts: which clips there are, who speaks in each, and which split its authors put it in.

Nothing here opens a video; `stsa_lightning.data.prepare` does.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stsa_lightning.data.corpora import folder
from stsa_lightning.data.corpora.source import VIDEO_SUFFIXES, LayoutError, MissingVideosWarning, Source
from stsa_lightning.errors import UserError

__all__ = ["CORPORA", "VIDEO_SUFFIXES", "Corpus", "LayoutError", "MissingVideosWarning", "Source", "find_sources"]


@dataclass(frozen=True)
class Corpus:
    """A corpus by name.

    Attributes:
        find: (root, options) -> sources.
        text: what it is, a line.
        obtain: how to come by it and prepare it; `{root}`: where the prepared corpus shall lie, `{features}`.
    """

    find: Callable[..., list[Source]]
    text: str
    obtain: str


CORPORA: dict[str, Corpus] = {
    "folder": Corpus(
        folder.find,
        "any tree of videos; the first folder level, or a rule, names the speaker",
        "prepare your videos, one folder for each speaker: "
        "stsa prepare folder --root VIDEOS --out {root} --features {features}",
    ),
}


def find_sources(corpus: str, root: Path | str, **options: Any) -> list[Source]:
    """The clips of a corpus that lie below `root`, sorted.

    Args:
        corpus: a name of `CORPORA`.
        root: where it lies.
        options: of the corpus's own `find`.

    Raises:
        FileNotFoundError: `root` is no folder.
        UserError: an unknown corpus, or a tree of another form (`LayoutError`, which draws both).

    Warns:
        MissingVideosWarning: the corpus's lists name videos that are not there.
    """
    if corpus not in CORPORA:
        raise UserError(f"corpus: expected one of {list(CORPORA)}, got {corpus!r}")
    return CORPORA[corpus].find(root, **options)
