"""BlazeFace, short range: where the faces of a picture are, without their landmarks."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import cv2
import numpy as np

from stsa_lightning.media.shown_frame import Frame
from stsa_lightning.utils.onnx_session import onnx_session

FACE_MESH_ASSETS: Final = Path(__file__).parents[1] / "assets" / "face_mesh"

_SIDE_PX = 128  # of the network's input
_GRIDS = ((16, 2), (8, 6))  # cells a side, anchors a cell
_SAME_FACE_IOU = 0.3


@dataclass(frozen=True)
class Detections:
    """N faces of a picture, the clearest first, in its pixels.

    Attributes:
        boxes: (N, 4) float32 left, top, right, bottom, from the forehead to the chin.
        keypoints: (N, 6, 2) float32 x, y: eyes (that on the picture's left first), tip of the nose, mouth, ears.
        scores: (N,) float32, 0 to 1.
    """

    boxes: np.ndarray
    keypoints: np.ndarray
    scores: np.ndarray

    def __len__(self) -> int:
        return len(self.boxes)


class FaceDetector:
    """Finds the faces of a picture that take up a tenth of it or more (Bazarevsky et al. 2019, arXiv 1907.05047).

    Args:
        min_score: of a face, 0 to 1.
    """

    def __init__(self, min_score: float = 0.5) -> None:
        self._min_score = min_score
        self._session = onnx_session(FACE_MESH_ASSETS / "face_detector.onnx")

    def __call__(self, frame: Frame) -> Detections:
        """(H, W, 3) uint8 RGB -> the faces.

        Raises:
            ValueError: a frame of another shape or type.
        """
        frame = np.ascontiguousarray(checked_frame(frame))
        height, width = frame.shape[:2]
        longer = max(height, width)
        scale, shift = _SIDE_PX / longer, np.array([longer - width, longer - height]) / 2
        matrix = np.array([[scale, 0, scale * shift[0]], [0, scale, scale * shift[1]]])
        picture = cv2.warpAffine(frame, matrix, (_SIDE_PX, _SIDE_PX))
        values, logits = self._session.run(None, {"image": picture[None]})
        scores = 1 / (1 + np.exp(-np.clip(logits[0], -80, 80)))
        likely = np.flatnonzero(scores > self._min_score)
        # Middle and size of the box, then the keypoints, all from the anchor.
        places = values[0, likely].reshape(-1, 8, 2) / _SIDE_PX
        places[:, [0, 2, 3, 4, 5, 6, 7]] += _ANCHORS[likely, None]
        middles, sizes = places[:, 0], places[:, 1]
        corners = np.stack([middles - sizes / 2, middles + sizes / 2], axis=1)
        points, scores = merge_overlapping(np.concatenate([corners, places[:, 2:]], axis=1), scores[likely])
        points = (points * longer - shift).astype(np.float32)
        return Detections(points[:, :2].reshape(-1, 4), points[:, 2:], scores)


def checked_frame(frame: Frame) -> Frame:
    """The frame.

    Raises:
        ValueError: it is not (H, W, 3) uint8.
    """
    if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3:
        raise ValueError(f"frame: expected (H, W, 3) uint8 RGB, got {frame.shape} {frame.dtype}")
    return frame


def merge_overlapping(points: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Weighted non-maximum suppression: a face is the mean, by score, of all boxes that overlap its clearest one.

    Args:
        points: (n, P, 2); the first two are the corners of a box.
        scores: (n,).

    Returns:
        The faces' points (N, P, 2) and the scores of their clearest boxes (N,), falling.
    """
    left = np.argsort(-scores, kind="stable")
    faces: list[np.ndarray] = []
    clearest: list[np.ndarray] = []
    while len(left):
        same = iou(points[left[:1], :2].reshape(-1, 4), points[left, :2].reshape(-1, 4))[0] > _SAME_FACE_IOU
        same[0] = True  # even where the box is empty
        group = left[same]
        faces.append(np.average(points[group], axis=0, weights=scores[group]))
        clearest.append(scores[left[0]])
        left = left[~same]
    return np.array(faces).reshape(-1, *points.shape[1:]), np.array(clearest, np.float32)


def iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Intersection over union of boxes (n, 4) and (m, 4), left, top, right, bottom -> (n, m)."""
    a, b = a[:, None], b[None]
    sides = np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2])
    shared = np.prod(np.maximum(sides, 0), axis=-1)
    area_a, area_b = (np.prod(np.maximum(box[..., 2:] - box[..., :2], 0), axis=-1) for box in (a, b))
    return shared / np.maximum(area_a + area_b - shared, 1e-12)


def _anchors() -> np.ndarray:
    """(896, 2) x, y of the anchors, as shares of the picture."""
    grids = []
    for cells, count in _GRIDS:
        y, x = (np.mgrid[:cells, :cells].reshape(2, -1) + 0.5) / cells
        grids.append(np.repeat(np.stack([x, y], axis=1), count, axis=0))
    return np.concatenate(grids).astype(np.float32)


_ANCHORS = _anchors()
