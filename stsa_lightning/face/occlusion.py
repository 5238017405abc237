"""Whether something is held before the lower face: the skin there loses its colours for a while.

Landmark models give no doubt away: behind a hand they guess a mouth. So colours are compared, at places around the
mouth that follow the face, with what they are in the rest of the shot.
"""

from __future__ import annotations

import cv2
import numpy as np

from stsa_lightning.face.topology import JAW, positions

_SIDE = 32  # faces are looked at as pictures of 32 x 32
_OUTWARD = (0.62, 0.85)  # places between the middle of the mouth and the jaw
_LIPS = positions([0, 17])
_ABOVE = positions([6, 197, 195, 5])  # bridge of the nose: tells the light
_LIDS, _CORNERS = positions([145, 374]), positions([61, 291])
PLACES = 6 + len(JAW) * len(_OUTWARD)
_LIGHT = 6  # the first places are above
_TOLERANCE = 32.0  # grey levels that a place may differ from what it is in the shot
_TIMES_USUAL = 3.0
_SAMPLED = 1500  # frames of a shot that say what is usual


def face_colours(frame: np.ndarray, landmarks: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8 RGB, (131, 2) -> (PLACES, 3) uint8: colours above (the first 6) and around the mouth."""
    points = _places(landmarks)
    x0, y0 = np.floor(np.clip(landmarks.min(axis=0), 0, None)).astype(int)
    x1, y1 = np.ceil(landmarks.max(axis=0)).astype(int)
    face = frame[y0:y1, x0:x1]
    if not face.size:
        return np.zeros((PLACES, 3), np.uint8)
    small = cv2.resize(face, (_SIDE, _SIDE), interpolation=cv2.INTER_AREA)
    at = (points - (x0, y0)) / (face.shape[1], face.shape[0]) * _SIDE
    column, row = np.clip(at.astype(int), 0, _SIDE - 1).T
    return small[row, column]


def _places(landmarks: np.ndarray) -> np.ndarray:
    middle = landmarks[_LIPS].mean(axis=0)
    cheeks = 0.6 * landmarks[_LIDS] + 0.4 * landmarks[_CORNERS]
    around = [middle + share * (landmarks[JAW] - middle) for share in _OUTWARD]
    return np.concatenate([landmarks[_ABOVE], cheeks, *around])


def covered_share(colours: np.ndarray) -> np.ndarray:
    """How much of the lower face is covered in each frame.

    Args:
        colours: (n, PLACES, 3) uint8 of `face_colours`, of one person in one shot.

    Returns:
        (n,) float32 in [0, 1]: the share of the places around the mouth that have lost their colours. Without meaning
        where something covers the face for most of the shot.
    """
    sample = colours[:: max(1, len(colours) // _SAMPLED)]
    usual = np.median(sample, axis=0).astype(np.float32)
    tolerance = np.maximum(_TOLERANCE, _TIMES_USUAL * np.median(_apart(sample, usual), axis=0))
    share = [(_apart(part, usual) > tolerance).mean(axis=1) for part in _blocks(colours)]
    return np.concatenate(share).astype(np.float32)


def _blocks(colours: np.ndarray) -> list[np.ndarray]:
    return [colours[i : i + 1024] for i in range(0, len(colours), 1024)]


def _apart(colours: np.ndarray, usual: np.ndarray) -> np.ndarray:
    """(n, places around the mouth): grey levels between what is and what is usual in this light."""
    now = colours.astype(np.float32)
    light = (now[:, :_LIGHT].mean(axis=(1, 2)) + 8) / (usual[:_LIGHT].mean() + 8)
    return np.abs(now[:, _LIGHT:] / np.clip(light, 0.5, 2)[:, None, None] - usual[_LIGHT:]).max(axis=2)
