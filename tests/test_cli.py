"""The door: help, versions, and errors that a user can act on."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from stsa_lightning import __version__
from stsa_lightning.cli import main


def failed(argv: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as end:
        main(argv)
    assert end.value.code == 2
    return capsys.readouterr().err


@pytest.mark.parametrize(
    "argv",
    [
        ["--help"],
        ["fit", "--help"],
        ["prepare", "folder", "--help"],
        ["prepare", "sample", "--help"],
        ["dub", "--help"],
    ],
    ids=" ".join,
)
def test_help(argv: list[str], capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as end:
        main(argv)
    assert end.value.code in (0, None)
    assert len(capsys.readouterr().out) > 200


def test_python_m_is_the_program():
    done = subprocess.run(
        [sys.executable, "-m", "stsa_lightning", "--version"], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == f"stsa {__version__}"


def test_help_is_quick_for_it_imports_nothing_heavy():
    code = "import sys; from stsa_lightning.cli import build_parser; build_parser(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_dub_without_networks_says_how_to_get_some(capsys: pytest.CaptureFixture[str]):
    message = failed(["dub", "a.mp4", "b.wav", "-o", "c.mp4"], capsys)
    assert "--checkpoint" in message
    assert "stsa fit" in message
    assert "stsa weights import" in message


def test_a_missing_folder_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    message = failed(["prepare", "folder", "--root", str(tmp_path / "no"), "--out", str(tmp_path / "out")], capsys)
    assert str(tmp_path / "no") in message
    assert "Traceback" not in message


def test_evaluate_names_what_it_needs(capsys: pytest.CaptureFixture[str]):
    assert "--checkpoint" in failed(["evaluate"], capsys)


def test_weights_are_listed_with_their_licence(capsys: pytest.CaptureFixture[str]):
    main(["weights", "list"])
    printed = capsys.readouterr().out
    assert "vgg19" in printed
