"""Versions and settings reach every logger, and the checkpoint; a run without loggers works."""

from __future__ import annotations

import csv
import subprocess
from pathlib import Path

import pytest
import torch
import yaml

import stsa_lightning
from stsa_lightning.cli import main
from stsa_lightning.data.index import INDEX_FILE
from stsa_lightning.training.callbacks.record import git_commit
from stsa_lightning.utils.files import sha256_of

SETTINGS = """
run: {run}
logger: {logger}
wandb: {{project: stsa}}
data: {{root: {data}, num_workers: 0, batch_size: 2, windows_per_clip: 2, num_references: 2, num_frames: 2,
       validation_windows_per_clip: 1, validation_speakers: [speaker03], face_size: 64}}
model:
  preset: tiny
  discriminator: {{width: 4, scales: 1}}
  losses:
    balance_every_n_steps: 1
    weights: {{warp: 0, perceptual: 0, warp_pixel: 1, pixel: 1, adversarial: 0.1, feature_matching: 0.1}}
trainer:
  accelerator: cpu
  devices: 1
  max_epochs: 1
  log_every_n_steps: 1
  num_sanity_val_steps: 0
pictures: {{count: 1}}
evaluation: {{clips: 0, landmark_frames: 0}}
"""


def run(folder: Path, data: Path, logger: str) -> Path:
    text = SETTINGS.format(data=data, run=folder / "run", logger=logger)
    (folder / "run.yaml").write_text(text)
    main(["fit", "-c", str(folder / "run.yaml")])
    return folder / "run"


def test_loggers_and_files_state_versions_settings_and_the_balance(
    prepared_sample: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    import wandb

    monkeypatch.setenv("WANDB_MODE", "offline")
    folder = run(tmp_path, prepared_sample, "[csv, wandb]")
    settings = dict(wandb.run.config)  # type: ignore[union-attr]
    wandb.finish()
    assert settings["data/index_sha256"] == sha256_of(prepared_sample / INDEX_FILE)
    assert settings["version/torch"] == torch.__version__
    assert settings["settings"]["trainer"]["max_epochs"] == 1
    assert list(folder.rglob("media/images/**/*.png"))
    record = yaml.safe_load((folder / "logs" / "hparams.yaml").read_text())
    digest = sha256_of(prepared_sample / INDEX_FILE)
    assert record["version/stsa_lightning"] == stsa_lightning.__version__
    assert record["data/index_sha256"] == digest
    assert record["data/train_clips"] == 2
    assert record["settings"]["trainer"]["max_epochs"] == 1
    assert record["losses"]["weights"]["pixel"] == 1
    assert torch.load(folder / "last.ckpt", weights_only=True)["record"]["data/index_sha256"] == digest
    with (folder / "logs" / "metrics.csv").open() as file:
        row = next(row for row in csv.DictReader(file) if row.get("balance/face/pixel"))
    for place in ("face", "paths", "warped", "heatmap"):
        parts = [float(value) for name, value in row.items() if name.startswith(f"balance/{place}/") and value]
        assert sum(parts) == pytest.approx(1, abs=1e-4)
    assert float(row["weight/adversarial"]) == pytest.approx(0.1)
    assert float(row["balance/paths/cil"]) > 0


@pytest.mark.slow
def test_a_run_without_any_logger_works(prepared_sample: Path, tmp_path: Path):
    assert (run(tmp_path, prepared_sample, "none") / "last.ckpt").is_file()


def test_the_commit_is_that_of_the_code_alone(tmp_path: Path):
    package = tmp_path / "repository" / "package"
    package.mkdir(parents=True)
    assert git_commit(package) is None

    def git(*words: str) -> str:
        named = ["git", "-c", "user.name=a", "-c", "user.email=a@b", "-C", str(package), *words]
        return subprocess.run(named, check=True, capture_output=True, text=True).stdout.strip()

    git("init", "-q")
    (package / "__init__.py").touch()
    assert git_commit(package) is None  # in some folder, but not of it
    git("add", ".")
    git("commit", "-q", "-m", "a")
    assert git_commit(package) == git("rev-parse", "HEAD")
    (package / "__init__.py").write_text("1")
    assert git_commit(package) == git("rev-parse", "HEAD") + "-changed"
