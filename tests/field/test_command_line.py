"""Words of a command line that are easily misread: they hold, or the error says how to write them."""

from __future__ import annotations

import io
import os
from pathlib import Path

import pytest
import yaml

from stsa_lightning.cli import main
from stsa_lightning.cli.words import files_first


def _refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 2
    message = capsys.readouterr().err
    assert "Traceback" not in message
    return message


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--model.lr", "1", "-c", "a", "--x"], ["-c", "a", "--model.lr", "1", "--x"]),
        (["--model.lr=1", "--config=a", "-c", "b"], ["--config", "a", "-c", "b", "--model.lr=1"]),
        (["--model.lr", "1", "--model", "m.yaml", "-ca"], ["-c", "a", "--model", "m.yaml", "--model.lr", "1"]),
        (["--trainer.callbacks+=A", "--trainer.callbacks.x=1"], ["--trainer.callbacks+=A", "--trainer.callbacks.x=1"]),
        (["-c"], ["-c"]),
        ([], []),
    ],
)
def test_files_of_settings_come_before_options(words: list[str], expected: list[str]) -> None:
    assert files_first(words) == expected


def test_option_before_a_file_of_settings_holds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.yaml").write_text("model: {optim: {lr: 0.25}}\n")
    with pytest.raises(SystemExit):
        main(["fit", "--model.optim.lr", "0.5", "-c", str(tmp_path / "a.yaml"), "--data.root", "x", "--print_config"])
    assert yaml.safe_load(capsys.readouterr().out)["model"]["init_args"]["optim"]["lr"] == 0.5


@pytest.mark.parametrize("name", ["-take1.mp4", "-o1.mp4", "--take.mp4"])
def test_file_with_a_leading_dash_is_named(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path(name).write_bytes(b"x")
    assert f"./{name}" in _refused(["dub", name, "speech.wav", "-o", "out.mp4"], capsys)


def test_result_with_a_leading_dash_is_hinted_at(capsys: pytest.CaptureFixture[str]) -> None:
    assert "./-take1.mp4" in _refused(["dub", "a.mp4", "b.wav", "-o", "-dubbed.mp4"], capsys)
    assert "./-take1.mp4" in _refused(["dub", "-gone.mp4", "b.wav", "-o", "out.mp4"], capsys)


def test_option_before_the_command_gets_the_order(capsys: pytest.CaptureFixture[str]) -> None:
    assert "the command comes first: stsa fit -c a.yaml" in _refused(["-c", "a.yaml", "fit"], capsys)
    assert "expected a command before --root" in _refused(["--root", "x"], capsys)


def test_name_that_the_terminal_cannot_show_is_escaped(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = io.BytesIO()
    monkeypatch.setattr("sys.stderr", io.TextIOWrapper(shown, encoding="ascii", write_through=True))
    with pytest.raises(SystemExit):
        main(["evaluate", "--show", os.fsdecode("gone\U0001f600".encode() + b"\xff")])
    assert rb"gone\U0001f600\udcff" in shown.getvalue()
