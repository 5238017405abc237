"""Both networks at work on a block of frames."""

from __future__ import annotations

import torch
from torch import Tensor

from stsa_lightning.models.guidance import Guidance
from stsa_lightning.models.synthesis import References, Synthesis, mask_lower_half


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
        references: of batch 1 or n, from ``synthesis.encode_references``.

    Returns:
        (n, 3, S, S) in [0, 1].
    """
    count, centre = len(faces), contours.shape[1] // 2
    heatmaps = guidance(audio, contours, reference_heatmaps.expand(count, -1, -1, -1, -1)).heatmap[:, centre]
    return synthesis.render(mask_lower_half(faces), heatmaps, audio[:, centre], references.expand(count)).face


class PlainEngine:
    """The networks as they are trained, called as they stand.

    Args:
        guidance, synthesis: put into eval mode and onto `device`.
        device: where they run.
    """

    def __init__(self, guidance: Guidance, synthesis: Synthesis, device: torch.device) -> None:
        self.guidance, self.synthesis, self.device = guidance.eval().to(device), synthesis.eval().to(device), device

    @torch.inference_mode()
    def encode(self, images: Tensor, heatmaps: Tensor) -> tuple[Tensor, References]:
        """Reference faces (1, N, 3, S, S) in [0, 1] and their heatmaps (1, N, 1, S, S)."""
        images, heatmaps = images.to(self.device), heatmaps.to(self.device)
        return heatmaps, self.synthesis.encode_references(images, heatmaps)

    def render(
        self,
        masked: Tensor,
        contours: Tensor,
        audio: Tensor,
        references: tuple[Tensor, References],
        chosen: Tensor,
        theta: Tensor,
    ) -> Tensor:
        """See `draw_faces`; for networks whose references stay where they are."""
        masked, contours, audio = (tensor.to(self.device) for tensor in (masked, contours, audio))
        return draw_faces(self.guidance, self.synthesis, masked, contours, audio, *references)

    @torch.inference_mode()
    def heatmaps(self, contours: Tensor, audio: Tensor, references: tuple[Tensor, References]) -> Tensor:
        """The heatmaps (n, 1, S, S) that `render` draws from."""
        whole = references[0].expand(len(contours), -1, -1, -1, -1)
        answer = self.guidance(audio.to(self.device), contours.to(self.device), whole)
        return answer.heatmap[:, contours.shape[1] // 2]
