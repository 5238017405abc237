"""A run that is stopped at any moment goes on as if it had not been."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities import rank_zero_info
from lightning.pytorch.utilities.exceptions import SIGTERMException

from stsa_lightning.training.callbacks.whole_files import use_whole_files
from stsa_lightning.utils.errors import check_at_least

REQUEUE = getattr(signal, "SIGUSR1", None)  # Windows has none
SIGNALS = (signal.SIGTERM, *([REQUEUE] if REQUEUE else []))
LAST = "last.ckpt"


class ResumePoint(Callback):
    """Keeps `last.ckpt` fresh within epochs, and writes it at the run's end and when a scheduler tells it to stop.

    It lies beside the checkpoints of the run's ModelCheckpoint and is what `--ckpt_path last` goes on from: weights,
    averages, both optimisers, phase, the place in the epoch's order of windows. It appears whole or not at all. A run
    that goes on from it ends with the weights of one that was never stopped (bit for bit on a CPU).

    SIGTERM and SIGUSR1 are taken between two batches, on whichever rank they arrive: all write one checkpoint and leave
    with status 143. (Lightning's own answer to SIGUSR1 under SLURM saves within a step, between the two optimisers.) On
    SIGUSR1 in a SLURM job, the job is put back into the queue; its command should have `--ckpt_path last`.

    Args:
        every_n_minutes: between two writings, at the end of a step; 0: only at signals and at the end.
        every_n_steps: optimiser steps between two writings; 0: by the clock alone.
        requeue: `scontrol requeue` on SIGUSR1 in a SLURM job.
    """

    def __init__(self, every_n_minutes: float = 15.0, every_n_steps: int = 0, requeue: bool = True) -> None:
        check_at_least("every_n_minutes", every_n_minutes, 0)
        check_at_least("every_n_steps", every_n_steps, 0)
        self.every_n_minutes, self.every_n_steps, self.requeue = every_n_minutes, every_n_steps, requeue
        self.folder: Path | None = None
        self._received = 0  # the signal's number
        self._due = False
        self._written_at = time.monotonic()
        self._handlers: dict[int, Any] = {}
        self._group: Any = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        use_whole_files(trainer)
        # Last of all, so that what others do at the end of a step (averages, best checkpoints) is in what is written.
        trainer.callbacks = [*(other for other in trainer.callbacks if other is not self), self]  # type: ignore[attr-defined]

    # ---- signals

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.folder = folder_of(trainer)
        if self.folder is None:
            return
        self._written_at = time.monotonic()
        if trainer.world_size > 1:
            # Through the processors: asking the accelerators would wait for their work at each batch.
            self._group = torch.distributed.new_group(backend="gloo")
        if threading.current_thread() is threading.main_thread():
            # In place of Lightning's, which talks to other ranks in the midst of whatever they do.
            self._handlers = {number: signal.signal(number, self._note) for number in SIGNALS}

    def _note(self, number: int, _frame: FrameType | None) -> None:
        self._received = number

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._handlers = {}

    def _agreed(self, wish: int) -> int:
        """The largest wish of all ranks."""
        if self._group is None:
            return wish
        largest = torch.tensor(wish)
        torch.distributed.all_reduce(largest, torch.distributed.ReduceOp.MAX, group=self._group)
        return int(largest)

    # ---- when

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if self.folder is None:
            return
        # Between the batches of one step, gathered gradients would be lost; what ends an epoch is written at its end.
        stepped = pl_module.steps_after(batch_idx)
        last = trainer.fit_loop.epoch_loop.batch_progress.is_last_batch
        self._ask(trainer.global_step if stepped else None)
        if stepped and not last:
            self._write_if_due(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.folder is not None:
            self._ask(None)
            self._due |= ends(trainer)  # Lightning's last.ckpt is that of the last best one
            self._write_if_due(trainer)

    def on_validation_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        if self.folder is not None and not trainer.sanity_checking and trainer.state.fn == "fit":
            self._ask(None)
            if self._received:
                self._leave()  # written in on_exception, when averaged weights are out again

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        if isinstance(exception, SIGTERMException) and trainer.validating and self.folder is not None:
            self._write(trainer)

    def _ask(self, step: int | None) -> None:
        minutes = (time.monotonic() - self._written_at) / 60
        timed = 0 < self.every_n_minutes <= minutes
        counted = step is not None and self.every_n_steps > 0 and step % self.every_n_steps == 0
        self._due |= timed or counted
        wish = self._agreed(2 * self._received + self._due)
        self._received, self._due = wish // 2, bool(wish % 2)

    def _write_if_due(self, trainer: Trainer) -> None:
        if self._due or self._received:
            self._write(trainer)
        if self._received:
            if self._received == REQUEUE and self.requeue and trainer.is_global_zero:
                requeue_slurm_job()
            self._leave()

    # ---- what

    def _write(self, trainer: Trainer) -> None:
        assert self.folder is not None
        trainer.save_checkpoint(self.folder / LAST)
        self._due, self._written_at = False, time.monotonic()

    def _leave(self) -> None:
        name = signal.Signals(self._received).name
        rank_zero_info(f"{name}: stopped; the same command with --ckpt_path last goes on from {self.folder}/{LAST}")
        raise SIGTERMException(128 + signal.SIGTERM)


def ends(trainer: Trainer) -> bool:
    """Whether the epoch that ends is the run's last."""
    epochs, steps = trainer.max_epochs, trainer.max_steps
    last = epochs is not None and 0 <= epochs <= trainer.current_epoch + 1
    return last or 0 <= steps <= trainer.global_step or trainer.should_stop


def folder_of(trainer: Trainer) -> Path | None:
    """Where the run's ModelCheckpoint writes; None where a run keeps no checkpoints."""
    if getattr(trainer, "fast_dev_run", False):
        return None
    folders = [callback.dirpath for callback in trainer.checkpoint_callbacks if isinstance(callback, ModelCheckpoint)]
    return Path(folders[0]) if folders and folders[0] else None


def requeue_slurm_job() -> None:
    """Put this SLURM job back into the queue; nothing outside of one."""
    job = os.environ.get("SLURM_JOB_ID")
    if not job:
        return
    if array := os.environ.get("SLURM_ARRAY_JOB_ID"):
        job = f"{array}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    done = subprocess.run(["scontrol", "requeue", job], capture_output=True, text=True, check=False)
    if done.returncode:
        rank_zero_info(f"scontrol requeue {job} failed: {done.stderr.strip()}")
