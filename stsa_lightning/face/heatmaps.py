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
    landmarks = np.asarray(landmarks)
    if landmarks.ndim != 2:
        raise ValueError(f"landmarks: expected (131, 2), got {landmarks.shape}; for several faces call draw_heatmaps")
    return draw_heatmaps(landmarks, kind, size, sigma)


def draw_heatmaps(
    landmarks: np.ndarray, kind: HeatmapKind = "whole", size: int = 128, sigma: float = 1.0
) -> np.ndarray:
    """Heatmaps of many faces, each as `draw_heatmap` draws it: (..., 131, 2) -> (..., size, size) float32."""
    landmarks = _checked(landmarks, size, sigma)
    if kind not in LINES:
        raise ValueError(f"kind: expected one of {HEATMAP_KINDS}, got {kind!r}")
    faces = landmarks.reshape(-1, len(LANDMARKS), 2)
    inside = ((faces >= 0) & (faces <= 1)).all(axis=2)  # (faces, 131)
    pixels = np.floor(np.where(inside[..., None], faces, 0) * size).astype(np.int32)
    drawn = inside[:, LINES[kind]].all(axis=2)  # (faces, lines)
    segments = pixels[:, LINES[kind]]  # (faces, lines, 2 ends, 2)
    maps = np.zeros((len(faces), size, size), np.float32)
    for out, lines, kept in zip(maps, segments, drawn, strict=True):
        _draw(lines[kept], sigma, out)
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


def _draw(lines: np.ndarray, sigma: float, out: np.ndarray) -> None:
    """Draw (lines, 2 ends, 2) pixel coordinates into a square of zeros."""
    if not len(lines):
        return
    canvas = np.full(out.shape, 255, np.uint8)
    cv2.polylines(canvas, list(lines), False, (0,))
    # Only the neighbourhood of the contours is worked on: a rectangle holds the shortest ways between its own pixels,
    # so the distances within it are those of the full picture.
    reach = math.ceil(3 * sigma)
    left, top, width, height = cv2.boundingRect(lines.reshape(-1, 2))
    rows, columns = (slice(max(low - reach, 0), low + extent + reach) for low, extent in ((top, height), (left, width)))
    out[rows, columns] = _ridge(cv2.distanceTransform(canvas[rows, columns], cv2.DIST_L2, 5), sigma)


def _ridge(distance: np.ndarray, sigma: float) -> np.ndarray:
    value = np.minimum(distance, 3 * sigma)  # further away `exp` would slow down on denormal numbers
    near = value < 3 * sigma
    np.square(value, out=value)
    value *= -0.5 / sigma**2
    np.exp(value, out=value)
    value *= near
    return value
