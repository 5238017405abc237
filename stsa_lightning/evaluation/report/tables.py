"""The tables of a report: on the terminal, in Markdown, LaTeX and CSV."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from stsa_lightning.evaluation.metrics.columns import Column
from stsa_lightning.evaluation.report.report import Cell, Report, Row
from stsa_lightning.utils.files import written_whole

NOTHING = "–"
_LATEX = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "–": "--",
    "↑": r"$\uparrow$",
    "↓": r"$\downarrow$",
    "→": r"$\rightarrow$",
    "±": r"$\pm$",
    "∞": r"$\infty$",
    "†": r"$\dagger$",
    "‡": r"$\ddagger$",
    "−": r"$-$",
    "‰": r"\textperthousand{}",
}
TASK_TITLES = {"paired": "Paired: the clip's own speech", "unpaired": "Unpaired: another speaker's speech"}
LATEX_NEEDS = r"% Needs \usepackage{booktabs}, \usepackage{graphicx}."


def number(value: float, digits: int) -> str:
    """As tables show it; a dash for what was not measured."""
    if math.isnan(value):
        return NOTHING
    return ("-∞" if value < 0 else "∞") if math.isinf(value) else f"{value:.{digits}f}"


def cell_text(cell: Cell | None, column: Column, bounds: bool = True) -> str:
    """`12.34 [12.01, 12.60]`."""
    if cell is None:
        return NOTHING
    found = interval_text(cell, column.digits) if bounds else ""
    return f"{number(cell.value, column.digits)}{found and f' {found}'}"


def interval_text(cell: Cell, digits: int) -> str:
    """`[12.01, 12.60]`; empty where there is none to show, as of the ground truth's own scores of 0 and 1."""
    return f"[{number(cell.low, digits)}, {number(cell.high, digits)}]" if cell.low < cell.high else ""


def settings_lines(report: Report) -> list[str]:
    """What the values depend on, a line each."""
    return [f"{name}: {setting_text(value)}" for name, value in report.settings.items() if name != "clips measured"]


def setting_text(value: object) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    return "no" if value is False else "yes" if value is True else str(value)


def _tail(row: Row) -> list[str]:
    return [str(row.videos), f"{row.unmeasured}/{row.frames}"]


def print_report(report: Report) -> None:
    console = Console()
    console.print(f"[bold]{report.title}[/bold]", highlight=False)
    for task in report.tasks:
        title: str | None = TASK_TITLES[task]
        columns = report.task_columns(task)
        headings = [*(column.heading for column in columns), "without a face"]
        rows = [
            (row, [*(cell_text(row.cells.get(column.name), column, bounds=False) for column in columns), _tail(row)[1]])
            for row in report.task_rows(task)
        ]
        for part in _side_by_side(rows, console.width - max(map(len, headings))):
            console.print(_printed(title, headings, part, report.main), "")
            title = None
    for line in [*settings_lines(report), *_not_measured(report)]:
        console.print(line, highlight=False, markup=False)


def _side_by_side(rows: list[tuple[Row, list[str]]], width: int) -> Iterator[list[tuple[Row, list[str]]]]:
    """Methods with their values in as many tables as a terminal needs: a number that is cut says another one."""
    part: list[tuple[Row, list[str]]] = []
    left = width
    for row, texts in rows:
        needed = 1 + max(map(len, [*row.method.split(), *texts]))
        if part and needed > left:
            yield part
            part, left = [], width
        part.append((row, texts))
        left -= needed
    yield part


def _printed(title: str | None, headings: list[str], rows: list[tuple[Row, list[str]]], main: str) -> Table:
    # Without rules between and around them the eight columns of a report with baselines fit 80 characters.
    space: dict[str, Any] = {"padding": (0, 1, 0, 0), "pad_edge": False, "show_edge": False}
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, **space)
    table.add_column("", no_wrap=True)
    for row, _ in rows:
        # Broken between words here, as rich would cut the words of many columns.
        name = textwrap.fill(row.method, max(map(len, row.method.split()), default=1))
        table.add_column(name, justify="right", style="bold" if row.method == main else None)
    for heading, *texts in zip(headings, *(texts for _, texts in rows), strict=True):
        table.add_row(heading, *texts)
    return table


def _not_measured(report: Report) -> list[str]:
    return [f"not measured: {names}: {reason}" for names, reason in report.absences()]


def markdown(report: Report) -> str:
    """Tables with intervals, variants, settings and notes."""
    lines = [f"# {escape_markdown(report.title)}", ""]
    for task in report.tasks:
        columns = report.task_columns(task)
        headings = ["method", *(column.heading for column in columns), "videos", "no face"]
        rows = [
            [row.method, *(cell_text(row.cells.get(column.name), column) for column in columns), *_tail(row)]
            for row in report.task_rows(task)
        ]
        lines += [f"## {TASK_TITLES[task]}", "", *markdown_table(headings, rows), ""]
    lines += [
        "Means over videos with bootstrapped 95 % intervals. *no face*: scored frames in which no face was found."
    ]
    lines += ["", "## What the columns mean", ""]
    measured = [column for column in report.columns if column.name not in report.absent]
    lines += [f"- **{escape_markdown(column.heading)}**: {escape_markdown(column.variant)}" for column in measured]
    lines += [
        f"- **{escape_markdown(names)}**: not measured: {escape_markdown(reason)}"
        for names, reason in report.absences()
    ]
    lines += ["", "## Settings", "", *(f"- {escape_markdown(line)}" for line in settings_lines(report))]
    if report.notes:
        lines += ["", "## Notes", "", *(f"- {escape_markdown(note)}" for note in report.notes)]
    clips = report.settings.get("clips measured", [])
    lines += ["", f"## Clips ({len(clips)})", "", ", ".join(map(escape_markdown, clips))]
    return "\n".join(lines) + "\n"


def escape_markdown(text: str) -> str:
    """Text as Markdown prints it, on one line."""
    for sign in "\\|*_<>`":
        text = text.replace(sign, f"\\{sign}")
    return text.replace("\n", " ")


def markdown_table(headings: Sequence[str], rows: Iterable[Sequence[str]], escaped: bool = False) -> list[str]:
    """Lines of a table whose first column is text and whose others are numbers; `escaped`: cells are Markdown."""
    ruler = ["---", *["---:"] * (len(headings) - 1)]
    plain = str if escaped else escape_markdown
    cells = [[plain(text) for text in headings], ruler, *([plain(text) for text in row] for row in rows)]
    return [f"| {' | '.join(row)} |" for row in cells]


def tex(text: str) -> str:
    return "".join(_LATEX.get(sign, sign) for sign in text)


def latex_table(kind: str, caption: str, label: str, headings: Sequence[str], body: Sequence[str]) -> list[str]:
    """Lines of a booktabs table, `table` or `table*`; the lines of its body are LaTeX, all else is text."""
    return [
        rf"\begin{{{kind}}}[t]",
        r"\centering",
        rf"\caption{{{tex(caption)}}}",
        rf"\label{{tab:{label}}}",
        r"\resizebox{\linewidth}{!}{%",
        rf"\begin{{tabular}}{{l{'r' * (len(headings) - 1)}}}",
        r"\toprule",
        " & ".join(map(tex, headings)) + r" \\",
        *body,
        r"\bottomrule",
        r"\end{tabular}}",
        rf"\end{{{kind}}}",
    ]


def latex(report: Report) -> str:
    """One booktabs table per task, to be read in with `\\input`."""
    lines = [LATEX_NEEDS, f"% {report.title}".replace("\n", " ")]
    lines += [f"% {line}".replace("\n", " ") for line in [*settings_lines(report), *_not_measured(report)]]
    for task in report.tasks:
        columns = report.task_columns(task)
        caption = f"{report.title}. {TASK_TITLES[task]}. " + "; ".join(settings_lines(report)) + "."
        headings, body = ["", *(column.heading for column in columns), "no face"], [r"\midrule"]
        for row in report.task_rows(task):
            values = [_tex_cell(row.cells.get(column.name), column) for column in columns]
            method = tex(row.method)
            shown = rf"\textbf{{{method}}}" if row.method == report.main else method
            body.append(" & ".join([shown, *values, _tail(row)[1]]) + r" \\")
        lines += ["", *latex_table("table", caption, f"stsa-{task}", headings, body)]
    return "\n".join(lines) + "\n"


def _tex_cell(cell: Cell | None, column: Column) -> str:
    if cell is None or not (found := interval_text(cell, column.digits)):
        return tex(cell_text(cell, column))
    return rf"{tex(number(cell.value, column.digits))} {{\scriptsize {tex(found)}}}"


def write_tables(report: Report, folder: Path) -> None:
    """`report.md`, `report.tex` and `clips.csv`, each whole or not at all."""
    for name, text in {"report.md": markdown(report), "report.tex": latex(report)}.items():
        with written_whole(folder / name) as part:
            part.write_text(text)
    with written_whole(folder / "clips.csv") as part:
        pd.DataFrame(report.clips).drop(columns="weights").to_csv(part, index=False)
