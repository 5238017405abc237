"""The one way to run both networks: every implementation has this interface and is tested against the plain one.

`reference.PlainEngine` calls the networks as they stand. `render_engine.RenderEngine` computes the same faster, in
float32, in 8-bit integers or bfloat16 on a processor, or in bfloat16 with CUDA graphs on a GPU. `onnx.OnnxEngine` runs
exported files in ONNX Runtime.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from stsa_lightning.face.native_resolution import FaceWarp, last_rows
from stsa_lightning.face.topology import KEYPOINTS, LIP_MEASURE_KEYPOINTS
from stsa_lightning.inference.frame_inputs import ChosenReferences, FrameInputs, ReferenceInputs

Calibrate = Callable[[np.ndarray], np.ndarray]  # keypoints (F, 2, 57) float32 to others


@dataclass(frozen=True)
class Guided:
    """What guidance makes of the speech in F frames.

    Attributes:
        heatmaps: (F, 1, S, S) float32 in [0, 1], which drive synthesis.
        keypoints: (F, 2, 57) float32 in the face box, 17 jaw points then 40 lip points.
    """

    heatmaps: Tensor
    keypoints: Tensor

    def __getitem__(self, part: slice) -> Guided:
        """Of some of the frames."""
        return Guided(self.heatmaps[part], self.keypoints[part])

    def joined(self) -> Tensor:
        """All values as one tensor (F, S * S + 114), for `split`."""
        return torch.cat([self.heatmaps.flatten(1), self.keypoints.flatten(1)], dim=1)

    @classmethod
    def split(cls, joined: Tensor) -> Guided:
        """What `joined` joined."""
        points = 2 * len(KEYPOINTS)
        side = math.isqrt(joined.shape[1] - points)
        return cls(joined[:, :-points].unflatten(1, (1, side, side)), joined[:, -points:].unflatten(1, (2, -1)))

    def inner_lip_aperture(self) -> np.ndarray:
        """(F,) in sides of the box."""
        upper, lower = (self.keypoints[..., end].float().cpu().numpy() for end in LIP_MEASURE_KEYPOINTS[1])
        return np.linalg.norm(upper - lower, axis=-1)


@dataclass(frozen=True)
class Rendered:
    """Generated faces of F frames, and where the temporal path reads each of them in its N references.

    Attributes:
        faces: (F, 3, S, S) float32 in [0, 1].
        flow: (F, N, 2, S, S) float32 pixels, x then y; of references as `theta` warps them, with `align_references`.
        confidence: (F, N, 1, S, S) float32 in (0, 1), each reference's weight at each pixel.
    """

    faces: Tensor
    flow: Tensor
    confidence: Tensor

    def joined(self) -> Tensor:
        """All channels as one tensor (F, 3 + 3 * N, S, S), for `split`."""
        return torch.cat([self.faces, self.flow.flatten(1, 2), self.confidence.flatten(1, 2)], dim=1)

    @classmethod
    def split(cls, joined: Tensor) -> Rendered:
        """What `joined` joined."""
        count = joined.shape[1] // 3 - 1
        faces, flow, confidence = joined.split([3, 2 * count, count], dim=1)
        return cls(faces, flow.unflatten(1, (count, 2)), confidence.unflatten(1, (count, 1)))

    def warps(self, theta: Tensor | None) -> list[FaceWarp]:
        """Where each face is read in its references, for `face.native_resolution`.

        In 16 bits, within a fiftieth of a pixel: frames wait in memory.

        Args:
            theta: (F, N, 2, 3) similarity transforms of the references; None: without `align_references`.
        """
        rows = last_rows(self.faces.shape[-1])
        confidence = self.confidence[:, :, 0, -rows:]
        shares = confidence / confidence.sum(dim=1, keepdim=True).clamp(min=1e-6)
        flow, weights = (maps.half().cpu().numpy() for maps in (self.flow[..., -rows:, :], shares))
        still = np.eye(2, 3, dtype=np.float32)
        places = np.broadcast_to(still, (*flow.shape[:2], 2, 3)) if theta is None else theta.cpu().numpy()
        return [FaceWarp(*warp) for warp in zip(flow, weights, places, strict=True)]

    def cpu(self) -> Rendered:
        """The same in the processor's memory."""
        return Rendered(self.faces.cpu(), self.flow.cpu(), self.confidence.cpu())


class Engine(Protocol):
    """Guidance and synthesis for the frames of a video: first how the lips shall be, then the picture.

    Between the two, references are chosen that suit those lips (`inference.reference_chooser`).
    """

    def encode(self, references: ReferenceInputs) -> Any:
        """Compute what the references of a shot alone decide; the result is for `guide` and `render` alone."""

    def guide(self, frames: FrameInputs, references: Any, calibrate: Calibrate | None = None) -> Guided:
        """Predict the heatmaps that drive F frames, under what `encode` returned.

        Args:
            calibrate: changes the keypoints of networks that draw their heatmaps through these, before they do.
        """

    def render(self, frames: FrameInputs, guided: Guided, chosen: ChosenReferences, references: Any) -> Rendered:
        """Generate the faces of F frames from what `guide` and `encode` returned."""
