"""Optimisers and learning rates by settings."""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal, get_args

import torch
from torch import nn

from stsa_lightning.utils.errors import UserError, check_at_least, check_choice
from stsa_lightning.utils.own import imported
from stsa_lightning.utils.settings import settled

Schedule = Literal["constant", "cosine", "linear"]
SCHEDULES: tuple[Schedule, ...] = get_args(Schedule)


@dataclass  # not frozen: Lightning copies hyperparameters field by field
class OptimizerSettings:
    """How one side learns.

    Attributes:
        lr: learning rate; a phase may set its own.
        betas: of Adam and its kin.
        weight_decay: as the optimiser means it.
        optimizer: class path.
        options: further arguments of the optimiser, such as `{momentum: 0.9}`.
        schedule: of the rate within each phase, after its warm-up: constant, or down to 0 along half a cosine or in a
            straight line; a phase may set its own.
    """

    lr: float = 1e-4
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.0
    optimizer: str = "torch.optim.Adam"
    options: dict[str, Any] = field(default_factory=dict)
    schedule: Schedule = "constant"

    def __post_init__(self) -> None:
        object.__setattr__(self, "betas", tuple(self.betas))  # a list out of a checkpoint
        for name in ("lr", "weight_decay"):
            check_at_least(f"optim.{name}", getattr(self, name), 0)
        if len(self.betas) != 2 or not all(0 <= beta < 1 for beta in self.betas):
            raise UserError(f"optim.betas must be two numbers from 0 to below 1, got {self.betas}")
        check_choice("optim.schedule", self.schedule, SCHEDULES)
        self.arguments()

    def kind(self) -> type[torch.optim.Optimizer]:
        return imported(self.optimizer, torch.optim.Optimizer, "optim.optimizer")

    def arguments(self) -> dict[str, Any]:
        """What the optimiser is made with, besides parameters.

        Raises:
            UserError: it takes no such argument.
        """
        taken = inspect.signature(self.kind()).parameters
        own = {"lr": self.lr, "betas": self.betas, "weight_decay": self.weight_decay}
        every = any(parameter.kind == parameter.VAR_KEYWORD for parameter in taken.values())
        given = {name for name, value in own.items() if value != getattr(OptimizerSettings, name)} | self.options.keys()
        if unknown := [name for name in sorted(given) if name not in taken and not every]:
            raise UserError(
                f"optim: {self.optimizer} takes no {', '.join(unknown)}; its arguments are {', '.join(taken)}"
            )
        return {name: value for name, value in own.items() if name in taken} | self.options

    def make(self, parameters: Sequence[nn.Parameter], fast: Mapping[str, Any]) -> torch.optim.Optimizer:
        """The optimiser; `fast`: arguments that only make it faster, given where it takes them."""
        taken = inspect.signature(self.kind()).parameters
        more = {name: value for name, value in fast.items() if name in taken}
        return self.kind()(parameters, **{**more, **self.arguments()})

    def renew(self, optimiser: torch.optim.Optimizer) -> None:
        """These settings for an optimiser whose state came from a checkpoint of others."""
        for group in optimiser.param_groups:
            group.update({name: value for name, value in self.arguments().items() if name in group})


@dataclass  # not frozen: Lightning copies hyperparameters field by field
class OptimSettings(OptimizerSettings):
    """How the generator side learns, with what concerns both sides.

    Attributes:
        discriminator: how the discriminators learn.
        gradient_clip_val: largest gradient norm of each optimiser's parameters; None does not clip.
        accumulate_grad_batches: batches whose mean gradient makes one step of either optimiser; what an epoch leaves
            over makes a step of its own. Batch norm and InfoNCE still see single batches.
    """

    discriminator: OptimizerSettings = field(default_factory=partial(OptimizerSettings, betas=(0.5, 0.999)))
    gradient_clip_val: float | None = None
    accumulate_grad_batches: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        self.discriminator = settled(OptimizerSettings, self.discriminator)
        check_at_least("optim.accumulate_grad_batches", self.accumulate_grad_batches, 1)
        if self.gradient_clip_val is not None and not self.gradient_clip_val > 0:
            raise UserError(f"optim.gradient_clip_val must be above 0, or null, got {self.gradient_clip_val}")

    @property
    def sides(self) -> tuple[OptimizerSettings, OptimizerSettings]:
        """Of the generator side and of the discriminators."""
        return self, self.discriminator


ADAM = OptimSettings()


def share_of_rate(schedule: Schedule, warmup: int, done: int, total: int | None) -> float:
    """What part of its learning rate a phase has for a batch.

    Args:
        warmup: batches in which it rises from nearly 0 in a straight line.
        done: batches of the phase before this one.
        total: batches of the phase; None: without an end, at which it would fall to 0.
    """
    rising = min(1.0, (done + 1) / max(1, warmup))
    if schedule == "constant" or total is None or done < warmup:
        return rising
    past = min(1.0, (done - warmup) / max(1, total - warmup))
    return 1 - past if schedule == "linear" else 0.5 * (1 + math.cos(math.pi * past))
