"""Probabilistic heatmaps: soft ridges along the contours of a face, drawn exactly as the released code draws them."""

from __future__ import annotations

import math

import cv2
import numpy as np

from stsa_lightning.face.topology import HEATMAP_KINDS, LANDMARKS, LINES, HeatmapKind, positions

_PARTS: tuple[HeatmapKind, ...] = ("masked", "lip", "jaw")
_OUTER_LIPS = positions([0, 17])
_INNER_LIPS = positions([13, 14])


def draw_heatmap(landmarks: np.ndarray, kind: HeatmapKind = "whole", size: int = 128, sigma: float = 1.0) -> np.ndarray:
    """Heatmap of one face: `exp(-d^2 / 2 sigma^2)` where d < 3 sigma, else 0; d is the distance to the nearest contour.

    Args:
        landmarks: (131, 2) x, y normalised to the face box. A point outside [0, 1] is left out with its lines.
        kind: the contours: "whole" all; "masked" brows, eyes, nose, upper oval; "lip" the lips; "jaw" the lower oval.
        size: side of the heatmap in pixels.
        sigma: width of the ridges in pixels.

    Returns:
        (size, size) float32 in [0, 1].

    Raises:
        ValueError: wrong shape, kind, size or sigma.
    """
    landmarks = _checked(landmarks, size, sigma)
    if landmarks.ndim != 2:
        raise ValueError(f"landmarks: expected (131, 2), got {landmarks.shape}; for several faces call draw_heatmaps")
    if kind not in LINES:
        raise ValueError(f"kind: expected one of {HEATMAP_KINDS}, got {kind!r}")
    return _draw(landmarks, kind, size, sigma)


def draw_heatmaps(
    landmarks: np.ndarray, kind: HeatmapKind = "whole", size: int = 128, sigma: float = 1.0
) -> np.ndarray:
    """Heatmaps of many faces, each as `draw_heatmap` draws it: (..., 131, 2) -> (..., size, size) float32."""
    landmarks = _checked(landmarks, size, sigma)
    if kind not in LINES:
        raise ValueError(f"kind: expected one of {HEATMAP_KINDS}, got {kind!r}")
    faces = landmarks.reshape(-1, len(LANDMARKS), 2)
    maps = np.empty((len(faces), size, size), np.float32)
    for out, face in zip(maps, faces, strict=True):
        out[...] = _draw(face, kind, size, sigma)
    return maps.reshape(*landmarks.shape[:-2], size, size)


def draw_all_kinds(landmarks: np.ndarray, size: int = 128, sigma: float = 1.0) -> dict[HeatmapKind, np.ndarray]:
    """Every kind of heatmap of many faces: kind -> (..., size, size) float32.

    The distance to all contours is the least of the distances to their parts, so "whole" is the maximum of the others.
    """
    masked, lip, jaw = (draw_heatmaps(landmarks, kind, size, sigma) for kind in _PARTS)
    whole = np.maximum(masked, lip)
    np.maximum(whole, jaw, out=whole)
    return {"whole": whole, "masked": masked, "lip": lip, "jaw": jaw}


def lip_openness(landmarks: np.ndarray) -> np.ndarray:
    """Distance between the outer edges of the lips (FaceMesh points 0 and 17): (..., 131, 2) -> (...), same unit."""
    return _opening(landmarks, _OUTER_LIPS)


def inner_lip_opening(landmarks: np.ndarray) -> np.ndarray:
    """Distance between the inner edges of the lips (FaceMesh points 13 and 14): (..., 131, 2) -> (...), same unit."""
    return _opening(landmarks, _INNER_LIPS)


def _opening(landmarks: np.ndarray, pair: np.ndarray) -> np.ndarray:
    landmarks = np.asarray(landmarks)
    if landmarks.shape[-2:] != (len(LANDMARKS), 2):
        raise ValueError(f"landmarks: expected (..., 131, 2), got {landmarks.shape}")
    return np.linalg.norm(landmarks[..., pair[0], :] - landmarks[..., pair[1], :], axis=-1)


def _checked(landmarks: np.ndarray, size: int, sigma: float) -> np.ndarray:
    landmarks = np.asarray(landmarks, dtype=np.float32)
    if landmarks.shape[-2:] != (len(LANDMARKS), 2):
        raise ValueError(f"landmarks: expected (..., 131, 2), got {landmarks.shape}")
    if size < 1:
        raise ValueError(f"size: expected at least 1 pixel, got {size}")
    if not (math.isfinite(sigma) and sigma > 0):
        raise ValueError(f"sigma: expected a positive number of pixels, got {sigma}")
    return landmarks


def _draw(landmarks: np.ndarray, kind: HeatmapKind, size: int, sigma: float) -> np.ndarray:
    heatmap = np.zeros((size, size), np.float32)
    inside = ((landmarks >= 0) & (landmarks <= 1)).all(axis=1)
    lines = LINES[kind][inside[LINES[kind]].all(axis=1)]
    segments = np.floor(np.where(inside[:, None], landmarks, 0) * size).astype(np.int32)[lines]  # (lines, 2 ends, 2)
    if not len(lines):
        return heatmap
    # Only the neighbourhood of the contours is worked on: a rectangle holds the shortest ways between its own pixels,
    # so the distances within it are those of the full picture.
    reach = math.ceil(3 * sigma)
    low = np.maximum(segments.min(axis=(0, 1)) - reach, 0)
    high = np.minimum(segments.max(axis=(0, 1)) + reach + 1, size)
    width, height = (high - low).tolist()
    canvas = np.full((height, width), 255, np.uint8)
    cv2.polylines(canvas, list(segments - low), False, (0,))
    distance = cv2.distanceTransform(canvas, cv2.DIST_L2, 5)
    heatmap[low[1] : high[1], low[0] : high[0]] = _ridge(distance, sigma)
    return heatmap


def _ridge(distance: np.ndarray, sigma: float) -> np.ndarray:
    value = np.minimum(distance, 3 * sigma)  # further away `exp` would slow down on denormal numbers
    near = value < 3 * sigma
    np.square(value, out=value)
    value *= -0.5 / sigma**2
    np.exp(value, out=value)
    value *= near
    return value
