"""The page as people use it: a real browser without a network."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from stsa_lightning.audio import write_wav
from stsa_lightning.nets.checkpoint import save_networks
from stsa_lightning.nets.guidance import Guidance
from stsa_lightning.nets.presets import GUIDANCE, SYNTHESIS
from stsa_lightning.nets.synthesis import Synthesis
from stsa_lightning.video import probe

pytest.importorskip("gradio", reason="Gradio is not installed: pip install 'stsa_lightning[app]'")
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
MAX_SECONDS = 2.5


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("networks") / "tiny.safetensors"
    networks = Guidance(**GUIDANCE["tiny"]), Synthesis(**SYNTHESIS["tiny"])
    return save_networks(path, *networks, {"features": "logmel", "window": 5})


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
        until = time.monotonic() + 240
        while "http" not in (said := (folder / "log").read_text()):
            assert process.poll() is None, said
            assert time.monotonic() < until, said
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
        self.tab.evaluate("document.querySelector('.told')?.classList.add('old')")
        self.tab.click("#start")
        return str(self.tab.wait_for_selector(".told:not(.old)").inner_text())

    def shown(self, selector: str) -> bool:
        return bool(self.tab.is_visible(selector))


@pytest.fixture
def page(served: Served, browser: Any) -> Iterator[Page]:
    tab, asked = browser.new_page(viewport={"width": 1200, "height": 1000}), list[str]()
    tab.set_default_timeout(90_000)
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


def test_upload_dub_play_download(page: Page, served: Served, video: Path, speech: Any, tmp_path: Path) -> None:
    page.give(video, speech(1.2))
    assert page.dub().startswith("All 30 frames redrawn. 1.2 s of 256 x 256 at 25 frames/s")

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


def test_a_sample_is_rendered_on_the_spot(page: Page) -> None:
    page.tab.click("#sample2")
    page.tab.wait_for_selector("#video video")
    page.tab.wait_for_selector("#speech button[aria-label=Clear]")
    page.tab.wait_for_function("document.querySelector('#video video').duration > 3")
    # Samples last 4 s, which this page was told to refuse.
    assert "The video is 4 s long; this page takes up to 2.5 s." in page.dub()


def test_errors_in_words(page: Page, served: Served, video: Path, speech: Any, tmp_path: Path) -> None:
    assert page.dub() == "Give a video and speech first, or pick a sample."
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"no film at all" * 1000)
    page.give(broken, speech(0.5))
    said = page.dub()
    assert said.startswith("broken.mp4: cannot be read as video")
    assert str(served.temporary) not in said
    assert not page.shown("#results")
    assert "Traceback" not in served.log.read_text()


def test_speech_that_is_too_long(page: Page, video: Path, speech: Any) -> None:
    page.give(video, speech(3.0))
    assert page.dub().startswith("The speech is longer; this page takes up to 2.5 s. Cut it, ")


def test_a_file_that_is_too_large_is_not_taken(page: Page, tmp_path: Path) -> None:
    (tmp_path / "large.mp4").write_bytes(bytes(4 * 2**20))
    page.tab.set_input_files("#video input[type=file]", tmp_path / "large.mp4")
    page.tab.wait_for_selector("text=/maximum allowed size/i")


def test_ended_by_a_signal_it_leaves_nothing(served: Served) -> None:
    """Last in this file: the server is gone afterwards."""
    assert list(served.temporary.glob("stsa-app-*"))
    served.process.send_signal(signal.SIGTERM)
    assert served.process.wait(30) == 0
    assert list(served.temporary.glob("stsa-app-*")) == []
    assert "Traceback" not in served.log.read_text()
