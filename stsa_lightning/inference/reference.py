"""The plain implementation of `Engine`, which the fast ones are tested against."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from stsa_lightning.inference.engine import Calibrate, Guided, Rendered
from stsa_lightning.inference.frame_inputs import ChosenReferences, FrameInputs, ReferenceInputs
from stsa_lightning.models.guidance import Guidance
from stsa_lightning.models.synthesis import References, Synthesis


@dataclass(frozen=True)
class PlainReferences:
    """References of a shot: their `inputs`, and without `align_references` what the synthesis network makes of them."""

    inputs: ReferenceInputs
    encoded: References | None


class PlainEngine:
    """The networks as they are trained, called as they stand; see `Engine`.

    Args:
        guidance, synthesis: put into eval mode and onto `device`.
        device: where they run.
    """

    def __init__(self, guidance: Guidance, synthesis: Synthesis, device: torch.device) -> None:
        self.guidance, self.synthesis, self.device = guidance.to(device).eval(), synthesis.to(device).eval(), device

    @torch.inference_mode()
    def encode(self, references: ReferenceInputs) -> PlainReferences:
        inputs, count = references.to(self.device), self.synthesis.num_references
        if self.synthesis.align_references:
            return PlainReferences(inputs, None)
        encoded = self.synthesis.encode_references(inputs.images[:, :count], inputs.heatmaps[:, :count])
        return PlainReferences(inputs, encoded)

    @torch.inference_mode()
    def guide(self, frames: FrameInputs, references: PlainReferences, calibrate: Calibrate | None = None) -> Guided:
        frames = frames.to(self.device)
        whole = references.inputs.heatmaps[:, : self.synthesis.num_references].expand(len(frames), -1, -1, -1, -1)
        output, centre = self.guidance(frames.audio, frames.masked_heatmaps, whole), frames.audio.shape[1] // 2
        heatmaps, keypoints = output.heatmap[:, centre], output.keypoints[:, centre]
        if calibrate is not None:
            keypoints = torch.from_numpy(calibrate(keypoints.float().cpu().numpy())).to(self.device)
            heatmaps = self.guidance.draw(keypoints, frames.masked_heatmaps[:, centre])
        return Guided(heatmaps, keypoints)

    @torch.inference_mode()
    def render(
        self, frames: FrameInputs, guided: Guided, chosen: ChosenReferences, references: PlainReferences
    ) -> Rendered:
        frames, chosen = frames.to(self.device), chosen.to(self.device)
        encoded = references.encoded
        if encoded is None:
            images, heatmaps = (
                maps[0][chosen.numbers] for maps in (references.inputs.images, references.inputs.heatmaps)
            )
            encoded = self.synthesis.encode_references(images, heatmaps, chosen.theta)
        audio = frames.audio[:, frames.audio.shape[1] // 2]
        output = self.synthesis.render(frames.masked_faces, guided.heatmaps, audio, encoded.expand(len(frames)))
        return Rendered(output.face, output.flow, output.confidence)
