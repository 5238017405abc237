"""Moves a run from phase to phase."""

from __future__ import annotations

from typing import Any, cast

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info

from stsa_lightning.training.module import STSA
from stsa_lightning.training.optim import share_of_rate
from stsa_lightning.training.phases import PHASES, WITHOUT_PICTURE, PhaseSpec
from stsa_lightning.utils.errors import UserError


class PhaseSchedule(Callback):
    """Moves the module from phase to phase at the start of epochs; the last phase lasts until `trainer.max_epochs`.

    The phase follows from the epoch alone, and the learning rates from the batch, so a resumed run is in the right
    place. Logged of each epoch: `phase` (its place in `PHASES`), `lr` and `discriminator_lr`; a checkpoint
    holds the phase's name.
    """

    def __init__(self, phases: list[PhaseSpec]) -> None:
        if not phases:
            raise UserError("phases: expected at least one, such as {name: guidance, epochs: 10}, got an empty list")
        self.phases = phases
        self._announced: int | None = None  # the epoch of the phase that was announced last

    def place_at(self, epoch: int) -> tuple[PhaseSpec, int]:
        """The phase of an epoch, counted from 0, and the epoch it began with."""
        begun = 0
        for spec in self.phases[:-1]:
            if epoch < begun + spec.epochs:
                return spec, begun
            begun += spec.epochs
        return self.phases[-1], begun

    def phase_at(self, epoch: int) -> PhaseSpec:
        """The phase of an epoch, counted from 0."""
        return self.place_at(epoch)[0]

    def length_of(self, spec: PhaseSpec, begun: int, epochs: int | None) -> int | None:
        """Epochs of a phase that begins with `begun`; the last lasts until those of the run, None without an end."""
        if spec is not self.phases[-1]:
            return spec.epochs
        return None if epochs is None or epochs < 0 else max(epochs - begun, spec.epochs)

    def rates_at(self, module: STSA, epoch: int, batches_done: int, batches: int | None = None) -> list[float]:
        """Learning rates of the generator side and of the discriminators, `batches_done` into the phase's `batches`."""
        spec = self.phase_at(epoch)
        rates = []
        for settings, rate in zip(module.optim.sides, (spec.lr, spec.discriminator_lr), strict=True):
            part = share_of_rate(spec.schedule or settings.schedule, spec.warmup, batches_done, batches)
            rates.append((settings.lr if rate is None else rate) * part)
        return rates

    # ---- hooks

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if not isinstance(pl_module, STSA):
            raise TypeError(f"PhaseSchedule moves an STSA module, got {type(pl_module).__name__}")
        # A strategy that looks at what learns does so after this: in the course of the phases, all.
        pl_module.set_phase("end_to_end")

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Before the first step: do the phases fit the run, are there such parts?"""
        total, limit = sum(spec.epochs for spec in self.phases), trainer.max_epochs
        if limit is not None and -1 < limit < total and not getattr(trainer, "fast_dev_run", False):
            lengths = " + ".join(f"{spec.name} {spec.epochs}" for spec in self.phases)
            raise UserError(
                f"phases: {lengths} = {total} epochs do not fit trainer.max_epochs {limit}; make it at least "
                f"{total}, or the phases shorter"
            )
        self._check_mouth_swap(trainer)
        module = cast(STSA, pl_module)
        self._check_overridden(trainer)
        for spec in self.phases:
            module.check_phase(spec.name)
            for name in spec.freeze:
                module.part(name)

    def _check_overridden(self, trainer: Trainer) -> None:
        """What was asked for and would have no effect, since the phases say it."""
        if schedulers := getattr(trainer, "lr_scheduler_configs", []):
            kinds = ", ".join(type(config.scheduler).__name__ for config in schedulers)
            raise UserError(
                f"configure_optimizers: got {kinds}, but the phases set the learning rates: expected optimisers alone, "
                "and model.optim.schedule or phases.LABEL.schedule"
            )

    def _check_mouth_swap(self, trainer: Trainer) -> None:
        swapped = getattr(getattr(trainer, "datamodule", None), "hparams", {}).get("swap_mouth_epochs", 0)
        other = [epoch for epoch in range(swapped) if self.phase_at(epoch).name not in WITHOUT_PICTURE]
        if other:
            raise UserError(
                f"data.swap_mouth_epochs: expected at most {other[0]}, as the run begins with so many epochs of the "
                f"phases {' and '.join(WITHOUT_PICTURE)}, got {swapped}; the other phases need pictures and contours "
                "that agree"
            )

    def on_train_epoch_start(self, trainer: Trainer, pl_module: Any) -> None:
        epoch = trainer.current_epoch
        spec, begun = self.place_at(epoch)
        pl_module.set_phase(spec.name, spec.freeze)
        lr, discriminator_lr = self.rates_at(pl_module, epoch, spec.warmup)
        if epoch == begun != self._announced:
            self._announced = begun
            besides = f", frozen besides: {', '.join(spec.freeze)}" if spec.freeze else ""
            rank_zero_info(
                f"epoch {epoch}: phase {spec.name}, learning rate {lr:g}, discriminators {discriminator_lr:g}{besides}"
            )

    on_train_start = on_train_epoch_start  # a run that goes on in the middle of an epoch hears no start of one

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        epoch = trainer.current_epoch
        spec, begun = self.place_at(epoch)
        length = self.length_of(spec, begun, trainer.max_epochs)
        batches = None if length is None else int(length * trainer.num_training_batches)
        done = int((epoch - begun) * trainer.num_training_batches) + batch_idx
        for optimiser, rate in zip(trainer.optimizers, self.rates_at(pl_module, epoch, done, batches), strict=False):  # type: ignore[arg-type]
            for group in optimiser.param_groups:
                group["lr"] = rate

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        values = {"phase": float(PHASES.index(self.phase_at(trainer.current_epoch).name))}
        for name, optimiser in zip(("lr", "discriminator_lr"), trainer.optimizers, strict=False):
            values[name] = optimiser.param_groups[0]["lr"]
        pl_module.log_dict(values, sync_dist=True)  # equal on all ranks; without it Lightning doubts that

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        checkpoint["phase"] = self.phase_at(trainer.current_epoch).name
