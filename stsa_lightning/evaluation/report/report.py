"""The result of an evaluation: rows of values with intervals, and everything they depend on."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from stsa_lightning.evaluation.metrics.columns import Column, MetricValue
from stsa_lightning.evaluation.report.intervals import interval, weighted_mean
from stsa_lightning.evaluation.scoring import ClipScores
from stsa_lightning.utils.errors import UserError
from stsa_lightning.utils.files import written_whole

REPORT_FILE = "report.json"


@dataclass(frozen=True)
class Cell:
    """Mean over clips, its 95 % interval (NaN if there is none), and the number of `videos` measured."""

    value: float
    low: float
    high: float
    videos: int


@dataclass(frozen=True)
class Row:
    """One method under one task: number of `frames` scored, and of those `unmeasured`, in which no face was found."""

    task: str
    method: str
    cells: dict[str, Cell]
    videos: int
    frames: int
    unmeasured: int

    def value(self, column: str) -> float:
        """A column's mean; NaN where it was not measured."""
        return self.cells[column].value if column in self.cells else math.nan


@dataclass(frozen=True)
class Report:
    """Tables and what they depend on.

    Attributes:
        main: the evaluated method.
        settings: printed with every table.
        absent: column -> why it has no values.
        notes: messages of the clips and of the protocol.
        clips: one record for each clip, task and method: the value of each column and, under `weights`, its weight.
        dataset: short name of the corpus.
        protocol: `Protocol.record`.
        identity: SHA-256 of the checkpoint, "" for videos.
    """

    title: str
    main: str
    settings: dict[str, Any]
    columns: list[Column]
    rows: list[Row]
    absent: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    clips: list[dict[str, Any]] = field(default_factory=list)
    dataset: str = ""
    protocol: dict[str, Any] = field(default_factory=dict)
    identity: str = ""

    @property
    def tasks(self) -> list[str]:
        return list(dict.fromkeys(row.task for row in self.rows))

    def row(self, task: str, method: str) -> Row:
        return next(row for row in self.rows if (row.task, row.method) == (task, method))

    def task_rows(self, task: str) -> list[Row]:
        return [row for row in self.rows if row.task == task]

    def task_columns(self, task: str) -> list[Column]:
        """The columns that have a value in this task."""
        return [column for column in self.columns if any(column.name in row.cells for row in self.task_rows(task))]

    def task_clips(self, task: str, method: str) -> list[dict[str, Any]]:
        return [clip for clip in self.clips if (clip["task"], clip["method"]) == (task, method)]

    def absences(self) -> list[tuple[str, str]]:
        """What was not measured, columns of one reason together, and why."""
        headings = {column.name: column.heading for column in self.columns}
        together: dict[str, list[str]] = {}
        for name, reason in self.absent.items():
            together.setdefault(reason, []).append(headings[name])
        return [(", ".join(names), reason) for reason, names in together.items()]

    def save(self, path: Path) -> None:
        """Write as JSON; infinities as text, what was not measured as null."""
        with written_whole(path) as part:
            part.write_text(json.dumps(_plain(asdict(self)), indent=1))


def load_report(path: Path) -> Report:
    """Read a report from its folder or its `report.json`.

    Raises:
        FileNotFoundError, UserError: there is none; the file is another's.
    """
    path = path / REPORT_FILE if path.is_dir() else path
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such report; stsa evaluate checkpoint|videos ... --out FOLDER writes one")
    try:
        stored = _revived(json.loads(path.read_text()))
        stored["columns"] = [Column(**column) for column in stored["columns"]]
        for row in stored["rows"]:
            row["cells"] = {name: Cell(**cell) for name, cell in row["cells"].items()}
        return Report(**{**stored, "rows": [Row(**row) for row in stored["rows"]]})
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: expected a report of stsa evaluate, found another file ({error})") from None


def table_rows(
    scores: Sequence[ClipScores], columns: Iterable[Column], resamples: int = 1000, seed: int = 0
) -> list[Row]:
    """Means over clips, weighted by their frames where a value is one of frames."""
    keys = dict.fromkeys((task, method) for clip in scores for task, rows in clip.values.items() for method in rows)
    tasks = list(dict.fromkeys(task for task, _ in keys))
    rows = []
    for task, method in sorted(keys, key=lambda key: tasks.index(key[0])):  # stable: methods keep their order
        holding = [clip for clip in scores if method in clip.values.get(task, {})]
        clips = [clip.values[task][method] for clip in holding]
        frames = sum(clip.frames[task] for clip in holding)
        cells = {}
        for column in columns:
            values = [clip[column.name] for clip in clips if column.name in clip]
            if any(value.weight for value in values):
                cells[column.name] = _cell(values, column, resamples, seed)
        missed = sum(max((value.missed for value in values.values()), default=0) for values in clips)
        rows.append(Row(task, method, cells, len(clips), frames, missed))
    return rows


def _cell(values: list[MetricValue], column: Column, resamples: int, seed: int) -> Cell:
    means = column.reduced(np.array([value.value for value in values], np.float64))
    weights = np.array([value.weight for value in values], np.float64)
    low, high = interval(means, weights, resamples=resamples, seed=seed)
    return Cell(weighted_mean(means, weights), low, high, int((weights > 0).sum()))


def reasons_of_absence(
    scores: Sequence[ClipScores], columns: Sequence[Column], rows: Sequence[Row], main: str
) -> dict[str, str]:
    """Column without a value in any row -> the reason that the clips give for the main method."""
    found = {name for row in rows for name in row.cells}
    said: dict[str, str] = {}
    for clip in scores:
        for by_method in clip.reasons.values():
            said = {**by_method.get(main, {}), **said}
    return {c.name: said.get(c.name, "no clip gave a clear value") for c in columns if c.name not in found}


def clip_records(scores: Sequence[ClipScores]) -> list[dict[str, Any]]:
    """One flat record for each clip, task and method."""
    return [
        {
            "clip": clip.clip,
            "speaker": clip.speaker,
            "task": task,
            "method": method,
            "frames": clip.frames[task],
            **{name: value.value for name, value in values.items()},
            "weights": {name: value.weight for name, value in values.items()},
        }
        for clip in scores
        for task, rows in clip.values.items()
        for method, values in rows.items()
    ]


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else str(value)
    return value


def _revived(value: Any, name: str = "") -> Any:
    """What `_plain` wrote, with NaN and infinities in place."""
    if isinstance(value, dict):
        return {key: _revived(item, key) for key, item in value.items()}
    if isinstance(value, list):
        return [_revived(item) for item in value]
    if value in ("inf", "-inf"):
        return float(value)
    return math.nan if value is None and name in ("value", "low", "high") else value
