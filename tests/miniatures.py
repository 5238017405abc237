"""Miniatures of corpora in their authors' layouts, of the rendered sample's videos."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

ID, OTHER = "5535415699068794046", "6330311066473698535"


def _put(video: Path, to: Path) -> None:
    to.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(video, to)


def hdtf(root: Path, videos: Sequence[Path]) -> Path:
    """Two videos of 256 px, one whose crop was measured at four times its size; 1.6 s of each."""
    for name, video in zip(("Radio1", "WDA_KevinMcCarthy1"), videos, strict=False):
        _put(video, root / f"{name}.mp4")
    lists = {
        "RD_annotion_time.txt": "Radio1.mp4 00:00-00:01.6\n",
        "RD_crop_wh.txt": "Radio1_0.mp4 0 1000 0 1000\n",
        "RD_resolution.txt": "Radio1.mp4 1024\n",
        "WDA_annotion_time.txt": "KevinMcCarthy1.mp4 00:00.2-00:01.8\n",
        "WDA_crop_wh.txt": "KevinMcCarthy1_0.mp4 0 256 0 256\n",
        "WDA_resolution.txt": "KevinMcCarthy1.mp4 256\n",
    }
    for name, text in lists.items():
        (root / name).write_text(text)
    return root


def lrs2(root: Path, videos: Sequence[Path]) -> Path:
    """Two clips that test, of two broadcasts, and one that trains."""
    for name, video in zip((f"{ID}/00001", f"{OTHER}/00011", f"{OTHER}/00012"), [*videos, *videos], strict=False):
        _put(video, root / "mvlrs_v1/main" / f"{name}.mp4")
    for name, text in {"train": f"{OTHER}/00012\n", "val": "\n", "test": f"{ID}/00001 NF\n{OTHER}/00011 NF\n"}.items():
        (root / f"{name}.txt").write_text(text)
    return root


def cmlr(root: Path, videos: Sequence[Path]) -> Path:
    """Two sentences that test, of two speakers."""
    names = ("s1/20120904/section_4_003", "s11/20170121/section_2_005")
    for name, video in zip(names, videos, strict=False):
        _put(video, root / f"video/{name}.mp4")
    for part, lines in {"train": "", "val": "", "test": "\n".join(names)}.items():
        (root / f"{part}.csv").write_text(lines + "\n")
    return root
