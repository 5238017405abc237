"""Phases left out of a run's schedule, as an overlay of settings can say it."""

from __future__ import annotations

from collections.abc import Sequence

from lightning.pytorch import Callback, LightningModule, Trainer

from stsa_lightning.callbacks.phases import PhaseSchedule
from stsa_lightning.errors import UserError
from stsa_lightning.module import PHASES, Phase


class WithoutPhases(Callback):
    """Takes phases out of the run's :class:`PhaseSchedule`; the run stays as long, since its last phase grows.

    Settings of a second ``-c`` can add to the list of callbacks (``callbacks+``), not change one of its entries.

    Args:
        names: the phases that are left out.
    """

    def __init__(self, names: Sequence[Phase]) -> None:
        unknown = sorted(set(names) - set(PHASES))
        if unknown or not names:
            raise UserError(f"names: expected some of {', '.join(PHASES)}, got {list(names)}")
        self.names = tuple(names)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
        schedules = [callback for callback in callbacks if isinstance(callback, PhaseSchedule)]
        for schedule in schedules:
            kept = [spec for spec in schedule.phases if spec.name not in self.names]
            if not kept:
                raise UserError(f"names: no phase is left of {[spec.name for spec in schedule.phases]}")
            schedule.phases = kept
        if stage == "fit" and not schedules:
            raise UserError("WithoutPhases needs a PhaseSchedule among trainer.callbacks, found none")
