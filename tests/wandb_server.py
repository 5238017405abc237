"""What `wandb sync` needs of a W&B server, on this machine: it keeps the history of each run, line by line."""

from __future__ import annotations

import gzip
import json
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

_USER = {"id": "u", "entity": "me", "username": "me", "email": "", "flags": "{}", "teams": {"edges": []}}
_PROJECT = {"id": "p", "name": "stsa", "entity": {"id": "e", "name": "me"}}


class Server(ThreadingHTTPServer):
    """Answers on a free port; `history`: the rows of each run by its id, at the places where they were sent to."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Answer)
        self.history: defaultdict[str, dict[int, dict[str, Any]]] = defaultdict(dict)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def rows(self, run: str) -> list[dict[str, Any]]:
        """A run's rows in order."""
        return [row for _, row in sorted(self.history[run].items())]

    def bucket(self, run: str) -> dict[str, Any]:
        """A run as the server describes it, also to those who would go on with it."""
        rows = self.rows(run)
        last = json.dumps([json.dumps(rows[-1])]) if rows else "[]"
        counts = {"historyLineCount": len(rows), "eventsLineCount": 0, "logLineCount": 0}
        tails = {"historyTail": last, "eventsTail": "[]", "summaryMetrics": json.dumps(rows[-1] if rows else {})}
        names = {"id": run, "name": run, "displayName": run, "sweepName": None, "description": None, "tags": []}
        return {**names, **counts, **tails, "config": "{}", "wandbConfig": json.dumps({"t": 1}), "project": _PROJECT}


class _Answer(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def do_POST(self) -> None:
        data = self._read()
        if self.path == "/graphql":
            return self._say({"data": self._query(json.loads(data))})
        if self.path.endswith("/file_stream"):
            sent = json.loads(data).get("files", {}).get("wandb-history.jsonl", {"offset": 0, "content": []})
            rows = enumerate(map(json.loads, sent["content"]), sent["offset"])
            self.server.history[self.path.split("/")[-2]].update(rows)
        return self._say({})

    def do_PUT(self) -> None:
        self._read()
        self._say({})

    def _query(self, asked: dict[str, Any]) -> dict[str, Any]:
        run = asked.get("variables", {}).get("name")
        if "RunResumeStatus" in asked["query"]:
            return {"model": {**_PROJECT, "bucket": self.server.bucket(run) if self.server.history[run] else None}}
        if "UpsertBucket" in asked["query"]:
            return {"upsertBucket": {"bucket": self.server.bucket(run), "inserted": not self.server.history[run]}}
        files = {"runID": "r", "uploadHeaders": [], "files": []}
        return {"viewer": _USER, "serverInfo": {"features": []}, "createRunFiles": files}

    def _read(self) -> bytes:
        data = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        return gzip.decompress(data) if self.headers.get("Content-Encoding") == "gzip" else data

    def _say(self, answer: dict[str, Any]) -> None:
        data = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        """Not onto the terminal."""


@contextmanager
def wandb_server() -> Iterator[Server]:
    """A server that answers until the block ends."""
    with Server() as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()
