"""A table of text with sections, bold cells and notes, in Markdown and LaTeX; its values as CSV."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from stsa_lightning.evaluation.report.tables import LATEX_NEEDS, escape_markdown, latex_table, markdown_table, tex
from stsa_lightning.utils.files import written_whole

SheetFormat = Literal["markdown", "latex", "csv"]


@dataclass(frozen=True)
class TextCell:
    """`text`, with `small` print behind it (an interval), `marks` of notes, and whether it is the `best`."""

    text: str
    small: str = ""
    marks: str = ""
    best: bool = False


@dataclass(frozen=True)
class Section:
    """Rows under one title; each has a cell for each heading of the sheet."""

    title: str
    rows: list[list[TextCell]]


@dataclass(frozen=True)
class Sheet:
    """A table. `records`: its values, a flat line each, for CSV; `marks`: sign of a note -> what it says."""

    title: str
    headings: list[str]
    sections: list[Section]
    notes: list[str] = field(default_factory=list)
    marks: dict[str, str] = field(default_factory=dict)
    records: list[dict[str, Any]] = field(default_factory=list)
    label: str = "stsa"

    def text(self, kind: SheetFormat) -> str:
        if kind == "csv":
            return pd.DataFrame(self.records).to_csv(index=False)
        return _markdown(self) if kind == "markdown" else _latex(self)

    def _repr_markdown_(self) -> str:  # how a notebook shows it
        return self.text("markdown")

    def write(self, path: Path, kind: SheetFormat) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        with written_whole(path) as part:
            part.write_text(self.text(kind), encoding="utf-8")


def _markdown(sheet: Sheet) -> str:
    lines = [f"# {escape_markdown(sheet.title)}", ""]
    for section in sheet.sections:
        headings, rows = map(escape_markdown, sheet.headings), ([*map(_markdown_cell, row)] for row in section.rows)
        table = markdown_table([*headings], rows, escaped=True)
        lines += [f"## {escape_markdown(section.title)}", "", *table, ""]
    lines += [f"- {escape_markdown(mark)} {escape_markdown(said)}" for mark, said in sheet.marks.items()]
    lines += [f"- {escape_markdown(note)}" for note in sheet.notes]
    return "\n".join(lines) + "\n"


def _markdown_cell(cell: TextCell) -> str:
    text = escape_markdown(cell.text)
    marks, small = escape_markdown(cell.marks), f" {cell.small}" if cell.small else ""
    return f"{f'**{text}**' if cell.best else text}{marks}{small}"


def _latex(sheet: Sheet) -> str:
    said = [f"{mark} {text}" for mark, text in sheet.marks.items()]
    caption = " ".join([f"{sheet.title}.", *said, *sheet.notes])
    body = []
    for section in sheet.sections:
        body += [r"\midrule", rf"\multicolumn{{{len(sheet.headings)}}}{{l}}{{\emph{{{tex(section.title)}}}}} \\"]
        body += [" & ".join(map(_latex_cell, row)) + r" \\" for row in section.rows]
    return "\n".join([LATEX_NEEDS, *latex_table("table*", caption, sheet.label, sheet.headings, body)]) + "\n"


def _latex_cell(cell: TextCell) -> str:
    text = rf"\textbf{{{tex(cell.text)}}}" if cell.best else tex(cell.text)
    marks = rf"\textsuperscript{{{tex(cell.marks)}}}" if cell.marks else ""
    small = rf" {{\scriptsize {tex(cell.small)}}}" if cell.small else ""
    return f"{text}{marks}{small}"
