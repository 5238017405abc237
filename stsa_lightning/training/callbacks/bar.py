"""The progress bar of a training says where the run is and how it does."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import TQDMProgressBar

SHOWN = {"train/loss": "loss", "val/psnr_mouth": "psnr_mouth"}


class PhaseBar(TQDMProgressBar):
    """Lightning's bar with the phase, the loss, and PSNR at the mouth of the last validation.

    Args:
        refresh_rate: batches between two writings, each of which waits for the device.
    """

    def __init__(self, refresh_rate: int = 10) -> None:
        super().__init__(refresh_rate)

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        phase = getattr(pl_module, "phase", None) if trainer.state.fn == "fit" else None
        metrics = trainer.callback_metrics
        values = {name: f"{float(metrics[key]):.4g}" for key, name in SHOWN.items() if key in metrics}
        others = {name: value for name, value in super().get_metrics(trainer, pl_module).items() if name != "v_num"}
        return {**({"phase": phase} if phase else {}), **values, **others}
