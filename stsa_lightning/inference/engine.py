"""The one way to run both networks: every implementation has this interface and is tested against the plain one.

`reference.PlainEngine` calls the networks as they stand. `render_engine.RenderEngine` computes the same faster, in
float32, in 8-bit integers on a processor, or in bfloat16 with CUDA graphs on a GPU. `onnx.OnnxEngine` runs exported
files in ONNX Runtime.
"""

from __future__ import annotations

from typing import Any, Protocol

from torch import Tensor

from stsa_lightning.inference.frame_inputs import FrameInputs, ReferenceInputs


class Engine(Protocol):
    """Guidance and synthesis for the frames of a video."""

    def encode(self, references: ReferenceInputs) -> Any:
        """Compute what the references of a shot alone decide; the result is for `render` and `heatmaps` alone."""

    def render(self, frames: FrameInputs, references: Any) -> Tensor:
        """Generate the faces (F, 3, S, S) of F frames, float32 in [0, 1], under what `encode` returned."""

    def heatmaps(self, frames: FrameInputs, references: Any) -> Tensor:
        """Predict the heatmaps (F, 1, S, S) that drive `render`."""
