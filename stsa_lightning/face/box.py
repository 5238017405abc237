"""The face box: from frame to face and back."""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np

if TYPE_CHECKING:
    from torch import Tensor

from stsa_lightning.face.topology import LANDMARKS
from stsa_lightning.media.shown_frame import Frame

MARGIN_PX = 5  # around the landmarks, as the released code has it


def face_box(landmarks: np.ndarray, frame_size: tuple[int, int], margin_px: int = MARGIN_PX) -> np.ndarray:
    """Tight box of the landmarks plus a margin on each side, clipped to the frame.

    Args:
        landmarks: (131, 2) x, y in pixels of the frame.
        frame_size: width and height of the frame.
        margin_px: pixels added on each side.

    Returns:
        (4,) int32: x0, y0, x1, y1; x1 and y1 are the first column and row outside the box.

    Raises:
        ValueError: wrong shape, landmarks that are not finite, a negative margin, or a face outside the frame.
    """
    landmarks = np.asarray(landmarks)
    if landmarks.shape != (len(LANDMARKS), 2) or not np.isfinite(landmarks).all():
        raise ValueError(f"landmarks: expected (131, 2) finite pixel coordinates, got shape {landmarks.shape}")
    if margin_px < 0:
        raise ValueError(f"margin_px: expected 0 or more, got {margin_px}")
    low = np.clip(np.floor(landmarks.min(axis=0)) - margin_px, 0, frame_size)
    high = np.clip(np.ceil(landmarks.max(axis=0)) + margin_px, 0, frame_size)
    if (low >= high).any():
        raise ValueError(
            f"landmarks: expected a face within the frame of {frame_size[0]} x {frame_size[1]}, got landmarks from "
            f"{landmarks.min(axis=0).tolist()} to {landmarks.max(axis=0).tolist()}"
        )
    return np.concatenate([low, high]).astype(np.int32)


def crop_face(frame: Frame, box: np.ndarray, size: int = 128) -> np.ndarray:
    """The box of a frame, each axis resized on its own: (H, W, 3) uint8 -> (size, size, 3) uint8.

    Raises:
        ValueError: a box that is empty or leaves the frame.
    """
    x0, y0, x1, y1 = (int(v) for v in box)
    height, width = frame.shape[:2]
    if not (0 <= x0 < x1 <= width and 0 <= y0 < y1 <= height):
        raise ValueError(f"box: expected x0, y0, x1, y1 within the frame of {width} x {height}, got {[x0, y0, x1, y1]}")
    return resize_face(frame[y0:y1, x0:x1], size)


def resize_face(face: np.ndarray, size: int) -> np.ndarray:
    """(H, W, 3) uint8 -> (size, size, 3) uint8; unchanged where it has the size already."""
    if face.shape[:2] == (size, size):
        return face
    height, width = face.shape[:2]
    shrinks = height > size or width > size
    if min(height, width) >= size and (height % size or width % size):
        # The same to the last bit, in two thirds of the time that OpenCV takes for bytes.
        area = cv2.resize(face.astype(np.float32), (size, size), interpolation=cv2.INTER_AREA)
        return np.rint(area, out=area).astype(np.uint8)
    return cv2.resize(face, (size, size), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC)


def resize_faces(faces: np.ndarray, size: int) -> np.ndarray:
    """(n, H, W, 3) uint8 -> (n, size, size, 3) uint8; themselves where they have the size already."""
    return faces if faces.shape[1:3] == (size, size) else np.stack([resize_face(face, size) for face in faces])


def normalise_landmarks(landmarks: np.ndarray, box: np.ndarray) -> np.ndarray:
    """Pixels of the frame to [0, 1] within the box: landmarks (..., 131, 2), box (..., 4) -> (..., 131, 2) float32.

    Landmarks outside a box that was clipped to its frame come out below 0 or above 1.
    """
    corner, extent = _corner_and_extent(box)
    return ((np.asarray(landmarks, dtype=np.float32) - corner) / extent).astype(np.float32)


def denormalise_landmarks(landmarks: np.ndarray, box: np.ndarray) -> np.ndarray:
    """The inverse of `normalise_landmarks`: [0, 1] within the box to pixels of the frame, (..., 131, 2) float32."""
    corner, extent = _corner_and_extent(box)
    return (np.asarray(landmarks, dtype=np.float32) * extent + corner).astype(np.float32)


def _corner_and_extent(box: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    box = np.asarray(box, dtype=np.float32)
    if box.shape[-1] != 4:
        raise ValueError(f"box: expected (..., 4): x0, y0, x1, y1, got shape {box.shape}")
    corner = box[..., None, :2]
    return corner, box[..., None, 2:] - corner


def mouth_region(faces: Tensor) -> Tensor:
    """The lower half of face crops, (..., S, S) -> (..., S / 2, S): the half that was generated."""
    return faces[..., faces.shape[-2] // 2 :, :]
