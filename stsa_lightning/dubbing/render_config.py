"""What the networks were trained for, and how their faces are used."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from stsa_lightning.inference.keypoint_calibration import Calibrator

Restore = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class RenderConfig:
    """What the networks were trained for, and how their faces are used.

    Attributes:
        face_size: side S of the networks' faces, pixels.
        num_references: how many references they use, N.
        num_frames: frames of a guidance window, odd, T.
        heatmap_sigma: width of heatmap lines, pixels.
        block: frames in a batch.
        pose_matched_references: choose references for each frame by its pose, for networks with `align_references`.
        restore: sharpens each generated face, (S, S, 3) uint8 RGB -> a square picture of any size.
        detail: keep the frame's own detail where the generated face agrees with it.
        largest_side: faces larger than S are rendered at their own size, up to this one; S: all at the networks' size.
        calibrator: calibrates guidance to each shot's person; None: it is not.
    """

    face_size: int
    num_references: int
    num_frames: int
    heatmap_sigma: float
    block: int
    pose_matched_references: bool = False
    restore: Restore | None = None
    detail: bool = True
    largest_side: int = 0
    calibrator: Calibrator | None = None

    @property
    def native(self) -> bool:
        """Whether faces may be rendered larger than the networks see them; a restorer has detail of its own."""
        return self.largest_side > self.face_size and self.restore is None
