"""What callbacks see of windows that were drawn."""

from __future__ import annotations

from torch import Tensor

from stsa_lightning.data.windows import Batch
from stsa_lightning.losses.term import chosen_frames
from stsa_lightning.models.guidance import GuidanceOutput
from stsa_lightning.models.synthesis import SynthesisOutput, mask_lower_half


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
