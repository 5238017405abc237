"""Do lips and sound belong together? What a frozen expert says of generated windows."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from stsa_lightning.models.layers import HoldsFrozen
from stsa_lightning.models.sync_expert import WINDOW_FRAMES, load_sync_expert
from stsa_lightning.utils.errors import UserError


def sync_distance(lip: Tensor, speech: Tensor) -> Tensor:
    """Mean of `1 - cosine` of embeddings that belong together, (..., E) each: 0 is perfect, 1 is unrelated."""
    if lip.shape != speech.shape:
        raise ValueError(f"lip and speech must have one shape, got {tuple(lip.shape)} and {tuple(speech.shape)}")
    return 1 - nn.functional.cosine_similarity(lip.float(), speech.float(), dim=-1).mean()


class SyncLoss(HoldsFrozen):
    """`sync_distance` under an expert that learns nothing and is in no checkpoint of the network that it measures.

    It has `lip` and `speech`, such as `models.sync_expert.SyncExpert`.
    """

    def __init__(self, expert: nn.Module) -> None:
        super().__init__()
        self._hold(expert)

    def forward(self, faces: Tensor, audio: Tensor) -> Tensor:
        """Generated windows (B, T, 3, S, S) in [0, 1], T of 5 or more, and their audio windows (B, T, D, 10).

        Gradients reach the faces.
        """
        expert = self._frozen[0]
        with torch.no_grad():
            speech = expert.speech(audio)
        return sync_distance(expert.lip(faces), speech)


def load_sync_loss(path: str | None, features: str, num_frames: int) -> SyncLoss:
    """The loss under the expert of a checkpoint, for networks of these audio features and windows of `num_frames`.

    Raises:
        FileNotFoundError: no such checkpoint.
        UserError: none is named, it does not fit, or is no expert's.
    """
    if path is None:
        raise UserError(
            "sync_expert: the loss term sync needs a lip-sync expert; train one (stsa syncnet fit -c "
            "experiments/syncnet.yaml) and name its checkpoint, or set weights.sync to 0"
        )
    if num_frames < WINDOW_FRAMES:
        raise UserError(f"num_frames: the sync expert sees {WINDOW_FRAMES} frames or more, got {num_frames}")
    expert = load_sync_expert(path)
    if expert.features != features:
        raise UserError(f"sync_expert: {path} was trained on {expert.features}, expected {features} as the networks")
    return SyncLoss(expert)
