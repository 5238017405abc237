"""The service for programs: submit a job, ask for it, cancel it, fetch its result, by HTTP.

    POST   /v1/jobs              form with the files `video` and `speech`   -> 202 {"id", "status"}
    GET    /v1/jobs/ID           -> 200 {"id", "status", "stage", "frame", "total", "report", "error"}
    GET    /v1/jobs/ID/result    -> 200 video/mp4, once the status is done; 409 before
    DELETE /v1/jobs/ID           -> 200, given up, or removed
    GET    /v1/health            -> 200 {"status": "ok"}

Who does not know an id sees nothing of its job: there is no list. Errors are {"error": words}.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from stsa_lightning.app.jobs import Job, Jobs

PREFIX = "/v1/"
_FILES = ("video", "speech")
_FORM_BYTES = 2**16  # of the request besides the files
_SUFFIX = re.compile(r"\.[a-z0-9]{1,5}")


def service(jobs: Jobs) -> Starlette:
    routes = Routes(jobs)
    return Starlette(
        routes=[
            Route("/v1/health", routes.health),
            Route("/v1/jobs", routes.submit, methods=["POST"]),
            Route("/v1/jobs/{id}", routes.look, methods=["GET"]),
            Route("/v1/jobs/{id}", routes.cancel, methods=["DELETE"]),
            Route("/v1/jobs/{id}/result", routes.fetch, methods=["GET"]),
        ],
        exception_handlers={HTTPException: _in_json},
    )


async def _in_json(request: Request, error: Any) -> Response:
    return JSONResponse({"error": error.detail}, error.status_code, error.headers)


class Routes:
    def __init__(self, jobs: Jobs) -> None:
        self._jobs = jobs

    async def health(self, request: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def submit(self, request: Request) -> Response:
        if self._jobs.full:
            raise _busy()
        form = await _form(request, self._jobs.limits.megabytes)
        try:
            return await self._submitted(form)
        finally:
            await form.close()

    async def _submitted(self, form: FormData) -> Response:
        files = {name: form.get(name) for name in _FILES}
        for name, file in files.items():
            if not isinstance(file, UploadFile) or not file.size:
                raise HTTPException(400, f"{name}: expected a file in a form (multipart/form-data), found none")
            if file.size > self._jobs.limits.megabytes * 2**20:
                raise HTTPException(413, f"{name}: is larger than {self._jobs.limits.megabytes} MB")
        name, folder = self._jobs.place()
        paths = [await run_in_threadpool(_stored, folder, kind, file) for kind, file in files.items()]
        job = self._jobs.submit(name, folder, *paths)
        if job is None:
            raise _busy()
        return JSONResponse(job.json(), 202, {"Location": f"/v1/jobs/{job.id}"})

    async def look(self, request: Request) -> Response:
        return JSONResponse(self._found(request).json())

    async def cancel(self, request: Request) -> Response:
        job = self._found(request)
        await run_in_threadpool(self._jobs.cancel, job)
        return JSONResponse({**job.json(), "status": "cancelled"})

    async def fetch(self, request: Request) -> Response:
        job = self._found(request)
        if job.status != "done":
            raise HTTPException(409, f"the job is {job.status}: there is no result")
        return FileResponse(job.result, media_type="video/mp4", filename="dubbed.mp4")

    def _found(self, request: Request) -> Job:
        job = self._jobs.find(request.path_params["id"])
        if job is None:
            raise HTTPException(404, "no such job, or it is forgotten")
        return job


def _busy() -> HTTPException:
    return HTTPException(503, "too many jobs are waiting; try again later", {"Retry-After": "10"})


async def _form(request: Request, megabytes: int) -> FormData:
    """The form of a request, of which no more is read than files of so many megabytes take."""
    taken, most = 0, len(_FILES) * megabytes * 2**20 + _FORM_BYTES
    too_large = HTTPException(413, f"files are taken up to {megabytes} MB")

    async def receive() -> Message:
        nonlocal taken
        message = await request.receive()
        taken += len(message.get("body", b""))
        if taken > most:
            raise too_large
        return message

    stated = request.headers.get("content-length", "")
    if stated.isdecimal() and int(stated) > most:
        raise too_large
    return await Request(request.scope, receive).form(max_files=len(_FILES), max_fields=8)


def _stored(folder: Path, kind: str, file: Any) -> Path:
    """A sent file in its folder, under a name of ours: of the sender's only a plain ending is kept."""
    suffix = Path(file.filename or "").suffix.lower()
    path = folder / f"{kind}{suffix if _SUFFIX.fullmatch(suffix) else ''}"
    with open(path, "wb") as out:
        shutil.copyfileobj(file.file, out, 2**20)
    return path


class _Beside:
    """Answers what is below `PREFIX` by an application of its own, all else by the page's."""

    def __init__(self, app: ASGIApp, service: ASGIApp) -> None:
        self._page, self._service = app, service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        ours = scope["type"] == "http" and scope["path"].startswith(PREFIX)
        await (self._service if ours else self._page)(scope, receive, send)


def beside_the_page(jobs: Jobs) -> Middleware:
    """The service in the page's application; what checks whose requests are answered goes before it."""
    return Middleware(_Beside, service=service(jobs))
