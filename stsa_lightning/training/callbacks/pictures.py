"""Generated faces, as pictures beside the curves."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger, WandbLogger
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor
from torchvision.utils import make_grid

from stsa_lightning.utils.errors import check_at_least
from stsa_lightning.utils.files import unused

COLUMNS = ("reference", "masked", "heatmap", "warped", "generated", "true")


class ValidationPictures(Callback):
    """A row per window: reference | masked | predicted heatmap | warped | generated | true.

    The grid goes to W&B and TensorBoard where they log, and always to `pictures/epoch-0012.png` in the run's folder.

    Args:
        count: rows, taken evenly from the first rank's validation windows; 0: no pictures.
        every_n_epochs: epochs between pictures.
    """

    def __init__(self, count: int = 6, every_n_epochs: int = 1) -> None:
        check_at_least("count", count, 0)
        check_at_least("every_n_epochs", every_n_epochs, 1)
        self.count, self.every_n_epochs = count, every_n_epochs
        self.rows: list[Tensor] = []
        self.folder = Path()

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        # On every rank: log_dir is broadcast.
        self.folder = Path(trainer.log_dir or trainer.default_root_dir) / "pictures"

    def _wanted(self, trainer: Trainer) -> bool:
        if trainer.sanity_checking or not self.count:
            return False
        return trainer.state.fn != "fit" or (trainer.current_epoch + 1) % self.every_n_epochs == 0

    @rank_zero_only
    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int, *args: Any
    ) -> None:
        if not self._wanted(trainer):
            return
        batches, size = int(trainer.num_val_batches[0]), len(outputs["true"])
        share = min(size, -(-self.count // batches))
        if batch_idx % max(1, batches // self.count) == 0:
            chosen = range(0, size, max(1, size // share))
            self.rows += [picture_row(outputs, index) for index in chosen][: self.count - len(self.rows)]

    @rank_zero_only
    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not self.rows:
            return
        grid = make_grid(torch.stack(self.rows), nrow=1, padding=2)
        self.rows = []
        name = "validation/" + " | ".join(COLUMNS)
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger):
                logger.log_image(name, [grid], step=trainer.global_step)
            elif isinstance(logger, TensorBoardLogger):
                logger.experiment.add_image(name, grid, trainer.global_step)
        self.folder.mkdir(parents=True, exist_ok=True)
        save_picture(unused(self.folder / f"epoch-{trainer.current_epoch:04d}.png"), grid)


def picture_row(outputs: Mapping[str, Tensor], index: int) -> Tensor:
    """One window's columns side by side, (3, S, 6 S) in [0, 1]."""
    columns = [outputs[name][index].detach().float().cpu().clamp(0, 1) for name in COLUMNS]
    return torch.cat([column.expand(3, -1, -1) for column in columns], dim=-1)


def save_picture(path: Path, image: Tensor) -> None:
    """Write an RGB picture (3, H, W) in [0, 1] as PNG."""
    pixels = (image.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()
    cv2.imwrite(str(path), np.ascontiguousarray(pixels[..., ::-1]))
