"""Both networks at work on a block of frames."""

from __future__ import annotations

import torch
from torch import Tensor

from stsa_lightning.nets.guidance import Guidance
from stsa_lightning.nets.synthesis import References, Synthesis, mask_lower_half


@torch.inference_mode()
def draw_faces(
    guidance: Guidance,
    synthesis: Synthesis,
    faces: Tensor,
    contours: Tensor,
    audio: Tensor,
    reference_heatmaps: Tensor,
    references: References,
) -> Tensor:
    """Both stages for n frames of one video: the centre of each window is drawn.

    Args:
        guidance, synthesis: the networks, in eval mode.
        faces: (n, 3, S, S) in [0, 1]; their lower halves are not looked at.
        contours: (n, T, 1, S, S) masked heatmaps of each frame's window.
        audio: (n, T, D, 10).
        reference_heatmaps: (1, N, 1, S, S).
        references: of batch 1, from ``synthesis.encode_references``.

    Returns:
        (n, 3, S, S) in [0, 1].
    """
    count, centre = len(faces), contours.shape[1] // 2
    heatmaps = guidance(audio, contours, reference_heatmaps.expand(count, -1, -1, -1, -1)).heatmap[:, centre]
    return synthesis.render(mask_lower_half(faces), heatmaps, audio[:, centre], references.expand(count)).face


def choose_device(name: str | torch.device) -> torch.device:
    """The named device; the best there is for ``auto``."""
    if str(name) != "auto":
        return torch.device(name)
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
