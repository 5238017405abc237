"""Exponential moving average of the generator."""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from stsa_lightning.utils.errors import UserError

AVERAGED = ("guidance.", "synthesis.")


class GeneratorEMA(Callback):
    """Keeps averages of both networks (weights and batch-norm statistics; not of the discriminators).

    Validation and test run with the averages; checkpoints hold both, and dubbing takes the averages.

    Args:
        decay: share of the old average kept at each step. Early on it is lower, `(1 + n) / (10 + n)` after n steps,
            so that the average does not remember the initialisation.
    """

    def __init__(self, decay: float = 0.999) -> None:
        if not 0 <= decay < 1:
            raise UserError(f"decay must be in [0, 1), got {decay}")
        self.decay = decay
        self.steps = 0
        self.average: dict[str, Tensor] = {}
        self._live: dict[str, Tensor] = {}
        self._source: dict[str, Tensor] = {}

    def _tensors(self, pl_module: LightningModule) -> dict[str, Tensor]:
        state = pl_module.state_dict()
        return {name: tensor for name, tensor in state.items() if name.startswith(AVERAGED)}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        tensors = self._tensors(pl_module)
        if not self.average:
            self.average = {name: tensor.clone() for name, tensor in tensors.items()}
        self.average = {name: tensor.to(tensors[name].device) for name, tensor in self.average.items()}
        self._source = tensors  # training changes them in place

    @torch.no_grad()
    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        self.steps += 1
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        tensors = self._source
        names = [name for name, tensor in tensors.items() if tensor.is_floating_point()]
        torch._foreach_lerp_([self.average[n] for n in names], [tensors[n] for n in names], 1 - decay)
        for name, tensor in tensors.items():
            if not tensor.is_floating_point():
                self.average[name].copy_(tensor)

    @torch.no_grad()
    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.average:
            tensors = self._tensors(pl_module)
            self._live = {name: tensor.clone() for name, tensor in tensors.items()}
            for name, tensor in tensors.items():
                tensor.copy_(self.average[name])

    @torch.no_grad()
    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        for name, tensor in self._tensors(pl_module).items():
            if self._live:
                tensor.copy_(self._live[name])
        self._live = {}

    on_test_epoch_start, on_test_epoch_end = on_validation_epoch_start, on_validation_epoch_end

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self.on_validation_epoch_end(trainer, pl_module)

    def state_dict(self) -> dict[str, Any]:
        return {"steps": self.steps, "average": self.average}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.steps, self.average = state_dict["steps"], state_dict["average"]
