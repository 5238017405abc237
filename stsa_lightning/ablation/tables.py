"""The comparison that ablations end in: mean and spread over seeds, for each task a table."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from stsa_lightning.evaluation.metrics.columns import Column
from stsa_lightning.evaluation.report.paired import Comparison, compare, comparison_sheet
from stsa_lightning.evaluation.report.report import Report
from stsa_lightning.evaluation.report.tables import NOTHING, TASK_TITLES, markdown_table, number
from stsa_lightning.utils.files import written_whole

FILES = ("ablations.md", "ablations.csv", "ablations.json")


def long_table(results: Mapping[tuple[str, int], Mapping[str, Mapping[str, float]]]) -> pd.DataFrame:
    """(variant, seed) -> task -> column -> value as lines of variant, seed, task, column, value."""
    lines = [
        (variant, seed, task, column, value)
        for (variant, seed), tasks in results.items()
        for task, columns in tasks.items()
        for column, value in columns.items()
    ]
    return pd.DataFrame(lines, columns=["variant", "seed", "task", "column", "value"])


def summary(table: pd.DataFrame) -> pd.DataFrame:
    """Mean, sample standard deviation (NaN for one seed) and number of seeds, in the order of the table."""
    groups = table.groupby(["task", "variant", "column"], sort=False)["value"]
    return groups.agg(["mean", "std", "count"]).reset_index()


def cell(mean: float, std: float, digits: int) -> str:
    """`25.96 ± 0.12`; the mean alone where there is one seed."""
    if math.isnan(std) or math.isnan(mean):
        return number(mean, digits)
    return f"{number(mean, digits)} ± {number(std, digits)}"


def task_tables(table: pd.DataFrame, columns: Mapping[str, Column]) -> dict[str, pd.DataFrame]:
    """Task -> what is shown: a line for each variant, a column for each metric, and how many seeds."""
    shown: dict[str, pd.DataFrame] = {}
    for task, part in summary(table).groupby("task", sort=False):
        wide: dict[str, dict[str, str]] = {}
        for line in part.to_dict("records"):
            column = columns[line["column"]]
            row = wide.setdefault(line["variant"], {})
            row[column.heading] = cell(line["mean"], line["std"], column.digits)
            row["seeds"] = str(max(int(row.get("seeds", 0)), line["count"]))
        frame = pd.DataFrame(wide).T.fillna(NOTHING)
        shown[str(task)] = frame[[*(name for name in frame if name != "seeds"), "seeds"]]
    return shown


def paired_differences(reports: Mapping[tuple[str, int], Report], base: str) -> list[Comparison]:
    """Each variant against the base, clip by clip and seed by seed, over the seeds that both have."""
    found = []
    for variant in dict.fromkeys(variant for variant, _ in reports if variant != base):
        seeds = [seed for name, seed in reports if name == variant and (base, seed) in reports]
        named = [(name, reports[name, seed]) for name in (base, variant) for seed in seeds]
        found += compare(named) if named else []
    return found


def markdown(
    tables: Mapping[str, pd.DataFrame],
    settings: Mapping[str, Any],
    failures: Mapping[str, str],
    differences: Sequence[Comparison] = (),
) -> str:
    """The tables, differences to the base, what they depend on, and what failed."""
    lines = ["# Ablations", ""]
    for task, table in tables.items():
        named = zip(table.index, table.to_numpy(), strict=True)
        rows = ([str(variant).replace("|", "\\|"), *cells] for variant, cells in named)
        # Not escaped further: the terminal shows this text, too.
        lines += [f"## {TASK_TITLES[task]}", "", *markdown_table(["variant", *table.columns], rows, escaped=True), ""]
    lines += ["Mean ± sample standard deviation over seeds, of means over clips.", ""]
    if differences:
        lines += [comparison_sheet(differences, "Differences to the base, clip by clip").text("markdown")]
    lines += [f"- {name}: {value}" for name, value in settings.items()]
    if failures:
        lines += ["", "## Failed", "", *(f"- {name}: {reason}" for name, reason in failures.items())]
    return "\n".join(lines) + "\n"


def without_nan(line: Mapping[str, Any]) -> dict[str, Any]:
    """As JSON holds it: null for what is no number."""
    return {name: None if value != value else value for name, value in line.items()}


def write(
    folder: Path,
    table: pd.DataFrame,
    text: str,
    settings: Mapping[str, Any],
    failures: Mapping[str, str],
    differences: Sequence[Comparison] = (),
) -> None:
    """`ablations.md`, `ablations.csv` (a line per value) and `ablations.json`, each whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    means = [without_nan({str(k): v for k, v in line.items()}) for line in summary(table).to_dict("records")]
    apart = [without_nan(line) for line in comparison_sheet(differences).records]
    record = {"settings": settings, "summary": means, "differences": apart, "failures": failures}
    for name, content in zip(FILES, (text, table.to_csv(index=False), json.dumps(record, indent=1)), strict=True):
        with written_whole(folder / name) as part:
            part.write_text(content)
