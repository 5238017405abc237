"""What makes a step faster without changing what it computes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from stsa_lightning.module import STSA


def compile_networks(module: STSA) -> None:
    """Compile what a training step calls; parameters, their names and checkpoints stay as they are."""
    # Gradients are measured along the graph of the step, which therefore may not give up its buffers early.
    torch._functorch.config.donated_buffer = False
    module.guidance.compile()
    module.synthesis.encode_references = torch.compile(module.synthesis.encode_references)  # type: ignore[method-assign]
    module.synthesis.render = torch.compile(module.synthesis.render)  # type: ignore[method-assign]
    for judge in module.objective.judges():
        judge.compile()
    if module.objective.perceptual is not None:
        module.objective.perceptual.features.compile()
