"""The door: help, versions, and errors that a user can act on."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from stsa_lightning import __version__
from stsa_lightning.cli import build_parser, main
from stsa_lightning.data.index import load_index
from stsa_lightning.features.base import FEATURE_DIMS
from stsa_lightning.features.moonshine import ENCODER
from stsa_lightning.models import BUNDLED
from stsa_lightning.models.checkpoint import load_networks


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
        *(["prepare", name, "--help"] for name in ("folder", "sample", "lrs2", "hdtf", "cmlr", "report")),
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


def test_networks_come_with_the_package():
    guidance, synthesis, meta = load_networks(BUNDLED)
    assert BUNDLED.stat().st_size + ENCODER.stat().st_size < 25e6
    assert meta["features"] == "moonshine"  # whose network comes along: no download
    assert guidance.face_size == synthesis.face_size == 128
    commands = build_parser()
    assert commands.parse_args(["dub", "a.mp4", "b.wav", "-o", "c.mp4"]).checkpoint == BUNDLED
    assert commands.parse_args(["app"]).checkpoint == BUNDLED


def test_a_missing_folder_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    message = failed(["prepare", "folder", "--root", str(tmp_path / "no"), "--out", str(tmp_path / "out")], capsys)
    assert str(tmp_path / "no") in message
    assert "Traceback" not in message


@pytest.mark.parametrize("corpus", ["lrs2", "hdtf", "cmlr"])
def test_a_tree_of_another_form_is_drawn_beside_the_expected_one(
    corpus: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    (tmp_path / "holidays").mkdir()
    message = failed(["prepare", corpus, "--root", str(tmp_path), "--out", str(tmp_path / "out")], capsys)
    assert message.index("expected:") < message.index("--root") < message.index("found:") < message.index("holidays/")
    assert not (tmp_path / "out").exists()


def test_prepare_says_what_of_the_lists_is_missing(
    sample_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    video = min(sample_root.rglob("*.mp4"))
    (tmp_path / "main" / "7").mkdir(parents=True)
    (tmp_path / "main" / "7" / "00001.mp4").symlink_to(video)
    for name, lines in {"train": "7/00001\n7/00002\n", "val": "7/00003\n", "test": "7/00004 NF\n"}.items():
        (tmp_path / f"{name}.txt").write_text(lines)
    options = ["--workers", "0", "--features", "logmel,mfcc", "--sync", "none", "--min-frames", "20"]
    main(["prepare", "lrs2", "--root", str(tmp_path), "--out", str(tmp_path / "out"), *options])
    printed = capsys.readouterr()
    assert printed.out.startswith("prepared 1, kept 0, rejected 0")
    assert "3 of 4 clips are left out: named by the lists, but not there (main/7/00002.mp4" in printed.err
    index = load_index(tmp_path / "out")
    assert index[["clip", "split", "features", "sync_method"]].values.tolist() == [
        ["7/00001", "train", "logmel,mfcc", "none"]
    ]


def test_help_of_prepare_names_every_kind_of_features(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit):
        main(["prepare", "folder", "--help"])
    assert ", ".join(FEATURE_DIMS) in " ".join(capsys.readouterr().out.split())


def test_report_of_a_corpus(prepared_sample: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    page = tmp_path / "report.html"
    main(["prepare", "report", "--data", str(prepared_sample), "-o", str(page), "--filter", "max_yaw=30"])
    assert str(page) in capsys.readouterr().out
    assert "max_yaw" in page.read_text()


def test_filters_in_a_file_and_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "mine.yaml").write_text("data:\n  root: here\n  filters: {min_confidence: 1.5, max_yaw: 20}\n")
    words = ["--data.filters.max_yaw", "30", "--data.filters.languages=[en, zh]", "--print_config"]
    with pytest.raises(SystemExit):
        main(["fit", "-c", str(tmp_path / "mine.yaml"), *words])
    filters = yaml.safe_load(capsys.readouterr().out)["data"]["init_args"]["filters"]
    assert {name: value for name, value in filters.items() if value is not None} == {
        "min_confidence": 1.5,
        "max_yaw": 30.0,
        "languages": ["en", "zh"],
    }


@pytest.mark.parametrize("word", ["max_yaw", "max_yaw=wide", "beauty=3"])
def test_a_filter_that_is_none(word: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    message = failed(["prepare", "report", "--data", str(tmp_path), "-o", "x.html", "--filter", word], capsys)
    assert "--filter: expected NAME=VALUE with a name of ['min_confidence'" in message
    assert repr(word) in message


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["prepare", "folder", "--root", ".", "--limit", "-1"], "limit must be 1 or more, got -1"),
        (["prepare", "sample", "--speakers", "0"], "speakers must be from 1 to 99, got 0"),
        (["ablate", "-c", "sample", "--max_steps", "0"], "--max_steps must be 1 or more, got 0"),
    ],
    ids=["limit", "speakers", "max_steps"],
)
def test_a_number_that_cannot_be(words: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert message in failed([*words, "--out", str(tmp_path / "out")], capsys)
    assert not (tmp_path / "out").exists()


def test_evaluate_names_what_it_needs(capsys: pytest.CaptureFixture[str]):
    assert "checkpoint, videos or --show" in failed(["evaluate"], capsys)


def test_weights_are_listed_with_their_licence_and_whole_address(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    from stsa_lightning.utils.weights import KNOWN

    monkeypatch.setenv("COLUMNS", "80")
    main(["weights", "list"])
    printed = capsys.readouterr().out
    assert all(text in printed for name, it in KNOWN.items() for text in (name, it.what, it.licence, it.url))


@pytest.mark.parametrize(
    ("words", "unbuffered", "statuses"),
    [
        (["weights", "list"], "", [1]),
        (["weights", "list"], "1", [1]),
        (["--help"], "", [1]),
        (["--help"], "1", [0, 1]),  # argparse of newer Pythons disregards that its help is not read
    ],
)
def test_the_reader_of_a_pipe_may_leave(words: list[str], unbuffered: str, statuses: list[int]):
    program = subprocess.Popen(
        [sys.executable, "-m", "stsa_lightning", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONUNBUFFERED": unbuffered},
    )
    assert program.stdout is not None
    program.stdout.close()
    assert program.stderr is not None
    assert program.stderr.read() == b""
    assert program.wait() in statuses


@pytest.mark.parametrize("device", ["banana", "cuda:77"])
def test_a_device_that_is_not_there(device: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    import torch

    from stsa_lightning.models.checkpoint import save_networks
    from stsa_lightning.models.guidance import Guidance
    from stsa_lightning.models.presets import GUIDANCE, SYNTHESIS
    from stsa_lightning.models.synthesis import Synthesis

    torch.manual_seed(0)
    networks = Guidance(**GUIDANCE["tiny"]), Synthesis(**SYNTHESIS["tiny"])
    path = save_networks(tmp_path / "tiny.safetensors", *networks, {"features": "logmel", "num_frames": 5})
    words = ["dub", "a.mp4", "b.wav", "-o", "c.mp4", "--checkpoint", str(path), "--device", device]
    assert f"device {device}: not on this machine" in failed(words, capsys)
    assert "cannot be written" in failed(["weights", "export", str(path), "-o", "/proc/x.safetensors"], capsys)


def test_the_page_wants_a_port(capsys: pytest.CaptureFixture[str]):
    assert "--port must be from 1 to 65535" in failed(["app", "--checkpoint", "x", "--port", "99999"], capsys)


def test_the_sound_of_the_sample_stays(sample_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    asked = []
    monkeypatch.setattr("stsa_lightning.data.sample.render_sample", lambda *_, **__: None)
    monkeypatch.setattr("stsa_lightning.data.prepare.prepare", lambda _, __, settings, **___: asked.append(settings))
    shutil.copytree(sample_root, tmp_path / "videos")
    main(["prepare", "sample", "--out", str(tmp_path)])
    assert [settings.correct_sync for settings in asked] == [False]


@pytest.mark.parametrize(("name", "reason"), [("face.task", "mediapipe"), ("face.onnx", "ending in .task")])
def test_prepare_with_a_landmark_model_that_cannot_run_says_what_to_do(
    name: str, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "mediapipe", None)
    (tmp_path / name).touch()
    (tmp_path / "speaker").mkdir()
    (tmp_path / "speaker" / "clip.mp4").touch()
    paths = ["--root", str(tmp_path), "--out", str(tmp_path / "out"), "--landmark-model", str(tmp_path / name)]
    assert reason in failed(["prepare", "folder", *paths], capsys)
