"""What `stsa predict` leaves: a picture of every window, a video of whole clips."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info
from torchvision.utils import make_grid

from stsa_lightning.constants import FPS
from stsa_lightning.evaluation.clip_sample import ClipSample
from stsa_lightning.media.video import VideoWriter
from stsa_lightning.training.callbacks.evaluation import rendered
from stsa_lightning.training.callbacks.pictures import picture_row, save_picture
from stsa_lightning.utils.disk_array import in_blocks
from stsa_lightning.utils.errors import UserError
from stsa_lightning.utils.files import unused


class Predictions(Callback):
    """Writes `pictures/` and `videos/` into the folder of a run's predictions.

    Pictures: a row per window of the test split, as `ValidationPictures` has them, one file for each batch.
    Videos: whole clips of it with their sound, rendered as in dubbing: true faces left, generated ones right.

    Args:
        clips: videos over all ranks, evenly out of the split; None: all, 0: none.
    """

    def __init__(self, clips: int | None = 8) -> None:
        if clips is not None and clips < 0:
            raise UserError(f"clips must be 0 or more, or null for all, got {clips}")
        self.clips = clips
        self.folder = Path()

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.folder = Path(trainer.default_root_dir)
        for name in ("pictures", "videos"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)

    def on_predict_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int, *args: Any
    ) -> None:
        rows = [picture_row(outputs, index) for index in range(len(outputs["true"]))]
        number = batch_idx * trainer.world_size + trainer.global_rank
        path = unused(self.folder / "pictures" / f"batch-{number:04d}.png")
        save_picture(path, make_grid(torch.stack(rows), nrow=1, padding=2))

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        for sample in rendered(trainer, pl_module, "test", self.clips):
            self._write_video(sample)
        rank_zero_info(f"predictions: {self.folder}/pictures, {self.folder}/videos")

    def _write_video(self, sample: ClipSample) -> None:
        shown = np.concatenate([sample.ground_truth, sample.predictions[sample.main]], axis=2)
        path = unused(self.folder / "videos" / f"{sample.name.replace('/', '_')}.mp4")
        # Frames without a face are left out; the others keep their time, and so the sound.
        times = sample.times_s[sample.valid]
        with VideoWriter(path, FPS, (shown.shape[2], shown.shape[1]), sample.wave, timestamps=times) as writer:
            for block in in_blocks(shown):
                writer.write(block)
