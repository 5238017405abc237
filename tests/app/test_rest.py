"""The service over HTTP: a server on this machine, and clients of another library."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

if find_spec("gradio") is None:  # it is not asked for here, and takes seconds to import
    pytest.skip("Gradio is not installed: pip install 'stsa_lightning[app]'", allow_module_level=True)
httpx = pytest.importorskip("httpx")
uvicorn = pytest.importorskip("uvicorn")

from starlette.applications import Starlette  # noqa: E402

from stsa_lightning.app.jobs import KEPT_S, Jobs  # noqa: E402
from stsa_lightning.app.limits import Limits  # noqa: E402
from stsa_lightning.app.rest import beside_the_page  # noqa: E402
from stsa_lightning.app.same_origin import TrustedHosts, same_origin_only  # noqa: E402
from stsa_lightning.media.audio import write_wav  # noqa: E402
from stsa_lightning.utils.errors import UserError  # noqa: E402


class Report:
    def json(self) -> dict[str, Any]:
        return {"out": "/secret/path/dubbed.mp4", "frames": 50}


class Mixer:
    """Stands for a dubber: its result says what it was made from. `held` keeps it at work."""

    def __init__(self) -> None:
        self.held = threading.Event()
        self.held.set()
        self.at_once = self.most = self.dubs = 0

    def dub(self, video: Path, speech: Path, out: Path, progress: Callable[[str, int, int], None]) -> Report:
        self.at_once += 1
        self.most, self.dubs = max(self.most, self.at_once), self.dubs + 1
        try:
            progress("re-rendering", 0, 50)
            while not self.held.wait(0.01):
                progress("re-rendering", 10, 50)
            if speech.stat().st_size == 44 + 2 * 1600:
                raise UserError(f"{speech}: this one is refused")
            out.write_bytes(digest(video.read_bytes(), speech.read_bytes()))
            return Report()
        finally:
            self.at_once -= 1


def digest(*contents: bytes) -> bytes:
    return hashlib.sha256(b"".join(contents)).hexdigest().encode()


@pytest.fixture
def clock() -> list[float]:
    return [0.0]


@pytest.fixture
def mixer() -> Mixer:
    return Mixer()


@pytest.fixture
def jobs(mixer: Mixer, tmp_path: Path, clock: list[float]) -> Iterator[Jobs]:
    limits = Limits(seconds=5, megabytes=1, waiting=20)
    jobs = Jobs(mixer, tmp_path / "jobs", limits, threading.Lock(), lambda: clock[0])  # type: ignore[arg-type]
    yield jobs
    mixer.held.set()
    jobs.close()
    assert not (tmp_path / "jobs").exists()


@pytest.fixture
def url(jobs: Jobs) -> Iterator[str]:
    app = Starlette(middleware=[*same_origin_only(TrustedHosts()), beside_the_page(jobs)])
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    thread.join()


@pytest.fixture
def client(url: str) -> Iterator[Any]:
    with httpx.Client(base_url=url, timeout=600) as client:
        yield client


@pytest.fixture(scope="module")
def video(sample_root: Path) -> bytes:
    return min(sample_root.rglob("*.mp4")).read_bytes()


@pytest.fixture(scope="module")
def speech(tmp_path_factory: pytest.TempPathFactory) -> Callable[[float], bytes]:
    def make(seconds: float) -> bytes:
        path = tmp_path_factory.getbasetemp() / f"speech{seconds}.wav"
        write_wav(path, np.full(round(seconds * 16_000), 0.1, np.float32), 16_000)
        return path.read_bytes()

    return make


def submit(client: Any, video: bytes, speech: bytes, name: str = "me.mp4") -> Any:
    return client.post("/v1/jobs", files={"video": (name, video), "speech": ("words.wav", speech)})


def ended(client: Any, job: str) -> dict[str, Any]:
    while (told := client.get(f"/v1/jobs/{job}").json())["status"] in ("waiting", "working"):
        time.sleep(0.01)
    return told


def until(condition: Callable[[], bool]) -> None:
    while not condition():
        time.sleep(0.01)


def test_a_client_submits_polls_and_downloads(client: Any, video: bytes, speech: Any, mixer: Mixer, jobs: Jobs) -> None:
    assert client.get("/v1/health").json() == {"status": "ok"}
    mixer.held.clear()
    answer = submit(client, video, speech(0.5))
    assert answer.status_code == 202
    job = answer.json()["id"]
    assert answer.headers["location"] == f"/v1/jobs/{job}"
    until(lambda: client.get(f"/v1/jobs/{job}").json().get("frame") == 10)
    told = client.get(f"/v1/jobs/{job}").json()
    assert told == {"id": job, "status": "working", "stage": "re-rendering", "frame": 10, "total": 50}
    assert client.get(f"/v1/jobs/{job}/result").status_code == 409
    mixer.held.set()
    assert ended(client, job) == {"id": job, "status": "done", "report": {"out": "dubbed.mp4", "frames": 50}}
    result = client.get(f"/v1/jobs/{job}/result")
    assert result.headers["content-type"] == "video/mp4"
    assert result.content == digest(video, speech(0.5))
    assert client.delete(f"/v1/jobs/{job}").json()["status"] == "cancelled"
    assert client.get(f"/v1/jobs/{job}/result").status_code == 409


def test_twenty_clients_at_once_each_get_their_own(
    url: str, video: bytes, speech: Callable[[float], bytes], mixer: Mixer
) -> None:
    said = [speech(0.2 + number / 100) for number in range(20)]

    def one(number: int) -> bytes:
        with httpx.Client(base_url=url, timeout=600) as client:
            job = submit(client, video, said[number]).json()["id"]
            assert ended(client, job)["status"] == "done"
            return client.get(f"/v1/jobs/{job}/result").content

    with ThreadPoolExecutor(20) as pool:
        found = list(pool.map(one, range(20)))
    assert found == [digest(video, each) for each in said]
    assert (mixer.most, mixer.dubs) == (1, 20)


def test_jobs_that_wait_or_work_are_cancelled(
    client: Any, video: bytes, speech: Any, mixer: Mixer, tmp_path: Path
) -> None:
    mixer.held.clear()
    working, waiting = (submit(client, video, speech(0.5)).json()["id"] for _ in range(2))
    until(lambda: client.get(f"/v1/jobs/{working}").json()["status"] == "working")
    for job in (waiting, working):
        assert client.delete(f"/v1/jobs/{job}").json()["status"] == "cancelled"
        assert ended(client, job)["status"] == "cancelled"
        assert not (tmp_path / "jobs" / job).exists()
    mixer.held.set()
    job = submit(client, video, speech(0.5)).json()["id"]
    assert ended(client, job)["status"] == "done"  # the queue goes on
    assert mixer.dubs == 2


def test_what_is_too_much_is_refused(client: Any, video: bytes, speech: Any, mixer: Mixer, tmp_path: Path) -> None:
    large = submit(client, video + bytes(2**20), speech(0.5))
    assert (large.status_code, large.json()["error"]) == (413, "video: is larger than 1 MB")
    huge = client.post(
        "/v1/jobs", content=iter([bytes(2**20)] * 4), headers={"content-type": "multipart/form-data; boundary=x"}
    )
    assert huge.status_code in (400, 413)
    long = ended(client, submit(client, video, speech(6.0)).json()["id"])
    assert long["status"] == "failed"
    assert "takes up to 5 s" in long["error"]
    mixer.held.clear()
    first = submit(client, video, speech(0.5)).json()["id"]
    until(lambda: client.get(f"/v1/jobs/{first}").json()["status"] == "working")
    answers = [submit(client, video, speech(0.5)) for _ in range(21)]
    assert [answer.status_code for answer in answers] == [202] * 20 + [503]
    assert answers[-1].headers["retry-after"] == "10"
    assert len(list((tmp_path / "jobs").iterdir())) == 21


@pytest.mark.parametrize("form", [{}, {"video": "text"}, {"files": ("a", b"b")}])
def test_forms_without_files_are_refused_in_words(client: Any, form: dict[str, Any]) -> None:
    answer = client.post("/v1/jobs", files=form or None)
    assert answer.status_code == 400
    assert "expected a file in a form" in answer.json()["error"]


def test_failures_are_told_without_paths_of_this_machine(client: Any, video: bytes, speech: Any) -> None:
    refused = ended(client, submit(client, video, speech(0.1)).json()["id"])
    assert refused["error"] == "speech.wav: this one is refused"
    broken = ended(client, submit(client, b"no video", speech(0.5)).json()["id"])
    assert broken["error"].startswith("video.mp4: is a text")


def test_names_of_files_and_ids_lead_nowhere_else(
    client: Any, video: bytes, speech: Any, tmp_path: Path, jobs: Jobs
) -> None:
    for name in ("../../../../escaped.mp4", "/etc/passwd", "a.m/p4", "x." + "y" * 300, "..mp4"):
        assert ended(client, submit(client, video, speech(0.5), name).json()["id"])["status"] == "done"
    assert not list(tmp_path.rglob("*escaped*"))
    for path in ("/v1/jobs", "/v1/jobs/..%2f..%2fetc/result", "/v1/jobs/none", "/v1/jobs/none/result", "/v1/"):
        assert client.get(path).status_code in (404, 405), path
    assert client.delete("/v1/jobs/none").status_code == 404


def test_other_sites_and_names_are_refused(client: Any) -> None:
    assert client.get("/v1/health", headers={"Origin": "http://evil.example"}).status_code == 403
    assert client.get("/v1/health", headers={"Host": "evil.example"}).status_code == 403


def test_finished_jobs_are_forgotten_after_an_hour(
    client: Any, video: bytes, speech: Any, clock: list[float], tmp_path: Path
) -> None:
    job = submit(client, video, speech(0.5)).json()["id"]
    assert ended(client, job)["status"] == "done"
    clock[0] += KEPT_S - 1
    assert client.get(f"/v1/jobs/{job}/result").status_code == 200
    clock[0] += 2
    assert client.get(f"/v1/jobs/{job}").status_code == 404
    assert not (tmp_path / "jobs" / job).exists()
