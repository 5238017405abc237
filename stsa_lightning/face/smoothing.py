"""Landmarks and boxes of a video made steady: no jitter at rest, no lag in motion.

The whole of a track is known, so the filters look as far ahead as back and shift nothing in time.
"""

from __future__ import annotations

import numpy as np

from stsa_lightning.face.box import MARGIN_PX
from stsa_lightning.face.upright_box import in_picture

_REACH_S = 0.24  # a frame is averaged with those so far before and after it
_SIGMA_S = 0.10
# Points nearer to each other than that, as a share of the face's size, are one point at rest, seen with noise; a face
# in motion is further from itself in the next frame, and stays as it was found.
_NOISE = 0.005
_SLACK_PX = 0.75  # how far a box's edge may be from where it belongs before it moves
_BLOCK = 2048  # frames smoothed at a time


def smooth_landmarks(landmarks: np.ndarray, fps: float) -> None:
    """Smooth one face's landmarks in place: a bilateral filter over time, for each point by itself.

    Args:
        landmarks: (n, 131, 2) of consecutive frames, finite, pixels.
        fps: frames a second.
    """
    reach = round(_REACH_S * fps)
    if reach < 1 or len(landmarks) < 2:
        return
    size = float(np.median(np.ptp(landmarks, axis=1).max(axis=1)))
    before = landmarks[:0]
    for start in range(0, len(landmarks), _BLOCK):
        stop = min(start + _BLOCK, len(landmarks))
        known = np.concatenate([before, landmarks[start : stop + reach]])  # as found, with neighbours on both sides
        before = known[max(0, len(before) + stop - start - reach) : len(before) + stop - start]
        offset = len(known) - len(landmarks[start : stop + reach])
        landmarks[start:stop] = _smoothed(known, offset, stop - start, reach, fps, _NOISE * size)


def _smoothed(known: np.ndarray, first: int, count: int, reach: int, fps: float, noise_px: float) -> np.ndarray:
    """The frames `first` ... of `known`, each averaged with what is near it in time and place."""
    centre = known[first : first + count]
    total, weights = centre.astype(np.float32).copy(), np.ones((count, known.shape[1], 1), np.float32)
    for step in range(1, reach + 1):
        nearness = np.exp(-0.5 * (step / fps / _SIGMA_S) ** 2)
        for shift in (-step, step):
            at = np.arange(first, first + count) + shift
            # A frame that lacks a neighbour on one side does without the one on the other: else it would lag.
            both = (at >= 0) & (at < len(known)) & (at - 2 * shift >= 0) & (at - 2 * shift < len(known))
            apart = known[np.clip(at, 0, len(known) - 1)] - centre
            square = (apart**2).sum(-1, keepdims=True)
            weight = both[:, None, None] * nearness * np.exp(-0.5 * square / noise_px**2)
            total += weight * (centre + apart)
            weights += weight
    return total / weights


def smooth_boxes(
    landmarks: np.ndarray, frame_size: tuple[int, int], degrees: np.ndarray | None = None, margin_px: int = MARGIN_PX
) -> np.ndarray:
    """`upright_box` of consecutive frames, whose edges stay where they are until they are clearly wrong.

    Args:
        landmarks: (n, 131, 2) finite, upright pixels.
        frame_size: width and height of the frame.
        degrees: (n,) by which each head is tilted; None: by none.
        margin_px: pixels added on each side.

    Returns:
        (n, 4) int32: x0, y0, x1, y1, within the frame where it is not turned; zeros where the face lies outside of it.
    """
    turns = np.zeros(len(landmarks), np.float32) if degrees is None else degrees
    low, high = landmarks.min(axis=1) - margin_px, landmarks.max(axis=1) + margin_px
    edges = np.concatenate([_held(np.floor(low), low), _held(np.ceil(high), high)], axis=1)
    boxes = np.where(turns[:, None] == 0, np.clip(edges, 0, [*frame_size, *frame_size]), edges).astype(np.int32)
    outside = (turns != 0) & ~in_picture(landmarks, turns, frame_size)
    boxes[(boxes[:, :2] >= boxes[:, 2:]).any(axis=1) | outside] = 0
    return boxes


def _held(rounded: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Whole edges (n, 2) that follow `rounded`, but not before they are `_SLACK_PX` off."""
    held = rounded.copy()
    for i in range(1, len(held)):
        wrong = np.abs(held[i - 1] + np.sign(edges[i] - rounded[i]) * 0.5 - edges[i]) > 0.5 + _SLACK_PX
        held[i] = np.where(wrong, rounded[i], held[i - 1])
    return held
