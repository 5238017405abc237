"""Experiments, overlays and sweeps parse with the real program, and run; a missing corpus says what to do."""

from __future__ import annotations

import contextlib
import io
import time
from pathlib import Path
from typing import Any

# Before all that the fixtures import: `typing` remembers the first of Union[int, float] and Union[float, int] for
# both, and where the latter came first, an option "1" of the trainer would be read as 1.0, that is, all batches.
import lightning.pytorch  # noqa: F401
import numpy as np
import pandas as pd
import pytest
import torch
import yaml

from stsa_lightning.cli import main
from stsa_lightning.models.checkpoint import load_networks

EXPERIMENTS = Path(__file__).parents[1] / "experiments"
EXPERTS = [EXPERIMENTS / "syncnet.yaml"]
OVER_ANY = [EXPERIMENTS / f"{name}.yaml" for name in ("256px", "finetune", "smoke")]
LAID_OVER = [*OVER_ANY, *(EXPERIMENTS / f"{name}.yaml" for name in ("guidance", "picture", "native", "dual_path"))]
FILES = [path for path in sorted(EXPERIMENTS.glob("*.yaml")) if path not in (*EXPERTS, *LAID_OVER)]
ABLATIONS = sorted((EXPERIMENTS / "ablations").glob("*.yaml"))
SWEEPS = sorted((EXPERIMENTS / "sweeps").glob("*.yaml"))
SMALL = [
    "--model.preset=tiny",
    "--model.losses.weights.warp=0",
    "--model.losses.weights.perceptual=0",
    "--model.losses.weights.warp_pixel=1",
    "--model.losses.weights.pixel=1",
    '--model.discriminator={"width": 8, "scales": 1}',
    "--data.features=logmel",
    "--data.face_size=64",
    "--data.num_workers=0",
    "--data.batch_size=2",
    "--data.validation_speakers=[speaker03]",
    "--trainer.accelerator=cpu",
    "--trainer.devices=1",
    "--trainer.strategy=auto",
    "--trainer.precision=32-true",
    "--trainer.sync_batchnorm=false",
    "--evaluation.clips=1",
    "--evaluation.landmark_frames=4",
]
TINY = ["--data.num_workers=0", "--data.batch_size=2", "--data.validation_speakers=[speaker03]"]


def parsed(words: list[str], capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    """What the program makes of a command line, without running it."""
    with pytest.raises(SystemExit) as end:
        main([*words, "--print_config"])
    captured = capsys.readouterr()
    assert end.value.code in (0, None), captured.err
    return flat(yaml.safe_load(captured.out))


def flat(settings: dict[str, Any]) -> dict[str, Any]:
    """Model and data as experiments say them, without their class paths."""
    for name, kind in (
        ("model", "stsa_lightning.training.module.STSA"),
        ("data", "stsa_lightning.data.datamodule.STSADataModule"),
    ):
        if settings[name].get("class_path") == kind:
            settings[name] = settings[name]["init_args"]
    return settings


@pytest.mark.parametrize("file", FILES, ids=lambda path: path.stem)
def test_an_experiment_parses(file: Path, capsys: pytest.CaptureFixture[str]):
    settings = parsed(["fit", "-c", str(file)], capsys)
    assert any(phase["epochs"] for phase in settings["phases"].values())
    assert "weight" in settings["model"]["cil"]


ALIKE = ("lrs2", "cmlr", "folder")  # as hdtf but for lengths and lists of clips: run with the slow tests


@pytest.mark.parametrize(
    "file",
    [pytest.param(path, marks=[pytest.mark.slow] if path.stem in ALIKE else [], id=path.stem) for path in FILES],
)
def test_an_experiment_fits(file: Path, prepared_sample: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_MODE", "offline")
    main(["fit", "-c", str(file), *SMALL, f"--data.root={prepared_sample}", "--trainer.fast_dev_run=2"])


@pytest.mark.slow
def test_an_experiment_is_tried_on_a_cpu_with_smoke(
    prepared_sample: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    """All phases of HDTF's experiment and every metric, with nothing else changed than where the data are."""
    caplog.set_level("INFO")
    monkeypatch.chdir(tmp_path)
    files = ["-c", str(EXPERIMENTS / "hdtf.yaml"), "-c", str(EXPERIMENTS / "smoke.yaml")]
    data = ["--data.features=logmel", "--data.filters=null", "--data.face_size=64", "--data.num_frames=2"]
    main(["fit", *files, *data, f"--data.root={prepared_sample}", "--data.validation_speakers=[speaker03]", "--smoke"])
    message = caplog.text
    assert all(f"\n{phase} " in message for phase in ("guidance", "warp", "synthesis", "end_to_end", "validation"))
    assert "val/psnr_mouth" in message
    assert not list(tmp_path.iterdir())


@pytest.fixture(scope="module")
def base() -> dict[str, Any]:
    """Every setting of hdtf.yaml, over which overlays are laid."""
    said = io.StringIO()
    with pytest.raises(SystemExit), contextlib.redirect_stdout(said):
        main(["fit", "-c", str(EXPERIMENTS / "hdtf.yaml"), "--print_config"])
    return dict(leaves(flat(yaml.safe_load(said.getvalue()))))


@pytest.mark.parametrize("file", [*ABLATIONS, *OVER_ANY], ids=lambda path: path.stem)
def test_an_overlay_arrives_and_changes_nothing_else(
    file: Path, base: dict[str, Any], capsys: pytest.CaptureFixture[str]
):
    files = ["-c", str(EXPERIMENTS / "hdtf.yaml"), "-c", str(file)]
    laid = dict(leaves(parsed(["fit", *files], capsys)))
    said = dict(leaves(yaml.safe_load(file.read_text())))
    for name, value in said.items():
        if name.endswith("+"):  # appended to a list
            classes = [entry["class_path"] for entry in [*base[name[:-1]], *value]]
            assert [entry["class_path"] for entry in laid[name[:-1]]] == classes
        elif isinstance(value, list):  # in place of a list
            assert [entry["class_path"] for entry in laid[name]] == [entry["class_path"] for entry in value]
        else:
            assert laid[name] == value, name
    linked = {f"model.{name.split('.')[1]}" for name in said if name.startswith("data.")}
    named = {name.removesuffix("+") for name in said} | linked | {"data.filters"}
    named |= {name for name in base if name.startswith("data.filters.")}
    new_phases = tuple(name.removesuffix("epochs") for name in said.keys() - base.keys() if name.endswith(".epochs"))
    named |= {name for name in laid if name.startswith(new_phases)}  # a phase comes with all its settings
    assert {name for name in base.keys() | laid.keys() if base.get(name) != laid.get(name)} <= named


def leaves(settings: dict[str, Any], above: str = ""):
    """Dotted name -> value of everything that is no dictionary."""
    for name, value in settings.items():
        if isinstance(value, dict) and value:
            yield from leaves(value, f"{above}{name}.")
        else:
            yield f"{above}{name}", value


@pytest.mark.parametrize(
    "name", ["spatial_only", *(pytest.param(n, marks=pytest.mark.slow) for n in ("temporal_only", "no_end_to_end"))]
)
def test_an_ablation_fits(name: str, prepared_sample: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    files = ["-c", str(EXPERIMENTS / "sample.yaml"), "-c", str(EXPERIMENTS / "ablations" / f"{name}.yaml")]
    where = [f"--data.root={prepared_sample}", "--trainer.fast_dev_run=2"]
    # Without a schedule a run is in its last phase, in which everything learns.
    phases = [] if name == "no_end_to_end" else ["--phases={}"]
    main(["fit", *files, *TINY, *where, *phases])


@pytest.mark.slow
@pytest.mark.parametrize("experiment", ["sample", "small"])
def test_a_face_of_one_s_own_is_learnt_from_a_checkpoint_and_one_clip(
    prepared_sample: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, experiment: str
):
    """The corpus holds one clip of one speaker; the last part of it validates."""
    monkeypatch.chdir(tmp_path)
    files = ["-c", str(EXPERIMENTS / f"{experiment}.yaml")]
    once = ["--trainer.limit_train_batches=1", "--trainer.limit_val_batches=1", "--trainer.check_val_every_n_epoch=1"]
    small = [*once, "--trainer.max_steps=1", "--data.num_workers=0", "--data.batch_size=2"]
    if experiment == "small":
        small += [*(word for word in SMALL if "validation" not in word), "--data.num_references=2"]
    begun = ["--run=begun", "--data.validation_speakers=[speaker03]"]
    main(["fit", *files, f"--data.root={prepared_sample}", *begun, *small])
    tune = ["-c", str(EXPERIMENTS / "finetune.yaml"), "--model.init_from=begun/last.ckpt"]
    main(["fit", *files, *tune, f"--data.root={one_clip_of(prepared_sample, tmp_path / 'me')}", *small])
    assert (tmp_path / "runs/finetune/last.ckpt").is_file()


@pytest.mark.slow
@pytest.mark.parametrize("taught", ["guidance", "picture", "native"])
def test_more_speakers_teach_one_of_the_networks_alone(
    prepared_sample: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, taught: str
):
    monkeypatch.chdir(tmp_path)
    files = ["-c", str(EXPERIMENTS / "small.yaml"), *SMALL, "--data.num_references=2", f"--data.root={prepared_sample}"]
    once = ["--trainer.limit_train_batches=1", "--trainer.limit_val_batches=1", "--data.filters=null"]
    main(["fit", *files, *once, "--trainer.max_steps=1", "--run=begun"])
    more = ["-c", str(EXPERIMENTS / f"{taught}.yaml"), "--model.init_from=begun/last.ckpt"]
    if taught == "guidance":
        phases = ["--phases.audio_pretrain.epochs=1", "--phases.guidance.epochs=1", "--data.swap_mouth_epochs=2"]
    else:
        phases = ["--phases.synthesis.epochs=1", "--model.losses.weights.perceptual=0"]
    if taught == "native":
        phases += ["--model.losses.weights.native_perceptual=0", "--data.native_size=96"]
        phases += ["--trainer.log_every_n_steps=1", "--model.losses.balance_every_n_steps=1"]
    main(["fit", *files[:2], *more, *files[2:], *once, *phases])
    if taught == "native":
        log = pd.read_csv("runs/native/logs/metrics.csv")
        assert log["train/native_warp"].max() > 0
        assert log["balance/flow/native_warp"].max() > 0
    begun, then = (load_networks(path) for path in ("begun/last.ckpt", f"runs/{taught}/last.ckpt"))
    for number, name in enumerate(("guidance", "picture")):
        pairs = zip(begun[number].parameters(), then[number].parameters(), strict=True)
        assert all(torch.equal(a, b) for a, b in pairs) == ((name == "guidance") == (taught != "guidance"))


def one_clip_of(corpus: Path, folder: Path) -> Path:
    """A prepared corpus with the first clip of another alone."""
    from stsa_lightning.data.index import clip_path, load_index

    index = load_index(corpus).head(1)
    clip = clip_path(folder, index["clip"][0])
    clip.parent.mkdir(parents=True)
    clip.symlink_to(clip_path(corpus, index["clip"][0]))
    index.to_parquet(folder / "index.parquet")
    return folder


@pytest.mark.parametrize("file", EXPERTS, ids=lambda path: path.stem)
def test_an_expert_fits(file: Path, prepared_sample: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    where = [f"--data.root={prepared_sample}", "--trainer.accelerator=cpu", "--trainer.fast_dev_run=2"]
    main(["syncnet", "fit", "-c", str(file), *TINY, *where])


@pytest.mark.parametrize("draw", ["first", pytest.param("random", marks=pytest.mark.slow)])
@pytest.mark.parametrize("file", SWEEPS, ids=lambda path: path.stem)
def test_a_sweep_s_draws_are_command_lines_of_the_program(
    file: Path, draw: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    """W&B's own expansion of the command; every drawn value arrives where it is meant to."""
    # W&B takes seconds to import: here, so that a process without these tests does without it.
    from wandb.sdk.launch.sweeps.utils import create_sweep_command, create_sweep_command_args

    monkeypatch.chdir(EXPERIMENTS.parent)
    sweep = yaml.safe_load(file.read_text())
    assert all(not {"parameters"} & set(spec) for spec in sweep["parameters"].values()), "nested keys do not arrive"
    rng = np.random.default_rng(1)
    drawn = {name: drawn_value(spec, draw, rng) for name, spec in sweep["parameters"].items()}
    parts = create_sweep_command_args({"args": {name: {"value": value} for name, value in drawn.items()}})
    parts |= {"env": ["env"], "program": [sweep["program"]]}
    words: list[str] = []
    for word in create_sweep_command(sweep["command"]):
        words += parts[word[2:-1]] if word.startswith("${") and word.endswith("}") else [word]
    assert words[:2] == ["env", "stsa"]
    arrived = dict(leaves(parsed(words[2:], capsys)))
    for name, value in drawn.items():
        assert arrived[name] == pytest.approx(value) if isinstance(value, float) else arrived[name] == value
    assert arrived["epochs"] == 40


def drawn_value(spec: dict[str, Any], draw: str, rng: np.random.Generator) -> Any:
    """One of a parameter's values: the first (the least), or a random one."""
    if "value" in spec:
        return spec["value"]
    if "values" in spec:
        return spec["values"][0 if draw == "first" else rng.integers(len(spec["values"]))]
    assert spec["distribution"] == "log_uniform_values"
    share = 0.0 if draw == "first" else rng.random()
    return float(spec["min"] * (spec["max"] / spec["min"]) ** share)


@pytest.mark.slow
def test_a_run_is_recorded_by_wandb_offline_and_may_be_repeated(
    prepared_sample: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    import wandb

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_MODE", "offline")
    file = next(path for path in FILES if path.stem == "hdtf")
    limits = ["--trainer.max_steps=1", "--data.windows_per_clip=1"]  # all of one batch, so that the run validates
    for more in ([], ["--overwrite"]):
        main(["fit", "-c", str(file), *SMALL, *limits, f"--data.root={prepared_sample}", *more])
        wandb.finish()
    run = tmp_path / "runs" / "hdtf"
    (record,) = (run / "wandb").glob("offline-run-*")
    while not list(record.rglob("media/images/**/*.png")):  # W&B's own process copies pictures in its time
        time.sleep(0.1)
    assert (run / "last.ckpt").is_file()


@pytest.mark.parametrize("corpus", ["hdtf", "lrs2", "cmlr"])
def test_a_missing_corpus_says_how_to_get_it(
    corpus: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    file = next(path for path in FILES if path.stem == corpus)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_MODE", "disabled")
    with pytest.raises(SystemExit) as end:
        main(["fit", "-c", str(file), *SMALL, "--trainer.fast_dev_run=1"])
    assert end.value.code == 2
    message = capsys.readouterr().err
    assert f"data/{corpus}" in message
    assert "stsa prepare" in message
    assert message.splitlines()[-1].startswith("stsa: ")
