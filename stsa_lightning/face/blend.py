"""From the generated face back into the frame: resized to its box, pasted through a smooth mask of the contour."""

from __future__ import annotations

import cv2
import numpy as np

from stsa_lightning.face.topology import LANDMARKS, MOUTH, positions
from stsa_lightning.face.upright_box import UprightBox

FEATHER = 0.06  # width of the soft edge, as a fraction of the face's size
_LOWER_LIDS = positions([145, 374])  # middle of either lower eyelid
LARGEST_MEND = 24.0  # grey levels: a larger step at the seam is no colour cast
_LARGEST_GAIN = 1.15
_NOISE = 4.0  # grey levels: contrast of a flat face
_AGREE = 10.0  # grey levels by which two pictures of the same skin differ
_AGREE_SIGMA = 0.012  # of the face's size


def blend_face(
    frame: np.ndarray,
    face: np.ndarray,
    box: np.ndarray,
    landmarks: np.ndarray,
    feather: float = FEATHER,
    weight: float = 1.0,
    detail: bool = True,
    degrees: float = 0.0,
    compared_at: int | None = None,
) -> np.ndarray:
    """Paste a generated face into its frame (STSA, inference).

    The face's colours are first brought to the frame's, in mean and contrast along the soft edge, which hides a slight
    cast. Where the face in the frame is larger than the network's, and both agree at the latter's size, the frame's
    finer detail is kept: skin and beard stay sharp, and what moves is rendered anew. Every pixel where `face_mask` is 0
    equals the input exactly.

    Args:
        frame: (H, W, 3) uint8 RGB; not changed.
        face: (h, w, 3), uint8 or float in [0, 1].
        box: (4,) x0, y0, x1, y1 of the face within the frame.
        landmarks: (131, 2) pixels of the frame.
        feather: see `face_mask`.
        weight: in [0, 1], how much of the face shows.
        detail: keep the frame's detail where it fits.
        degrees: by which the head is tilted; `face`, `box` and `landmarks` are then upright (`face.upright_box`).
        compared_at: side at which colours and detail of face and frame are compared, where `face` is larger than the
            network made it (`face.native_resolution`); None: the face's own.

    Returns:
        (H, W, 3) uint8, a new frame.

    Raises:
        ValueError: wrong shapes or types, or a box that leaves the frame.
    """
    if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3:
        raise ValueError(f"frame: expected (H, W, 3) uint8 RGB, got {frame.shape} {frame.dtype}")
    if face.ndim != 3 or face.shape[2] != 3 or not (face.dtype == np.uint8 or np.issubdtype(face.dtype, np.floating)):
        raise ValueError(f"face: expected (h, w, 3) uint8 or float in [0, 1], got {face.shape} {face.dtype}")
    place = UprightBox(box, degrees)
    below = place.read(frame).astype(np.float32)
    mask = face_mask(landmarks, box, feather)
    levels = face.astype(np.float32) * (1 if face.dtype == np.uint8 else 255)
    own_size = below.shape[1], below.shape[0]
    size = (compared_at, compared_at) if compared_at else (levels.shape[1], levels.shape[0])
    seen = _resized(below, size)  # the frame as the network would have rendered it
    coarse = _resized(levels, size) if compared_at else levels
    colours = _matching(coarse, seen, _resized(mask, size))
    coarse = cv2.transform(coarse, colours)
    top = int(mask.any(axis=1).argmax())  # above, nothing changes
    new = cv2.transform(levels, colours) if compared_at else coarse
    change = _rows(new, own_size, top) - below[top:]
    if detail and min(own_size) > min(size):
        fits = _rows(_agreement(coarse, seen, (landmarks - place.box[:2]) / own_size * size), own_size, top)
        # Where both agree, the frame changes by what they differ at the network's size, and keeps what is finer.
        change += each_colour(np.clip(fits, 0, 1)) * (_rows(coarse - seen, own_size, top) - change)
    change *= each_colour(weight * mask[top:])
    out = frame.copy()
    place.add(out, change)
    return out


def face_mask(landmarks: np.ndarray, box: np.ndarray, feather: float = FEATHER) -> np.ndarray:
    """How much of the generated face shows at each pixel of the box.

    1 from the lips down, within the face contour; 0 outside the contour and in the upper half; smooth between: over
    `feather` times the face's size inside the contour, and over up to a sixth of its height above the lips.

    Args:
        landmarks: (131, 2) pixels of the frame.
        box: (4,) x0, y0, x1, y1.
        feather: above 0.

    Returns:
        (y1 - y0, x1 - x0) float32 in [0, 1].
    """
    x0, y0, x1, y1 = (int(v) for v in box)
    width, height = x1 - x0, y1 - y0
    points = np.asarray(landmarks, np.float64)
    if points.shape != (len(LANDMARKS), 2) or not np.isfinite(points).all():
        raise ValueError(f"landmarks: expected (131, 2) finite pixel coordinates, got shape {points.shape}")
    if not feather > 0:
        raise ValueError(f"feather: expected a fraction above 0, got {feather}")
    points = points - (x0, y0)
    contour = np.zeros((height, width), np.uint8)
    # All points, not the oval alone: seen from the side, nose and lips reach beyond it.
    cv2.fillConvexPoly(contour, cv2.convexHull(np.round(points).astype(np.int32)), (1,))
    # The border of a frame that cuts the face is no edge to soften: a distance counts from pixels of the box alone.
    inside = cv2.distanceTransform(contour, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    sides = _smooth_step(inside / np.float32(feather * np.sqrt(width * height)))
    # The network's picture may break where its unseen half begins, in the middle: nothing of it shows above. It comes
    # in from there, or from the eyes where these are lower, down to the lips.
    end = np.clip(points[MOUTH, 1].min(), 0.56 * height, 0.65 * height)
    start = max(0.5 * height, end - 0.16 * height, min(points[_LOWER_LIDS, 1].max(), end - 0.05 * height))
    top = _smooth_step((np.arange(height) + 0.5 - start) / (end - start))
    return sides * top[:, None].astype(np.float32)


def _smooth_step(x: np.ndarray) -> np.ndarray:
    x = np.clip(x, 0, 1)
    return x * x * (3 - 2 * x)


def _resized(face: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    shrinks = face.shape[1] > size[0] or face.shape[0] > size[1]
    return cv2.resize(face, size, interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LANCZOS4)


def _rows(face: np.ndarray, size: tuple[int, int], top: int) -> np.ndarray:
    """The rows of a resized face from `top` on."""
    return (face if face.shape[1::-1] == size else _resized(face, size))[top:]


def each_colour(plane: np.ndarray) -> np.ndarray:
    """(h, w) -> (h, w, 3): numbers side by side are several times quicker than a plane spread over a last axis of 3."""
    return cv2.merge([plane] * 3)


def _matching(levels: np.ndarray, seen: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """(3, 4) for `cv2.transform`: gives a face the frame's mean and contrast along the soft edge, each colour alone."""
    edge = np.clip(mask * (1 - mask), 0, 1, dtype=np.float64)
    total = edge.sum()
    if total < 1:
        return np.eye(3, 4)
    first = int(edge.any(axis=1).argmax())  # the rows above have no share
    share = edge[first:].ravel() / total
    (mean, spread), (true_mean, true_spread) = (_mean_and_spread(p[first:], share) for p in (levels, seen))
    step = np.clip(true_mean - mean, -LARGEST_MEND, LARGEST_MEND)
    gain = np.clip((true_spread + _NOISE) / (spread + _NOISE), 1 / _LARGEST_GAIN, _LARGEST_GAIN)
    return np.column_stack([np.diag(gain), mean + step - gain * mean])


def _mean_and_spread(picture: np.ndarray, share: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of the colours of (h, w, 3), (3,) each, every pixel counted by its share (h * w,) of 1."""
    pixels = picture.reshape(-1, 3).astype(np.float64)
    mean = share @ pixels
    return mean, np.sqrt(np.maximum(share @ np.square(pixels) - np.square(mean), 0))


def _agreement(levels: np.ndarray, seen: np.ndarray, landmarks: np.ndarray) -> np.ndarray:
    """(S, S) in [0, 1]: where the frame shows what the generated face shows, the mouth left out."""
    apart = cv2.GaussianBlur(largest_colour(cv2.absdiff(levels, seen)), (0, 0), _AGREE_SIGMA * len(levels))
    fits = np.exp(-np.square(apart / _AGREE)).astype(np.float32)
    # Lips and teeth of another sound agree here and there by chance.
    mouth = np.round(landmarks[MOUTH]).astype(np.int32)
    cv2.fillConvexPoly(fits, cv2.convexHull(mouth), (0.0,))
    return cv2.GaussianBlur(np.minimum(fits, cv2.erode(fits, np.ones((3, 3)))), (0, 0), _AGREE_SIGMA * len(levels))


def largest_colour(picture: np.ndarray) -> np.ndarray:
    """(h, w, 3) -> (h, w): of the three colours."""
    red, green, blue = cv2.split(picture)
    return cv2.max(red, cv2.max(green, blue))
