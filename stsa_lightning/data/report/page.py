"""The page: everything about a prepared corpus in one HTML file that needs nothing else."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from stsa_lightning.data.filters import Filters, failures, suggested_filters
from stsa_lightning.data.index import load_index
from stsa_lightning.data.measures import MEANINGS
from stsa_lightning.data.report.histograms import HEIGHT, WIDTH, histograms
from stsa_lightning.data.report.tables import Rejection, duration, groups, rejections, removals, speakers
from stsa_lightning.data.report.worst import worst_clips
from stsa_lightning.utils.files import written_whole
from stsa_lightning.utils.html import render

_METHODS = {"syncnet": "SyncNet", "lip_aperture": "the lip aperture", "none": "nothing"}


@dataclass(frozen=True)
class ReportSummary:
    """The report in a few lines, for a terminal: `str(summary)`."""

    page: Path
    counts: str
    sync: str
    rejected: list[Rejection]
    filtered: str

    def __str__(self) -> str:
        lines = [self.counts, self.sync]
        lines += [f"  rejected {kind.count}: {kind.reason}" for kind in self.rejected[:5]]
        if len(self.rejected) > 5:
            lines.append(f"  and {len(self.rejected) - 5} more reasons")
        return "\n".join([*lines, self.filtered, f"report: {self.page}"])


def corpus_report(root: Path | str, out: Path | str, filters: Filters | None = None) -> ReportSummary:
    """Write a page about a prepared corpus; it appears whole or not at all.

    It reads the index, and of the clip files only those of the 20 worst clips, so that it takes seconds whatever the
    corpus's size.

    What the filters would remove is shown; without them, what `suggested_filters` would. Folders of `out` are made.

    Raises:
        FileNotFoundError: no prepared corpus.
        UserError: a damaged index, or filters that do not fit it.
        MissingPackageError: jinja2 is not installed.
    """
    index = load_index(root)
    out = Path(out)
    clips = index[index["status"] == "ok"]
    given = filters is not None and bool(filters.active())
    suggested = suggested_filters(clips)
    chosen = filters if filters is not None and given else suggested
    limits = Filters(**{**suggested.active(), **chosen.active()})  # type: ignore[arg-type]
    kept = clips[~failures(clips, chosen).any(axis=1)]
    refused = rejections(index[index["status"] != "ok"])
    people, all_people = speakers(index, clips)
    facts: dict[str, Any] = {
        "name": Path(root).resolve().name,
        "numbers": _numbers(index, clips),
        "sync": _sync(clips),
        "splits": groups(clips, "split"),
        "languages": groups(clips, "language"),
        "rejections": refused,
        "rejected": len(index) - len(clips),
        "histograms": histograms(clips, limits),
        "width": WIDTH,
        "height": HEIGHT,
        "removals": removals(clips, chosen),
        "given": given,
        "kept": _kept(clips, kept),
        "worst": worst_clips(root, clips, limits),
        "speakers": people,
        "all_speakers": all_people,
        "meanings": MEANINGS,
    }
    page = render(__package__, **facts)
    out.parent.mkdir(parents=True, exist_ok=True)
    with written_whole(out) as part:
        part.write_text(page, encoding="utf-8")
    verb = "the filters keep" if given else "the suggested filters would keep"
    counts = ", ".join(f"{value} {label}" for value, label in facts["numbers"])
    return ReportSummary(out, counts, " ".join(facts["sync"]), refused, f"{verb} {facts['kept']}")


def _numbers(index: pd.DataFrame, clips: pd.DataFrame) -> list[tuple[str, str]]:
    rejected = len(index) - len(clips)
    return [
        (f"{len(clips):,}", "clip" if len(clips) == 1 else "clips"),
        (duration(float(clips["duration_s"].sum())), "of video"),
        (f"{clips['speaker'].nunique():,}", "speaker" if clips["speaker"].nunique() == 1 else "speakers"),
        (f"{rejected:,}", "video rejected" if rejected == 1 else "videos rejected"),
    ]


def _sync(clips: pd.DataFrame) -> list[str]:
    """Sentences about the sync of lips and sound."""
    if clips.empty:
        return ["No clip was prepared."]
    said = []
    for method, count in clips["sync_method"].value_counts().items():
        clear = int(clips.loc[clips["sync_method"] == method, "sync_clear"].astype(bool).sum())
        plural = "s" * (count != 1)
        if method == "none":
            said.append(f"The sync of {count:,} clip{plural} could not be measured.")
        else:
            said.append(f"Sync of {count:,} clip{plural} measured by {_METHODS[str(method)]}, clear for {clear:,}.")
    shifts = clips.loc[clips["sync_shift"] != 0, "sync_shift"]
    if shifts.empty:
        said.append("No sound had to be moved.")
    else:
        span = f"{shifts.min():+d} to {shifts.max():+d}" if shifts.nunique() > 1 else f"{shifts.iloc[0]:+d}"
        said.append(f"The sound of {len(shifts):,} was corrected, by {span} frames.")
    return said


def _kept(clips: pd.DataFrame, kept: pd.DataFrame) -> str:
    share = f" ({len(kept) / len(clips):.0%})" if len(clips) else ""
    times = f"{duration(float(kept['duration_s'].sum()))} of {duration(float(clips['duration_s'].sum()))}"
    return f"{len(kept):,} of {len(clips):,} clips{share}, {times}"
