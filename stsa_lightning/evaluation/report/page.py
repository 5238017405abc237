"""One self-contained page: tables, plots with intervals, the best and the worst clips side by side."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from stsa_lightning.evaluation.clip_sample import GROUND_TRUTH
from stsa_lightning.evaluation.metrics.columns import Column
from stsa_lightning.evaluation.pictures import COLUMNS, GAIN
from stsa_lightning.evaluation.report.report import Report
from stsa_lightning.evaluation.report.tables import TASK_TITLES, cell_text, number, settings_lines
from stsa_lightning.evaluation.scoring import ClipScores
from stsa_lightning.utils.files import written_whole
from stsa_lightning.utils.html import data_uri, render

SHOWN = 3  # best and as many worst clips
# What decides which clips are best: the first of these that was measured.
_RANKING = ("lpips_alex_mouth", "psnr_mouth", "psnr_face", "lip_aperture_corr", "lmd", "csim")
_WIDTH, _LEFT, _ROW = 420, 130, 22


def write_page(report: Report, scores: Sequence[ClipScores], path: Path) -> None:
    """Write `report.html`; pictures and plots are within it.

    Raises:
        MissingPackageError: jinja2 is not installed.
    """
    text = render(
        __package__,
        report=report,
        tables=[_table(report, task) for task in report.tasks],
        settings=[line.split(": ", 1) for line in settings_lines(report)],
        galleries=[gallery for task in report.tasks if (gallery := _gallery(report, scores, task))],
        picture_columns=COLUMNS,
        gain=GAIN,
        clips=report.settings.get("clips measured", []),
    )
    with written_whole(path) as part:
        part.write_text(text, encoding="utf-8")


def _table(report: Report, task: str) -> dict[str, Any]:
    """One row per metric and one column per method, so that many metrics fit the page."""
    columns, rows = report.task_columns(task), report.task_rows(task)
    kinds = {report.main: "main", GROUND_TRUTH: "ground_truth"}
    return {
        "title": TASK_TITLES[task],
        "methods": [(row.method, kinds.get(row.method, "")) for row in rows],
        "lines": [
            (column, [_shown(cell_text(row.cells.get(column.name), column)) for row in rows]) for column in columns
        ],
        "tail": [(row.videos, f"{row.unmeasured} of {row.frames}") for row in rows],
        "plots": [plot for column in columns if (plot := _plot(report, task, column))],
    }


def _shown(text: str) -> tuple[str, str]:
    """A value and its interval apart, so that the page can print the latter small."""
    value, _, bounds = text.partition(" [")
    return value, f"[{bounds}" if bounds else ""


def _plot(report: Report, task: str, column: Column) -> dict[str, Any] | None:
    """Means, intervals and single clips of one column; None where nothing finite is there."""
    rows = [row for row in report.task_rows(task) if column.name in row.cells]
    points: dict[str, list[float]] = {
        row.method: [
            abs(clip[column.name]) if column.reduce == "mean_abs" else clip[column.name]
            for clip in report.task_clips(task, row.method)
            if _finite(clip.get(column.name))
        ]
        for row in rows
    }
    cells = [row.cells[column.name] for row in rows]
    means = [value for cell in cells for value in (cell.value, cell.low, cell.high)]
    values = [value for value in (*means, *(p for dots in points.values() for p in dots)) if _finite(value)]
    if not values:
        return None
    start, stop = min(values), max(values)
    start, stop = (start - 1, stop + 1) if start == stop else (start, stop)

    def place(value: float) -> float | None:
        share = (value - start) / (stop - start)
        return round(_LEFT + 8 + share * (_WIDTH - _LEFT - 70), 1) if _finite(value) else None

    lines = []
    for index, row in enumerate(rows):
        cell = row.cells[column.name]
        kind = "main" if row.method == report.main else "ground_truth" if row.method == GROUND_TRUTH else "other"
        dots = [x for value in points[row.method] if (x := place(value)) is not None]
        # In pixels: mean, interval, and each clip's own value.
        places = {"x": place(cell.value), "low": place(cell.low), "high": place(cell.high), "dots": dots}
        shown = {"method": row.method, "label": number(cell.value, column.digits), "kind": kind}
        lines.append({**shown, **places, "y": 14 + index * _ROW})
    return {
        "heading": column.heading,
        "lines": lines,
        "width": _WIDTH,
        "height": 30 + len(rows) * _ROW,
        "left": _LEFT,
        "right": _WIDTH - 62,
        "start": number(start, column.digits),
        "stop": number(stop, column.digits),
    }


def _finite(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def ranked(report: Report, task: str) -> tuple[Column | None, list[str]]:
    """Clips of the main method from best to worst, and by which column."""
    by_name = {column.name: column for column in report.columns}
    clips = report.task_clips(task, report.main)
    for name in _RANKING:
        measured = {clip["clip"]: clip[name] for clip in clips if _finite(clip.get(name))}
        if measured:
            column = by_name[name]
            return column, sorted(measured, key=measured.__getitem__, reverse=column.better == "higher")
    return None, [clip["clip"] for clip in clips]


def _gallery(report: Report, scores: Sequence[ClipScores], task: str) -> dict[str, Any] | None:
    column, order = ranked(report, task)
    pictures = {clip.clip: clip.pictures[task] for clip in scores if task in clip.pictures}
    if not order:
        return None
    half = min(SHOWN, -(-len(order) // 2))
    best, worst = order[:half], order[half:][-SHOWN:][::-1]
    values = {
        clip["clip"]: number(clip[column.name], column.digits)
        for clip in report.task_clips(task, report.main)
        if column is not None and _finite(clip.get(column.name))
    }
    shown = [
        {"clip": name, "which": which, "value": values.get(name, ""), "uri": data_uri(pictures[name])}
        for which, names in (("best", best), ("worst", worst))
        for name in names
    ]
    return {"title": TASK_TITLES[task], "column": column.heading if column else "", "clips": shown, "task": task}
