"""The Dockerfile, read; `scripts/try-dockerfile` runs it."""

from __future__ import annotations

import json
import re
import runpy
from fnmatch import fnmatch
from pathlib import Path

from stsa_lightning.app.rest import PREFIX
from stsa_lightning.cli import build_parser

ROOT = Path(__file__).parents[1]
TRY = runpy.run_path(str(ROOT / "scripts/try-dockerfile"))  # which runs its steps in a chroot, as root
ALLOWED = {"FROM", "ARG", "RUN", "COPY", "USER", "WORKDIR", "EXPOSE", "HEALTHCHECK", "ENTRYPOINT", "CMD", "ENV"}


def stages() -> list[list[tuple[str, str]]]:
    return TRY["stages"]((ROOT / "Dockerfile").read_text())


def test_images_are_slim_and_of_a_fixed_tag_and_the_last_runs_without_rights() -> None:
    for stage in stages():
        assert {name for name, _ in stage} <= ALLOWED
        image = stage[0][1].split()[0]
        assert re.fullmatch(r"python:3\.\d+-slim-\w+", image), image
    names = [name for name, _ in stages()[-1]]
    last = dict(stages()[-1])
    assert last["USER"] not in ("root", "0")
    assert max(i for i, name in enumerate(names) if name in ("RUN", "COPY")) < names.index("USER")
    assert f"useradd --create-home --uid 1000 {last['USER']}" in " ".join(rest for name, rest in stages()[-1])


def test_it_starts_the_service_and_asks_it_for_its_health() -> None:
    last = dict(stages()[-1])
    words = json.loads(last["ENTRYPOINT"]) + json.loads(last["CMD"])
    assert words[0] == "stsa"
    arguments = build_parser().parse_args(words[1:])
    assert (arguments.host, str(arguments.port)) == ("0.0.0.0", last["EXPOSE"])
    asked = json.loads(last["HEALTHCHECK"].partition("CMD ")[2])
    compile(asked[2], "HEALTHCHECK", "exec")
    assert f"http://127.0.0.1:{last['EXPOSE']}{PREFIX}health" in asked[2]


def test_what_the_wheel_is_built_from_reaches_the_builder_and_nothing_else() -> None:
    lines = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and line[0] != "#"]
    assert lines[0] == "*"
    kept = [line[1:] for line in lines if line[0] == "!"]
    assert all((ROOT / name).exists() for name in kept)
    for needed in ("setup.py", "setup.cfg", "pyproject.toml", "README.md", "LICENSE", "experiments", "stsa_lightning"):
        assert any(fnmatch(needed, pattern) for pattern in kept), needed


def test_the_torch_that_is_chosen_is_the_one_that_is_installed() -> None:
    last = stages()[-1]
    choice, torch, ours = (
        next(i for i, (_, rest) in enumerate(last) if part in rest)
        for part in ("TORCH_INDEX=https://download.pytorch.org/whl/cpu", "--index-url ${TORCH_INDEX}", "[app,hub]")
    )
    assert choice < torch < ours
