"""A loss that is no number is named, with the batch that made it, without waiting for the device at every step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from stsa_lightning.training.checks import identity
from stsa_lightning.utils.errors import UserError, check_at_least


@dataclass
class Seen:
    """One step: where in the run, which windows, which terms, and whether each was finite, (terms,) on the device."""

    epoch: int
    batch_idx: int
    batch: dict[str, Any]
    terms: list[str]
    finite: Tensor


class LossWatch(Callback):
    """Stops a run at the first term that is infinite or no number.

    Each step leaves its answer on the device; every `every_n_steps` batches, before a checkpoint and at an epoch's
    end they are read, and the first bad one is named: its terms, epoch, batch and windows. So no checkpoint holds what
    came after it.

    Args:
        every_n_steps: batches between readings; each waits for the device once.
    """

    def __init__(self, every_n_steps: int = 50) -> None:
        check_at_least("every_n_steps", every_n_steps, 1)
        self.every_n_steps = every_n_steps
        self._seen: list[Seen] = []

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        terms: Mapping[str, Tensor] = (outputs or {}).get("terms", {})
        if terms:
            finite = torch.stack([value.detach().float() for value in terms.values()]).isfinite()
            windows = {name: batch[name] for name in ("clip", "frame")}
            self._seen.append(Seen(trainer.current_epoch, batch_idx, windows, list(terms), finite))
        if len(self._seen) >= self.every_n_steps:
            self._read(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._read(trainer)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        self._read(trainer)

    def _read(self, trainer: Trainer) -> None:
        seen, self._seen = self._seen, []
        if not seen or bool(torch.cat([step.finite for step in seen]).all()):
            return
        step = next(step for step in seen if not bool(step.finite.all()))
        # The sum and what learns from it are no news beside the terms they are made of.
        bad = [name for name, finite in zip(step.terms, step.finite.tolist(), strict=True) if not finite]
        named = [name for name in bad if name != "loss"] or bad
        windows = ", ".join(identity(step.batch))
        raise UserError(
            f"{' and '.join(named)} became infinite or no number in epoch {step.epoch}, batch {step.batch_idx} "
            f"(rank {trainer.global_rank}), on {windows}. If it is always these windows, look at them; if not, lower "
            "model.optim.lr, set model.optim.gradient_clip_val (5 is usual), or leave 16-bit precision. The last "
            "checkpoint is from before it: --ckpt_path last"
        )
