"""What runs write stays: one folder names a run, whatever is started in it and however often."""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import wandb
import yaml
from lightning.pytorch.loggers import CSVLogger
from torch.utils.data import DataLoader
from wandb.sdk.launch.sweeps.utils import create_sweep_command, create_sweep_command_args

from stsa_lightning.cli import main
from stsa_lightning.data.datamodule import Shared
from stsa_lightning.errors import UserError
from stsa_lightning.training.folder import RunFolder, sweep_trial
from stsa_lightning.training.loggers import KeptCSVLogger, chosen_names, kept

EXPERIMENTS = Path(__file__).parents[2] / "experiments"
NARROW = {
    "size": "tiny",
    "guidance": {"width": 16, "base": 4, "layers": 1, "heads": 2, "feedforward": 16},
    "synthesis": {"width": 2, "audio_width": 8, "align_width": 8, "spade_hidden": 4},
    "discriminator": {"width": 4, "scales": 1},
    "weights": {"warp": 0, "perceptual": 0, "warp_pixel": 1, "pixel": 1, "adversarial": 0.1, "feature_matching": 0.1},
    "lr": 0.001,
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
            "window": 2,
            "references": 2,
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


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "logs" / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


def test_nothing_that_a_run_wrote_is_lost_by_what_follows(
    tree: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    """Trained, tried, measured, drawn, refused, gone on with: one folder."""
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
    assert "end_to_end" in capsys.readouterr().err

    stsa("--ckpt_path", "last", command="validate")
    stsa("--ckpt_path", "best", command="test")
    stsa("--ckpt_path", "last", command="predict")
    now = contents(run)
    assert {name: now[name] for name in written} == written
    assert any(name.startswith("validate/logs/evaluation/val") for name in now), "clips are drawn, whatever the rhythm"
    assert sum(name.startswith("predict/pictures/") for name in now) == 1
    assert sum(name.startswith("predict/videos/") for name in now) == 1

    assert "--ckpt_path last; begin elsewhere: --run FOLDER; or begin anew here: --overwrite" in refused(capsys)
    assert "holds a run already" in refused(capsys, "--ckpt_path", str(run / "best.ckpt"), "--model.lr", "1") or (
        (run / "best.ckpt").read_bytes() == (run / "last.ckpt").read_bytes()
    )
    assert contents(run) == now

    stsa("--ckpt_path", "last", "--epochs", "6", "--model.lr", "0.0005")
    after = contents(run)
    assert after["logs/metrics.csv"].startswith(written["logs/metrics.csv"])
    assert after["config-1.yaml"] == written["config.yaml"]
    assert after["logs/hparams-1.yaml"] == written["logs/hparams.yaml"]
    assert all(after[name] == data for name, data in written.items() if "pictures" in name)
    assert torch.load(run / "last.ckpt", weights_only=True)["epoch"] == 5

    stsa("--overwrite", "--epochs", "4")
    assert "--overwrite: removed from runs/mine/: best.ckpt, config-1.yaml" in capsys.readouterr().err
    assert len(rows(run)) < len(written["logs/metrics.csv"].splitlines())
    assert contents(run / "validate")


def test_the_command_line_holds_against_a_checkpoint(tree: Path, capsys: pytest.CaptureFixture[str]):
    stsa("--epochs", "4", "--trainer.limit_val_batches", "1")
    options = ["--ckpt_path", "runs/mine/last.ckpt", "--epochs", "8"]
    stsa(*options, "--model.lr", "0.0005", "--model.betas", "[0.8, 0.9]", "--phases.guidance.lr", "null")
    assert "model.lr 0.0005 (the checkpoint: 0.001)" in capsys.readouterr().err
    (group, _) = (state["param_groups"][0] for state in torch.load("runs/mine/last.ckpt")["optimizer_states"])
    assert (group["lr"], tuple(group["betas"])) == (0.0005, (0.8, 0.9))
    for command in ("fit", "validate"):
        message = refused(capsys, *options[:2], "--model.size", "small", command=command)
        assert "its guidance network has other settings" in message or "networks" in message
    message = refused(capsys, *options, "--model.weights.adversarial", "0", "--model.weights.feature_matching", "0")
    assert "do not have the same parts" in message
    assert "no such file" in refused(capsys, "--ckpt_path", "nowhere.ckpt")
    assert "found best.ckpt, last.ckpt" not in refused(capsys, "--run", "runs/none", "--ckpt_path", "best")
