"""What a training shows on the terminal: how large its parts are, where it is and how it does."""

from __future__ import annotations

import logging
from contextlib import ExitStack
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import TQDMProgressBar
from lightning.pytorch.utilities import rank_zero_info
from tqdm.contrib.logging import logging_redirect_tqdm

SHOWN = {"train/loss": "loss", "val/psnr_mouth": "psnr_mouth"}


class PhaseBar(TQDMProgressBar):
    """Lightning's bar with the phase, the loss, and PSNR at the mouth of the last validation.

    Args:
        refresh_rate: batches between two writings, each of which waits for the device.
    """

    def __init__(self, refresh_rate: int = 10) -> None:
        super().__init__(refresh_rate)
        self._lines = ExitStack()

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        super().setup(trainer, pl_module, stage)
        # Lightning's messages stand above the bar, not at its end.
        self._lines.enter_context(logging_redirect_tqdm([logging.getLogger("lightning.pytorch")]))

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._lines.close()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._lines.close()

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        phase = getattr(pl_module, "phase", None) if trainer.state.fn == "fit" else None
        metrics = trainer.callback_metrics
        values = {name: f"{float(metrics[key]):.4g}" for key, name in SHOWN.items() if key in metrics}
        others = {name: value for name, value in super().get_metrics(trainer, pl_module).items() if name != "v_num"}
        return {**({"phase": phase} if phase else {}), **values, **others}


class ParameterCounts(Callback):
    """Says on one line how many parameters each part of a model has."""

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        parts = {name: sum(p.numel() for p in part.parameters()) for name, part in pl_module.named_children()}
        counts = ", ".join(f"{name} {count / 1e6:.2f} M" for name, count in parts.items() if count)
        rank_zero_info(f"parameters: {counts}")
