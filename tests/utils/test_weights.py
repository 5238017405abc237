from __future__ import annotations

import hashlib
import os
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from stsa_lightning.utils import weights
from stsa_lightning.utils.weights import KNOWN, Weight, WeightsError, cache_dir, download, find_weights, weights_path

CONTENT = bytes(range(256)) * 20_000  # 5 MB, several chunks
DIGEST = hashlib.sha256(CONTENT).hexdigest()


class Server(ThreadingHTTPServer):
    """Serves CONTENT; breaks off after `limit` bytes of each answer; notes the ranges it was asked for."""

    limit: int | None = None
    ranges: bool = True
    asked: list[str | None]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/file.bin"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        if self.path != "/file.bin":
            return self.send_error(404)
        wanted = self.headers["Range"]
        self.server.asked.append(wanted)
        start = int(re.fullmatch(r"bytes=(\d+)-", wanted)[1]) if wanted and self.server.ranges else 0
        if start >= len(CONTENT):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(CONTENT)}")
            self.send_header("Content-Length", "0")
            return self.end_headers()
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(CONTENT) - 1}/{len(CONTENT)}")
        self.send_header("Content-Length", str(len(CONTENT) - start))
        self.end_headers()
        stop = len(CONTENT) if self.server.limit is None else start + self.server.limit
        self.wfile.write(CONTENT[start:stop])
        self.close_connection = True

    def log_message(self, *args) -> None:
        """Quiet."""


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server(("127.0.0.1", 0), Handler)
    server.asked = []
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture(autouse=True)
def _alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No cache but this test's, no pauses."""
    monkeypatch.setenv("STSA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.delenv("STSA_WEIGHTS", raising=False)
    monkeypatch.setattr(weights.time, "sleep", lambda seconds: None)


@pytest.fixture
def known(server: Server, monkeypatch: pytest.MonkeyPatch) -> str:
    weight = Weight("file.bin", server.url, DIGEST[:8], "none", "a test file", ("folder/other.bin",))
    monkeypatch.setitem(KNOWN, "test", weight)
    return "test"


def test_fetches_once_into_the_cache(server, known):
    path = weights_path(known)
    assert path == cache_dir() / "file.bin"
    assert path.read_bytes() == CONTENT
    assert weights_path(known) == path
    assert server.asked == [None]
    assert not list(cache_dir().glob("*.part"))


def test_goes_on_after_an_interruption(server, known):
    server.limit = 2_000_000
    assert weights_path(known).read_bytes() == CONTENT
    assert server.asked == [None, "bytes=2000000-", "bytes=4000000-"]


def test_goes_on_from_what_an_earlier_run_left(server, tmp_path):
    target = tmp_path / "file.bin"
    server.limit = 0
    (tmp_path / "file.bin.part").write_bytes(CONTENT[:1_234_567])
    with pytest.raises(WeightsError, match="broke off at 1234567 bytes; 1234567 bytes are kept"):
        download(server.url, target, DIGEST, attempts=2)
    server.limit = None
    server.asked.clear()
    download(server.url, target, DIGEST)
    assert target.read_bytes() == CONTENT
    assert server.asked == ["bytes=1234567-"]


def test_a_server_without_ranges_starts_over(server, tmp_path):
    server.ranges = False
    (tmp_path / "file.bin.part").write_bytes(b"x" * 1000)
    download(server.url, tmp_path / "file.bin", DIGEST)
    assert (tmp_path / "file.bin").read_bytes() == CONTENT


def test_a_part_that_is_whole_or_too_long(server, tmp_path):
    part = tmp_path / "file.bin.part"
    part.write_bytes(CONTENT)
    download(server.url, tmp_path / "file.bin", DIGEST)
    assert server.asked == [f"bytes={len(CONTENT)}-"]
    part.write_bytes(CONTENT + b"more")
    download(server.url, tmp_path / "file.bin", DIGEST)
    assert (tmp_path / "file.bin").read_bytes() == CONTENT


def test_a_wrong_checksum_removes_the_file(server, tmp_path):
    with pytest.raises(WeightsError, match=f"{DIGEST}, expected {'0' * 64}.*removed"):
        download(server.url, tmp_path / "file.bin", "0" * 64)
    assert not list(tmp_path.glob("file.bin*"))


def test_offline_says_what_to_do(monkeypatch, tmp_path):
    url = "http://127.0.0.1:1/vgg19-dcbb9e9d.pth"
    monkeypatch.setitem(KNOWN, "vgg19", Weight("vgg19-dcbb9e9d.pth", url, "dcbb9e9d", "none", "VGG19"))
    monkeypatch.setenv("STSA_WEIGHTS", str(tmp_path))
    with pytest.raises(WeightsError) as error:
        weights_path("vgg19")
    message = str(error.value)
    for part in ("vgg19 (VGG19)", url, "cannot be reached", str(cache_dir() / "vgg19-dcbb9e9d.pth"), "$STSA_WEIGHTS"):
        assert part in message
    for folder in (tmp_path, tmp_path / "torch" / "hub" / "checkpoints", cache_dir()):
        assert str(folder) in message


def test_a_refusal_names_the_answer(server, tmp_path):
    with pytest.raises(WeightsError, match="answers 404"):
        download(server.url + "x", tmp_path / "file.bin", DIGEST)


def test_folders_are_searched_in_order(server, known, monkeypatch, tmp_path):
    places = [
        cache_dir() / "file.bin",
        tmp_path / "torch" / "hub" / "checkpoints" / "file.bin",
        tmp_path / "env" / "folder" / "other.bin",
        tmp_path / "given" / "file.bin",
    ]
    assert find_weights(known) is None
    for place in places:
        place.parent.mkdir(parents=True)
        place.write_bytes(b"here")
    monkeypatch.setenv("STSA_WEIGHTS", str(tmp_path / "env"))
    assert weights_path(known, tmp_path / "given") == places[3]
    assert weights_path(known) == places[2]
    monkeypatch.delenv("STSA_WEIGHTS")
    assert weights_path(known) == places[1]
    places[1].unlink()
    assert weights_path(known) == places[0]
    assert not server.asked


def test_processes_that_ask_at_once_fetch_once(server, known):
    paths: list[Path] = []
    threads = [threading.Thread(target=lambda: paths.append(weights_path(known))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [path.read_bytes() == CONTENT for path in paths] == [True] * 4
    assert server.asked == [None]


def test_shared_weights_are_found(weights_dir):
    for name in ("vgg16", "alexnet", "face_landmarker"):
        assert find_weights(name, weights_dir).is_file()
    landmarker = find_weights("face_landmarker", weights_dir)
    assert hashlib.sha256(landmarker.read_bytes()).hexdigest() == KNOWN["face_landmarker"].sha256


def test_the_register_is_well_formed():
    for weight in KNOWN.values():
        assert re.fullmatch(r"[0-9a-f]{8}|[0-9a-f]{64}", weight.sha256)
        assert weight.url.endswith("/" + weight.filename)
        named = re.search(r"-([0-9a-f]{8})\.pth$", weight.filename)
        assert named is None or weight.sha256.startswith(named[1])


def test_unknown_names_and_folders_are_refused(tmp_path):
    with pytest.raises(WeightsError, match=r"'resnet'; known: vgg19"):
        weights_path("resnet")
    with pytest.raises(WeightsError, match="not a folder"):
        weights_path("vgg19", tmp_path / "absent")


def test_cache_dir_has_a_default(monkeypatch):
    monkeypatch.delenv("STSA_CACHE")
    assert cache_dir() == Path(os.path.expanduser("~")) / ".cache" / "stsa_lightning"
