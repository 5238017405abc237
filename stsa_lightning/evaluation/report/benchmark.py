"""The table of a paper: systems as rows, corpora and tasks as groups, the best of each column in bold."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from stsa_lightning.evaluation.clip_sample import GROUND_TRUTH
from stsa_lightning.evaluation.metrics.columns import Column
from stsa_lightning.evaluation.report.published import OTHERS, Published, publishable
from stsa_lightning.evaluation.report.report import Cell, Report
from stsa_lightning.evaluation.report.sheet import Section, Sheet, TextCell
from stsa_lightning.evaluation.report.systems import (
    Group,
    System,
    differing,
    grouped,
    known_columns,
    listed,
    resolved,
    variants,
)
from stsa_lightning.evaluation.report.tables import interval_text, number
from stsa_lightning.utils.errors import UserError

DEFAULT_COLUMNS = (
    "psnr_mouth",
    "ssim_mouth",
    "lpips_alex_mouth",
    "psnr_mouth@native",
    "lpips_alex_mouth@native",
    "fid",
    "lmd",
    "lse_c",
    "lse_d",
    "csim",
    "lip_aperture_corr",
)
PUBLISHED_MARK, VARIANT_MARK = "†", "‡"
Kind = Literal["system", "baseline", "ground_truth", "published"]


@dataclass(frozen=True)
class TableRow:
    """One row before it is text.

    `spread`: column -> sample standard deviation over seeds, where there are several. `competes`: may be the best,
    but for the columns `odd`, which mean something else here than in the group's first row.
    """

    name: str
    kind: Kind
    cells: dict[str, Cell]
    spread: dict[str, float]
    videos: int = 0
    seeds: int = 0
    source: str = ""
    odd: frozenset[str] = frozenset()
    competes: bool = True

    def distance(self, column: Column) -> float:
        """How far from ideal, as printed; less is better. NaN where it does not compete or was not measured."""
        cell = self.cells.get(column.name)
        if cell is None or not self.competes or column.name in self.odd:
            return math.nan
        away = {"higher": -cell.value, "lower": cell.value, "zero": abs(cell.value), "one": abs(cell.value - 1)}
        return round(away[column.better], column.digits)


def benchmark_sheet(
    named: Sequence[tuple[str, Report]],
    columns: Sequence[str] | None = None,
    published: Sequence[Published] = (),
    *,
    baselines: bool = False,
    compare_published: bool = False,
    mix_variants: bool = False,
    title: str = "Systems compared",
) -> Sheet:
    """Systems side by side.

    Args:
        named: reports with their systems' names (`named_reports`); one name twice in a group: seeds, of which mean and
            spread are shown.
        columns: names of columns, or of metrics, which stand for all of their columns; None: `DEFAULT_COLUMNS`.
        published: rows of others; those of the reports' corpora are shown, marked, and never the best.
        baselines: show the baselines of each group's first report.
        compare_published: let published rows be the best, too.
        mix_variants: let one column hold several variants of a metric, marked, and out of the choice of the best.

    Raises:
        UserError: an unknown column; variants of a metric that differ within a group.
    """
    groups = grouped(named)
    known = publishable() | known_columns(named)
    if columns is None:
        filled = {name for _, report in named for row in report.rows for name in row.cells}
        filled |= {name for row in _of(groups, published) for name in row.values}
        columns = [name for name in (*DEFAULT_COLUMNS, *OTHERS) if name in filled] or sorted(filled)
    chosen = [known[name] for name in resolved(columns, known, named)]
    sections, records = [], []
    notes: dict[str, None] = {}
    for group in groups:
        rows = _measured(group, chosen, baselines, mix_variants)
        rows += [_published_row(row, compare_published) for row in published if _belongs(row, group, groups)]
        best = {column.name: _best(rows, column) for column in chosen}
        sections.append(Section(group.title, [_texts(row, chosen, best) for row in rows]))
        records += [_record(group, row, chosen, best) for row in rows]
        notes |= dict.fromkeys([*differing(group), *_variant_notes(group, chosen)])
    names = [column.name for column in chosen]
    notes |= dict.fromkeys([*_across(groups, chosen), *_seed_notes(groups), *_absences(named, names)])
    notes |= dict.fromkeys(row.sentence(names) for row in _of(groups, published))
    text = {cell.marks for section in sections for row in section.rows for cell in row}
    marks = {
        PUBLISHED_MARK: "published by others under protocols of their own"
        + ("." if compare_published else ": not compared with the other rows."),
        VARIANT_MARK: "another variant of the metric than the group's first row: not compared.",
    }
    return Sheet(
        title,
        ["system", *(column.heading for column in chosen), "videos"],
        sections,
        [_HOW, *notes],
        {mark: said for mark, said in marks.items() if any(mark in cell for cell in text)},
        records,
        "benchmark",
    )


_HOW = (
    "Bold: the best of a group, and what equals it as printed; the ground truth (the real video scored as if it had "
    "been generated) never is. Brackets: bootstrapped 95 % interval of the mean over videos; ±: sample standard "
    "deviation over seeds. An empty cell was not measured, or no source gives it."
)


def _of(groups: Sequence[Group], published: Sequence[Published]) -> list[Published]:
    return [row for row in published if any(_belongs(row, group, groups) for group in groups)]


def _belongs(row: Published, group: Group, groups: Sequence[Group]) -> bool:
    """A row that does not say whose speech it is stands in its corpus's first group."""
    if row.corpus != group.dataset:
        return False
    return row.task == group.task if row.task else group == next(g for g in groups if g.dataset == row.corpus)


def _measured(group: Group, columns: Sequence[Column], baselines: bool, mix: bool) -> list[TableRow]:
    odd = _odd(group, columns, mix)
    rows = []
    if baselines:
        first = group.systems[0].reports[0]
        others = [row for row in first.task_rows(group.task) if row.method not in (first.main, GROUND_TRUTH)]
        rows += [TableRow(row.method, "baseline", row.cells, {}, row.videos) for row in others]
    rows += [_system_row(group, system, odd.get(system.name, frozenset())) for system in group.systems]
    return rows + _truths(group, columns)


def _published_row(line: Published, competes: bool) -> TableRow:
    cells = {name: Cell(value, math.nan, math.nan, 0) for name, value in line.values.items()}
    return TableRow(line.system, "published", cells, {}, source=line.source, competes=competes)


def _odd(group: Group, columns: Sequence[Column], mix: bool) -> dict[str, frozenset[str]]:
    """System -> columns in which it was measured in another variant than the group's first; an error without `mix`."""
    odd: dict[str, set[str]] = {}
    for column in columns:
        found = variants(group, column.name)
        if len(found) > 1 and not mix:
            raise UserError(
                f"{group.title}: {column.title} was measured in different variants, which do not compare "
                f"({listed(found)}). "
                "Measure all systems under one protocol, leave the column out, or mark what differs: --mix-variants"
            )
        for names in list(found.values())[1:]:
            for name in names:
                odd.setdefault(name, set()).add(column.name)
    return {name: frozenset(names) for name, names in odd.items()}


def _system_row(group: Group, system: System, odd: frozenset[str]) -> TableRow:
    rows = [report.row(group.task, report.main) for report in system.reports]
    if len(rows) == 1:
        return TableRow(system.name, "system", rows[0].cells, {}, rows[0].videos, 1, odd=odd)
    cells, spread = {}, {}
    for column in dict.fromkeys(name for row in rows for name in row.cells):
        values = [row.value(column) for row in rows if column in row.cells]
        cells[column] = Cell(float(np.mean(values)), math.nan, math.nan, rows[0].videos)
        spread[column] = float(np.std(values, ddof=1)) if len(values) > 1 else math.nan
    return TableRow(system.name, "system", cells, spread, rows[0].videos, len(rows), odd=odd)


def _truths(group: Group, columns: Sequence[Column]) -> list[TableRow]:
    """The ground truth's row; one for each report whose ground truth scores otherwise."""
    rows: list[TableRow] = []
    for name, report in group.reports:
        row = next((row for row in report.task_rows(group.task) if row.method == GROUND_TRUTH), None)
        if row is None:
            continue
        called = f"{GROUND_TRUTH} (of {name})" if rows else GROUND_TRUTH
        mine = TableRow(called, "ground_truth", row.cells, {}, row.videos, competes=False)
        if all(_texts(mine, columns, {})[1:] != _texts(other, columns, {})[1:] for other in rows):
            rows.append(mine)
    return rows


def _best(rows: Sequence[TableRow], column: Column) -> float:
    """The least distance as printed; NaN where fewer than two rows compete."""
    found = [away for row in rows if not math.isnan(away := row.distance(column))]
    return min(found) if len(found) > 1 else math.nan


def _is_best(row: TableRow, column: Column, best: dict[str, float]) -> bool:
    return row.distance(column) == best.get(column.name, math.nan)


def _texts(row: TableRow, columns: Sequence[Column], best: dict[str, float]) -> list[TextCell]:
    cells = [_text(row, column, best) for column in columns]
    name = TextCell(
        row.name, f"({row.seeds} seeds)" if row.seeds > 1 else "", PUBLISHED_MARK if row.kind == "published" else ""
    )
    return [name, *cells, TextCell(str(row.videos) if row.videos else "")]


def _text(row: TableRow, column: Column, best: dict[str, float]) -> TextCell:
    cell = row.cells.get(column.name)
    if cell is None or math.isnan(cell.value):
        return TextCell("")
    if column.name in row.spread:
        small = f"± {number(row.spread[column.name], column.digits)}"
    else:
        small = interval_text(cell, column.digits)
    mark = VARIANT_MARK if column.name in row.odd else ""
    return TextCell(number(cell.value, column.digits), small, mark, _is_best(row, column, best))


def _record(group: Group, row: TableRow, columns: Sequence[Column], best: dict[str, float]) -> dict[str, Any]:
    record: dict[str, Any] = {"corpus": group.dataset, "task": group.task, "system": row.name, "kind": row.kind}
    record |= {"source": row.source, "seeds": row.seeds or None, "videos": row.videos or None}
    for column in columns:
        cell = row.cells.get(column.name, Cell(math.nan, math.nan, math.nan, 0))
        record |= {column.name: cell.value, f"{column.name}_low": cell.low, f"{column.name}_high": cell.high}
        record |= {
            f"{column.name}_std": row.spread.get(column.name),
            f"{column.name}_best": _is_best(row, column, best),
        }
    return record


def _variant_notes(group: Group, columns: Sequence[Column]) -> list[str]:
    found = [(column.title, variants(group, column.name)) for column in columns]
    return [f"{group.title}: {title} in different variants ({listed(said)})." for title, said in found if len(said) > 1]


def _across(groups: Sequence[Group], columns: Sequence[Column]) -> list[str]:
    """What each column means, and where it differs between groups."""
    lines = []
    for column in columns:
        said: dict[str, list[str]] = {}
        for group in groups:
            for variant in list(variants(group, column.name))[:1]:
                said.setdefault(variant, []).append(group.title)
        if len(said) == 1:
            lines.append(f"{column.title}: {next(iter(said))}.")
        elif said:
            lines.append(f"{column.title} differs between groups ({listed(said)}).")
    return lines


def _seed_notes(groups: Sequence[Group]) -> list[str]:
    single = {s.name for group in groups for s in group.systems if s.trained and len(s.reports) == 1}
    if not single:
        return []
    return [
        f"One seed of {', '.join(sorted(single))}: one seed says nothing about how far another training of the same "
        "system would end up; intervals are over videos alone."
    ]


def _absences(named: Sequence[tuple[str, Report]], names: Sequence[str]) -> list[str]:
    reasons = {
        f"{name}: {report_column.title} not measured: {report.absent[report_column.name]}.": None
        for name, report in named
        for report_column in report.columns
        if report_column.name in names and report_column.name in report.absent
    }
    return list(reasons)
