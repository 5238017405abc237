"""Networks from and to a hub: a server on this machine that answers as the Hugging Face hub does."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

from stsa_lightning.cli import main
from stsa_lightning.dubbing import Dubber
from stsa_lightning.models import BUNDLED
from stsa_lightning.models.checkpoint import load_networks, save_networks
from stsa_lightning.models.hub import find_networks, push
from stsa_lightning.utils.errors import UserError

pytest.importorskip("huggingface_hub")
COMMIT = "0123456789012345678901234567890123456789"


class Hub(ThreadingHTTPServer):
    """Repositories by name, each a dictionary of files."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answers)
        self.repositories: dict[str, dict[str, bytes]] = {}
        self.fetched: list[str] = []
        self.url = f"http://127.0.0.1:{self.server_port}"


class Answers(BaseHTTPRequestHandler):
    server: Hub

    def log_message(self, *_: Any) -> None:
        pass

    def answer(self, status: int, body: bytes = b"{}", headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def do_GET(self) -> None:
        owner, name, word, revision, *rest = [*self.path.lstrip("/").split("?")[0].split("/"), "", "", "", ""]
        repository, file = f"{owner}/{name}", "/".join(filter(None, rest))
        files = self.server.repositories.get(repository)
        if word != "resolve" or files is None:
            self.answer(404, headers={"X-Error-Code": "RepoNotFound"})
        elif revision not in ("main", COMMIT):
            self.answer(404, headers={"X-Error-Code": "RevisionNotFound"})
        elif file not in files:
            self.answer(404, headers={"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT})
        else:
            self.server.fetched.append(f"{self.command} {file}")
            etag = f'"{hashlib.sha1(files[file]).hexdigest()}"'
            self.answer(200, files[file], {"ETag": etag, "X-Repo-Commit": COMMIT})

    do_HEAD = do_GET  # noqa: N815

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.path == "/api/repos/create":
            said = json.loads(body)
            name = f"{said.get('organization') or 'me'}/{said['name']}"
            self.server.repositories.setdefault(name, {})
            self.answer(200, json.dumps({"url": f"{self.server.url}/{name}", "id": name}).encode())
        elif "/preupload/" in self.path:
            files = [{**file, "uploadMode": "regular", "shouldIgnore": False} for file in json.loads(body)["files"]]
            self.answer(200, json.dumps({"files": files}).encode())
        elif "/commit/" in self.path:
            repository = "/".join(self.path.split("/")[3:5])
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    content = base64.b64decode(line["value"]["content"])
                    self.server.repositories[repository][line["value"]["path"]] = content
            url = f"{self.server.url}/{repository}/commit/{COMMIT}"
            self.answer(200, json.dumps({"commitUrl": url, "commitOid": COMMIT, "success": True}).encode())
        else:
            self.answer(200)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    server = Hub()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    monkeypatch.setenv("HF_TOKEN", "hf_test")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def networks(tmp_path: Path, tiny_guidance: Any, tiny_synthesis: Any) -> Path:
    return save_networks(
        tmp_path / "a.safetensors", tiny_guidance, tiny_synthesis, {"features": "logmel", "num_frames": 5}
    )


def test_what_is_pushed_comes_back_and_is_fetched_once(hub: Hub, networks: Path, tmp_path: Path) -> None:
    assert push(networks, "me/lips", licence="mit") == f"{hub.url}/me/lips"
    files = hub.repositories["me/lips"]
    assert set(files) == {"model.safetensors", "README.md"}
    _, front, body = files["README.md"].decode().split("---\n", 2)
    assert yaml.safe_load(front)["license"] == "mit"
    assert yaml.safe_load(front)["library_name"] == "stsa_lightning"
    assert 'from_pretrained("me/lips")' in body
    dubber = Dubber.from_pretrained("me/lips")
    assert dubber.config.face_size == 64
    there, here = load_networks(find_networks("me/lips@main"))[0], load_networks(networks)[0]
    assert all((a == b).all() for a, b in zip(there.parameters(), here.parameters(), strict=True))
    assert hub.fetched.count("GET model.safetensors") == 1


def test_a_card_that_is_there_stays_unless_another_is_given(hub: Hub, networks: Path, tmp_path: Path) -> None:
    hub.repositories["me/lips"] = {"README.md": b"mine"}
    push(networks, "me/lips")
    assert hub.repositories["me/lips"]["README.md"] == b"mine"
    (tmp_path / "card.md").write_text("other")
    push(networks, "me/lips", card=tmp_path / "card.md", half=True)
    assert hub.repositories["me/lips"]["README.md"] == b"other"
    assert len(hub.repositories["me/lips"]["model.safetensors"]) < 0.6 * networks.stat().st_size


def test_push_and_pull_on_the_command_line(
    hub: Hub, networks: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["weights", "push", str(networks), "me/lips", "--private"])
    main(["weights", "pull", "me/lips", "-o", str(tmp_path / "out.safetensors")])
    assert capsys.readouterr().out.split() == [f"{hub.url}/me/lips", str(tmp_path / "out.safetensors")]
    assert (tmp_path / "out.safetensors").read_bytes() == hub.repositories["me/lips"]["model.safetensors"]
    hub.repositories["me/broken"] = {"model.safetensors": b"no networks at all"}
    with pytest.raises(SystemExit):
        main(["weights", "pull", "me/broken", "-o", str(tmp_path / "none.safetensors")])
    assert "not a complete safetensors file" in capsys.readouterr().err
    assert not (tmp_path / "none.safetensors").exists()


def test_what_the_hub_does_not_have_is_said(hub: Hub, networks: Path) -> None:
    hub.repositories["me/other"] = {"pytorch_model.bin": b"cos\nsystem\n"}
    for name, said in {
        "me/none": "no such repository",
        "me/other": r"has no model\.safetensors",
        "me/other@v9": "no such revision",
    }.items():
        with pytest.raises(UserError, match=f"{name}: .*{said}"):
            find_networks(name)
    with pytest.raises(UserError, match="expected owner/name"):
        push(networks, "lips")


def test_what_is_here_goes_first(networks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # nobody listens
    folder = tmp_path / "me" / "lips"
    folder.mkdir(parents=True)
    networks.rename(folder / "model.safetensors")
    (folder / "other.safetensors").touch()
    monkeypatch.chdir(tmp_path)
    assert find_networks() == BUNDLED
    assert find_networks("me/lips") == Path("me/lips/model.safetensors")
    assert find_networks(folder / "other.safetensors") == folder / "other.safetensors"
    (folder / "model.safetensors").rename(folder / "third.safetensors")
    with pytest.raises(UserError, match=r"one \.safetensors file, found other\.safetensors, third\.safetensors"):
        find_networks(folder)
    for name in ("nothing.safetensors", "a/b/c", "me/lips.ckpt"):
        with pytest.raises(FileNotFoundError, match="no such file or folder, and no name on the hub"):
            find_networks(name)
