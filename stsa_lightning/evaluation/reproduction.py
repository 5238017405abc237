"""A corpus's protocol from its videos to the table: prepare, generate, measure on whole frames, compare.

The folder that comes out holds `prepared/` (the corpus), `videos/` (generated and true clips), `reports/PROTOCOL/`,
`table.md`, `table.tex`, `table.csv`, and `plan.json`. The same call goes on after a stop and repeats nothing.
"""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from stsa_lightning.data.corpora import Source, find_sources
from stsa_lightning.data.prepare import PrepareReport, PrepareSettings, prepare
from stsa_lightning.dubbing import Resolution, choose_device, largest_side
from stsa_lightning.evaluation.checkpoint import evenly
from stsa_lightning.evaluation.clip_sample import NATIVE
from stsa_lightning.evaluation.metrics.registry import METRICS, Options, chosen_metrics
from stsa_lightning.evaluation.protocol import Protocol, load_protocol
from stsa_lightning.evaluation.report.benchmark import benchmark_sheet
from stsa_lightning.evaluation.report.published import load_published
from stsa_lightning.evaluation.report.report import REPORT_FILE, Report, load_report
from stsa_lightning.evaluation.report.sheet import Sheet
from stsa_lightning.evaluation.run import evaluate_checkpoint
from stsa_lightning.evaluation.whole_frames import SourceVideos
from stsa_lightning.media.video import probe
from stsa_lightning.models.checkpoint import load_networks
from stsa_lightning.utils.errors import UserError
from stsa_lightning.utils.experiments import experiment_path
from stsa_lightning.utils.files import sha256_of, written_whole
from stsa_lightning.utils.weights import KNOWN, find_weights

EXPERIMENTS = Path("experiments")
PROTOCOLS = {"hdtf": ("hdtf",), "lrs2": ("lrs2_paired", "lrs2_unpaired"), "cmlr": ("cmlr",)}
PLAN, PREPARED, VIDEOS, REPORTS = "plan.json", "prepared", "videos", "reports"
TRIAL_S = (1.5, 4.5)  # seconds of the clips of a trial: what every run pays at its start cancels in the difference
TABLES = {"table.md": "markdown", "table.tex": "latex", "table.csv": "csv"}


@dataclass(frozen=True)
class Reproduction:
    """What is reproduced, with which networks, and where: the options of `stsa reproduce`, which describes them.

    Raises:
        UserError: an unknown corpus.
    """

    corpus: str
    root: Path
    checkpoint: Path
    out: Path
    metrics: tuple[str, ...] | None = None
    clips: int | None = None
    speakers: tuple[str, ...] | None = None
    name: str = "STSA"
    lists: Path | None = None
    resolution: Resolution = "network"
    workers: int = 1
    weights_dir: Path | None = None
    device: str = "auto"
    experiments: Path = EXPERIMENTS

    def __post_init__(self) -> None:
        if self.corpus not in PROTOCOLS:
            raise UserError(f"corpus: expected one of {', '.join(PROTOCOLS)}, got {self.corpus!r}")

    def protocols(self) -> dict[str, Protocol]:
        """The corpus's protocols by the name of their files, with the options put in."""
        folder = self.experiments / "protocols"
        loaded = {name: load_protocol(experiment_path(folder / f"{name}.yaml")) for name in PROTOCOLS[self.corpus]}
        loaded = {name: p.changed(metrics=self.metrics, clips=self.clips) for name, p in loaded.items()}
        if self.resolution == "network":
            return loaded
        return {name: p.changed(regions=(*p.regions, NATIVE), resolution=self.resolution) for name, p in loaded.items()}

    def reports(self) -> dict[str, Path]:
        return {name: self.out / REPORTS / name for name in PROTOCOLS[self.corpus]}


@dataclass
class Rates:
    """Seconds of work for each second of video: to prepare it; to generate and measure it, by protocol."""

    prepare: float
    measure: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Plan:
    """What will be done.

    Attributes:
        sources: the clips to prepare: those measured, and others of their speakers, for references.
        measured: names of the clips to measure.
        prepare_s, measured_s: seconds of video of the former and of the latter.
        speakers: of a corpus without a split.
        missing: metric -> weights that are not on this machine.
        rates: measured by a trial; None: not yet.
    """

    sources: list[Source]
    measured: list[str]
    prepare_s: float
    measured_s: float
    speakers: tuple[str, ...] | None
    missing: dict[str, tuple[str, ...]]
    rates: Rates | None = None
    device: str = "cpu"

    def hours(self) -> dict[str, float]:
        """Step -> estimated hours."""
        if self.rates is None:
            return {}
        measure = {f"generate and measure, {n}": self.measured_s * r for n, r in self.rates.measure.items()}
        return {name: s / 3600 for name, s in {"prepare": self.prepare_s * self.rates.prepare, **measure}.items()}


def make_plan(job: Reproduction, try_it: bool = True) -> Plan:
    """Which clips, how long, what is missing, and with `try_it` at which rates; nothing is written into `job.out`.

    Raises:
        FileNotFoundError, UserError: no such corpus, checkpoint or protocol; nobody says which speakers to measure.
    """
    meta = load_networks(job.checkpoint)[2]
    options = {} if job.lists is None else {"lists": job.lists}
    sources = find_sources(job.corpus, job.root, **options)
    protocols = job.protocols()
    first = next(iter(protocols.values()))
    split = [source for source in sources if source.split == first.split]
    speakers = None
    if not split:
        speakers = _speakers(job, sources, meta.get("validation_speakers"))
        split = [source for source in sources if source.speaker in speakers]
    measured = evenly(split, first.clips or len(split))
    chosen = _with_partners(measured, split)
    plan = Plan(
        chosen,
        [source.clip for source in measured],
        sum(map(seconds, chosen)),
        sum(map(seconds, measured)),
        speakers,
        missing_weights(protocols, job),
        device=str(choose_device(job.device)),
    )
    return replace(plan, rates=_cached_rates(job) or trial(job, plan)) if try_it else plan


def _speakers(job: Reproduction, sources: Sequence[Source], held_out: Sequence[str] | None) -> tuple[str, ...]:
    there = sorted({source.speaker for source in sources})
    wanted = job.speakers or tuple(speaker for speaker in held_out or () if speaker in there)
    if wanted == ("all",):
        return tuple(there)
    unknown = sorted(set(wanted) - set(there))
    if unknown or not wanted:
        why = f"has no {', '.join(unknown)}" if unknown else "holds none of the speakers that the checkpoint held out"
        raise UserError(
            f"{job.root}: {why}; name who is measured, and was not trained on: --speakers A,B, or --speakers all for "
            f"networks that never saw the corpus (it holds {', '.join(there[:5])}{', ...' if len(there) > 5 else ''})"
        )
    return tuple(wanted)


def _with_partners(measured: Sequence[Source], split: Sequence[Source]) -> list[Source]:
    """Also another clip of each speaker who would have one alone: references come from it."""
    counts = Counter(source.speaker for source in measured)
    names = {source.clip for source in measured}
    for source in split:
        if counts[source.speaker] == 1 and source.clip not in names:
            counts[source.speaker] += 1
            names.add(source.clip)
    return [source for source in split if source.clip in names]


@cache
def seconds(source: Source) -> float:
    if source.stop_s is not None:
        return source.stop_s - (source.start_s or 0.0)
    return probe(source.path).duration_s - (source.start_s or 0.0)


def missing_weights(protocols: dict[str, Protocol], job: Reproduction) -> dict[str, tuple[str, ...]]:
    """Metric -> weights of it that are not on this machine."""
    missing = {}
    for protocol in protocols.values():
        options = Options(identity=protocol.identity)
        for name in chosen_metrics(protocol.metrics):
            absent = [w for w in METRICS[name].weights(options) if find_weights(w, job.weights_dir) is None]
            if absent:
                missing[name] = tuple(absent)
    return missing


# ---------------------------------------------------------------------------------------------------------------- rates


def trial(job: Reproduction, plan: Plan) -> Rates:
    """Rates on this machine, from a few seconds of two clips, in a folder that goes away; metrics without weights wait.

    Raises:
        UserError: nothing of the two clips can be prepared.
    """
    first = min(plan.sources, key=seconds)
    others = [source for source in plan.sources if source.speaker != first.speaker]
    pair = [first, *([min(others, key=seconds)] if others else [])]
    took = []
    for length_s in TRIAL_S:
        parts = [replace(source, stop_s=(source.start_s or 0.0) + min(length_s, seconds(source))) for source in pair]
        took.append(_timed(job, plan, parts))
    lengths = [sum(min(length_s, seconds(source)) for source in pair) for length_s in TRIAL_S]
    return Rates(
        _slope(lengths, [one.prepare for one in took]) / max(1, job.workers),
        {name: _slope(lengths, [one.measure[name] for one in took]) for name in took[0].measure},
    )


def _slope(lengths: Sequence[float], times: Sequence[float]) -> float:
    """Seconds a second of video; clips too short to tell the start from the work, or noise: the longer trial's all."""
    if lengths[1] > lengths[0] + 0.5 and times[1] > times[0]:
        return (times[1] - times[0]) / (lengths[1] - lengths[0])
    return times[1] / lengths[1]


def _timed(job: Reproduction, plan: Plan, parts: list[Source]) -> Rates:
    with TemporaryDirectory() as folder:
        small = replace(job, out=Path(folder), workers=0)
        begun = time.perf_counter()
        _prepare(small, parts, progress=False)
        rates = Rates(time.perf_counter() - begun)
        for name, protocol in job.protocols().items():
            here = tuple(m for m in chosen_metrics(protocol.metrics) if m not in plan.missing)
            begun = time.perf_counter()
            _measure(small, name, replace(protocol, metrics=here or ("psnr",)), parts, [p.clip for p in parts], plan)
            rates.measure[name] = time.perf_counter() - begun
        return rates


def _cached_rates(job: Reproduction) -> Rates | None:
    path = job.out / PLAN
    if not path.is_file():
        return None
    rates = json.loads(path.read_text()).get("rates")
    return Rates(**rates) if rates and rates["measure"].keys() == set(PROTOCOLS[job.corpus]) else None


# ---------------------------------------------------------------------------------------------------------------- steps


def reproduce(job: Reproduction, plan: Plan | None = None, say: Callable[[str], None] = print) -> Sheet:
    """Do what is left of a plan (one without a trial, where none is given), and write the table.

    Raises:
        UserError: `job.out` holds another reproduction, or no clip can be prepared or measured.
    """
    plan = plan or make_plan(job, try_it=False)
    _claim(job, plan)
    say(f"prepare: {len(plan.sources)} clips")
    say(str(_prepare(job, plan.sources)))
    reports = []
    for name, protocol in job.protocols().items():
        reports.append(_cached_report(job, name, protocol, plan))
        if reports[-1] is None:
            say(f"generate and measure: {name}, {len(plan.measured)} clips")
            reports[-1] = _measure(job, name, protocol, plan.sources, plan.measured, plan)
            _note(job, name, protocol, plan)
        else:
            say(f"generate and measure: {name}: done before, kept")
    sheet = _table(job, [report for report in reports if report is not None])
    say(f"table: {', '.join(str(job.out / name) for name in TABLES)}")
    return sheet


def _claim(job: Reproduction, plan: Plan) -> None:
    """Mark the folder as this reproduction's; raises UserError where it is another's."""
    drawn = ("tasks", "references", "split", "speakers")  # what of a protocol decides what is generated
    records = {name: protocol.record() for name, protocol in job.protocols().items()}
    mine = {
        "corpus": job.corpus,
        "root": str(job.root.resolve()),
        "checkpoint": sha256_of(job.checkpoint),
        "clips": plan.measured,
        "resolution": job.resolution,
        "protocols": {name: {key: record[key] for key in drawn} for name, record in records.items()},
    }
    path = job.out / PLAN
    if path.is_file():
        there = json.loads(path.read_text())
        differing = [name for name in mine if there.get(name) != mine[name]]
        if differing:
            raise UserError(
                f"{job.out}: holds a reproduction with other {', '.join(differing)} ({path}); choose another --out, or "
                "repeat the command that began it"
            )
    job.out.mkdir(parents=True, exist_ok=True)
    with written_whole(path) as part:
        part.write_text(json.dumps(mine | {"rates": plan.rates and vars(plan.rates), "hours": plan.hours()}, indent=1))


def _prepare(job: Reproduction, sources: Sequence[Source], progress: bool = True) -> PrepareReport:
    _, synthesis, meta = load_networks(job.checkpoint)
    # Published tables measure clips as they are: sound that is off stays so, and the ground-truth row shows it.
    size = largest_side(job.resolution, synthesis.face_size)
    settings = PrepareSettings(face_size=size, features=(meta["features"],), correct_sync=False)
    return prepare(sources, job.out / PREPARED, settings, root=job.root, workers=job.workers, progress=progress)


def _measure(
    job: Reproduction, name: str, protocol: Protocol, sources: Sequence[Source], measured: Sequence[str], plan: Plan
) -> Report:
    return evaluate_checkpoint(
        job.checkpoint,
        job.out / PREPARED,
        job.out / REPORTS / name,
        replace(protocol, clips=None, speakers=plan.speakers),
        name=job.name,
        weights_dir=job.weights_dir,
        device=job.device,
        clips=measured,
        source=SourceVideos({source.clip: source for source in sources}, job.out / VIDEOS),
    )


def _fingerprint(job: Reproduction, protocol: Protocol, plan: Plan) -> dict[str, Any]:
    """What a report depends on; weights that have come since make another."""
    return json.loads(json.dumps([protocol.record(), plan.measured, plan.missing, job.name]))


def _note(job: Reproduction, name: str, protocol: Protocol, plan: Plan) -> None:
    # What was missing may have been fetched meanwhile.
    plan = replace(plan, missing=missing_weights(job.protocols(), job))
    with written_whole(job.out / REPORTS / name / "done.json") as part:
        part.write_text(json.dumps(_fingerprint(job, protocol, plan)))


def _cached_report(job: Reproduction, name: str, protocol: Protocol, plan: Plan) -> Report | None:
    folder = job.out / REPORTS / name
    if not (folder / "done.json").is_file() or not (folder / REPORT_FILE).is_file():
        return None
    if json.loads((folder / "done.json").read_text()) != _fingerprint(job, protocol, plan):
        return None
    return load_report(folder)


def _table(job: Reproduction, reports: Sequence[Report]) -> Sheet:
    folder = experiment_path(job.experiments / "published")
    published = load_published([folder]) if folder.is_dir() else []
    sheet = benchmark_sheet(
        [(job.name, report) for report in reports],
        published=published,
        baselines=True,
        title=f"{job.name} on {job.corpus.upper()}",
    )
    for name, kind in TABLES.items():
        sheet.write(job.out / name, kind)  # type: ignore[arg-type]
    return sheet


def describe(job: Reproduction, plan: Plan) -> str:
    protocols = job.protocols()
    lines = [
        f"{job.corpus}: {job.root} -> {job.out}, {job.checkpoint.name} on {plan.device}",
        f"clips: {len(plan.measured)} measured ({plan.measured_s / 3600:.2f} h of video), {len(plan.sources)} prepared "
        f"({plan.prepare_s / 3600:.2f} h)" + (f"; speakers: {', '.join(plan.speakers)}" if plan.speakers else ""),
    ]
    hours = plan.hours()
    steps = {
        "prepare": f"faces, landmarks, sound, {job.workers} of {os.cpu_count()} cores; sound is not moved",
        **{
            f"generate and measure, {name}": f"{', '.join(p.tasks)}; {', '.join(chosen_metrics(p.metrics))}; SyncNet "
            f"({p.sync}) on whole frames, faces pasted back; videos are kept"
            for name, p in protocols.items()
        },
        "table": "Markdown, LaTeX, CSV, with published rows",
    }
    for number, (step, what) in enumerate(steps.items(), start=1):
        estimate = (
            f"about {_hours(hours[step])}" if step in hours else "seconds" if step == "table" else "not estimated"
        )
        lines.append(f"{number}. {step}: {estimate} ({what})")
    if hours:
        lines.append(f"in all: about {_hours(sum(hours.values()))}, by a trial on this machine; what is done is kept")
    for metric, names in plan.missing.items():
        what = ", ".join(f"{name}: {KNOWN[name].what}" for name in names)
        lines.append(
            f"not here: weights of {metric} ({what}); fetched when it is measured, else left empty; not in the hours"
        )
    return "\n".join(lines)


def _hours(hours: float) -> str:
    return f"{hours:.1f} h" if hours >= 1 else f"{60 * hours:.0f} min" if hours >= 1 / 60 else "less than a minute"
