"""Landmarks of face crops, as generated faces come: how metrics see a mouth."""

from __future__ import annotations

import cv2
import numpy as np
from torch import Tensor

from stsa_lightning.face.landmarks import LandmarkDetector
from stsa_lightning.face.topology import LANDMARKS

# A detector is trained on faces with surroundings; a tight crop gets a border and a usual size.
_SIDE_PX = 256
_BORDER_PX = 96


def landmarks_in_crops(faces: np.ndarray, detector: LandmarkDetector) -> np.ndarray:
    """Landmarks of square face crops.

    Args:
        faces: (F, S, S, 3) uint8 RGB, each the tight box of a face.
        detector: best a static one, unless the crops are one clip's frames in their order.

    Returns:
        (F, 131, 2) float32, pixels of the crop; NaN where no face was found.
    """
    b = _BORDER_PX
    found = np.full((len(faces), len(LANDMARKS), 2), np.nan, dtype=np.float32)
    for index, face in enumerate(faces):
        scale = face.shape[0] / _SIDE_PX
        picture = cv2.resize(face, (_SIDE_PX, _SIDE_PX), interpolation=cv2.INTER_CUBIC)
        border = cv2.copyMakeBorder(picture, b, b, b, b, cv2.BORDER_REPLICATE)
        landmarks = detector(border)
        if landmarks is not None:
            found[index] = (landmarks - b) * scale
    return found


def to_uint8(faces: Tensor) -> np.ndarray:
    """Faces (F, 3, S, S) in [0, 1] as pictures (F, S, S, 3) uint8."""
    return (faces.clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy()
