"""Alternating optimisation: the generator side steps, then the discriminators, by Lightning's manual optimisation."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.core.optimizer import LightningOptimizer, do_nothing_closure
from torch import Tensor, nn

from stsa_lightning.losses.balance import GradientShare, ShareBalancer, balance_of
from stsa_lightning.losses.objective import DiscriminatorOutput, LossSettings, Objective, Terms
from stsa_lightning.models.guidance import Guidance
from stsa_lightning.models.synthesis import Synthesis
from stsa_lightning.training.optim import OptimSettings
from stsa_lightning.utils.errors import UserError


@dataclass(frozen=True)
class GeneratorOutput:
    """Outputs of the generator step, used by the discriminator step and by gradient logging.

    Attributes:
        terms: every term's value, unweighted.
        places: name -> tensors that the generator puts out, at which gradients are measured.
        face: generated faces (F, 3, S, S), where the phase has any.
        real: activations of the discriminators for the true faces, where the phase has them learn.
        frames: of a window that were generated, 1 or T.
    """

    terms: Terms
    places: dict[str, tuple[Tensor, ...]] = field(default_factory=dict)
    face: Tensor | None = None
    real: DiscriminatorOutput | None = None
    frames: int = 1


class Adversarial(LightningModule):
    """Two optimisers that take turns; `global_step` counts the generator's steps."""

    guidance: Guidance
    synthesis: Synthesis
    objective: Objective
    optim: OptimSettings
    losses: LossSettings
    balancer: ShareBalancer | None
    cil_share: GradientShare | None

    # ---- steps

    def generator_step(self, generated: GeneratorOutput, batch_idx: int) -> Tensor:
        """Learn from the weighted sum of the terms, which is returned.

        Raises:
            UserError: the terms reach frozen parts alone.
        """
        total, weights = self.total_loss(generated)
        if not total.requires_grad:
            raise UserError(
                f"phases: of phase {self.phase} the terms {', '.join(generated.terms)} reach only what its freeze "
                "names, so nothing learns; leave a part out of it, or give a weight to a term that reaches others"
            )
        if self._balance_is_due(batch_idx):
            self.log_dict(balance_of(generated.terms, weights, generated.places))
        self._learn(self._optimizers()[0], total, batch_idx)
        return total

    def discriminator_step(self, generated: GeneratorOutput, batch_idx: int) -> Terms:
        """Learn to tell the generated faces, detached, from the true ones; nothing where a phase generates none."""
        optimiser = self._optimizers()[1]
        if optimiser is None or generated.face is None or generated.real is None:
            return {}
        fake = self.objective.discriminate(generated.face.detach(), generated.frames)
        terms = self.objective.discriminator_terms(generated.real, fake)
        # Lightning counts every optimiser's step; only the generator's is to count.
        optimiser._on_before_step = optimiser._on_after_step = do_nothing_closure
        self._learn(optimiser, torch.stack(list(terms.values())).sum(), batch_idx)
        return terms

    def total_loss(self, generated: GeneratorOutput) -> tuple[Tensor, Mapping[str, Tensor | float]]:
        """The sum that the generator side learns from, and each term's weight in it."""
        terms, objective = generated.terms, self.objective
        weights: dict[str, Tensor | float] = {name: objective.term_weights[name] for name in terms}
        on_face = {name: terms[name] for name in objective.face_weights() if name in terms}
        sums: list[Tensor] = []
        if self.balancer is not None and generated.face is not None and on_face:
            balanced, coefficients = self.balancer(on_face, generated.face)
            sums, weights = [balanced], {**weights, **coefficients}
        plain = [name for name in terms if name != "cil" and not (sums and name in on_face)]
        total = torch.stack([*sums, *(weights[name] * terms[name] for name in plain)]).sum()
        if "cil" not in terms:
            return total, weights
        if self.cil_share is not None:
            weights["cil"] = self.cil_share(terms["cil"], total, generated.places["paths"], self.global_step)
        return total + weights["cil"] * terms["cil"], weights

    @contextmanager
    def frozen_discriminators(self) -> Iterator[None]:
        """Within it, gradients flow through the discriminators and none are gathered for them."""
        for discriminator in self.objective.discriminators():
            discriminator.requires_grad_(False)
        yield
        for discriminator in self.objective.discriminators():
            discriminator.requires_grad_(True)

    def log_terms(self, stage: str, values: Mapping[str, Tensor], batch_size: int) -> None:
        named = {f"{stage}/{name}": value.detach() for name, value in values.items()}
        # Lightning divides by the mean of the ranks' numbers of windows, cut to a whole one: so it is whole.
        ranks = 1 if self._trainer is None else self.trainer.world_size
        self.log_dict(named, batch_size=batch_size * ranks, sync_dist=stage != "train")

    # ---- optimisers

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        """One for guidance, synthesis, CIL and own terms, one for the discriminators where a weight calls for them."""
        # Hundreds of small tensors: one call for all of them. Under 16-mixed, fused ones unscale gradients by
        # themselves, after they would have been clipped.
        fused = self.device.type == "cuda" and self.trainer.precision != "16-mixed"
        kind: dict[str, Any] = {"fused": True} if fused else {"foreach": True}
        sides = [parameters([self.guidance, self.synthesis, *self.objective.auxiliary_modules()])]
        if discriminators := self.objective.discriminators():
            sides.append(parameters(discriminators))
        return [settings.make(side, kind) for settings, side in zip(self.optim.sides, sides, strict=False)]

    def on_train_start(self) -> None:
        """The settings hold, also for optimisers whose state comes from a checkpoint of others."""
        for optimiser, settings in zip(self.trainer.optimizers, self.optim.sides, strict=False):
            settings.renew(optimiser)

    def _optimizers(self) -> tuple[LightningOptimizer, LightningOptimizer | None]:
        optimisers = self.optimizers()
        if isinstance(optimisers, list):
            return optimisers[0], optimisers[1]
        return optimisers, None

    def batch_number(self, batch_idx: int) -> int:
        """Batches before this one, over all epochs."""
        return int(self.current_epoch * self.trainer.num_training_batches) + batch_idx

    def steps_after(self, batch_idx: int) -> bool:
        """Whether the optimisers step after this batch of the epoch, so that no gathered gradient is left over."""
        done = batch_idx + 1
        return done % self.optim.accumulate_grad_batches == 0 or done == self.trainer.num_training_batches

    def _learn(self, optimiser: LightningOptimizer, loss: Tensor, batch_idx: int) -> None:
        """Gather this batch's part of the mean gradient; with the group's last batch, step."""
        group = self.optim.accumulate_grad_batches
        first = batch_idx - batch_idx % group
        size = min(group, int(self.trainer.num_training_batches) - first)
        if batch_idx == first:
            optimiser.zero_grad()
        self.manual_backward(loss / size if size > 1 else loss)
        if self.steps_after(batch_idx):
            optimiser.step()

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Clip here: under 16-bit precision the gradients are unscaled only now, and in several processes averaged."""
        if self.optim.gradient_clip_val is not None:
            held = [parameter for group in optimizer.param_groups for parameter in group["params"]]
            torch.nn.utils.clip_grad_norm_(held, self.optim.gradient_clip_val)

    def _balance_is_due(self, batch_idx: int) -> bool:
        logs = getattr(self.trainer, "log_every_n_steps", 0) or 1
        every = -(-self.losses.balance_every_n_steps // logs) * logs
        return every > 0 and (self.batch_number(batch_idx) + 1) % every == 0


def parameters(modules: Sequence[nn.Module]) -> list[nn.Parameter]:
    """All parameters of several modules, frozen ones too (a later phase may free them)."""
    return [parameter for module in modules for parameter in module.parameters()]
