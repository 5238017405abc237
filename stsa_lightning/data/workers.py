"""A function applied to many jobs: in this process, in processes of this machine, or on a Ray cluster.

All three give each job's result as it is finished. A worker that dies (killed for memory, a crash in a decoder's native
code) costs its own job alone: it is tried once more, then its result is a `WorkerDied`.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import Pipe
from multiprocessing.connection import Connection, wait
from typing import Any, Protocol, TypeVar

from stsa_lightning.utils.errors import MissingPackageError, UserError
from stsa_lightning.utils.memory import limit_arenas, release_free_memory

Job = TypeVar("Job")
TRIES = 2


@dataclass(frozen=True)
class WorkerDied:
    """In place of a result: the worker died, each time that the job was tried."""

    reason: str


class Workers(Protocol):
    """Applies functions to jobs; a context manager that frees its workers."""

    def run(self, function: Callable[[Job], Any], jobs: Iterable[Job]) -> Iterator[tuple[Job, Any]]:
        """Each job with its result, or with `WorkerDied`, in the order in which they are finished.

        An exception that the function raises is raised here. `function` is one of a module, jobs and results can be
        pickled.
        """
        ...

    def __enter__(self) -> Workers: ...

    def __exit__(self, *_: object) -> None: ...


def make_workers(count: int, ray: str | None, gpu: bool = False) -> Workers:
    """Workers by number (0: this process) or on a Ray cluster.

    Args:
        count: processes on this machine; of no meaning with `ray`.
        ray: "auto" for the cluster that runs on this machine, or HOST:PORT of a cluster's head.
        gpu: jobs profit from a share of a GPU.

    Raises:
        UserError: a number below 0, or no such cluster.
        MissingPackageError: Ray is not installed.
    """
    if ray is not None:
        return RayWorkers(ray, gpu)
    if count < 0:
        raise UserError(f"workers: expected 0 (this process) or more, got {count}")
    return ProcessWorkers(count) if count else InThisProcess()


class InThisProcess:
    """One job after another, here: for debugging, and where nothing may be started."""

    def run(self, function: Callable[[Job], Any], jobs: Iterable[Job]) -> Iterator[tuple[Job, Any]]:
        for job in jobs:
            yield job, _apply(function, job)

    def __enter__(self) -> InThisProcess:
        return self

    def __exit__(self, *_: object) -> None: ...


@dataclass
class _Attempt:
    job: Any
    number: int = 1


class _Attempts:
    """Jobs to hand out: those to be tried again first."""

    def __init__(self, jobs: Iterable[Any]) -> None:
        self._first = (_Attempt(job) for job in jobs)
        self._again: deque[_Attempt] = deque()

    def next(self) -> _Attempt | None:
        return self._again.popleft() if self._again else next(self._first, None)

    def died(self, attempt: _Attempt) -> bool:
        """Note that an attempt's worker died; True if its job is given up."""
        if attempt.number >= TRIES:
            return True
        self._again.append(_Attempt(attempt.job, attempt.number + 1))
        return False


# ------------------------------------------------------------------------------------------------------- this machine


class ProcessWorkers:
    """Processes of this machine, each a fresh interpreter with one thread for numbers.

    Not `multiprocessing.Process`: its spawning imports the caller's main module again, which a script or a notebook
    without a guard does not survive, and its forking does not survive the threads of PyTorch.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self._workers: list[_Worker] = []

    def run(self, function: Callable[[Job], Any], jobs: Iterable[Job]) -> Iterator[tuple[Job, Any]]:
        attempts = _Attempts(jobs)
        busy: dict[Any, tuple[_Worker, _Attempt]] = {}  # by connection
        idle = list(self._workers)
        while True:
            while len(busy) < self.count and (attempt := attempts.next()) is not None:
                worker = idle.pop() if idle else self._start()
                worker.give(function, attempt.job)
                busy[worker.connection] = (worker, attempt)
            if not busy:
                return
            for connection in wait(list(busy)):
                worker, attempt = busy.pop(connection)
                try:
                    result, error = worker.connection.recv()
                except (EOFError, OSError):
                    self._workers.remove(worker)
                    words = worker.last_words()
                    if attempts.died(attempt):
                        yield attempt.job, WorkerDied(words)
                    continue
                idle.append(worker)
                if error is not None:
                    raise error
                yield attempt.job, result

    def _start(self) -> _Worker:
        worker = _Worker()
        self._workers.append(worker)
        return worker

    def __enter__(self) -> ProcessWorkers:
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self._workers:
            worker.end()
        self._workers.clear()


class _Worker:
    """The parent's end of a worker process."""

    def __init__(self) -> None:
        self.connection, theirs = Pipe()
        threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
        path = os.pathsep.join(filter(None, sys.path))  # this package may have been found through the caller's path
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__, str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.PIPE,  # held open: it ends with this process, however this process ends
            env={**os.environ, **threads, "PYTHONPATH": path},
        )
        theirs.close()

    def give(self, function: Callable[[Any], Any], job: Any) -> None:
        with suppress(BrokenPipeError):  # dead already, which the next reading tells
            self.connection.send((function, job))

    def last_words(self) -> str:
        """How the process came to its end."""
        code = self._process.wait()
        self._close()
        if code >= 0:
            return f"its worker ended with status {code}"
        name = signal.Signals(-code).name
        hint = ": probably out of memory" if name == "SIGKILL" else ""
        return f"its worker was ended by {name}{hint}"

    def end(self) -> None:
        self._process.kill()
        self._process.wait()
        self._close()

    def _close(self) -> None:
        self.connection.close()
        if self._process.stdin is not None:
            self._process.stdin.close()


def _serve(connection: Connection) -> None:
    """A worker's life: jobs in, results out, until the parent is gone."""
    import cv2

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to all; the parent ends its workers
    threading.Thread(target=_end_with_parent, daemon=True).start()
    cv2.setNumThreads(1)
    limit_arenas()
    with suppress(EOFError, BrokenPipeError, ConnectionResetError):
        while True:
            function, job = connection.recv()
            try:
                result, failure = _apply(function, job), None
            except Exception as error:  # of any kind: it is raised in the parent
                result, failure = None, error
            connection.send((result, failure))


def _end_with_parent() -> None:
    os.read(0, 1)
    os._exit(1)


# ----------------------------------------------------------------------------------------------------------------- Ray


class RayWorkers:
    """Tasks of a Ray cluster, one processor core each; the machines share the folders of videos and of the corpus."""

    def __init__(self, address: str, gpu: bool = False) -> None:
        try:
            import ray
        except ImportError as error:
            raise MissingPackageError("--ray needs Ray: pip install 'stsa_lightning[ray]'") from error
        self._ray, self._address, self._gpu = ray, address, gpu

    def __enter__(self) -> RayWorkers:
        self._is_mine = not self._ray.is_initialized()
        if self._is_mine:
            try:
                if ":" in self._address:  # Ray itself would try for minutes
                    host, port = self._address.rsplit(":", 1)
                    socket.create_connection((host, int(port)), timeout=10).close()
                self._ray.init(address=self._address, log_to_driver=False, logging_level=logging.ERROR)
            except (OSError, RuntimeError, ValueError) as error:
                raise UserError(
                    f"ray: expected a cluster at {self._address!r}, found none ({error}); start one with "
                    f"`ray start --head`, and on every other machine `ray start --address=HOST:6379`"
                ) from error
        return self

    def __exit__(self, *_: object) -> None:
        if self._is_mine:
            self._ray.shutdown()

    def run(self, function: Callable[[Job], Any], jobs: Iterable[Job]) -> Iterator[tuple[Job, Any]]:
        ray, attempts = self._ray, _Attempts(jobs)
        task = ray.remote(max_retries=0, num_cpus=1, num_gpus=self._gpu_share())(_apply)
        pending: dict[Any, _Attempt] = {}
        while True:
            # Twice what runs at once, asked again each time as machines come and go: nobody waits for work.
            room = 2 * max(1, int(ray.cluster_resources().get("CPU", 1)))
            while len(pending) < room and (attempt := attempts.next()) is not None:
                pending[task.remote(function, attempt.job)] = attempt
            if not pending:
                return
            for reference in ray.wait(list(pending))[0]:
                attempt = pending.pop(reference)
                try:
                    result = ray.get(reference)
                except ray.exceptions.RayTaskError as error:
                    raise error.cause from error
                except ray.exceptions.RayError as error:  # the worker or its machine is gone
                    if attempts.died(attempt):
                        yield attempt.job, WorkerDied(f"its worker was lost ({type(error).__name__})")
                    continue
                yield attempt.job, result

    def _gpu_share(self) -> float:
        found = self._ray.cluster_resources()
        return found.get("GPU", 0) / max(1, found.get("CPU", 1)) if self._gpu else 0


def _apply(function: Callable[[Any], Any], job: Any) -> Any:
    try:
        return function(job)
    finally:
        release_free_memory()


if __name__ == "__main__":
    _serve(Connection(int(sys.argv[1])))
