"""Two systems compared on the clips that both were measured on: differences with intervals, and a test.

Clips of one speaker are not independent: they are drawn, and their signs flipped, together.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.stats import permutation_test

from stsa_lightning.evaluation.metrics.columns import Column
from stsa_lightning.evaluation.report.intervals import ratio_interval
from stsa_lightning.evaluation.report.report import Report
from stsa_lightning.evaluation.report.sheet import Section, Sheet, TextCell
from stsa_lightning.evaluation.report.systems import (
    Group,
    System,
    differing,
    grouped,
    known_columns,
    resolved,
    variants,
)
from stsa_lightning.evaluation.report.tables import number
from stsa_lightning.utils.errors import UserError

RESAMPLES = 9999
FEWEST = 6  # independent units below which no two-sided test by signs can reach 0.05: 2 / 2**5 is 0.06
Unit = Literal["speaker", "clip"]


@dataclass(frozen=True)
class Difference:
    """Of one column: the other system minus the base, mean over the common clips, weighted as the reports' own means.

    Attributes:
        base, other: means of both systems over the same clips.
        mean, low, high: of the difference and its 95 % interval (BCa bootstrap over the units); NaN below two units.
        p: of the paired permutation test (signs of the units' differences flipped), two-sided; NaN below two units.
        clips, units: counts; `unit`: what is independent.
        seeds: difference of each pair of seeds, where both systems have as many, and several.
    """

    column: Column
    base: float
    other: float
    mean: float
    low: float
    high: float
    p: float
    clips: int
    units: int
    unit: Unit
    seeds: tuple[float, ...] = ()

    @property
    def record(self) -> dict[str, float | int | str]:
        """As JSON and CSV hold it."""
        names = ("base", "other", "mean", "low", "high", "p", "clips", "units")
        numbers = {name: getattr(self, name) for name in names}
        spread = float(np.std(self.seeds, ddof=1)) if len(self.seeds) > 1 else math.nan
        return {"column": self.column.name, **numbers, "unit": self.unit, "seeds": len(self.seeds) or 1, "std": spread}


@dataclass(frozen=True)
class Comparison:
    """All columns of one group. `notes`: which clips, what was left out and why, what must not be concluded."""

    base: str
    other: str
    title: str
    differences: list[Difference]
    notes: list[str]


def compare(named: Sequence[tuple[str, Report]], columns: Sequence[str] | None = None) -> list[Comparison]:
    """Every system of each group against the group's first.

    Args:
        named: reports by system; one name twice: seeds.
        columns: names of columns or metrics; None: all that have values of single clips.

    Raises:
        UserError: an unknown column.
    """
    found = []
    if columns is not None:
        columns = resolved(columns, known_columns(named), named)
    for group in grouped(named):
        base = group.systems[0]
        found += [compared(group, base, other, columns) for other in group.systems[1:]]
    return found


def compared(group: Group, base: System, other: System, columns: Sequence[str] | None = None) -> Comparison:
    """One system minus another, column by column, over the clips that all of their reports hold."""
    reports = [*base.reports, *other.reports]
    per_report = [_clips(report, group.task) for report in reports]
    speakers = _speakers(per_report)
    common = sorted(c for c in set.intersection(*map(set, per_report)) if len(speakers[c]) < 2)
    if not common:
        found = f"{_listed(list(per_report[0]))}; {_listed(list(per_report[-1]))}"
        return Comparison(base.name, other.name, group.title, [], [f"{group.title}: no clip in common ({found})."])
    both = Group(group.dataset, group.task, (base, other))
    notes = [_which_clips(both, per_report, common), *differing(both, clips=False)]
    lines, left_out = [], []
    for column in _shared_columns(both, columns):
        if len(variants(both, column.name)) > 1:
            left_out.append(f"{column.title}: its variants differ")
            continue
        values = [_values(report, group.task, column, common) for report in reports]
        who = [next(iter(speakers[clip]), f"clip {clip}") for clip in common]
        line = _difference(column, who, values[: len(base.reports)], values[len(base.reports) :])
        if line is None:
            left_out.append(f"{column.title}: no values of single clips (or none finite in both)")
        else:
            lines.append(line)
    if left_out:
        notes.append(f"{group.title}: not compared: {'; '.join(left_out)}.")
    return Comparison(base.name, other.name, group.title, lines, [*notes, *_cautions(both, lines)])


def _clips(report: Report, task: str) -> dict[str, dict]:
    return {record["clip"]: record for record in report.task_clips(task, report.main)}


def _speakers(per_report: Sequence[dict[str, dict]]) -> dict[str, set[str]]:
    """Clip -> who speaks in it by those reports that say so: more than one, and they are different clips."""
    found: dict[str, set[str]] = {}
    for clips in per_report:
        for clip, record in clips.items():
            found.setdefault(clip, set()).update({record["speaker"]} - {""})
    return found


def _which_clips(group: Group, per_report: Sequence[dict[str, dict]], common: Sequence[str]) -> str:
    most = max(len(clips) for clips in per_report)
    if all(len(clips) == len(common) for clips in per_report):
        return f"{group.title}: {len(common)} clips, the same in all reports."
    only = {
        name: sorted(clips.keys() - set(common)) for (name, _), clips in zip(group.reports, per_report, strict=True)
    }
    listed = "; ".join(f"only {name}: {_listed(names)}" for name, names in only.items() if names)
    return f"{group.title}: the {len(common)} clips in common, of up to {most} ({listed})."


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def _shared_columns(group: Group, names: Sequence[str] | None) -> list[Column]:
    per_report = [{c.name: c for c in report.task_columns(group.task)} for _, report in group.reports]
    shared = [c for name, c in per_report[0].items() if all(name in columns for columns in per_report)]
    unknown = set(names or ()) - {column.name for column in shared}
    if unknown:
        raise UserError(
            f"--columns: {', '.join(sorted(unknown))} not measured in all reports of {group.title}; expected some of "
            + ", ".join(column.name for column in shared)
        )
    return [column for column in shared if names is None or column.name in names]


def _values(report: Report, task: str, column: Column, keys: Sequence[str]) -> np.ndarray:
    """(clips, 2): each one's value of a column, and what it counts."""
    clips = _clips(report, task)
    found = []
    for key in keys:
        value = clips[key].get(column.name)
        weight = clips[key].get("weights", {}).get(column.name, 1.0)
        found.append((math.nan if value is None else _from_ideal(float(value), column), weight))
    return np.array(found, np.float64)


def _from_ideal(value: float, column: Column) -> float:
    """Where neither more nor less is better, what is compared is the distance from the ideal."""
    if column.better == "one":
        return abs(value - 1)
    return abs(value) if column.better == "zero" else value


def _difference(
    column: Column, speakers: Sequence[str], base: Sequence[np.ndarray], other: Sequence[np.ndarray]
) -> Difference | None:
    """None where fewer than one clip is finite in all reports."""
    values = np.stack([*base, *other])  # (reports, clips, 2)
    kept = (np.isfinite(values).all(2) & (values[..., 1] > 0)).all(0)
    if not kept.any():
        return None
    stack = values[:, kept]
    weights = stack[..., 1].mean(0)
    mine, theirs = stack[: len(base), :, 0], stack[len(base) :, :, 0]
    differences = theirs.mean(0) - mine.mean(0)
    sums, counts, unit = _units(np.array(speakers)[kept].tolist(), differences, weights)
    low, high = interval(sums, counts)
    pairs = theirs - mine if len(mine) == len(theirs) > 1 else np.zeros((0, kept.sum()))
    return Difference(
        column,
        float(np.average(mine.mean(0), weights=weights)),
        float(np.average(theirs.mean(0), weights=weights)),
        float(sums.sum() / counts.sum()),
        low,
        high,
        sign_test(sums),
        int(kept.sum()),
        len(sums),
        unit,
        tuple(float(np.average(pair, weights=weights)) for pair in pairs),
    )


def _units(speakers: list[str], differences: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray, Unit]:
    """Weighted sums of the differences and sums of the weights of what is independent: speakers, or clips."""
    place = {name: i for i, name in enumerate(dict.fromkeys(speakers))}
    which = [place[name] for name in speakers]
    sums = np.bincount(which, differences * weights)
    return sums, np.bincount(which, weights), "clip" if len(place) == len(speakers) else "speaker"


def interval(sums: np.ndarray, weights: np.ndarray, level: float = 0.95, seed: int = 0) -> tuple[float, float]:
    """BCa interval over units, see `ratio_interval`."""
    # BCa has no answer where one unit holds nearly all the spread.
    return ratio_interval(sums, weights, ["BCa", "percentile"], resamples=RESAMPLES, seed=seed, level=level)


def sign_test(sums: np.ndarray, seed: int = 0) -> float:
    """Two-sided p of the paired permutation test: (n,) sums whose signs are flipped, all ways where these are few."""
    if len(sums) < 2:
        return math.nan
    result = permutation_test(
        (sums,),
        lambda values, axis: values.sum(axis),
        permutation_type="samples",
        vectorized=True,
        n_resamples=RESAMPLES,
        batch=1000,
        random_state=np.random.default_rng(seed),
    )
    return float(result.pvalue)


def _cautions(group: Group, lines: Sequence[Difference]) -> list[str]:
    notes = []
    few = sorted({f"{line.units} {line.unit}s" for line in lines if line.units < FEWEST})
    if few:
        notes.append(f"{group.title}: {', '.join(few)}: too few for a test (it cannot reach p < 0.05 below {FEWEST}).")
    single = [system.name for system in group.systems if system.trained and len(system.reports) == 1]
    if single:
        notes.append(
            f"{group.title}: one seed of {', '.join(single)}: one seed says nothing about the system, only about this "
            "one training; a difference between two seeds of the same system can be as large. Train more seeds."
        )
    return notes


def comparison_sheet(comparisons: Sequence[Comparison], title: str = "Differences, clip by clip") -> Sheet:
    """Comparisons as a table: a section for each, a row for each column."""
    sections, records = [], []
    notes: dict[str, None] = {}
    for one in comparisons:
        section = f"{one.title}: {one.other} − {one.base}"
        sections.append(Section(section, [_row(line) for line in one.differences]))
        records += [{"group": one.title, "base_system": one.base, "other_system": one.other, **line.record}
                    for line in one.differences]  # fmt: skip
        notes |= dict.fromkeys(one.notes)
    tested = max((len(one.differences) for one in comparisons), default=0)
    if tested > 1:
        notes[f"{tested} columns are tested side by side, and p is not corrected for it: one in twenty falls below "
              "0.05 by chance."] = None  # fmt: skip
    headings = ["metric", "base", "other", "difference [95 %]", "p", "clips (units)", "over seeds"]
    return Sheet(title, headings, sections, [_HOW, *notes], {}, records, "differences")


_HOW = (
    "Mean difference of paired clips, other minus base, weighted as the reports weight their means. Interval: BCa "
    f"bootstrap ({RESAMPLES} draws) over speakers, or over clips where each speaker has one. p: paired permutation "
    "test, two-sided, signs flipped by speaker or clip. Bold: the interval leaves 0 out. Of columns whose ideal is 0 "
    "or 1 the distance from it is compared. Of several seeds each clip's mean is compared; over seeds: the differences "
    "of pairs of seeds, mean ± sample standard deviation."
)


def _row(line: Difference) -> list[TextCell]:
    digits = line.column.digits + 1
    clear = bool(line.low > 0 or line.high < 0)
    bounds = "" if math.isnan(line.low) else f"[{line.low:+.{digits}f}, {line.high:+.{digits}f}]"
    units = f"({line.units} {line.unit}s)"
    seeds = ""
    if line.seeds:
        seeds = f"{np.mean(line.seeds):+.{digits}f} ± {np.std(line.seeds, ddof=1):.{digits}f} ({len(line.seeds)})"
    ideal = {"zero": f"|{line.column.title}|", "one": f"|{line.column.title} − 1|"}
    heading = {"zero": "↓", "one": "↓", "higher": "↑", "lower": "↓"}[line.column.better]
    return [
        TextCell(f"{ideal.get(line.column.better, line.column.title)} {heading}"),
        TextCell(number(line.base, digits)),
        TextCell(number(line.other, digits)),
        TextCell(f"{line.mean:+.{digits}f}", bounds, best=clear),
        TextCell("" if math.isnan(line.p) else f"{line.p:.4f}" if line.p >= 0.0001 else "< 0.0001"),
        TextCell(str(line.clips), units),
        TextCell(seeds),
    ]
