"""What the networks are fed: built here for training windows, dubbing, evaluation and ONNX.

It stands in `inference` because `data`, `dubbing` and `evaluation` may all import from there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from stsa_lightning.face.alignment import chosen_transforms
from stsa_lightning.face.heatmaps import draw_heatmaps
from stsa_lightning.face.topology import HeatmapKind
from stsa_lightning.models.synthesis import mask_lower_half


@dataclass(frozen=True)
class ReferenceInputs:
    """M reference frames of one person.

    The first N are the references of guidance, and those of synthesis without `align_references`.

    Attributes:
        images: (1, M, 3, S, S) float32 RGB in [0, 1].
        heatmaps: (1, M, 1, S, S) float32 in [0, 1], all contours.
    """

    images: Tensor
    heatmaps: Tensor

    def to(self, device: torch.device) -> ReferenceInputs:
        """The same on another device."""
        return ReferenceInputs(self.images.to(device), self.heatmaps.to(device))


@dataclass(frozen=True)
class FrameInputs:
    """F frames of one video, to be rendered.

    Attributes:
        masked_faces: (F, 3, S, S) float32 RGB in [0, 1], the lower half 0.
        masked_heatmaps: (F, T, 1, S, S) float32 in [0, 1], without lips and jaw, of the T frames around each frame.
        audio: (F, T, D, 10) float32 audio windows of these T frames.
    """

    masked_faces: Tensor
    masked_heatmaps: Tensor
    audio: Tensor

    def __len__(self) -> int:
        return len(self.masked_faces)

    def __getitem__(self, part: slice) -> FrameInputs:
        """Some of the frames."""
        return FrameInputs(*(maps[part] for maps in self.tensors()))

    def to(self, device: torch.device) -> FrameInputs:
        """The same on another device."""
        return FrameInputs(*(maps.to(device) for maps in self.tensors()))

    def tensors(self) -> tuple[Tensor, ...]:
        """In the order of the attributes."""
        return self.masked_faces, self.masked_heatmaps, self.audio


@dataclass(frozen=True)
class ChosenReferences:
    """Which references serve each of F frames; without `align_references` the first N serve all, and theta none.

    Attributes:
        numbers: (F, N) int64, among the M references.
        theta: (F, N, 2, 3) float32 similarity transforms that warp these onto the frame's pose, as
            `torch.nn.functional.affine_grid` takes them.
    """

    numbers: Tensor
    theta: Tensor

    def __getitem__(self, part: slice) -> ChosenReferences:
        """Of some of the frames."""
        return ChosenReferences(self.numbers[part], self.theta[part])

    def to(self, device: torch.device) -> ChosenReferences:
        """The same on another device."""
        return ChosenReferences(self.numbers.to(device), self.theta.to(device))

    @classmethod
    def of(cls, references: np.ndarray, frames: np.ndarray, numbers: np.ndarray) -> ChosenReferences:
        """Landmarks (M, 131, 2) of references and (F, 131, 2) of frames, normalised to the face box; numbers (F, N)."""
        theta = chosen_transforms(references, frames, numbers)
        return cls(torch.from_numpy(np.ascontiguousarray(numbers)), torch.from_numpy(theta))


@dataclass(frozen=True)
class FrameInputBuilder:
    """Builds inputs of networks.

    Attributes:
        face_size: side S of the networks' faces, pixels.
        heatmap_sigma: width of heatmap lines, pixels.
    """

    face_size: int
    heatmap_sigma: float

    def heatmaps(self, landmarks: np.ndarray, kind: HeatmapKind) -> Tensor:
        """Landmarks (..., 131, 2), normalised to the face box, to heatmaps (..., 1, S, S)."""
        return torch.from_numpy(draw_heatmaps(landmarks, kind, self.face_size, self.heatmap_sigma)).unsqueeze(-3)

    def references(self, faces: np.ndarray, landmarks: np.ndarray) -> ReferenceInputs:
        """Faces (M, S, S, 3) uint8 RGB and their landmarks (M, 131, 2), normalised to the face box."""
        return ReferenceInputs(images(faces)[None], self.heatmaps(landmarks, "whole")[None])

    def still(self, landmarks: np.ndarray, audio: np.ndarray) -> FrameInputs:
        """Inputs for guidance alone: frames that stand still, and no pictures.

        Args:
            landmarks: (F, 131, 2), normalised to the face box.
            audio: (F, T, D, 10) float32 audio windows.
        """
        count, window = audio.shape[:2]
        masked = self.heatmaps(landmarks, "masked")[:, None].expand(-1, window, -1, -1, -1)
        return FrameInputs(
            masked_faces=torch.zeros(count, 3, self.face_size, self.face_size),
            masked_heatmaps=masked,
            audio=torch.from_numpy(audio),
        )

    def frames(
        self,
        faces: np.ndarray,
        audio: np.ndarray,
        windows: np.ndarray,
        landmarks_of: Callable[[np.ndarray], np.ndarray],
    ) -> FrameInputs:
        """Inputs for F frames.

        Args:
            faces: (F, S, S, 3) uint8 RGB; their lower halves are masked here.
            audio: (F, T, D, 10) float32 audio windows.
            windows: (F, T) numbers of the frames around each.
            landmarks_of: (n,) frames -> their landmarks (n, 131, 2), normalised to the face box.
        """
        # Neighbouring windows share most of their frames: each heatmap is rendered once.
        distinct, index = np.unique(windows, return_inverse=True)
        masked_heatmaps = self.heatmaps(landmarks_of(distinct), "masked")
        return FrameInputs(
            masked_faces=mask_lower_half(images(faces)),
            masked_heatmaps=masked_heatmaps[torch.from_numpy(index.reshape(windows.shape))],
            audio=torch.from_numpy(np.ascontiguousarray(audio, np.float32)),
        )


def images(faces: np.ndarray) -> Tensor:
    """Faces (n, S, S, 3) uint8 to (n, 3, S, S) float32 in [0, 1], channels-last in memory."""
    return torch.from_numpy(np.ascontiguousarray(faces)).permute(0, 3, 1, 2).float() / 255


def example_inputs(
    face_size: int, audio_dim: int, num_frames: int, num_references: int, frames: int = 2
) -> tuple[ReferenceInputs, FrameInputs, ChosenReferences]:
    """Random inputs of the right shapes, each reference where it is: to trace graphs and to compare engines with."""
    size, window = (face_size, face_size), (frames, num_frames)
    references = ReferenceInputs(torch.rand(1, num_references, 3, *size), torch.rand(1, num_references, 1, *size))
    inputs = FrameInputs(
        masked_faces=mask_lower_half(torch.rand(frames, 3, *size)),
        masked_heatmaps=torch.rand(*window, 1, *size),
        audio=torch.randn(*window, audio_dim, 10),
    )
    where_they_are = torch.eye(2, 3).repeat(frames, num_references, 1, 1)
    return references, inputs, ChosenReferences(torch.arange(num_references).repeat(frames, 1), where_they_are)
