"""The face of every frame of a video."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from stsa_lightning.face.box import face_box, normalise_landmarks
from stsa_lightning.face.landmarks import LandmarkDetector


@dataclass(frozen=True)
class Faces:
    """The face of every source frame, in pixels: `landmarks` (F, 131, 2), `boxes` (F, 4), `valid` (F,); else zeros."""

    landmarks: np.ndarray
    boxes: np.ndarray
    valid: np.ndarray

    @property
    def normalised(self) -> np.ndarray:
        """(F, 131, 2) landmarks in their boxes; of meaning where valid."""
        boxes = np.where(self.valid[:, None], self.boxes, [0, 0, 1, 1])
        return normalise_landmarks(self.landmarks, boxes)


def find_faces(frames: Iterable[np.ndarray], size: tuple[int, int], detector: LandmarkDetector) -> Faces:
    """Run a detector over single frames in their order; `size` is their width and height."""
    landmarks, boxes = [], []
    for frame in frames:
        points = detector(frame)
        box = None if points is None else _box_in_frame(points, size)
        landmarks.append(np.zeros((131, 2), np.float32) if points is None or box is None else points)
        boxes.append(np.zeros(4, np.int32) if box is None else box)
    valid = np.array([box.any() for box in boxes], bool)
    return Faces(np.stack(landmarks), np.stack(boxes), valid)


def _box_in_frame(landmarks: np.ndarray, size: tuple[int, int]) -> np.ndarray | None:
    """The face's box; None where a tracker followed a face out of the picture."""
    try:
        return face_box(landmarks, size)
    except ValueError:
        return None
