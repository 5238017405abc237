from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from stsa_lightning.utils.scratch import scratch_folder

HOLD = """
from stsa_lightning.utils.scratch import scratch_folder
with scratch_folder("stsa-test-") as folder:
    (folder / "large").write_bytes(bytes(1000))
    print(folder, flush=True)
    input()
"""


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    return tmp_path


Held = Callable[[], tuple["subprocess.Popen[str]", Path]]


@pytest.fixture
def held(temporary: Path) -> Held:
    def start() -> tuple[subprocess.Popen[str], Path]:
        process = subprocess.Popen(
            [sys.executable, "-c", HOLD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        return process, Path(process.stdout.readline().strip())

    return start


def test_scratch_folder_ended_by_an_error_is_gone(temporary: Path) -> None:
    with suppress(RuntimeError), scratch_folder("stsa-test-") as folder:
        (folder / "file").write_text("x")
        raise RuntimeError
    assert list(temporary.iterdir()) == []


def test_scratch_folder_of_a_killed_process_goes_with_the_next(temporary: Path, held: Held) -> None:
    killed, left = held()
    alive, kept = held()
    killed.kill()
    killed.communicate()
    assert (left / "large").is_file()
    (temporary / "stsa-test-file").write_text("no folder")
    (temporary / "stsa-test-link").symlink_to(kept)
    with scratch_folder("stsa-test-") as folder:
        assert not left.exists()
        assert (kept / "large").is_file()
        assert {path.name for path in temporary.iterdir() if path.is_dir()} == {
            folder.name,
            kept.name,
            "stsa-test-link",
        }
    alive.communicate("\n")
    assert {path.name for path in temporary.iterdir()} == {"stsa-test-file", "stsa-test-link"}
