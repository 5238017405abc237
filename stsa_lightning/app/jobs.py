"""Dubs that other programs ask for: one after the other, each known by an id that nobody can guess."""

from __future__ import annotations

import secrets
import shutil
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from stsa_lightning.app.limits import Limits
from stsa_lightning.dubbing import Dubber
from stsa_lightning.utils.errors import UserError
from stsa_lightning.utils.memory import release_free_memory

Status = Literal["waiting", "working", "done", "failed", "cancelled"]
KEPT_S = 3600  # how long a finished job and its result stay, and the uploads and results of the page


class CancelledError(Exception):
    """Nobody wants the job's result any more."""


@dataclass
class Job:
    """One dub; `folder` holds what was sent and what came of it."""

    id: str
    folder: Path
    video: Path
    speech: Path
    status: Status = "waiting"
    progress: dict[str, Any] = field(default_factory=dict)
    report: dict[str, Any] | None = None
    error: str | None = None
    cancelled: bool = False
    ended_s: float | None = None

    @property
    def result(self) -> Path:
        return self.folder / "dubbed.mp4"

    def json(self) -> dict[str, Any]:
        """What its owner is told; paths of this machine are not."""
        told = {"id": self.id, "status": self.status, **self.progress, "report": self.report, "error": self.error}
        return {name: value for name, value in told.items() if value is not None}


class Jobs:
    """A queue, and the thread that works it off; `work` is held meanwhile: the page takes turns with the queue."""

    def __init__(
        self,
        dubber: Dubber,
        folder: Path,
        limits: Limits,
        work: threading.Lock,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.limits = limits
        self._dubber, self._folder, self._work, self._clock = dubber, folder, work, clock
        self._jobs: dict[str, Job] = {}
        self._waiting: deque[Job] = deque()
        self._news, self._closed = threading.Condition(), False
        self._thread = threading.Thread(target=self._run, name="jobs", daemon=True)
        self._thread.start()

    def place(self) -> tuple[str, Path]:
        """An id, and an empty folder for what is sent with it."""
        name = secrets.token_urlsafe(24)
        folder = self._folder / name
        folder.mkdir(parents=True)
        return name, folder

    @property
    def full(self) -> bool:
        """Whether no more jobs may wait."""
        return len(self._waiting) >= self.limits.waiting

    def submit(self, name: str, folder: Path, video: Path, speech: Path) -> Job | None:
        """A job of files in its folder (see `place`), which go with it; None: too many wait already."""
        job = Job(name, folder, video, speech)
        with self._news:
            self._forget()
            if self.full or self._closed:
                shutil.rmtree(folder, ignore_errors=True)
                return None
            self._jobs[name] = job
            self._waiting.append(job)
            self._news.notify_all()
        return job

    def find(self, name: str) -> Job | None:
        """The job of an id; None: there is none, or it is forgotten."""
        with self._news:
            self._forget()
            return self._jobs.get(name)

    def cancel(self, job: Job) -> None:
        """Give a job up, or its result: what it holds is removed at once, or as soon as the work lets go of it."""
        with self._news:
            job.cancelled = True
            if job in self._waiting:
                self._waiting.remove(job)
                self._end(job, "cancelled")
            if job.status != "working":
                job.status = "cancelled"
                shutil.rmtree(job.folder, ignore_errors=True)

    def close(self) -> None:
        """Give up all jobs; returns when the one at work has let go."""
        with self._news:
            self._closed = True
            for job in self._jobs.values():
                job.cancelled = True
            self._news.notify_all()
        self._thread.join()
        shutil.rmtree(self._folder, ignore_errors=True)

    # ------------------------------------------------------------------------------------------------------- the thread

    def _run(self) -> None:
        while True:
            with self._news:
                self._news.wait_for(lambda: self._closed or self._waiting)
                if self._closed:
                    return
                job = self._waiting.popleft()
                job.status = "working"
            self._do(job)

    def _do(self, job: Job) -> None:
        status: Status = "failed"
        try:
            with self._work:
                self._tell(job, "looking at the files", 0, 0)
                self.limits.check(job.video, job.speech)
                report = self._dubber.dub(
                    job.video, job.speech, job.result, progress=lambda *done: self._tell(job, *done)
                )
            job.report, status = {**report.json(), "out": job.result.name}, "done"
        except CancelledError:
            status = "cancelled"
        except Exception as error:
            job.error = in_words(error, {f"{job.folder}/": ""})
        finally:
            release_free_memory()
        with self._news:
            self._end(job, "cancelled" if job.cancelled else status)

    def _tell(self, job: Job, stage: str, frame: int, total: int) -> None:
        if job.cancelled:
            raise CancelledError
        job.progress = {"stage": stage, "frame": frame, "total": total}

    def _end(self, job: Job, status: Status) -> None:
        job.status, job.ended_s, job.progress = status, self._clock(), {}
        if status == "done":
            job.video.unlink(missing_ok=True)
            job.speech.unlink(missing_ok=True)
        else:
            shutil.rmtree(job.folder, ignore_errors=True)

    def _forget(self) -> None:
        now_s = self._clock()
        for job in [job for job in self._jobs.values() if job.ended_s is not None and now_s - job.ended_s > KEPT_S]:
            del self._jobs[job.id]
            shutil.rmtree(job.folder, ignore_errors=True)


def in_words(error: Exception, names: Mapping[str, str], hint: str = "") -> str:
    """What people are told of an error, in which `names` stand for paths of this machine.

    One that no user can put right goes to the terminal in full, and gets `hint`.
    """
    if not isinstance(error, UserError | FileNotFoundError):
        traceback.print_exception(error)
        return f"Something went wrong that is no fault of the files.{hint}"
    text = str(error)
    for path, name in names.items():
        text = text.replace(path, name)
    return text
