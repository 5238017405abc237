"""MediaPipe's FaceMesh with refined lips and eyes (478 points), in ONNX Runtime.

As in MediaPipe, a face is read from a square region around it, turned upright. The region comes from the face's own
landmarks in the frame before; a detector looks for faces only while there are fewer than wanted.
"""

from __future__ import annotations

import math
from typing import Final

import cv2
import numpy as np

from stsa_lightning.face.face_detector import FACE_MESH_ASSETS, Detections, FaceDetector, checked_frame, iou
from stsa_lightning.face.topology import LANDMARKS
from stsa_lightning.media.shown_frame import Frame, showing
from stsa_lightning.utils.onnx_session import onnx_session

_SIDE_PX = 192  # of the network's input
_LEAST_SCORE = 0.5  # the network's own word that its region shows a face
_AROUND = 1.5  # a region's side over that of the face's box
_EYE_CORNERS = (33, 263)  # outer ones, that on the picture's left first
_SAME_FACE_IOU = 0.5

NO_REGIONS: Final = np.zeros((0, 4))


class FaceMeshDetector:
    """Finds landmarks; see `landmark_detector`."""

    def __init__(self, static: bool = False, faces: int = 1) -> None:
        self._static, self._faces = static, faces
        self._detect, self._mesh = FaceDetector(), FaceMesh()
        self._regions = NO_REGIONS

    def all_faces(self, frame: Frame) -> list[np.ndarray]:
        frame = checked_frame(frame)
        regions = self._regions
        if len(regions) < self._faces:
            regions = np.concatenate([regions, regions_of_detections(self._detect(frame))])
        if len(regions) > 1:
            regions = apart(regions)[: self._faces]
        points, scores = self._mesh(frame, regions)
        points = points[scores > _LEAST_SCORE]
        if not self._static:
            self._regions = regions_of_landmarks(points)
        return list(points[:, LANDMARKS])

    def __call__(self, frame: Frame) -> np.ndarray | None:
        return next(iter(self.all_faces(frame)), None)

    def forget(self) -> None:
        self._regions = NO_REGIONS

    def close(self) -> None:
        """The networks are loaded once in a process and stay."""


class FaceMesh:
    """The network: reads landmarks from regions of a frame.

    Regions are rows of x and y of the middle, the side in pixels, and by how many radians the face leans clockwise, as
    the picture is seen.
    """

    def __init__(self) -> None:
        self._session = onnx_session(FACE_MESH_ASSETS / "face_mesh.onnx")

    def __call__(self, frame: Frame, regions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Read the landmarks.

        Args:
            frame: (H, W, 3) uint8 RGB.
            regions: (n, 4).

        Returns:
            (n, 478, 2) float32 x, y in pixels of the frame, and (n,) float32 from 0 to 1, whether it is a face.
        """
        if not len(regions):
            return np.zeros((0, 478, 2), np.float32), np.zeros(0, np.float32)
        axes = _axes(regions)
        pictures = [_upright(frame, region[:2], turned) for region, turned in zip(regions, axes, strict=True)]
        points, scores = self._session.run(None, {"image": np.stack(pictures)})
        points = (points - _SIDE_PX / 2) @ axes.transpose(0, 2, 1) + regions[:, None, :2]
        return points.astype(np.float32), scores


def _axes(regions: np.ndarray) -> np.ndarray:
    """(n, 2, 2): from pixels of the network's input to those of the frame, both from the region's middle."""
    cos, sin = np.cos(regions[:, 3]), np.sin(regions[:, 3])
    turning = np.stack([cos, -sin, sin, cos], axis=1).reshape(-1, 2, 2)
    return turning * (regions[:, 2] / _SIDE_PX)[:, None, None]


def _upright(frame: Frame, middle: np.ndarray, axes: np.ndarray) -> np.ndarray:
    """(192, 192, 3) what a region shows; beyond the frame, its edge."""
    matrix = np.column_stack([axes, middle - axes @ (_SIDE_PX / 2, _SIDE_PX / 2)])
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    seen = showing(frame, _around(middle, axes, (frame.shape[1], frame.shape[0])))
    return cv2.warpAffine(seen, matrix, (_SIDE_PX, _SIDE_PX), flags=flags, borderMode=cv2.BORDER_REPLICATE)


def _around(middle: np.ndarray, axes: np.ndarray, frame_size: tuple[int, int]) -> tuple[int, int, int, int]:
    """x0, y0, x1, y1 of the part of a frame that a region shows, the least of the frame's edge where it shows none."""
    part = []
    for at, (across, down), side in zip(middle.tolist(), axes.tolist(), frame_size, strict=True):
        reach = (abs(across) + abs(down)) * (_SIDE_PX / 2)
        low = min(max(0, math.floor(at - reach) - 1), side - 1)
        part.append((low, min(max(low + 1, math.ceil(at + reach) + 2), side)))
    (x0, x1), (y0, y1) = part
    return x0, y0, x1, y1


def regions_of_detections(found: Detections) -> np.ndarray:
    """(n, 4) regions around faces, turned by the line from eye to eye."""
    return _regions(found.boxes[:, :2], found.boxes[:, 2:], found.keypoints[:, 0], found.keypoints[:, 1])


def regions_of_landmarks(points: np.ndarray) -> np.ndarray:
    """(n, 478, 2) landmarks of a frame -> (n, 4) regions in which the next one shows these faces."""
    left, right = (points[:, corner] for corner in _EYE_CORNERS)
    return _regions(points.min(axis=1), points.max(axis=1), left, right)


def _regions(low: np.ndarray, high: np.ndarray, left_eye: np.ndarray, right_eye: np.ndarray) -> np.ndarray:
    dx, dy = (right_eye - left_eye).T
    return np.column_stack([(low + high) / 2, _AROUND * (high - low).max(axis=1), np.arctan2(dy, dx)])


def apart(regions: np.ndarray) -> np.ndarray:
    """The regions without those that show the face of an earlier one."""
    half = regions[:, 2:3] / 2
    boxes = np.concatenate([regions[:, :2] - half, regions[:, :2] + half], axis=1)
    same = iou(boxes, boxes) > _SAME_FACE_IOU
    kept: list[int] = []
    for number in range(len(regions)):
        if not same[number, kept].any():
            kept.append(number)
    return regions[kept]
