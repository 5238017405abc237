"""What runs write stays: one folder names a run, whatever is started in it and however often."""

from __future__ import annotations

import csv
import io
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from lightning.pytorch.loggers import CSVLogger
from torch.utils.data import DataLoader

from stsa_lightning.cli import main
from stsa_lightning.data.datamodule import Shared
from stsa_lightning.training.loggers import KeptCSVLogger, chosen_names, with_rows_kept
from stsa_lightning.training.run_folder import RunFolder, sweep_trial
from stsa_lightning.utils.errors import UserError
from tests.wandb_server import wandb_server

EXPERIMENTS = Path(__file__).parents[2] / "experiments"
NARROW = {
    "preset": "tiny",
    "guidance": {"width": 16, "base": 4, "layers": 1, "heads": 2, "feedforward": 16},
    "synthesis": {"width": 2, "audio_width": 8, "spade_hidden": 4},
    "discriminator": {"width": 4, "scales": 1},
    "losses": {
        "weights": {
            "warp": 0,
            "perceptual": 0,
            "warp_pixel": 1,
            "pixel": 1,
            "adversarial": 0.1,
            "feature_matching": 0.1,
        }
    },
    "optim": {"lr": 0.001},
}


@pytest.fixture
def tree(prepared_sample: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A researcher's folder: an experiment of four steps, one of each phase, in `mine.yaml`."""
    settings = {
        "seed_everything": 0,
        "run": "runs/mine",
        "data": {
            "root": str(prepared_sample),
            "face_size": 64,
            "num_frames": 2,
            "num_references": 2,
            "batch_size": 2,
            "num_workers": 0,
            "windows_per_clip": 1,
            "validation_windows_per_clip": 2,
            "validation_speakers": ["speaker03"],
        },
        "model": NARROW,
        "trainer": {
            "accelerator": "cpu",
            "devices": 1,
            "num_sanity_val_steps": 0,
            "log_every_n_steps": 1,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "check_val_every_n_epoch": 2,
        },
        "phases": {
            "guidance": {"epochs": 1, "lr": 0.002},
            "warp": {"epochs": 1},
            "synthesis": {"epochs": 1},
            "end_to_end": {"epochs": 1},
        },
        "evaluation": {"landmark_frames": 2, "clips": 1, "every_n_validations": 5},
        "pictures": {"count": 1},
    }
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(settings))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_MODE", "offline")
    for name in ("WANDB_SWEEP_ID", "WANDB_RUN_ID"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def stsa(*words: str, command: str = "fit") -> None:
    main([command, "-c", "mine.yaml", *words])


def refused(capsys: pytest.CaptureFixture[str], *words: str, command: str = "fit") -> str:
    with pytest.raises(SystemExit) as end:
        stsa(*words, command=command)
    assert end.value.code == 2
    return capsys.readouterr().err.splitlines()[-1]


def own_environment() -> dict[str, str]:
    """Without W&B's service of this process, which knows the runs of all its tests and holds a killed one for alive."""
    return {name: value for name, value in os.environ.items() if name != "WANDB_SERVICE"} | {"OMP_NUM_THREADS": "1"}


def contents(folder: Path) -> dict[str, bytes]:
    """Every file, without W&B's links to the newest run, which it makes when it comes to it."""
    files = (path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "logs" / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


@pytest.mark.slow
def test_nothing_that_a_run_wrote_is_lost_by_what_follows(
    tree: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
):
    """Trained, tried, measured, drawn, refused, gone on with: one folder."""
    caplog.set_level("INFO")
    stsa("--epochs", "4", "--phases.synthesis.lr", "0.003")
    run = tree / "runs/mine"
    written = contents(run)
    assert {"last.ckpt", "best.ckpt", "config.yaml", "logs/metrics.csv", "logs/hparams.yaml"} <= written.keys()
    assert sum(name.startswith("logs/pictures/epoch") for name in written) == 2
    assert len({row["phase"] for row in rows(run)} - {""}) == 4
    assert "0.003" in {row["lr"][:5] for row in rows(run)}

    stsa("--trainer.fast_dev_run", "true")
    stsa("--trainer.fast_dev_run", "true", "--ckpt_path", "last")
    stsa("--smoke")
    assert contents(run) == written
    assert "nothing was kept\nguidance " in caplog.text

    stsa("--ckpt_path", "last", command="validate")
    stsa("--ckpt_path", "best", command="test")
    stsa("--ckpt_path", "last", command="predict")
    now = contents(run)
    assert {name: now[name] for name in written} == written
    assert any(name.startswith("validate/logs/evaluation/val") for name in now), "clips are drawn, whatever the rhythm"
    assert sum(name.startswith("predict/pictures/") for name in now) == 1
    assert sum(name.startswith("predict/videos/") for name in now) == 1

    assert "--ckpt_path last; begin elsewhere: --run FOLDER; or begin anew here: --overwrite" in refused(capsys)
    assert "holds a run already" in refused(capsys, "--ckpt_path", str(run / "best.ckpt"), "--model.optim.lr", "1") or (
        (run / "best.ckpt").read_bytes() == (run / "last.ckpt").read_bytes()
    )
    assert contents(run) == now

    stsa("--ckpt_path", "last", "--epochs", "6", "--model.optim.lr", "0.0005")
    after = contents(run)
    assert after["logs/metrics.csv"].startswith(written["logs/metrics.csv"])
    assert after["config-1.yaml"] == written["config.yaml"]
    assert after["logs/hparams-1.yaml"] == written["logs/hparams.yaml"]
    assert all(after[name] == data for name, data in written.items() if "pictures" in name)
    assert torch.load(run / "last.ckpt", weights_only=True)["global_step"] == 6

    stsa("--overwrite", "--epochs", "4")
    assert "--overwrite: removed from runs/mine/: best.ckpt, config-1.yaml" in caplog.text
    assert len(rows(run)) < len(written["logs/metrics.csv"].splitlines())
    assert contents(run / "validate")


@pytest.mark.slow
def test_the_command_line_holds_against_a_checkpoint(
    tree: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
):
    stsa("--epochs", "4", "--trainer.limit_val_batches", "1")
    options = ["--ckpt_path", "runs/mine/last.ckpt", "--epochs", "8"]
    caplog.set_level("INFO")
    stsa(*options, "--model.optim.lr", "0.0005", "--model.optim.betas", "[0.8, 0.9]", "--phases.guidance.lr", "null")
    assert "model.optim.lr 0.0005 (the checkpoint: 0.001)" in caplog.text
    (group, _) = (state["param_groups"][0] for state in torch.load("runs/mine/last.ckpt")["optimizer_states"])
    assert (group["lr"], tuple(group["betas"])) == (0.0005, (0.8, 0.9))
    for command in ("fit", "validate"):
        message = refused(capsys, *options[:2], "--model.preset", "small", command=command)
        assert "its guidance network has other settings" in message or "networks" in message
    message = refused(
        capsys, *options, "--model.losses.weights.adversarial", "0", "--model.losses.weights.feature_matching", "0"
    )
    assert "do not have the same parts" in message
    assert "no such file" in refused(capsys, "--ckpt_path", "nowhere.ckpt")
    assert "found best.ckpt, last.ckpt" not in refused(capsys, "--run", "runs/none", "--ckpt_path", "best")


# ---- folders


def test_a_dry_run_with_a_folder_of_its_own_settings_leaves_no_trace(tree: Path):
    saving = "[{class_path: ModelCheckpoint, init_args: {dirpath: mine, filename: other, save_last: true}}]"
    stsa("--trainer.fast_dev_run", "1", f"--trainer.callbacks={saving}", "--logger", "csv,tensorboard,wandb")
    assert {path.name for path in tree.iterdir()} == {"mine.yaml"}


def test_a_run_that_goes_on_from_elsewhere_or_from_an_older_checkpoint_is_refused(tmp_path: Path):
    run = RunFolder(tmp_path / "run")
    run.claim(None, None, overwrite=False)  # nothing there
    run.path.mkdir()
    (run.path / "notes.txt").write_text("mine")
    run.claim(None, None, overwrite=False)  # nothing of a run
    other = tmp_path / "other.ckpt"
    for path in (other, run.path / "best.ckpt", run.path / "last.ckpt"):
        torch.save({}, path)
    for asked in (None, str(other), str(run.path / "best.ckpt")):
        with pytest.raises(UserError, match="holds a run already"):
            run.claim(asked, run.checkpoint(asked, "fit"), overwrite=False)
    run.claim("last", run.path / "last.ckpt", overwrite=False)
    run.claim(str(run.path / "last.ckpt"), run.path / "last.ckpt", overwrite=False)
    with pytest.raises(UserError, match="would remove"):
        run.claim(str(run.path / "best.ckpt"), run.path / "best.ckpt", overwrite=True)
    run.claim(str(other), other, overwrite=True)
    assert [path.name for path in run.path.iterdir()] == ["notes.txt"]


def test_one_setting_names_the_folder(tree: Path, capsys: pytest.CaptureFixture[str]):
    assert "--run alone names a run's folder" in refused(capsys, "--trainer.default_root_dir", "elsewhere")


# ---- rows


def logged(folder: Path, *values: dict[str, float]) -> None:
    logger = KeptCSVLogger(folder, name=None, version="logs")
    for step, metrics in enumerate(values):
        logger.log_metrics(metrics, step)
    logger.finalize("success")


def test_rows_are_appended_and_new_columns_added(tmp_path: Path):
    logged(tmp_path, {"a": 1.0}, {"a": 2.0})
    logged(tmp_path, {"a": 3.0, "b": 4.0})
    logged(tmp_path)
    assert [(row["a"], row["b"]) for row in rows(tmp_path)] == [("1.0", ""), ("2.0", ""), ("3.0", "4.0")]


def test_a_row_that_was_cut_off_does_not_take_the_next_with_it(tmp_path: Path):
    logged(tmp_path, {"a": 1.0, "b": 2.0})
    path = tmp_path / "logs/metrics.csv"
    path.write_text(path.read_text() + "5.0")
    logged(tmp_path, {"a": 6.0, "b": 7.0})
    assert [row["a"] for row in rows(tmp_path)] == ["1.0", "5.0", "6.0"]
    path.write_text("")
    logged(tmp_path, {"a": 8.0})
    assert [row["a"] for row in rows(tmp_path)] == ["8.0"]


def test_lightning_s_own_logger_keeps_its_rows_too(tmp_path: Path):
    logged(tmp_path, {"a": 1.0})
    logger = with_rows_kept(CSVLogger(tmp_path, name=None, version="logs"))
    logger.log_metrics({"a": 2.0}, 0)
    logger.finalize("success")
    assert [row["a"] for row in rows(tmp_path)] == ["1.0", "2.0"]


def test_loggers_by_name():
    assert chosen_names("wandb, csv,wandb") == ["csv", "wandb"]
    assert chosen_names("none") == chosen_names([]) == []
    with pytest.raises(UserError, match=r"expected some of csv,tensorboard,wandb, or none, got mlflow"):
        chosen_names("csv,mlflow")


# ---- settings laid over others


def parsed(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    with pytest.raises(SystemExit):
        main(["fit", *words, "--print_config"])
    return yaml.safe_load(capsys.readouterr().out)


def test_lists_of_an_overlay_replace_those_below_and_inherit_nothing(tree: Path, capsys: pytest.CaptureFixture[str]):
    schedule = "stsa_lightning.training.callbacks.phases.PhaseSchedule"
    loggers = "lightning.pytorch.loggers."

    def settings(phases: list[dict[str, Any]], logger: dict[str, Any]) -> dict[str, Any]:
        callbacks = [{"class_path": schedule, "init_args": {"phases": phases}}]
        return {"trainer": {"callbacks": callbacks, "logger": [logger]}}

    csv_logger = {"class_path": f"{loggers}CSVLogger", "init_args": {"save_dir": "a", "version": "logs"}}
    below = settings([{"name": "guidance", "epochs": 1, "lr": 0.5}], csv_logger)
    above = settings([{"name": "synthesis", "epochs": 2}], {"class_path": f"{loggers}WandbLogger"})
    again = settings([{"name": "guidance", "epochs": 2}], {**csv_logger, "init_args": {"save_dir": "b"}})
    for name, what in (("below", below), ("above", above), ("again", again)):
        (tree / f"{name}.yaml").write_text(yaml.safe_dump(what))
    for over in ("above", "again"):
        trainer = parsed(capsys, "-c", "below.yaml", "-c", f"{over}.yaml", "--data.root", "x")["trainer"]
        assert trainer["callbacks"][0]["init_args"]["phases"][0]["lr"] is None
        assert trainer["logger"][0]["init_args"]["version"] is None
    words = [f"--trainer.{name}={json.dumps(value)}" for name, value in again["trainer"].items()]
    trainer = parsed(capsys, "-c", "below.yaml", "--data.root", "x", *words)["trainer"]
    assert trainer["callbacks"][0]["init_args"]["phases"][0]["lr"] is None
    assert trainer["logger"][0]["init_args"]["version"] is None
    (tree / "more.yaml").write_text(
        yaml.safe_dump({"trainer": {"callbacks+": [{"class_path": "LearningRateMonitor"}]}})
    )
    trainer = parsed(capsys, "-c", "below.yaml", "-c", "more.yaml", "--data.root", "x")["trainer"]
    assert trainer["callbacks"][0]["init_args"]["phases"][0]["lr"] == 0.5
    assert len(trainer["callbacks"]) == 2


def test_phases_of_an_overlay_change_those_they_name(tree: Path, capsys: pytest.CaptureFixture[str]):
    (tree / "over.yaml").write_text("phases: {end_to_end: {name: before}, warp: {epochs: 0}}\n")
    phases = parsed(capsys, "-c", "mine.yaml", "-c", "over.yaml", "--phases.guidance.epochs", "7")["phases"]
    assert {label: phase["epochs"] for label, phase in phases.items()} == {
        "guidance": 7, "warp": 0, "synthesis": 1, "end_to_end": 1,
    }  # fmt: skip
    assert phases["guidance"]["lr"] == 0.002
    assert phases["end_to_end"]["name"] == "before"


# ---- W&B


@pytest.mark.slow
def test_a_run_that_goes_on_stays_one_run_in_wandb(
    tree: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
):
    import wandb

    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))  # where W&B's service then stands for good
    wandb.init(project="other").finish()
    monkeypatch.chdir(tree)
    for words in (["--epochs", "4"], ["--epochs", "5", "--ckpt_path", "last"]):
        stsa("--logger", "wandb", "--trainer.limit_val_batches", "1", *words)
        wandb.finish()
    records = sorted((tree / "runs/mine/wandb").glob("offline-run-*"))
    identity = (tree / "runs/mine/wandb_id").read_text().strip()
    assert [path.name.split("-")[-1] for path in records] == [identity, identity]
    with wandb_server() as server:
        environment = own_environment() | {"WANDB_BASE_URL": server.url, "WANDB_API_KEY": "k" * 40}
        del environment["WANDB_MODE"]
        sync = [sys.executable, "-m", "wandb", "sync", "--yes", *map(str, records)]
        done = subprocess.run(sync, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert set(server.history) == {identity}, done.stderr
        steps = {row["trainer/global_step"] for row in server.rows(identity)}
    assert {0, 3, 4} <= steps  # what went on was added, and wrote over nothing


def trial(sweep: Path, run_id: str, sweep_id: str, drawn: dict[str, Any], *words: str) -> None:
    """What W&B's agent starts for a trial, and the environment that it starts it in."""
    # W&B takes seconds to import: here, for the few tests that need it.
    from wandb.sdk.launch.sweeps.utils import create_sweep_command, create_sweep_command_args

    parts = create_sweep_command_args({"args": {name: {"value": value} for name, value in drawn.items()}})
    parts |= {"env": ["/usr/bin/env"], "program": [f"{sys.executable}", "-m", "stsa_lightning"]}
    command: list[str] = []
    for word in create_sweep_command(yaml.safe_load(sweep.read_text())["command"]):
        command += parts[word[2:-1]] if word.startswith("${") and word.endswith("}") else [word]
    command = ["mine.yaml" if word == "experiments/hdtf.yaml" else word for word in command]
    environment = own_environment() | {"WANDB_SWEEP_ID": sweep_id, "WANDB_RUN_ID": run_id}
    done = subprocess.run([*command, *words], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]


def test_trials_of_a_sweep_have_folders_of_their_own():
    environment = {"WANDB_SWEEP_ID": "s1", "WANDB_RUN_ID": "r1"}
    assert sweep_trial(Path("runs/hdtf"), environment) == Path("runs/sweeps/s1/r1")
    assert sweep_trial(Path("runs/hdtf"), {"WANDB_RUN_ID": "r1"}) is None


@pytest.mark.slow
def test_trials_started_by_wandb_s_agent_write_apart(tree: Path):
    sweep = EXPERIMENTS / "sweeps/learning_rates.yaml"
    for run_id, lr in (("aaa", 0.001), ("bbb", 0.0001)):
        trial(sweep, run_id, "s1", {"model.optim.lr": lr, "epochs": 4}, "--logger=csv,wandb", "--trainer.max_steps=4")
    for run_id, lr in (("aaa", 0.001), ("bbb", 0.0001)):
        folder = tree / "runs/sweeps/s1" / run_id
        assert (folder / "last.ckpt").is_file()
        assert yaml.safe_load((folder / "config.yaml").read_text())["model"]["init_args"]["optim"]["lr"] == lr
        assert rows(folder)
        assert [path.name.split("-")[-1] for path in (folder / "wandb").glob("offline-run-*")] == [run_id]
    assert not (tree / "runs/mine").exists()
    assert not list(tree.rglob("*$*"))


# ---- several processes


@pytest.mark.parametrize(("count", "batch", "ranks"), [(8, 4, 3), (7, 2, 2), (4, 1, 3), (3, 8, 3), (9, 4, 2)])
def test_windows_are_shared_out_once_and_in_as_many_batches(count: int, batch: int, ranks: int):
    shares = [Shared(list(range(count)), batch, ranks, rank) for rank in range(ranks)]  # type: ignore[arg-type]
    assert len({len(share) for share in shares}) == 1
    items = [item for share in shares for part in share.batches for item in part]
    assert sorted(items) == list(range(count))
    assert all(1 <= len(part) <= batch + 1 for share in shares for part in share.batches)
    loaded = [item for part in DataLoader(shares[0], batch_size=None) for item in part.tolist()]
    assert loaded == list(range(0, count, ranks))


def test_fewer_windows_than_processes_are_refused():
    with pytest.raises(UserError, match=r"each of the 4 processes, got 3; raise data\.validation_windows_per_clip"):
        Shared([0, 1, 2], 4, 4, 0)  # type: ignore[arg-type]


def process(*words: str) -> subprocess.CompletedProcess[str]:
    environment = own_environment() | {"GLOO_SOCKET_IFNAME": "lo"}
    command = [sys.executable, "-m", "stsa_lightning", *words]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def values(table: bytes) -> list[dict[str, str]]:
    """Rows of a table without empty cells: columns that come later are empty in all rows before."""
    return [{k: v for k, v in row.items() if v} for row in csv.DictReader(io.StringIO(table.decode()))]


def last_values(folder: Path) -> dict[str, float]:
    return {name: float(value) for row in rows(folder) for name, value in row.items() if value}


@pytest.mark.slow
def test_two_processes_train_and_measure_what_one_measures(tree: Path):
    """Five windows on two processes: none counts twice; no strategy was asked for; no doubts are told."""
    uneven = [
        "--data.validation_windows_per_clip",
        "5",
        "--data.windows_per_clip",
        "2",
        "--evaluation.landmark_frames",
        "0",
        "--evaluation.clips",
        "0",
    ]
    done = process("fit", "-c", "mine.yaml", "--epochs=4", "--trainer.devices=2", *uneven)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "sync_dist" not in done.stderr
    two = last_values(tree / "runs/mine")
    stsa("--ckpt_path", "last", *uneven, command="validate")
    one = last_values(tree / "runs/mine/validate")
    for name in ("val/psnr_mouth", "val/ssim_face", "val/pixel", "val/heatmap"):
        assert two[name] == pytest.approx(one[name], rel=1e-4), name


@pytest.mark.slow
def test_days_of_a_researcher_in_one_tree_lose_nothing(tree: Path):
    """Trained, killed, taken up, measured, tried, swept twice, ablated: what was ever written is still there."""
    import wandb

    seen: dict[str, bytes] = {}

    def half(name: str) -> bool:
        """A file that a kill left half-written, or a table of trials that is written anew."""
        return name.endswith(".part") or "ablate/ablations" in name

    def look() -> None:
        """Checkpoints may be replaced by newer ones, rows are added; nothing else changes."""
        now = contents(tree)
        for name, data in seen.items():
            if name.endswith(".csv"):
                before = values(data)
                assert values(now[name])[: len(before)] == before, name
            elif name.endswith((".yaml", "hparams.yaml")) and now[name] != data:
                assert data in now.values(), name
            else:
                assert name in now, name
                assert name.endswith((".ckpt", ".wandb", ".log", ".json", ".md")) or now[name] == data, name
        seen.clear()
        seen.update({name: data for name, data in now.items() if not half(name)})

    fit = [sys.executable, "-m", "stsa_lightning", "fit", "-c", "mine.yaml", "--logger=csv,wandb"]
    more = ["--epochs=40", "--resume.every_n_steps=1", "--trainer.check_val_every_n_epoch=1"]
    quiet = {"stderr": subprocess.DEVNULL, "stdout": subprocess.DEVNULL}
    victim = subprocess.Popen([*fit, *more], env=own_environment(), **quiet)
    while not list((tree / "runs/mine").glob("logs/pictures/epoch-0001.png")):
        assert victim.poll() is None
        time.sleep(0.2)
    victim.kill()
    victim.wait()
    look()
    stsa("--epochs=4", "--ckpt_path=last", "--logger=csv,wandb", "--trainer.max_epochs=-1", "--trainer.max_steps=20")
    wandb.finish()
    look()
    for command in ("validate", "test", "predict"):
        stsa("--ckpt_path=last", command=command)
        look()
    stsa("--smoke")
    stsa("--trainer.fast_dev_run=true")
    look()
    sweep = EXPERIMENTS / "sweeps/learning_rates.yaml"
    for run_id in ("aaa", "bbb"):
        trial(sweep, run_id, "s1", {"model.optim.lr": 0.001, "epochs": 4}, "--logger=csv,wandb")
        look()
    overlays = tree / "overlays"
    overlays.mkdir()
    (overlays / "short.yaml").write_text("phases: {end_to_end: {name: before}}\n")
    words = ["ablate", "-c", "mine.yaml", "--overlays", str(overlays), "--out", "runs/ablate", "--epochs", "4"]
    for _ in range(2):
        main([*words, "--metrics", "psnr"])
        look()
    ids = {path.name.split("-")[-1] for path in (tree / "runs/mine/wandb").glob("offline-run-*")}
    assert ids == {(tree / "runs/mine/wandb_id").read_text().strip()}
    assert len(list((tree / "runs").rglob("last.ckpt"))) == 5
