"""The page as people use it: a real browser without a network."""

from __future__ import annotations

import http.client
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from stsa_lightning.media.audio import write_wav
from stsa_lightning.media.video import probe
from stsa_lightning.models.checkpoint import save_networks
from stsa_lightning.models.guidance import Guidance
from stsa_lightning.models.presets import GUIDANCE, SYNTHESIS
from stsa_lightning.models.synthesis import Synthesis

# Without importing it: it takes seconds, and its program is started as a process.
if find_spec("gradio") is None:
    pytest.skip("Gradio is not installed: pip install 'stsa_lightning[app]'", allow_module_level=True)
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
MAX_SECONDS = 2.5


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("networks") / "tiny.safetensors"
    networks = Guidance(**GUIDANCE["tiny"]), Synthesis(**SYNTHESIS["tiny"])
    return save_networks(path, *networks, {"features": "logmel", "num_frames": 5})


@dataclass
class Served:
    url: str
    process: subprocess.Popen
    temporary: Path
    log: Path


@pytest.fixture(scope="module")
def served(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """`stsa app` as a process of its own, with its own folder for temporary files."""
    folder = tmp_path_factory.mktemp("served")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = ["app", "--checkpoint", str(checkpoint), "--port", str(port), "--max-seconds", str(MAX_SECONDS)]
    words.append("--no-check")  # the networks are not trained
    environment = os.environ | {"TMPDIR": str(folder), "STSA_CACHE": str(folder / "cache")}
    with open(folder / "log", "w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "stsa_lightning", *words, "--max-mb", "3"], stdout=log, stderr=log, env=environment
        )
    try:
        while "http" not in (said := (folder / "log").read_text()):
            assert process.poll() is None, said
            time.sleep(0.2)
        yield Served(f"http://127.0.0.1:{port}", process, folder, folder / "log")
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    program = next(filter(None, map(shutil.which, BROWSERS)), None)
    if program is None:
        pytest.skip(f"no browser: none of {', '.join(BROWSERS)} is installed (apt-get install chromium)")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=program, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


@dataclass
class Page:
    """An open page, and every address that it asked for."""

    tab: Any
    asked: list[str]

    def give(self, video: Path | None = None, speech: Path | None = None) -> None:
        for name, path in (("video", video), ("speech", speech)):
            if path is not None:
                self.tab.set_input_files(f"#{name} input[type=file]", path)
                self.tab.wait_for_selector(f"#{name} button[title=Clear], #{name} button[aria-label=Clear]")

    def dub(self) -> str:
        """What the page says in the end."""
        self.tab.evaluate("document.querySelector('.message')?.classList.add('old')")
        self.tab.click("#start")
        return str(self.tab.wait_for_selector(".message:not(.old)").inner_text())

    def shown(self, selector: str) -> bool:
        return bool(self.tab.is_visible(selector))


@pytest.fixture
def page(served: Served, browser: Any) -> Iterator[Page]:
    tab, asked = browser.new_page(viewport={"width": 1200, "height": 1000}), list[str]()
    tab.set_default_timeout(600_000)
    tab.on("request", lambda request: asked.append(request.url))
    tab.goto(served.url)
    tab.wait_for_selector("#start")
    yield Page(tab, asked)
    tab.close()


@pytest.fixture(scope="module")
def video(sample_root: Path) -> Path:
    return min(sample_root.rglob("*.mp4"))


@pytest.fixture(scope="module")
def speech(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("speech")

    def make(seconds: float) -> Path:
        path = folder / f"speech{seconds:g}.wav"
        write_wav(path, 0.2 * np.random.default_rng(0).standard_normal(round(16_000 * seconds)).astype(np.float32))
        return path

    return make


@pytest.mark.slow
def test_upload_dub_play_download(page: Page, served: Served, video: Path, speech: Any, tmp_path: Path) -> None:
    page.give(video, speech(1.2))
    assert page.dub().startswith("All 30 frames re-rendered. 1.2 s of 256 x 256 at 25 frames/s")

    page.tab.click("#together")
    page.tab.wait_for_function("document.querySelector('#after video').currentTime > 0.3")
    players = page.tab.eval_on_selector_all(
        "#results video", "players => players.map(p => [p.duration, p.videoWidth, p.muted, p.error])"
    )
    assert [player[1:] for player in players] == [[256, True, None], [256, False, None], [256, True, None]]
    assert [player[0] for player in players] == pytest.approx([2.0, 1.2, 1.2], abs=0.08)

    with page.tab.expect_download() as download:
        page.tab.click("#download")
    download.value.save_as(tmp_path / "result.mp4")
    assert download.value.suggested_filename == "clip01-dubbed.mp4"
    found = probe(tmp_path / "result.mp4")
    assert (found.frames, found.width, found.has_audio) == (30, 256, True)
    assert "Traceback" not in served.log.read_text()


@pytest.mark.slow
def test_the_page_asks_nobody_else(page: Page, served: Served) -> None:
    page.tab.wait_for_timeout(500)
    assert len(page.asked) > 10
    assert [url for url in page.asked if not url.startswith((served.url, "data:", "blob:"))] == []
    with pytest.raises(Exception, match="Failed to fetch"):
        page.tab.evaluate("fetch('http://localhost:9/script.js')")
    assert "violates" in page.tab.evaluate(
        """() => new Promise(done => {
            document.addEventListener('securitypolicyviolation', event => done('violates ' + event.effectiveDirective));
            fetch('http://localhost:9/script.js').catch(() => null); })"""
    )


@pytest.mark.slow
def test_a_sample_is_rendered_on_the_spot(page: Page) -> None:
    page.tab.click("#sample2")
    page.tab.wait_for_selector("#video video")
    page.tab.wait_for_selector("#speech button[aria-label=Clear]")
    page.tab.wait_for_function("document.querySelector('#video video').duration > 3")
    # Samples last 4 s, which this page was told to refuse.
    assert "The video is 4 s long; this page takes up to 2.5 s." in page.dub()


@pytest.mark.slow
def test_errors_in_words(page: Page, served: Served, video: Path, speech: Any, tmp_path: Path) -> None:
    assert page.dub() == "Give a video and speech first, or pick a sample."
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"no film at all" * 1000)
    page.give(broken, speech(0.5))
    said = page.dub()
    assert said.startswith("broken.mp4: is a text, neither video nor sound")
    assert str(served.temporary) not in said
    assert not page.shown("#results")
    assert "Traceback" not in served.log.read_text()


@pytest.mark.slow
def test_speech_that_is_too_long(page: Page, video: Path, speech: Any) -> None:
    page.give(video, speech(3.0))
    assert page.dub().startswith("The speech is longer; this page takes up to 2.5 s. Cut it, ")


@pytest.mark.slow
def test_a_file_that_is_too_large_is_not_taken(page: Page, tmp_path: Path) -> None:
    (tmp_path / "large.mp4").write_bytes(bytes(4 * 2**20))
    page.tab.set_input_files("#video input[type=file]", tmp_path / "large.mp4")
    page.tab.wait_for_selector("text=/maximum allowed size/i")


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes


def ask(served: Served, method: str, path: str, body: bytes = b"", **headers: str) -> Answer:
    """A request as any program may send it, with these headers alone."""
    connection = http.client.HTTPConnection(served.url.removeprefix("http://"), timeout=600)
    try:
        connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
        named = {"Host": served.url.removeprefix("http://"), "Content-Length": str(len(body))}
        for name, value in {**named, **{name.replace("_", "-"): value for name, value in headers.items()}}.items():
            connection.putheader(name, value)
        connection.endheaders(body)
        answer = connection.getresponse()
        return Answer(answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read())
    finally:
        connection.close()


def upload(served: Served, name: str, content: bytes, **headers: str) -> Answer:
    lines = ["--edge", f'Content-Disposition: form-data; name="files"; filename="{name}"', "", content.decode("latin1")]
    body = "\r\n".join([*lines, "--edge--", ""]).encode("latin1")
    kind = {"Content_Type": "multipart/form-data; boundary=edge"}
    return ask(served, "POST", "/gradio_api/upload", body, **kind, **headers)


@pytest.mark.parametrize("host", ["evil.example", "evil.example:7860", "127.0.0.1.evil.example", "10.0.0.1", "[", ""])
@pytest.mark.parametrize("path", ["/", "/config", "/gradio_api/info", "/gradio_api/heartbeat/x", "/no/such/route"])
def test_any_route_under_a_foreign_name_is_refused(served: Served, path: str, host: str) -> None:
    assert ask(served, "GET", path, Host=host).status in (400, 403)


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:80", "127.0.0.1", "[::1]:7860"])
def test_own_names_are_answered(served: Served, host: str) -> None:
    assert ask(served, "GET", "/config", Host=host).status == 200


@pytest.mark.parametrize("origin", ["http://evil.example", "https://127.0.0.1:1", "http://localhost:1", "null", "["])
def test_an_upload_from_a_foreign_page_is_refused_and_not_stored(served: Served, origin: str) -> None:
    assert upload(served, "x.mp4", b"from elsewhere", Origin=origin).status == 403
    event = b'{"fn_index": 0, "data": [], "session_hash": "x"}'
    json = {"Content_Type": "application/json", "Origin": origin}
    assert ask(served, "POST", "/gradio_api/queue/join", event, **json).status == 403
    kept = [path for path in served.temporary.glob("stsa-app-*/**/*") if path.is_file()]
    assert not any(path.read_bytes() == b"from elsewhere" for path in kept)


def test_an_upload_from_its_own_page_comes_back_as_an_attachment(served: Served) -> None:
    answer = upload(served, "x.html", b"<script>alert(1)</script>", Origin=served.url)
    assert answer.status == 200
    path = answer.body.decode()[2:-2]
    assert Path(path).is_relative_to(served.temporary)
    served_back = ask(served, "GET", f"/gradio_api/file={path}")
    assert (served_back.status, served_back.body) == (200, b"<script>alert(1)</script>")
    assert served_back.headers["content-disposition"].startswith("attachment")


@pytest.mark.parametrize(
    "path", ["/etc/passwd", "../../../../etc/passwd", "..%2f..%2f..%2fetc%2fpasswd", "//etc/passwd"]
)
def test_files_elsewhere_are_not_served(served: Served, path: str) -> None:
    answer = ask(served, "GET", f"/gradio_api/file={path}")
    assert answer.status in (403, 404)
    assert b"root:" not in answer.body


@pytest.mark.parametrize("path", ["/gradio_api/queue/join", "/gradio_api/run/predict", "/gradio_api/api/predict"])
@pytest.mark.parametrize("event", ['{"fn_index": 999, "data": [], "session_hash": "x"}', "{}", "[", '{"data": 5}'])
def test_a_malformed_event_is_an_error_without_a_traceback(served: Served, path: str, event: str) -> None:
    answer = ask(served, "POST", path, event.encode(), Content_Type="application/json")
    assert 400 <= answer.status < 600
    assert "Traceback" not in served.log.read_text()


def test_programs_dub_by_http_and_by_gradio_s_client(
    served: Served, short_clips: list[Path], speech: Any, tmp_path: Path
) -> None:
    video = short_clips[0]
    httpx, gradio_client = pytest.importorskip("httpx"), pytest.importorskip("gradio_client")
    with httpx.Client(base_url=served.url, timeout=600) as client:
        files = {"video": video.open("rb"), "speech": speech(0.6).open("rb")}
        job = client.post("/v1/jobs", files=files).json()["id"]
        while (told := client.get(f"/v1/jobs/{job}").json())["status"] in ("waiting", "working"):
            time.sleep(0.1)
        assert told["report"]["frames"] == 15
        (tmp_path / "a.mp4").write_bytes(client.get(f"/v1/jobs/{job}/result").content)
    client = gradio_client.Client(served.url, verbose=False, download_files=str(tmp_path))
    given = gradio_client.handle_file(video), gradio_client.handle_file(speech(0.6))
    shown, report = client.predict(*given, api_name="/dub")
    assert report["frames"] == 15
    assert str(served.temporary) not in str(report)
    for path in (tmp_path / "a.mp4", Path(shown)):
        assert (probe(path).frames, probe(path).has_audio) == (15, True)
    assert client.predict(given[0], None, api_name="/dub")[1]["error"].startswith("Give speech first")
    assert "Traceback" not in served.log.read_text()


def test_ended_by_a_signal_it_leaves_nothing(served: Served) -> None:
    """Last of those that ask the server, which is gone afterwards."""
    assert list(served.temporary.glob("stsa-app-*"))
    served.process.send_signal(signal.SIGTERM)
    assert served.process.wait() == 0
    assert {path.name for path in served.temporary.iterdir()} <= {"log", "cache"}
    assert "Traceback" not in served.log.read_text()


@pytest.mark.parametrize(
    ("listening", "host", "origin", "answered"),
    [
        ("0.0.0.0", "192.168.1.7:7860", None, True),
        ("0.0.0.0", "192.168.1.7:7860", "http://192.168.1.7:7860", True),
        ("0.0.0.0", socket.gethostname(), None, True),
        ("0.0.0.0", "dubs.example", "https://dubs.example", True),  # named
        ("0.0.0.0", "127.0.0.1:7860", "https://dubs.example", True),  # a proxy that gives its own name alone
        ("0.0.0.0", "evil.example", None, False),
        ("0.0.0.0", "192.168.1.7", "http://192.168.1.8", False),
        ("::", "[fe80::1]:7860", None, True),
        ("192.168.1.7", "192.168.1.7", None, True),
        ("192.168.1.7", "192.168.1.8", None, False),
    ],
)
def test_trusted_hosts(listening: str, host: str, origin: str | None, answered: bool) -> None:
    from starlette.datastructures import Headers

    from stsa_lightning.app.same_origin import TrustedHosts

    headers = Headers({"host": host, **({"origin": origin} if origin else {})})
    refusal = TrustedHosts(listening, ["dubs.example"]).refusal(headers)
    assert (refusal is None) == answered


def test_a_closed_desk_gives_up_its_dub_and_removes_its_results(
    short_clips: list[Path], speech: Any, tmp_path: Path
) -> None:
    from stsa_lightning.app.limits import Limits
    from stsa_lightning.app.page import Desk
    from stsa_lightning.utils.errors import UserError

    begun = threading.Event()

    class Endless:
        def dub(self, _video: Path, _speech: Path, out: Path, progress: Any, observe: Any) -> Any:
            out.write_bytes(b"half")
            begun.set()
            while True:  # until the progress is refused
                progress("re-rendering", 1, 2)
                time.sleep(0.01)

    desk = Desk(Endless(), tmp_path / "results", Limits())  # type: ignore[arg-type]
    with ThreadPoolExecutor(1) as thread:
        dub = thread.submit(desk.dub, str(short_clips[0]), str(speech(0.5)), lambda part, doing: None)
        begun.wait()
        desk.close()
        with pytest.raises(UserError, match="page was closed"):
            dub.result()
    assert not (tmp_path / "results").exists()
