"""Several systems side by side: their reports by name, seeds of one training together, what differs between them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from stsa_lightning.evaluation.metrics.columns import Column
from stsa_lightning.evaluation.metrics.registry import METRICS, Options
from stsa_lightning.evaluation.report.report import Report, load_report
from stsa_lightning.evaluation.report.tables import setting_text
from stsa_lightning.utils.errors import UserError

# What a value depends on beside its column's variant: settings of a report, as its tables name them.
_CONDITIONS = ("references", "crop", "detector", "whole frames", "boxes", "audio features")


@dataclass(frozen=True)
class System:
    """A method by name, with a report for each seed of its training."""

    name: str
    reports: tuple[Report, ...]

    @property
    def trained(self) -> bool:
        """Whether its values are those of a checkpoint, so that another seed would give others."""
        return any(report.identity for report in self.reports)


@dataclass(frozen=True)
class Group:
    """The systems that were measured on one corpus under one task (paired, unpaired)."""

    dataset: str
    task: str
    systems: tuple[System, ...]

    @property
    def title(self) -> str:
        return f"{self.dataset}, {self.task}"

    @property
    def reports(self) -> list[tuple[str, Report]]:
        return [(system.name, report) for system in self.systems for report in system.reports]

    def system(self, name: str) -> System | None:
        return next((system for system in self.systems if system.name == name), None)


def named_reports(words: Sequence[str]) -> list[tuple[str, Report]]:
    """Reports from the words of a command line, `NAME=REPORT.json` or `REPORT.json` (or their folders).

    A report without a name is called as its own tables call the system. One name for several reports: the seeds of one
    training, or one system on several corpora.

    Raises:
        FileNotFoundError, UserError: no such report; two reports without a name that would be taken for seeds.
    """
    named: list[tuple[str, Report, bool]] = []
    for word in words:
        name, sign, place = word.partition("=")
        given = bool(sign) and not Path(word).exists()
        report = load_report(Path(place if given else word))
        named.append((name if given else report.main, report, given))
    for i, (name, report, given) in enumerate(named):
        for other, report_2, given_2 in named[:i]:
            if name == other and not (given and given_2) and _overlap(report, report_2):
                raise UserError(
                    f"{words[i]}: two reports call their system {name!r}: name both, NAME={words[i]}; the same name "
                    "twice means two seeds of one training"
                )
    return [(name, report) for name, report, _ in named]


def _overlap(a: Report, b: Report) -> bool:
    return a.dataset == b.dataset and bool(set(a.tasks) & set(b.tasks))


def grouped(named: Sequence[tuple[str, Report]]) -> list[Group]:
    """Groups in the order of the reports, tasks of a corpus after one another.

    Raises:
        UserError: one checkpoint given as two seeds.
    """
    groups = []
    for dataset in dict.fromkeys(report.dataset for _, report in named):
        here = [(name, report) for name, report in named if report.dataset == dataset]
        for task in dict.fromkeys(task for _, report in here for task in report.tasks):
            systems: dict[str, list[Report]] = {}
            for name, report in here:
                if task in report.tasks:
                    systems.setdefault(name, []).append(report)
            found = tuple(System(name, _seeds(name, reports)) for name, reports in systems.items())
            groups.append(Group(dataset, task, found))
    return groups


def _seeds(name: str, reports: list[Report]) -> tuple[Report, ...]:
    known = [report.identity for report in reports if report.identity]
    if len(set(known)) < len(known):
        raise UserError(f"{name}: two of its reports are of the same checkpoint; one name twice means two seeds")
    return tuple(reports)


def variants(group: Group, column: str) -> dict[str, list[str]]:
    """What a column means -> the systems whose reports say so."""
    found: dict[str, list[str]] = {}
    for name, report in group.reports:
        for own in report.task_columns(group.task):
            if own.name == column and name not in found.setdefault(own.variant, []):
                found[own.variant].append(name)
    return found


def listed(said: Mapping[str, Sequence[str]]) -> str:
    """Value -> who has it, in words."""
    return "; ".join(f"{', '.join(names)}: {value}" for value, names in said.items())


def differing(group: Group, clips: bool = True) -> list[str]:
    """The conditions (and, with `clips`, the clips) in which the systems of a group were not measured alike."""
    lines = []
    for setting in _CONDITIONS:
        said: dict[str, list[str]] = {}
        for name, report in group.reports:
            names = said.setdefault(setting_text(report.settings.get(setting, "not said")), [])
            if name not in names:
                names.append(name)
        if len(said) > 1 and not (setting == "audio features" and "not said" in said):
            lines.append(f"{group.title}: {setting} differ between rows ({listed(said)}).")
    measured = [set(report.settings.get("clips measured", ())) for _, report in group.reports]
    if clips and any(mine != measured[0] for mine in measured):
        counts = ", ".join(f"{name} {len(mine)}" for (name, _), mine in zip(group.reports, measured, strict=True))
        common = len(set.intersection(*measured))
        lines.append(
            f"{group.title}: the clips differ between rows ({counts}; {common} in all of them): means over different "
            "clips do not compare; stsa evaluate compare takes the common ones."
        )
    return lines


def known_columns(named: Sequence[tuple[str, Report]]) -> dict[str, Column]:
    """Columns of the reports by name, as the first report that measured one has it."""
    measured = [c for _, report in named for task in report.tasks for c in report.task_columns(task)]
    found: dict[str, Column] = {}
    for column in [*measured, *(column for _, report in named for column in report.columns)]:
        found.setdefault(column.name, column)
    return found


def resolved(names: Sequence[str], known: dict[str, Column], named: Sequence[tuple[str, Report]]) -> list[str]:
    """Columns as asked for; a metric's name stands for those of its columns that a report has.

    Raises:
        UserError: a name of neither.
    """
    held = {column.name for _, report in named for column in report.columns}
    found: list[str] = []
    for name in names:
        mine = [name] if name in known else []
        if not mine and name in METRICS:
            columns = [column.name for column in METRICS[name].columns(Options(regions=("mouth", "face", "frame")))]
            mine = [column for column in columns if column in held] or columns[:1]
        if not mine:
            raise UserError(
                f"--columns: unknown column {name!r}; expected some of {', '.join(sorted(held))}, or metrics: "
                f"{', '.join(METRICS)}"
            )
        found += [column for column in mine if column not in found]
    return found
