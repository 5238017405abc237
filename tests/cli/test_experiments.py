"""Experiments without a checkout: found in the package and said, listed, copied and never overwritten unasked."""

from __future__ import annotations

from pathlib import Path

import pytest

from stsa_lightning.cli import main
from stsa_lightning.cli.words import files_first
from stsa_lightning.utils.experiments import experiment_path, experiments_dir, protocol_path

EXPERIMENTS = Path(__file__).parents[2] / "experiments"


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_experiments_dir_of_a_checkout_is_beside_the_package():
    assert experiments_dir() == EXPERIMENTS


@pytest.mark.parametrize(
    ("word", "file"),
    [
        ("hdtf", "hdtf.yaml"),
        ("hdtf.yaml", "hdtf.yaml"),
        ("experiments/hdtf.yaml", "hdtf.yaml"),
        ("experiments/hdtf", "hdtf.yaml"),
        ("ablations/no_cil", "ablations/no_cil.yaml"),
        ("experiments/sweeps", "sweeps"),
    ],
)
def test_experiment_path_elsewhere_is_the_packages_and_said(
    word: str, file: str, elsewhere: Path, capsys: pytest.CaptureFixture[str]
):
    assert experiment_path(word) == EXPERIMENTS / file
    told = capsys.readouterr().err
    assert word in told
    assert str(EXPERIMENTS / file) in told


def test_experiment_path_prefers_the_working_folder(elsewhere: Path, capsys: pytest.CaptureFixture[str]):
    (elsewhere / "experiments").mkdir()
    (elsewhere / "experiments/hdtf.yaml").write_text("run: mine\n")
    (elsewhere / "cmlr.yaml").write_text("run: mine\n")
    assert experiment_path("hdtf") == Path("experiments/hdtf.yaml")
    assert experiment_path("cmlr.yaml") == Path("cmlr.yaml")
    assert capsys.readouterr().err == ""


def test_experiment_path_of_what_is_nowhere_stays_as_given(elsewhere: Path):
    for word in ("absent.yaml", "experiments/absent.yaml", "{a: 1}", "run: " + "x" * 5000):
        assert experiment_path(word) == Path(word)


def test_protocol_path_takes_plain_names_as_protocols(elsewhere: Path):
    assert protocol_path("hdtf") == EXPERIMENTS / "protocols/hdtf.yaml"
    assert protocol_path("experiments/protocols/hdtf.yaml") == EXPERIMENTS / "protocols/hdtf.yaml"


@pytest.mark.parametrize("words", [["-c", "hdtf"], ["-chdtf"], ["-c=hdtf"], ["--config", "hdtf"], ["--config=hdtf"]])
def test_files_first_finds_the_packages_settings(words: list[str], elsewhere: Path):
    name = "-c" if words[0].startswith("-c") else "--config"
    assert files_first(["--run", "r", *words]) == [name, str(EXPERIMENTS / "hdtf.yaml"), "--run", "r"]


def test_print_config_of_an_experiment_by_name(elsewhere: Path, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as end:
        main(["fit", "-c", "sample", "--print_config"])
    assert end.value.code in (0, None)
    assert "run: outputs/demo/run" in capsys.readouterr().out


def test_list_names_every_file_with_its_first_line(capsys: pytest.CaptureFixture[str]):
    main(["experiments", "list"])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(list(EXPERIMENTS.rglob("*.yaml")))
    assert "protocols/cmlr" in [line.split()[0] for line in lines]
    assert next(line for line in lines if line.startswith("cmlr ")).endswith("on as many GPUs as there are.")


def test_copy_brings_all_and_overwrites_nothing_unasked(elsewhere: Path, capsys: pytest.CaptureFixture[str]):
    main(["experiments", "copy", "mine"])
    copied = {path.relative_to("mine"): path.read_bytes() for path in Path("mine").rglob("*") if path.is_file()}
    assert copied == {p.relative_to(EXPERIMENTS): p.read_bytes() for p in EXPERIMENTS.rglob("*") if p.is_file()}
    main(["experiments", "copy", "mine"])  # unchanged files are no reason to refuse
    Path("mine/hdtf.yaml").write_text("mine")
    Path("mine/lrs2.yaml").unlink()
    with pytest.raises(SystemExit) as end:
        main(["experiments", "copy", "mine"])
    assert end.value.code == 2
    assert "mine/hdtf.yaml: there already" in capsys.readouterr().err
    assert Path("mine/hdtf.yaml").read_text() == "mine"
    assert not Path("mine/lrs2.yaml").exists()
    main(["experiments", "copy", "mine", "lrs2"])
    assert Path("mine/lrs2.yaml").exists()
    main(["experiments", "copy", "mine", "--overwrite"])
    assert Path("mine/hdtf.yaml").read_bytes() == (EXPERIMENTS / "hdtf.yaml").read_bytes()


def test_copy_of_an_unknown_name_is_refused(elsewhere: Path, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as end:
        main(["experiments", "copy", "mine", "hdft"])
    assert end.value.code == 2
    assert "hdft" in capsys.readouterr().err
    assert not Path("mine").exists()
