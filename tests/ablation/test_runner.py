"""stsa ablate: settings of its runs, what is kept and resumed, failures, and the table."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from stsa_lightning.ablation import runner as ablation
from stsa_lightning.ablation.runner import Ablation
from stsa_lightning.ablation.tables import long_table, markdown, summary, task_tables
from stsa_lightning.cli import main
from stsa_lightning.cli.ablate import chosen
from stsa_lightning.evaluation.metrics.columns import Column
from stsa_lightning.training.phases import scaled
from stsa_lightning.utils.errors import UserError

SAMPLE = Path(__file__).parents[2] / "experiments/sample.yaml"


@pytest.fixture
def overlays(tmp_path: Path) -> Path:
    folder = tmp_path / "overlays"
    folder.mkdir()
    (folder / "no_cil.yaml").write_text("model: {cil: {weight: 0.0}}\n")
    (folder / "wrong.yaml").write_text("model: {no_such_setting: 1}\n")
    return folder


def ablate(overlays: Path, out: Path, prepared_sample: Path, *words: str) -> None:
    small = [f"--data.root={prepared_sample}", "--data.validation_speakers=[speaker03]", "--data.num_workers=0"]
    small += ["--data.batch_size=2", "--data.windows_per_clip=1", "--trainer.limit_val_batches=0"]
    small += ["--trainer.enable_progress_bar=false"]
    shared = ["-c", str(SAMPLE), "--overlays", str(overlays), "--out", str(out), "--epochs", "4", "--metrics", "psnr"]
    main(["ablate", *shared, *words, "--", *small])


def called(words: list[str], log: Path) -> None:
    said = io.StringIO()
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            main(words)
    except SystemExit:
        raise UserError(said.getvalue()) from None


@pytest.mark.slow
@pytest.mark.parametrize("apart", [False, True], ids=["within", "processes"])
def test_two_variants_are_trained_measured_and_compared_and_one_failure_does_not_end_the_rest(
    overlays: Path,
    prepared_sample: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    apart: bool,
):
    out = tmp_path / "out"
    if not apart:  # as _call, without the time that a process takes to begin
        monkeypatch.setattr(ablation, "_call", called)
    with pytest.raises(SystemExit) as end:
        ablate(overlays, out, prepared_sample, "--only", "wrong", "no_cil")
    assert end.value.code == 2
    assert "1 of 3 runs failed: wrong-seed0" in capsys.readouterr().err
    table = pd.read_csv(out / "ablations.csv")
    assert table["variant"].unique().tolist() == ["base", "no_cil"]
    assert set(table["column"]) == {"psnr_mouth", "psnr_face"}
    text = (out / "ablations.md").read_text()
    assert "| no_cil |" in text
    assert "no_such_setting" in text.split("## Failed")[1]
    assert "wrong-seed0" in json.loads((out / "ablations.json").read_text())["failures"]
    # Finished runs stay as they are, and the base and the variant differ in nothing but the overlay.
    written = (out / "base-seed0/last.ckpt").stat().st_mtime_ns
    ablate(overlays, out, prepared_sample, "--only", "no_cil")
    assert (out / "base-seed0/last.ckpt").stat().st_mtime_ns == written
    text = (out / "ablations.md").read_text()
    assert "Failed" not in text
    assert "no\\_cil − base" in text
    assert "one seed says nothing" in text
    assert json.loads((out / "ablations.json").read_text())["differences"][0]["column"] == "psnr_mouth"


@pytest.mark.parametrize(
    ("lengths", "total", "expected"),
    [
        ([11, 1, 3, 7], 22, [11, 1, 3, 7]),
        ([1, 1], 5, [3, 2]),
        ([100, 25, 100, 25], 250, [100, 25, 100, 25]),
        ([5], 1, [1]),
    ],
)
def test_scaled_lengths_keep_their_proportions(lengths: list[int], total: int, expected: list[int]):
    assert scaled(lengths, total) == expected


def test_too_few_epochs_for_the_phases():
    with pytest.raises(UserError, match="at least one for each of the 4 phases, got 3"):
        scaled([1, 1, 1, 1], 3)


@pytest.mark.slow
def test_an_interrupted_run_goes_on_and_another_s_folder_is_left_alone(
    overlays: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    calls: list[list[str]] = []

    def stopped(words: list[str], log: Path) -> None:
        calls.append(list(words))
        raise UserError("stopped")

    monkeypatch.setattr(ablation, "_call", stopped)
    plan = Ablation(
        SAMPLE, (overlays / "no_cil.yaml",), tmp_path / "out", seeds=(0, 1), options=("--model.init_from=w{seed}",)
    )
    assert [run.name for run in plan.runs()] == ["base-seed0", "no_cil-seed0", "base-seed1", "no_cil-seed1"]
    run = plan.runs()[3]
    for _ in range(2):
        with pytest.raises(UserError, match="stopped"):
            plan.train(run)
    assert calls[0] == calls[1]
    assert calls[0][-1] == "--ckpt_path=last"
    assert calls[0][1:5:2] == ["-c", "-c"]
    assert calls[0][4] == str(overlays / "no_cil.yaml")
    assert f"--run={run.folder}" in calls[0]
    assert {"--seed_everything=1", "--data.seed=1", "--model.init_from=w1"} <= set(calls[0])
    (overlays / "no_cil.yaml").write_text("model: {cil: {estimator: mine}}\n")
    with pytest.raises(UserError, match="holds a run of other settings"):
        plan.train(run)


def test_nothing_more_is_begun_where_the_experiment_itself_fails(
    overlays: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    tried = []

    def fails(words: Sequence[str], log: Path) -> None:
        tried.append(log.parent.name)
        raise UserError("data.root: no such folder")

    monkeypatch.setattr(ablation, "_call", fails)
    paths = tuple(sorted(overlays.glob("*.yaml")))
    compared = Ablation(base=SAMPLE, overlays=paths, out=tmp_path / "out", seeds=(0, 1))
    with pytest.raises(UserError, match=r"base-seed0: data\.root: no such folder; no other run was begun"):
        list(compared.go())
    assert tried == ["base-seed0"]


def test_a_table_of_means_and_spread():
    figures: dict[tuple[str, int], Any] = {
        ("base", 0): {"paired": {"psnr": 20.0, "lmd": 1.0}},
        ("base", 1): {"paired": {"psnr": 22.0, "lmd": 3.0}},
        ("other", 0): {"paired": {"psnr": 19.0}},
    }
    table = long_table(figures)
    means = summary(table).set_index(["variant", "column"])
    assert means.loc[("base", "psnr"), "mean"] == 21
    assert means.loc[("base", "psnr"), "std"] == pytest.approx(2**0.5)
    columns = {name: Column(name, name.upper(), "", "higher", "", 1) for name in ("psnr", "lmd")}
    shown = task_tables(table, columns)["paired"]
    assert shown.loc["base"].tolist() == ["21.0 ± 1.4", "2.0 ± 1.4", "2"]
    assert shown.loc["other"].tolist() == ["19.0", "–", "1"]
    text = markdown({"paired": shown}, {"seeds": [0, 1]}, {"x-seed0": "it | broke"})
    assert "| base | 21.0 ± 1.4 | 2.0 ± 1.4 | 2 |" in text
    assert "- x-seed0: it | broke" in text


def test_choices(overlays: Path, tmp_path: Path):
    assert [path.stem for path in chosen(overlays, None, ["wrong"])] == ["no_cil"]
    with pytest.raises(UserError, match=r"expected overlays named \['missing'\]"):
        chosen(overlays, ["missing"], [])
    with pytest.raises(UserError, match=r"NAME\.yaml"):
        chosen(tmp_path / "nothing", None, [])
    with pytest.raises(UserError, match="seeds"):
        Ablation(SAMPLE, (), tmp_path, seeds=(1, 1))
    with pytest.raises(UserError, match="seeds: expected numbers from 0 to 4294967295"):
        Ablation(SAMPLE, (), tmp_path, seeds=(0, -1))
    with pytest.raises(UserError, match="epochs must be 1 or more, got 0"):
        Ablation(SAMPLE, (), tmp_path, epochs=0)
    with pytest.raises(FileNotFoundError, match="no such settings"):
        Ablation(tmp_path / "none.yaml", (), tmp_path)
