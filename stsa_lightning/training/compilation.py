"""What makes a training step faster: memory layout, and `torch.compile` for what it calls."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from stsa_lightning.losses.objective import Objective
from stsa_lightning.models.guidance import Guidance
from stsa_lightning.models.synthesis import Synthesis


@dataclass  # not frozen: Lightning copies hyperparameters field by field
class SpeedSettings:
    """What makes a training step faster and changes its results by rounding alone.

    Attributes:
        channels_last: keep images with their channels innermost in memory, as tensor cores read them.
        compile: compile the networks, the VGG and the discriminators with `torch.compile`; the first steps take
            minutes.
    """

    channels_last: bool = False
    compile: bool = False


AS_PYTORCH = SpeedSettings()


def compile_networks(guidance: Guidance, synthesis: Synthesis, objective: Objective) -> None:
    """Compile what a training step calls; parameters, their names and checkpoints stay as they are."""
    # Gradients are measured along the graph of the step, which therefore may not give up its buffers early.
    torch._functorch.config.donated_buffer = False
    guidance.compile()
    synthesis.encode_references = torch.compile(synthesis.encode_references)  # type: ignore[method-assign]
    synthesis.render = torch.compile(synthesis.render)  # type: ignore[method-assign]
    for discriminator in objective.discriminators():
        discriminator.compile()
    if objective.perceptual is not None:
        objective.perceptual.features.compile()
