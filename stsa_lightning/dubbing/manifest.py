"""Many dubs from a list: failures do not stop the others, and what is finished is not done again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stsa_lightning.dubbing.dubber import Dubber
from stsa_lightning.dubbing.report import DubError, DubReport
from stsa_lightning.utils.errors import UserError
from stsa_lightning.utils.tables import read_table

COLUMNS = ("video", "audio", "out")


@dataclass(frozen=True)
class Job:
    """One line of a manifest; `where` it stands, and what is in `doubt` of its names, are for messages."""

    video: Path
    audio: Path
    out: Path
    where: str = ""
    doubt: str = ""

    def check(self) -> None:
        """Raises `FileNotFoundError`, with the line, where a file of it is not there."""
        for path in (self.video, self.audio):
            if not path.exists():
                raise FileNotFoundError(f"{self.where}: {path}: no such file{self.doubt}")


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


def read_manifest(path: str | Path) -> list[Job]:
    """The jobs of a CSV file with the columns video, audio and out; relative paths are relative to the file.

    Raises:
        FileNotFoundError: no such file.
        UserError: as `read_table`, or two lines write the same file.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such manifest")
    text, rows = read_table(path, COLUMNS)
    jobs = []
    for row in rows:
        video, audio, out = (path.parent / field for field in row.fields)
        jobs.append(Job(video, audio, out, row.where, text.doubt))
    firsts: dict[Path, Job] = {}
    for job in jobs:
        if firsts.setdefault(job.out.resolve(), job) is not job:
            raise DubError(f"{job.where}: {job.out} is the result of more than one line; give each a name of its own")
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
            job.check()
            yield JobResult(job, dubber.dub(job.video, job.audio, job.out, progress=progress, audio_track=audio_track))
        except (UserError, OSError) as error:
            yield JobResult(job, error=str(error))
