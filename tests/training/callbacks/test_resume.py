"""A run that is stopped and goes on ends with the weights of one that was never stopped, bit for bit on a CPU."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint

from stsa_lightning.data.datamodule import STSADataModule
from stsa_lightning.losses.objective import LossWeights
from stsa_lightning.training.callbacks.ema import GeneratorEMA
from stsa_lightning.training.callbacks.phases import PhaseSchedule
from stsa_lightning.training.callbacks.resume import ResumePoint, requeue_slurm_job
from stsa_lightning.training.callbacks.watch import LossWatch
from stsa_lightning.training.module import STSA
from stsa_lightning.training.optim import OptimSettings
from stsa_lightning.training.phases import PhaseSpec
from stsa_lightning.utils.errors import UserError

WEIGHTS = LossWeights(warp=0, perceptual=0, warp_pixel=1, pixel=1, adversarial=0.1, feature_matching=0.1)
SIZES: dict[str, Any] = {"face_size": 64, "num_frames": 2, "num_references": 2}
NARROW: dict[str, Any] = {
    "guidance": {"width": 16, "base": 4, "layers": 1, "heads": 2, "feedforward": 16},
    "synthesis": {"width": 2, "audio_width": 8, "spade_hidden": 4},
}


def data(root: str | Path, **options: Any) -> STSADataModule:
    """2 training clips x 5 windows: 5 batches in an epoch."""
    settings = {"batch_size": 2, "num_workers": 0, "windows_per_clip": 5, "validation_windows_per_clip": 1}
    return STSADataModule(root=str(root), **SIZES, **{**settings, **options}, validation_speakers=["speaker03"])


def fit(root: str | Path, folder: str | Path, *callbacks: Callback, workers: int = 0, **options: Any) -> dict[str, Any]:
    """Two epochs, synthesis and end to end, from `last.ckpt` where there is one; what the last checkpoint holds."""
    seed_everything(options.pop("seed", 0), verbose=False)
    watched = options.pop("watched", {})
    settings: dict[str, Any] = {
        "losses": {"weights": WEIGHTS, "balance_every_n_steps": 3},
        "optim": OptimSettings(1e-3, gradient_clip_val=1.0, accumulate_grad_batches=options.pop("accumulate", 1)),
    }
    module = STSA("tiny", **SIZES, **NARROW, **settings, discriminator={"width": 4, "scales": 1}, **options)
    trainer = Trainer(
        accelerator="cpu",
        devices=1,
        max_epochs=2,
        log_every_n_steps=1,
        num_sanity_val_steps=0,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[
            PhaseSchedule([PhaseSpec("synthesis", 1, warmup=3), PhaseSpec("end_to_end", 1, lr=5e-4)]),
            *callbacks,
            GeneratorEMA(0.9),
            LossWatch(2),
            ModelCheckpoint(dirpath=folder, save_last=True, filename="best", enable_version_counter=False, **watched),
        ],
    )
    trainer.fit(module, data(root, num_workers=workers), ckpt_path="last")
    return torch.load(Path(folder) / "last.ckpt", weights_only=True)


class Stop(Callback):
    """Sends this process a signal in the middle of a step, before the discriminators' optimiser moves."""

    def __init__(self, step: int, number: int, in_validation: bool = False) -> None:
        self.step, self.number, self.in_validation = step, number, in_validation

    def on_before_optimizer_step(self, trainer: Trainer, *args: Any) -> None:
        if trainer.global_step == self.step and not self.in_validation:
            os.kill(os.getpid(), self.number)

    def on_validation_batch_start(self, trainer: Trainer, *args: Any) -> None:
        if trainer.global_step == self.step and self.in_validation:
            os.kill(os.getpid(), self.number)


def same(a: Any, b: Any, where: str = "") -> None:
    """Equal in every tensor and number."""
    if isinstance(a, torch.Tensor):
        assert torch.equal(a, b), where
    elif isinstance(a, dict):
        assert a.keys() == b.keys(), where
        for key in a:
            same(a[key], b[key], f"{where}.{key}")
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b), where
        for index, (x, y) in enumerate(zip(a, b, strict=True)):
            same(x, y, f"{where}[{index}]")
    else:
        assert a == b, where


def compare(one: dict[str, Any], other: dict[str, Any]) -> None:
    for name in ("state_dict", "optimizer_states", "global_step", "epoch", "phase"):
        same(one[name], other[name], name)
    same(one["callbacks"]["GeneratorEMA"], other["callbacks"]["GeneratorEMA"], "average")


@pytest.fixture(scope="module")
def whole(prepared_sample: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a run that nothing stops ends with."""
    return fit(prepared_sample, tmp_path_factory.mktemp("whole"))


SCRIPT = """
import sys
sys.path.insert(0, sys.argv[1])
from tests.training.callbacks.test_resume import *
root, folder, what, workers = sys.argv[2:]
stop = {"nothing": [], "term": [Stop(3, signal.SIGTERM)], "kill": [Stop(7, signal.SIGKILL)]}[what]
fit(root, folder, *stop, ResumePoint(0, every_n_steps=2), workers=int(workers), seed=0 if stop else 99)
"""


def run(folder: Path, root: Path, what: str, workers: int = 0) -> int:
    script = folder / "run.py"
    script.write_text(SCRIPT)
    words = [sys.executable, script, Path(__file__).parents[3], root, folder, what, str(workers)]
    done = subprocess.run(list(map(str, words)), capture_output=True, text=True, check=False)
    print(done.stdout[-2000:], done.stderr[-3000:])
    return done.returncode


@pytest.mark.slow
def test_after_sigterm_a_run_goes_on_as_if_nothing_had_been(prepared_sample: Path, tmp_path: Path, whole):
    assert run(tmp_path, prepared_sample, "term") == 143
    stopped = torch.load(tmp_path / "last.ckpt", weights_only=True)
    # In the middle of an epoch; the signal came between the generator's third step and the discriminators'.
    assert (stopped["epoch"], stopped["global_step"]) == (0, 3)
    compare(whole, fit(prepared_sample, tmp_path, seed=17))  # what a new process happens to draw must not matter


class EverWorse(Callback):
    """Logs what falls from epoch to epoch, so that the first one stays the best."""

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: Any) -> None:
        pl_module.log("val/x", -float(trainer.current_epoch))


@pytest.mark.slow
def test_the_last_checkpoint_is_the_run_s_end_and_the_best_one_is_not(prepared_sample: Path, tmp_path: Path, whole):
    watched = {"monitor": "val/x", "mode": "max"}
    last = fit(prepared_sample, tmp_path, EverWorse(), ResumePoint(), watched=watched)
    best = torch.load(tmp_path / "best.ckpt", weights_only=True)
    assert (best["global_step"], last["global_step"]) == (5, 10)
    compare(whole, last)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 1])
def test_after_sigkill_a_run_goes_on_from_its_last_checkpoint(prepared_sample: Path, tmp_path: Path, whole, workers):
    assert run(tmp_path, prepared_sample, "kill", workers) == -signal.SIGKILL
    assert torch.load(tmp_path / "last.ckpt", weights_only=True)["global_step"] == 6
    assert run(tmp_path, prepared_sample, "nothing", workers) == 0
    compare(whole, torch.load(tmp_path / "last.ckpt", weights_only=True))


@pytest.mark.slow
@pytest.mark.parametrize("step", range(1, 10))
def test_any_step_is_a_good_one_to_stop_at(prepared_sample: Path, tmp_path: Path, whole, step: int):
    with pytest.raises(SystemExit):
        fit(prepared_sample, tmp_path, Stop(step, signal.SIGUSR1), ResumePoint())
    compare(whole, fit(prepared_sample, tmp_path, ResumePoint(), seed=step))


@pytest.mark.slow
def test_a_stop_in_validation_loses_nothing(prepared_sample: Path, tmp_path: Path, whole):
    with pytest.raises(SystemExit):
        fit(prepared_sample, tmp_path, Stop(5, signal.SIGTERM, in_validation=True), ResumePoint())
    compare(whole, fit(prepared_sample, tmp_path, ResumePoint(), seed=3))


@pytest.mark.slow
def test_a_stop_between_gathered_batches_waits_for_their_step(prepared_sample: Path, tmp_path: Path):
    class Early(Callback):
        def on_train_batch_start(self, trainer: Trainer, module: Any, batch: Any, batch_idx: int) -> None:
            if trainer.current_epoch == 0 and batch_idx == 2:
                os.kill(os.getpid(), signal.SIGTERM)

    (tmp_path / "whole").mkdir()
    straight = fit(prepared_sample, tmp_path / "whole", accumulate=2)
    with pytest.raises(SystemExit):
        fit(prepared_sample, tmp_path, Early(), ResumePoint(), accumulate=2)
    stopped = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert stopped["global_step"] == 2
    compare(straight, fit(prepared_sample, tmp_path, ResumePoint(), accumulate=2))


def test_a_slurm_job_is_put_back_into_the_queue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "scontrol").write_text(f"#!/bin/sh\necho $@ >> {tmp_path}/asked\n")
    (tmp_path / "scontrol").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    requeue_slurm_job()
    monkeypatch.setenv("SLURM_JOB_ID", "41")
    requeue_slurm_job()
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "40")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "1")
    requeue_slurm_job()
    assert (tmp_path / "asked").read_text().splitlines() == ["requeue 41", "requeue 40_1"]


def test_the_clock_decides_where_no_step_does():
    point = ResumePoint(every_n_minutes=1)
    point._ask(1)
    assert not point._due
    point._written_at = time.monotonic() - 61
    point._ask(None)
    assert point._due


def test_bad_intervals_are_named():
    with pytest.raises(UserError, match="every_n_minutes must be 0 or more, got -1"):
        ResumePoint(every_n_minutes=-1)
