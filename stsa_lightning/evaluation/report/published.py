"""What others report: rows of YAML files, each with its source. They stand beside measured rows and are marked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any, get_args

from stsa_lightning.evaluation.clip_sample import Task
from stsa_lightning.evaluation.metrics.columns import Column
from stsa_lightning.evaluation.metrics.registry import METRICS, Options
from stsa_lightning.utils.errors import UserError
from stsa_lightning.utils.tables import read_yaml

# Columns that others fill and this project does not: other networks, regions that nobody names.
OTHERS = {
    column.name: column
    for column in (
        Column("psnr_unstated", "PSNR (region not stated)", "dB", "higher", "as published", 2),
        Column("ssim_unstated", "SSIM (region not stated)", "", "higher", "as published", 3),
        Column("fvd_i3d", "FVD (I3D)", "", "lower", "as published", 1),
    )
}


@dataclass(frozen=True)
class Published:
    """One row that somebody reports.

    Attributes:
        corpus: short name of the corpus, as `Protocol.dataset` has it.
        protocol: how it was measured, in words, as far as the source says.
        values: column -> value; a column that no source gives is absent.
        source: citation, with the number of the table; "" where the number is known without its source.
        second_hand: quoted from somebody other than its authors.
        task: paired, unpaired, or "" where the source does not say.
    """

    system: str
    corpus: str
    protocol: str
    values: dict[str, float]
    source: str
    second_hand: bool
    note: str = ""
    task: str = ""
    file: str = field(default="", compare=False)

    def sentence(self, shown: Sequence[str]) -> str:
        """What stands below a table that holds it in the columns `shown`."""
        words = [f"{self.system} ({self.corpus}): reported by others: {self.source or 'source not recorded'}"]
        words += ["second-hand"] if self.second_hand else []
        words += [f"protocol: {self.protocol or 'not stated'}"]
        words += [] if self.task else ["own or other speech: not stated"]
        columns = publishable()
        others = [f"{columns[name].title} {value:g}" for name, value in self.values.items() if name not in shown]
        words += [f"not in these columns: {', '.join(others)}"] if others else []
        return "; ".join([*words, *([self.note] if self.note else [])]) + "."


def load_published(paths: Sequence[Path]) -> list[Published]:
    """The rows of YAML files, or of all files of a folder.

    Raises:
        FileNotFoundError: no such file or folder.
        UserError: another form; file and row are named.
    """
    files: list[Path] = []
    for path in paths:
        if not path.exists():
            raise FileNotFoundError(
                f"{path}: no such published rows; those that come along lie in experiments/published/"
            )
        files += sorted(path.glob("*.yaml")) if path.is_dir() else [path]
    return [row for path in files for row in _rows(path)]


def _rows(path: Path) -> list[Published]:
    stored = read_yaml(path)
    if not isinstance(stored, list):
        raise UserError(f"{path}: expected a list of rows, found {type(stored).__name__}")
    return [_row(record, f"{path}, row {number}") for number, record in enumerate(stored, start=1)]


def _row(record: Any, where: str) -> Published:
    known = [f for f in fields(Published) if f.name != "file"]
    needed = {f.name for f in known if f.default is MISSING}
    if not isinstance(record, Mapping):
        raise UserError(f"{where}: expected keys and values, found {record!r}")
    if unknown := record.keys() - {f.name for f in known}:
        raise UserError(f"{where}: unknown keys {sorted(map(str, unknown))}; expected {[f.name for f in known]}")
    if missing := needed - record.keys():
        raise UserError(f"{where}: {sorted(missing)} missing; every row says where it comes from")
    for name in ("system", "corpus", "protocol", "source", "note", "task"):
        if not isinstance(record.get(name, ""), str):
            raise UserError(f"{where}: {name}: expected text, found {record[name]!r}")
    if not isinstance(record["second_hand"], bool):
        raise UserError(f"{where}: second_hand: expected true or false, found {record['second_hand']!r}")
    if record.get("task", "") not in ("", *get_args(Task)):
        raise UserError(f"{where}: task: expected one of {', '.join(get_args(Task))} or none, found {record['task']!r}")
    return Published(**{**record, "values": _values(record["values"], where), "file": where})


def _values(values: Any, where: str) -> dict[str, float]:
    if not isinstance(values, Mapping):
        raise UserError(f"{where}: values: expected column: number, found {values!r}")
    columns = publishable()
    for name, value in values.items():
        if name not in columns:
            raise UserError(f"{where}: values: unknown column {name!r}; expected some of {', '.join(columns)}")
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise UserError(
                f"{where}: values: {name}: expected a number (leave out what is not known), found {value!r}"
            )
    return {str(name): float(value) for name, value in values.items()}


def publishable() -> dict[str, Column]:
    """Every column by name: this project's own, and `OTHERS`."""
    every = Options(regions=("mouth", "face", "frame"))
    return {c.name: c for metric in METRICS.values() for c in metric.columns(every)} | OTHERS
