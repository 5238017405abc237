"""Commands in `scripts/`: linted like modules."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def test_lint_is_given_every_script_of_python_that_has_no_ending() -> None:
    if not shutil.which("make"):
        pytest.skip("make is not installed")
    told = subprocess.run(["make", "--dry-run", "lint"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    scripts = [path for path in (ROOT / "scripts").iterdir() if not path.suffix and "python" in path.read_text()[:30]]
    assert len(scripts) >= 3
    for command in ("ruff check", "ruff format"):
        line = next(line for line in told.splitlines() if command in line)
        assert {f"scripts/{path.name}" for path in scripts} <= set(line.split())
