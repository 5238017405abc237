"""A lip-sync expert as a LightningModule: which sound belongs to these lips?

Binary training on pairs tends to stay at 0.69 = log 2, since with easy negatives (other voices, other rooms) nothing of
the lips has to be read, and with few of them the two towers never meet. Here instead

- the loss is InfoNCE over all windows of all clips of a batch: thousands of negatives for each positive,
- of which the windows of the *same* clip at other times, one face and one voice, count as much as all others together,
- the learning rate warms up, and data whose sound is off are corrected in preparation and can be filtered
  (`data.filters.max_offset`).
"""

from __future__ import annotations

import math
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor
from torch.nn import functional as F

from stsa_lightning.data.windows import Batch, as_floats
from stsa_lightning.features.base import FeatureKind
from stsa_lightning.losses.mutual_information import InfoNCE
from stsa_lightning.models.sync_expert import WINDOW_FRAMES, SyncExpert
from stsa_lightning.utils.errors import UserError

MAX_SHIFT = 5


class SyncExpertModule(LightningModule):
    """Trains a `SyncExpert` on windows of a prepared corpus (`data.num_frames` of 15 frames or more).

    Args:
        features, face_size: as the data has them.
        num_frames: T, frames of the data's windows.
        width, dim, dropout: see `SyncExpert`.
        temperature: of InfoNCE.
        same_clip: weight of the InfoNCE within clips, the rest is that across the batch; 0.5 balances them.
        lr: Adam's learning rate after the warm-up; it falls to 0 along half a cosine.
        warmup_steps: steps in which it rises.
        weight_decay: of AdamW.
    """

    def __init__(
        self,
        features: FeatureKind = "logmel",
        face_size: int = 64,
        num_frames: int = 20,
        width: int = 32,
        dim: int = 128,
        dropout: float = 0.2,
        temperature: float = 0.07,
        same_clip: float = 0.5,
        lr: float = 1e-3,
        warmup_steps: int = 50,
        weight_decay: float = 1e-2,
    ) -> None:
        super().__init__()
        if num_frames < WINDOW_FRAMES + MAX_SHIFT + 1:
            raise UserError(f"num_frames: expected {WINDOW_FRAMES + MAX_SHIFT + 1} frames or more, got {num_frames}")
        if not 0 <= same_clip <= 1:
            raise UserError(f"same_clip: expected a share from 0 to 1, got {same_clip}")
        self.save_hyperparameters()
        self.expert = SyncExpert(features, face_size, width, dim, dropout)
        self.across, self.within = InfoNCE(dim, temperature), InfoNCE(dim, temperature, gather=False)

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """Bytes travel to the device, floats are made there."""
        return as_floats(batch)

    def losses(self, lip: Tensor, speech: Tensor) -> dict[str, Tensor]:
        """InfoNCE as losses in [0, ...): two (B, W, E) -> `across` all windows of the batch, `within` clips, and
        their weighted `loss`.

        Divided by the log of the number of windows: 1 is what guessing gives, 0 is perfect.
        """
        pairs = self.across(lip.flatten(0, 1), speech.flatten(0, 1))
        count = lip.shape[0] * lip.shape[1] * (self.trainer.world_size if self.training and self._trainer else 1)
        own = torch.stack([self.within(mine, sound) for mine, sound in zip(lip, speech, strict=True)]).mean()
        across, within = 1 - pairs / math.log(count), 1 - own / math.log(lip.shape[1])
        share = self.hparams["same_clip"]
        return {"across": across, "within": within, "loss": share * within + (1 - share) * across}

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        terms = self.losses(*self.expert(batch["faces"], batch["audio"]))
        self.log_dict({f"train/{name}": value for name, value in terms.items()}, batch_size=len(batch["frame"]))
        return terms["loss"]

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        lip, speech = self.expert(batch["faces"], batch["audio"])
        values = {**self.losses(lip, speech), **scores(lip, speech)}
        ranks = self.trainer.world_size if self._trainer else 1
        size = len(batch["frame"]) * ranks  # as STSA logs, so that it divides
        self.log_dict({f"val/{k}": v for k, v in values.items()}, batch_size=size, sync_dist=True)

    test_step = validation_step

    def configure_optimizers(self) -> Any:
        options = self.hparams
        optimiser = torch.optim.AdamW(self.parameters(), lr=options["lr"], weight_decay=options["weight_decay"])
        total = max(int(self.trainer.estimated_stepping_batches), options["warmup_steps"] + 1)

        def factor(step: int) -> float:
            warm = (step + 1) / (options["warmup_steps"] + 1)
            past = (step - options["warmup_steps"]) / (total - options["warmup_steps"])
            return min(warm, 0.5 * (1 + math.cos(math.pi * min(max(past, 0.0), 1.0))))

        schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, factor)
        return {"optimizer": optimiser, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """What `load_sync_expert` rebuilds the network from."""
        checkpoint["sync_expert"] = self.expert.settings


def scores(lip: Tensor, speech: Tensor, max_shift: int = MAX_SHIFT) -> dict[str, Tensor]:
    """Accuracies of embeddings (B, W, E) of length 1, W windows of each of B clips; all in [0, 1].

    `retrieval`: a window of lips finds its sound among the W of its own clip (chance 1 / W); `retrieval_near`: or
    one within a frame of it; `retrieval_clips`: the sound of all W windows among those of the B clips (chance 1 / B).
    `offset`: of the shifts from `-max_shift` to `max_shift` frames, the one at which the clip's lips and sound
    agree best is 0 (chance 1 / (2 `max_shift` + 1)); `offset_near`: within a frame of 0.
    """
    W = lip.shape[1]
    alike = lip @ speech.mT  # (B, W, W)
    chosen = alike.argmax(-1) - torch.arange(W, device=lip.device)
    clips = torch.einsum("iwe,jwe->ij", lip, speech).argmax(-1)
    shifts = torch.stack([alike.diagonal(shift, 1, 2).mean(-1) for shift in range(-max_shift, max_shift + 1)], dim=-1)
    offset = shifts.argmax(-1) - max_shift
    found = {
        "retrieval": chosen == 0,
        "retrieval_near": chosen.abs() <= 1,
        "retrieval_clips": clips == torch.arange(len(lip), device=lip.device),
        "offset": offset == 0,
        "offset_near": offset.abs() <= 1,
    }
    return {name: right.float().mean() for name, right in found.items()} | {
        "cosine": F.cosine_similarity(lip, speech, -1).mean()
    }
