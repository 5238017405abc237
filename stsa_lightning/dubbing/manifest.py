"""Many dubs from a list: failures do not stop the others, and what is finished is not done again."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stsa_lightning.dubbing.dubber import Dubber
from stsa_lightning.dubbing.report import DubError, DubReport
from stsa_lightning.errors import UserError

COLUMNS = ("video", "audio", "out")


@dataclass(frozen=True)
class Job:
    """One line of a manifest."""

    video: Path
    audio: Path
    out: Path


@dataclass(frozen=True)
class JobResult:
    """What became of a job: a report, or an error in words, or neither where the result existed."""

    job: Job
    report: DubReport | None = None
    error: str | None = None

    @property
    def skipped(self) -> bool:
        return self.report is None and self.error is None

    def __str__(self) -> str:
        if self.error is not None:
            return f"{self.job.out}: failed: {self.error}"
        return str(self.report) if self.report else f"{self.job.out}: exists, skipped"

    def json(self) -> dict[str, Any]:
        """What JSON holds of it: a report's fields, or `out` with `error` or `skipped`."""
        if self.report is not None:
            return self.report.json()
        told: dict[str, Any] = {"out": str(self.job.out)}
        return {**told, "skipped": True} if self.skipped else {**told, "error": self.error}


def read_manifest(path: str | Path) -> list[Job]:
    """The jobs of a CSV file with the columns video, audio and out; relative paths are relative to the file.

    Raises:
        FileNotFoundError: no such file.
        DubError: a column is missing, a line lacks a value, or two lines write the same file.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such manifest")
    with path.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file)
        missing = [name for name in COLUMNS if name not in (reader.fieldnames or ())]
        if missing:
            raise DubError(
                f"{path}: expected the columns {', '.join(COLUMNS)} in its first line, {', '.join(missing)} is missing"
            )
        jobs = []
        for row in reader:
            values = [(row[name] or "").strip() for name in COLUMNS]
            if not all(values):
                raise DubError(f"{path}, line {reader.line_num}: expected video, audio and out, got {values}")
            jobs.append(Job(*(path.parent / value for value in values)))
    outs = [job.out.resolve() for job in jobs]
    twice = next((job.out for job in jobs if outs.count(job.out.resolve()) > 1), None)
    if twice is not None:
        raise DubError(f"{path}: {twice} is the result of more than one line; give each a name of its own")
    return jobs


def dub_all(
    dubber: Dubber, jobs: Sequence[Job], progress: bool = True, audio_track: int | None = None
) -> Iterator[JobResult]:
    """Dub one after another; results appear whole, so one that exists is finished, and is skipped."""
    for job in jobs:
        if job.out.exists():
            yield JobResult(job)
            continue
        try:
            yield JobResult(job, dubber.dub(job.video, job.audio, job.out, progress=progress, audio_track=audio_track))
        except (UserError, OSError) as error:
            yield JobResult(job, error=str(error))
