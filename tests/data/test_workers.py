"""Workers: every job has its result, whatever becomes of the process that worked on it."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from stsa_lightning.data.workers import InThisProcess, ProcessWorkers, RayWorkers, WorkerDied, make_workers
from stsa_lightning.utils.errors import UserError

# Workers get functions by their module's name, so they are those of a module that every process can import.


def results(workers: ProcessWorkers | InThisProcess, function, jobs: list) -> dict:
    with workers:
        return dict(workers.run(function, jobs))


@pytest.mark.parametrize("workers", [InThisProcess(), ProcessWorkers(2)], ids=["here", "processes"])
def test_every_job_has_its_result(workers: ProcessWorkers | InThisProcess) -> None:
    jobs = [str(number) * number for number in range(1, 8)]
    assert results(workers, len, jobs) == {job: len(job) for job in jobs}
    assert results(workers, len, []) == {}


def test_each_process_is_another_and_has_one_thread() -> None:
    with ProcessWorkers(2) as workers:
        found = dict(workers.run(eval, ["(__import__('os').getpid(), __import__('os').environ['OMP_NUM_THREADS'])"]))
    process, threads = next(iter(found.values()))
    assert process != os.getpid()
    assert threads == "1"
    with pytest.raises(ProcessLookupError):
        os.kill(process, 0)  # ended with the workers


def test_an_exception_comes_back() -> None:
    with pytest.raises(ZeroDivisionError), ProcessWorkers(1) as workers:
        list(workers.run(eval, ["1 / 0"]))


def test_a_worker_that_dies_costs_its_own_job_alone(tmp_path: Path) -> None:
    once = f"open({str(tmp_path / 'once')!r}, 'x').close() or __import__('os').kill(__import__('os').getpid(), 9)"
    jobs = {
        "1 + 1": 2,
        # Dies the first time, and finds the file the second time.
        f"7 if __import__('os').path.exists({str(tmp_path / 'once')!r}) else {once}": 7,
        "__import__('os').kill(__import__('os').getpid(), 9)": WorkerDied(
            "its worker was ended by SIGKILL: probably out of memory"
        ),
        "__import__('os')._exit(3)": WorkerDied("its worker ended with status 3"),
        "__import__('os').kill(__import__('os').getpid(), 11)": WorkerDied("its worker was ended by SIGSEGV"),
        "2 + 2": 4,
    }
    assert results(ProcessWorkers(2), eval, list(jobs)) == jobs


def test_workers_end_with_their_parent() -> None:
    code = (
        "from stsa_lightning.data.workers import ProcessWorkers\n"
        "job = \"print(__import__('os').getpid(), flush=True) or __import__('time').sleep(100)\"\n"
        "with ProcessWorkers(1) as workers: list(workers.run(eval, [job]))"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    worker = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    while _runs(worker):
        time.sleep(0.05)


def _runs(process: int) -> bool:
    status = Path(f"/proc/{process}/stat")
    return status.exists() and status.read_text().rsplit(")", 1)[1].split()[0] != "Z"


def test_what_cannot_be() -> None:
    with pytest.raises(UserError, match="workers: expected 0"):
        make_workers(-1, None)
    assert isinstance(make_workers(0, None), InThisProcess)


def test_ray_is_asked_for_by_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ImportError, match=r"stsa_lightning\[ray\]"):
        make_workers(1, "auto")


@pytest.fixture(scope="module")
def ray_cluster() -> Iterator[str]:
    """The address of a cluster of two machines, both this one."""
    pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    cluster.add_node(num_cpus=1)
    yield cluster.address
    cluster.shutdown()


@pytest.mark.slow
def test_ray(ray_cluster: str) -> None:
    jobs = ["'a'", "1 + 1", "__import__('os')._exit(3)", "__import__('os').kill(__import__('os').getpid(), 9)"]
    with RayWorkers(ray_cluster) as workers:
        found = dict(workers.run(eval, jobs))
        assert (found[jobs[0]], found[jobs[1]]) == ("a", 2)
        assert all(isinstance(found[job], WorkerDied) for job in jobs[2:])
        with pytest.raises(ZeroDivisionError):
            list(workers.run(eval, ["1 / 0"]))


def test_no_ray_cluster() -> None:
    pytest.importorskip("ray")
    with (
        pytest.raises(UserError, match=r"expected a cluster at '127.0.0.1:1'.*ray start --head"),
        RayWorkers("127.0.0.1:1"),
    ):
        pass
