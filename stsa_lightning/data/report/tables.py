"""The tables of the report: groups of clips, reasons of rejection, speakers, what filters would remove."""

from __future__ import annotations

import re
from dataclasses import dataclass

import pandas as pd

from stsa_lightning.data.filters import Filters, failures
from stsa_lightning.data.report.worst import LIMIT_NAMES

_EXAMPLES = 3


@dataclass(frozen=True)
class Group:
    name: str
    clips: int
    speakers: int
    time: str
    share: float


@dataclass(frozen=True)
class Rejection:
    """Videos that were rejected for one reason; `examples` are (video, reason in full)."""

    reason: str
    count: int
    examples: list[tuple[str, str]]


@dataclass(frozen=True)
class Speaker:
    """One speaker's clips: medians of their measures, "–" where there is none."""

    name: str
    clips: int
    rejected: int
    time: str
    face_px: str
    yaw_deg: str
    sharpness: str
    corrected: int


@dataclass(frozen=True)
class Removal:
    name: str
    meaning: str
    limit: str
    clips: int
    share: float
    alone: int


def duration(seconds: float) -> str:
    """45 s, 12 min, 3.4 h, 1,200 h."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:,.1f} h" if seconds < 360_000 else f"{seconds / 3600:,.0f} h"


def groups(clips: pd.DataFrame, column: str) -> list[Group]:
    """Clips by a column, the largest group first; nothing where the index names none."""
    if not (clips[column] != "").any():
        return []
    total = max(float(clips["duration_s"].sum()), 1e-9)
    table = clips.groupby(column).agg(clips=("clip", "size"), speakers=("speaker", "nunique"), s=("duration_s", "sum"))
    return [
        Group(str(name) or "not said", int(line.clips), int(line.speakers), duration(line.s), line.s / total)
        for name, line in table.sort_values("s", ascending=False).iterrows()
    ]


def rejections(rejected: pd.DataFrame) -> list[Rejection]:
    """Reasons without their numbers and names, the most frequent first, with examples."""
    kinds = rejected["reason"].map(_kind)
    found = []
    for kind, count in kinds.value_counts().items():
        some = rejected[kinds == kind].head(_EXAMPLES)
        examples = list(zip(some["source"].tolist(), some["reason"].tolist(), strict=True))
        found.append(Rejection(str(kind), int(count), examples))
    return found


def _kind(reason: str) -> str:
    """A reason as a kind of reason: what is quoted, and numbers, become dots."""
    return re.sub(r"\d+(?:\.\d+)?", "…", re.sub(r"'[^']*'|\"[^\"]*\"", "…", reason)) or "no reason given"


def speakers(index: pd.DataFrame, clips: pd.DataFrame, most: int = 50) -> tuple[list[Speaker], int]:
    """Those with the most sound, and how many speakers there are in all (of prepared clips or rejected ones)."""
    refused = index[index["status"] != "ok"].groupby("speaker").size()
    table = clips.groupby("speaker").agg(
        clips=("clip", "size"),
        s=("duration_s", "sum"),
        face_px=("face_px", "median"),
        yaw_deg=("yaw_deg", "median"),
        sharpness=("sharpness", "median"),
    )
    table["corrected"] = (clips["sync_shift"] != 0).groupby(clips["speaker"]).sum()
    table = table.reindex(table.index.union(refused.index))
    table["rejected"] = refused
    counts = ["clips", "rejected", "corrected", "s"]
    table[counts] = table[counts].fillna(0)
    shown = table.sort_values(["s", "rejected"], ascending=False, kind="stable").head(most)
    found = [
        Speaker(
            str(name),
            int(line.clips),
            int(line.rejected),
            duration(line.s),
            _number(line.face_px),
            _number(line.yaw_deg),
            _number(line.sharpness),
            int(line.corrected),
        )
        for name, line in shown.iterrows()
    ]
    return found, len(table)


def removals(clips: pd.DataFrame, filters: Filters) -> list[Removal]:
    failed = failures(clips, filters)
    misses = failed.sum(axis=1)
    return [
        Removal(
            name,
            LIMIT_NAMES[name][0],
            ", ".join(limit) if isinstance(limit, list) else f"{limit:g}{LIMIT_NAMES[name][1]}",
            int(failed[name].sum()),
            float(failed[name].mean()) if len(clips) else 0.0,
            int((failed[name] & (misses == 1)).sum()),
        )
        for name, limit in filters.active().items()
    ]


def _number(value: float) -> str:
    return "–" if pd.isna(value) else f"{value:.0f}"
