"""The phases of one run: guidance, warp, synthesis, end to end, each with its own length and learning rate."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info

from stsa_lightning.errors import UserError
from stsa_lightning.module import PHASES, STSA, Phase


@dataclass(frozen=True)
class PhaseSpec:
    """One phase of a run.

    Attributes:
        name: what drives the picture and what learns, see :mod:`stsa_lightning.module`.
        epochs: its length.
        lr: learning rate of the generator side; None keeps the module's own.
    """

    name: Phase
    epochs: int
    lr: float | None = None

    def __post_init__(self) -> None:
        if self.name not in PHASES:
            raise UserError(f"phases: name must be one of {', '.join(PHASES)}, got {self.name!r}")
        if self.epochs < 1:
            raise UserError(f"phases: {self.name} must last at least 1 epoch, got {self.epochs}")


class PhaseSchedule(Callback):
    """Moves the module from phase to phase at the start of epochs; the last phase lasts until ``trainer.max_epochs``.

    The phase follows from the epoch alone, so a resumed run is in the right one.
    """

    def __init__(self, phases: list[PhaseSpec]) -> None:
        if not phases:
            raise UserError("phases: expected at least one, such as {name: guidance, epochs: 10}, got an empty list")
        self.phases = phases

    def phase_at(self, epoch: int) -> PhaseSpec:
        """The phase of an epoch, counted from 0."""
        end = 0
        for spec in self.phases:
            end += spec.epochs
            if epoch < end:
                return spec
        return self.phases[-1]

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not isinstance(pl_module, STSA):
            raise TypeError(f"PhaseSchedule moves an STSA module, got {type(pl_module).__name__}")
        spec = self.phase_at(trainer.current_epoch)
        lr = pl_module.hparams["lr"] if spec.lr is None else spec.lr
        for group in trainer.optimizers[0].param_groups:
            group["lr"] = lr
        if trainer.current_epoch == 0 or spec is not self.phase_at(trainer.current_epoch - 1):
            rank_zero_info(f"epoch {trainer.current_epoch}: phase {spec.name}, learning rate {lr:g}")
        pl_module.set_phase(spec.name)
        pl_module.log("phase", float(PHASES.index(spec.name)), on_step=False, on_epoch=True)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        checkpoint["phase"] = self.phase_at(trainer.current_epoch).name
