"""Videos in, a prepared corpus out: one clip file for each video, and an index of what was found.

A run can be stopped at any point, by whatever means, and started again: it does what is missing, and what changed.
Each finished video is noted in a journal at once; the index is written at the end, from the same lines.
"""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from stsa_lightning.constants import FPS
from stsa_lightning.data.clip import Clip, ClipError, ClipMeta, WriteError
from stsa_lightning.data.corpora import Source
from stsa_lightning.data.extract import RejectedError, extractors, prepare_clip
from stsa_lightning.data.index import clip_path, empty_row, is_row, load_index, save_index
from stsa_lightning.data.settings import PrepareSettings
from stsa_lightning.data.workers import WorkerDied, make_workers
from stsa_lightning.face.landmarks import landmark_detector
from stsa_lightning.utils.errors import UserError, check_at_least
from stsa_lightning.utils.names import from_legible, legible_text
from stsa_lightning.utils.progress_bar import progress_bar

__all__ = ["PrepareReport", "PrepareSettings", "prepare"]

JOURNAL = ".prepare.journal"
LOCK = ".prepare.lock"
HOLDER = ".prepare.process"  # says who holds the lock

Row = dict[str, Any]


@dataclass
class PrepareReport:
    """What a run did.

    `rejected` holds (source, reason), whether found now or in an earlier run; `notes` what is to be known of sources
    that this run looked at: (source, which of its tracks were taken).
    """

    prepared: int = 0
    reused: int = 0
    rejected: list[tuple[str, str]] = field(default_factory=list)
    notes: list[tuple[str, str]] = field(default_factory=list)
    frames: int = 0
    seconds: float = 0.0

    def __str__(self) -> str:
        speed = f", {self.frames / self.seconds:.0f} frames/s" if self.frames else ""
        lines = [
            f"prepared {self.prepared}, kept {self.reused}, rejected {len(self.rejected)} ({self.seconds:.1f} s{speed})"
        ]
        lines += [f"  rejected {source}: {reason}" for source, reason in self.rejected]
        return "\n".join(lines + [f"  {source} {note}" for source, note in self.notes])


def prepare(
    sources: Sequence[Source],
    out: Path | str,
    settings: PrepareSettings | None = None,
    *,
    root: Path | str,
    workers: int = 1,
    ray: str | None = None,
    limit: int | None = None,
    progress: bool = True,
) -> PrepareReport:
    """Prepare the videos of a corpus; clips of earlier runs with the same settings are reused.

    A frame without a face is marked. A video that cannot be read, has no sound or too few frames with a face is listed
    in the index with the reason, and the run goes on; so it is when a worker dies of a video twice. The result is the
    same, byte for byte, whatever the number of workers and of interruptions.

    Args:
        sources: from `stsa_lightning.data.corpora.find_sources`.
        out: folder for the corpus: `clips/SPEAKER/...` and the index.
        settings: see `PrepareSettings`.
        root: folder that the sources' `relative` paths start from.
        workers: processes on this machine; 0 works in this process.
        ray: "auto" or HOST:PORT of a Ray cluster, whose machines all see `root` and `out`; in place of `workers`.
        limit: only the first so many sources.
        progress: show a progress bar.

    Raises:
        FileNotFoundError: a model of the settings does not exist.
        UserError: a limit below 1, another run is at work in `out`, the disk is full, or there is no such cluster.
        ImportError: a package that preparation needs is missing.
    """
    settings = (settings or PrepareSettings()).resolved()
    if limit is not None:
        check_at_least("limit", limit, 1)
    out = Path(out)
    _check_models(settings)
    with _alone(out):
        run = _Run(Path(root), out, settings)
        with make_workers(workers, ray, gpu="wav2vec2" in settings.features) as pool, run.saved():
            # Workers of a cluster stand in folders of their own.
            jobs = [Job(s.absolute(), out.absolute(), settings) for s in sources[:limit] if run.is_pending(s)]
            for job, done in _tracked(pool.run(run_job, jobs), len(jobs), progress):
                run.note(job.source, done)
    run.report.rejected.sort()
    run.report.notes.sort()
    return run.report


# ----------------------------------------------------------------------------------------------------------- one video


@dataclass(frozen=True)
class Job:
    """A video to prepare, as sent to workers."""

    source: Source
    out: Path
    settings: PrepareSettings


@dataclass(frozen=True)
class JobResult:
    """The line of the index for a video, whether its clip file existed already, and the clip's note."""

    row: Row
    reused: bool = False
    note: str = ""


def run_job(job: Job) -> JobResult:
    """Prepare one video unless its clip file exists; a video that cannot be prepared gives a line with the reason.

    Raises:
        WriteError, ImportError: what no other video would fare better with.
    """
    source = job.source
    if source.fault:
        return JobResult(rejected_row(source, "", source.fault))
    existing = _existing_clip(job)
    if existing is not None:
        return JobResult(clip_row(source, existing), reused=True, note=existing.note)
    try:
        meta = prepare_clip(source, job.out, job.settings)
        return JobResult(clip_row(source, meta), note=meta.note)
    except (WriteError, ImportError):
        raise
    except Exception as error:  # whatever it is, the other videos are not to blame
        if os.environ.get("STSA_TRACEBACK"):
            raise
        return JobResult(rejected_row(source, job.settings.hash, reason_of(error, source)))


def reason_of(error: Exception, source: Source) -> str:
    """Why a video cannot be part of the corpus, in words for people.

    Errors made for users say it themselves, those of the system have their words; what a decoder or a library raises
    beside them says nothing to whoever has the video.
    """
    if isinstance(error, (UserError, RejectedError)):
        words = str(error)
        for path in (source.path, source.audio):
            words = words.removeprefix(f"{path}: ") if path else words
        return legible_text(words)
    if isinstance(error, OSError) and error.strerror:
        return f"cannot be read ({error.strerror})"
    return (
        f"cannot be read as video with sound: it is damaged, or of a form that the decoders do not expect; convert it "
        f"(STSA_TRACEBACK=1 shows the {type(error).__name__})"
    )


def _existing_clip(job: Job) -> ClipMeta | None:
    """What the clip file of a source says if it was made of the same source under the same settings."""
    path = clip_path(job.out, job.source.clip)
    if not path.is_file():
        return None
    try:
        meta = Clip.open(path).meta
    except ClipError:
        return None
    source = job.source
    if (meta.settings_hash, meta.source_bytes, meta.part) != (job.settings.hash, source.bytes, source.part):
        return None
    if meta.source_mtime_ns != source.mtime_ns and meta.source_sha256 != source.sha256():
        return None
    return meta


def clip_row(source: Source, meta: ClipMeta) -> Row:
    """The line of a prepared clip."""
    return {
        **_source_row(source, meta.settings_hash),
        "frames": meta.frames,
        "valid_frames": meta.valid_frames,
        "longest_run": meta.longest_run,
        "duration_s": meta.frames / FPS,
        "width": meta.width,
        "height": meta.height,
        "fps": meta.source_fps,
        "features": ",".join(meta.settings["features"]),
        "status": "ok",
        "face_choice": meta.face_choice,
        **meta.measures,
    }


def rejected_row(source: Source, settings_hash: str, reason: str) -> Row:
    """The line of a video that cannot be part of a corpus."""
    return {**_source_row(source, settings_hash), "status": "rejected", "reason": reason}


def _source_row(source: Source, settings_hash: str) -> Row:
    return {**empty_row(), "settings_hash": settings_hash, **_of_source(source)}


def _of_source(source: Source) -> Row:
    """The columns that the corpus alone decides."""
    return {
        "clip": source.clip,
        "speaker": source.speaker,
        "source": source.relative,
        "source_bytes": source.bytes,
        "source_mtime_ns": source.mtime_ns,
        "part": source.part,
        "split": source.split,
        "language": source.language,
    }


# ------------------------------------------------------------------------------------------------------------- the run


class _Run:
    """One pass over the sources: the lines so far, the journal, the report."""

    def __init__(self, root: Path, out: Path, settings: PrepareSettings) -> None:
        self.out, self.settings = out, settings
        self.report = PrepareReport()
        self.rows = _existing_rows(root, out, settings.hash)
        self._begun = time.monotonic()
        self._finished = 0
        self._tidy()  # after a run that was killed

    def _tidy(self) -> None:
        """Removes what workers that died left half-written."""
        for leftover in self.out.glob("clips/**/*.part-*"):
            if leftover.suffix != ".safetensors":  # else the clip of a video that is called so
                leftover.unlink(missing_ok=True)

    def is_pending(self, source: Source) -> bool:
        """False for a source that was dealt with before and has not changed since."""
        row = None if source.fault else self.rows.get(source.clip)
        same = ("source_bytes", "source_mtime_ns", "part")
        if row is None or any(row[name] != _of_source(source)[name] for name in same):
            return True
        self.rows[source.clip] = {**row, **_of_source(source)}
        self._count(self.rows[source.clip], reused=True)
        return False

    def note(self, source: Source, done: JobResult | WorkerDied) -> None:
        """Record the result of a source."""
        if isinstance(done, WorkerDied):
            # Not noted in the journal: the next run, perhaps on a larger machine, tries again.
            self.rows[source.clip] = rejected_row(source, "", done.reason)
            self._count(self.rows[source.clip], reused=False)
            return
        self.rows[source.clip] = done.row
        self._journal.write(json.dumps(done.row) + "\n")
        self._journal.flush()
        self._finished += 1
        self._count(done.row, done.reused)
        if done.note:
            self.report.notes.append((source.relative, done.note))

    def _count(self, row: Row, reused: bool) -> None:
        report = self.report
        if row["status"] == "rejected":
            report.rejected.append((row["source"], row["reason"]))
        elif reused:
            report.reused += 1
        else:
            report.prepared += 1
            report.frames += row["frames"]

    @contextmanager
    def saved(self) -> Iterator[None]:
        """Journal of finished videos while it is open; at the end, also after an exception, the index is written.

        Raises:
            WriteError: the disk is full; what is finished stays.
        """
        journal = self.out / JOURNAL
        try:
            with open(journal, "a", encoding="utf-8") as self._journal:
                yield
            self._tidy()
            save_index(self.out, list(self.rows.values()))
            journal.unlink()
        except (WriteError, OSError) as error:
            raise WriteError(
                f"{self.out}: cannot write ({error}). {self._finished} videos were finished in this run and are kept: "
                f"make room, and run the same command again; it goes on from here"
            ) from error
        except BaseException:
            with suppress(OSError):
                save_index(self.out, list(self.rows.values()))
                journal.unlink()
            raise
        finally:
            self.report.seconds = time.monotonic() - self._begun


def _check_models(settings: PrepareSettings) -> None:
    """What is amiss with models shows before the work begins."""
    landmark_detector(settings.landmark_model).close()
    extractors(settings)
    if settings.sync == "syncnet":
        from stsa_lightning.utils.weights import weights_path

        weights_path("syncnet")


@contextmanager
def _alone(out: Path) -> Iterator[None]:
    """One run at a time in a folder; the system lifts the lock of a process that ends, in whatever way.

    Raises:
        UserError: another run is at work there.
        WriteError: the folder cannot be made.
    """
    lock, holder = FileLock(out / LOCK, timeout=0), out / HOLDER
    try:
        out.mkdir(parents=True, exist_ok=True)
        lock.acquire()
        holder.write_text(f"process {os.getpid()} on {socket.gethostname()} since {datetime.now():%Y-%m-%d %H:%M}\n")
    except Timeout:
        owner = holder.read_text().strip() if holder.is_file() else "process unknown"
        raise UserError(
            f"{out}: another run prepares into this folder ({owner}); wait for its end, or stop it"
        ) from None
    except OSError as error:
        raise WriteError(f"{out}: cannot write there ({error.strerror})") from error
    try:
        yield
    finally:
        holder.unlink(missing_ok=True)
        lock.release()


def _existing_rows(root: Path, out: Path, settings_hash: str) -> dict[str, Row]:
    """Lines of earlier runs under the same settings that still hold, by clip."""
    try:
        rows = [{str(name): value for name, value in row.items()} for row in load_index(out).to_dict("records")]
    except (FileNotFoundError, UserError):  # none yet, or one to be written anew
        rows = []
    return {
        row["clip"]: row
        for row in [*rows, *_journal_rows(out / JOURNAL)]
        if row["settings_hash"] == settings_hash
        and (clip_path(out, row["clip"]) if row["status"] == "ok" else root / from_legible(row["source"])).is_file()
    }


def _journal_rows(path: Path) -> Iterator[Row]:
    """Lines that a killed run noted; what is no line of the index, as the last one may be, is passed over."""
    if not path.is_file():
        return
    for line in path.read_bytes().split(b"\n"):
        with suppress(ValueError, RecursionError):
            row = json.loads(line)
            if is_row(row):
                yield row


def _tracked(results: Iterator[Any], total: int, progress: bool) -> Iterator[Any]:
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    columns = (
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.description}", markup=False),  # a name may hold brackets
    )
    with progress_bar(*columns, shown=progress, stays=True) as bar:
        task = bar.add_task("", total=total)
        for job, done in results:
            bar.update(task, description=job.source.relative, advance=1)
            yield job, done
