"""Which way a face is turned, judged by its landmarks."""

from __future__ import annotations

import numpy as np

from stsa_lightning.face.topology import LANDMARKS, positions

_CHEEKS, _NOSE_TIP = positions([234, 454]), int(positions([4])[0])
_EYES = positions([33, 263])  # outer corners
_DEPTH = 0.75  # how far the tip of the nose stands out before the cheeks, as a share of half their distance


def yaw_degrees(landmarks: np.ndarray) -> np.ndarray:
    """How far a face is turned to the side: an estimate from where the nose's tip lies between the cheeks.

    A head of average shape is assumed, seen from far; nothing of the third dimension is known.

    Args:
        landmarks: (..., 131, 2), any unit with equal axes.

    Returns:
        (...) float32 degrees within (-90, 90): 0 straight ahead, positive turned towards the picture's right side; NaN
        where landmarks are.
    """
    points = np.asarray(landmarks, np.float64)
    if points.shape[-2:] != (len(LANDMARKS), 2):
        raise ValueError(f"landmarks: expected (..., 131, 2), got {points.shape}")
    along = points[..., _EYES[1], :] - points[..., _EYES[0], :]  # the head may be tilted
    left, right, nose = ((points[..., point, :] * along).sum(axis=-1) for point in (_CHEEKS[0], _CHEEKS[1], _NOSE_TIP))
    return np.degrees(np.arctan2((2 * nose - left - right) / _DEPTH, right - left)).astype(np.float32)
