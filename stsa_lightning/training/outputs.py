"""Frames of windows that the synthesis network is given, and what validation hands to callbacks."""

from __future__ import annotations

from torch import Tensor

from stsa_lightning.data.windows import Batch
from stsa_lightning.models.guidance import GuidanceOutput
from stsa_lightning.models.synthesis import SynthesisOutput, mask_lower_half


def chosen_frames(windows: Tensor, every_frame: bool) -> Tensor:
    """Windows (B, T, ...) -> the centre frames (B, ...), or all (B * T, ...)."""
    frames = windows.shape[1]
    return windows.flatten(0, 1) if every_frame else windows[:, frames // 2]


def shown(batch: Batch, prediction: GuidanceOutput, output: SynthesisOutput, target: Tensor) -> dict[str, Tensor]:
    """What callbacks measure and show of drawn windows: pictures (B, 3, S, S), the heatmap (B, 1, S, S)."""
    return {
        "reference": batch["references"][:, 0],
        "masked": mask_lower_half(target),
        "heatmap": chosen_frames(prediction.heatmap, False),
        "warped": output.warped,
        "generated": output.face,
        "true": target,
    }
