"""Many dubs from a list: failures do not stop the others, and what is finished is not done again."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from stsa_lightning.dubbing.dubber import Dubber
from stsa_lightning.dubbing.progress import ProgressCallback
from stsa_lightning.dubbing.report import DubError, DubReport
from stsa_lightning.utils.errors import UserError
from stsa_lightning.utils.examine import not_a_file
from stsa_lightning.utils.names import as_stored, legible
from stsa_lightning.utils.tables import Text, read_text, table_rows

COLUMNS, OPTIONAL = ("video", "audio", "out"), ("sound",)


@dataclass(frozen=True)
class Job:
    """One line of a manifest; `where` it stands, and what is in `doubt` of its names, are for messages."""

    video: Path
    audio: Path
    out: Path
    where: str = ""
    doubt: str = ""
    sound: Path | None = None

    def check(self) -> None:
        """Raises `FileNotFoundError` or `UserError`, with the line, where a file of it is not there."""
        for path in (self.video, self.audio, self.sound):
            if path is not None and not path.exists():
                raise not_a_file(path, "file", f"{self.where}: ", self.doubt)


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
        fields: dict[str, Any] = {"out": str(self.job.out)}
        return {**fields, "skipped": True} if self.skipped else {**fields, "error": self.error}


def read_manifest(path: str | Path, encoding: str | None = None) -> list[Job]:
    """The jobs of a CSV file with the columns video, audio, out and, where wanted, sound; paths are relative to it.

    Args:
        path: the file.
        encoding: what it is in; None: told by the file itself, or by which videos and sounds there are.

    Raises:
        FileNotFoundError: no such file.
        UserError: as `read_text` and `table_rows`; two lines write the same file; what a line means depends on an
            encoding that nothing tells.
    """
    path = Path(path)
    if not path.is_file():
        raise not_a_file(path, "manifest")
    there = cache(os.path.exists)

    def found(text: Text) -> int:
        try:
            return sum(there(path) for job in _jobs(text) for path in (job.video, job.audio, job.sound) if path)
        except UserError:
            return -1

    text = read_text(path, encoding, found)
    jobs = _jobs(text)
    for job, *others in zip(jobs, *map(_jobs, text.others), strict=False):
        _check_sure(job, [text, *text.others], [job, *others])
    firsts: dict[str, Job] = {}
    for job in jobs:
        if firsts.setdefault(os.path.realpath(job.out), job) is not job:
            raise DubError(f"{job.where}: {job.out} is the result of more than one line; give each a name of its own")
    return jobs


def _jobs(text: Text) -> list[Job]:
    jobs = []
    for row in table_rows(text, COLUMNS, OPTIONAL):
        video, audio, out, mix = (text.path.parent / field for field in row.fields)
        sound = as_stored(mix) if row.fields[-1] else None
        jobs.append(Job(as_stored(video), as_stored(audio), out, row.where, text.doubt, sound))
    return jobs


def _check_sure(job: Job, texts: list[Text], readings: list[Job]) -> None:
    """Raises `DubError` where the readings of a line would dub other files, or into another one."""
    for name in (*COLUMNS, *OPTIONAL):
        meant: dict[Path, str] = {}
        for reading, text in zip(readings, texts, strict=True):
            if path := getattr(reading, name):
                meant.setdefault(path, text.encoding)
        usable = [path for path in meant if name == "out" or os.path.exists(path)]
        if len(usable) > 1:
            raise DubError(
                f"{job.where}: expected UTF-8, found bytes that stand for other names in each encoding: {name} is "
                + " or ".join(f"{legible(path.name)} ({meant[path]})" for path in usable[:3])
                + "; say which with --encoding, or save the list as text in UTF-8 (in a spreadsheet: CSV UTF-8)"
            )


def dub_all(
    dubber: Dubber, jobs: Sequence[Job], progress: bool | ProgressCallback = True, audio_track: int | None = None
) -> Iterator[JobResult]:
    """Dub one after another; results appear whole, so one that exists is finished, and is skipped."""
    for job in jobs:
        if job.out.exists():
            yield JobResult(job)
            continue
        try:
            job.check()
            report = dubber.dub(job.video, job.audio, job.out, progress, audio_track=audio_track, sound=job.sound)
            yield JobResult(job, report)
        except (UserError, OSError) as error:
            yield JobResult(job, error=str(error))
