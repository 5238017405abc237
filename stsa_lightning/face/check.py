"""Whether a generated face may be shown: no frame shall come out worse than it went in.

The generated face is compared with the one that the frame shows: it is the same person, in the same pose and light, who
says something else. Skin away from the mouth is alike, the whole is about as rough as before, and the lips are where
they were.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from stsa_lightning.face.blend import LARGEST_MEND, face_mask
from stsa_lightning.face.box import resize_face
from stsa_lightning.face.crops import landmarks_in_crops
from stsa_lightning.face.landmarks import LandmarkDetector
from stsa_lightning.face.topology import MOUTH, positions

_CELLS = 16  # faces are compared as pictures of 16 x 16
# Limits. Of 514 frames of good dubs of 20 real clips the worst were 0.099, 0.59 and 1.3, and 0.044. Faces upside down
# differ by 0.12 and more, noise is rougher than 4, grey smoother than 0.6, lips a tenth of the box away are 0.06 off or
# more 59 times in 60.
_SKIN = 0.10  # of the skin's own level, by which it may differ on average beyond what blending mends
_MOVES = 0.04  # of the box: so far around the lips skin moves with them
_DARK = 20.0  # grey levels: differences in black mean nothing
_ROUGHNESS = (0.5, 2.5)  # of the frame's own
_OFF = 0.06  # of the box: how far the lips may be from where they were
_GREY = np.full((1, 3), 1 / 3)
_NOISE = 1.0  # grey levels: roughness of a flat face
_LIPS = positions([0, 61, 291])  # middle of the upper lip and corners: they move little with speech


class ResultCheck:
    """Checks the generated faces of one video, in their order.

    Pictures are compared in every frame, which costs about two milliseconds; the lips are looked for in one of
    `every`, and in all where they are not where they belong.

    Args:
        lips: finds landmarks in single pictures, closed with this; None: they are not looked for.
        every: frames between two looks for the lips.
    """

    def __init__(self, lips: LandmarkDetector | None = None, every: int = 12) -> None:
        self._lips, self._every, self._suspicious = lips, every, False

    def __call__(
        self, faces: Sequence[np.ndarray], seen: np.ndarray, landmarks: np.ndarray, numbers: np.ndarray
    ) -> np.ndarray:
        """Which faces are wrong.

        Args:
            faces: n square pictures uint8, generated.
            seen: (n, S, S, 3) uint8, of their frames.
            landmarks: (n, 131, 2) of the frames' faces, normalised to their boxes.
            numbers: (n,) of the frames.

        Returns:
            (n,) bool.
        """
        small = [resize_face(face, seen.shape[1]) for face in faces]
        wrong = np.array([looks_wrong(*face) for face in zip(small, seen, landmarks, strict=True)], bool)
        if self._lips is None:
            return wrong
        for due in (numbers % self._every == 0, True):
            for i in np.flatnonzero(~wrong & (due | self._suspicious)):
                wrong[i] = lips_off(small[i], seen[i], landmarks[i], self._lips) > _OFF
                self._suspicious = bool(wrong[i])
            if not wrong.any():
                break
        return wrong

    def close(self) -> None:
        """Frees the model."""
        if self._lips is not None:
            self._lips.close()


def looks_wrong(face: np.ndarray, seen: np.ndarray, landmarks: np.ndarray) -> bool:
    """Whether what shows of a generated face is no face, or not that of the frame.

    Args:
        face: (S, S, 3) uint8, generated.
        seen: (S, S, 3) uint8, of the frame.
        landmarks: (131, 2) of the frame's face, normalised to its box.
    """
    skin, roughness = differences(face, seen, landmarks)
    return skin > _SKIN or not _ROUGHNESS[0] < roughness < _ROUGHNESS[1]


def differences(face: np.ndarray, seen: np.ndarray, landmarks: np.ndarray) -> tuple[float, float]:
    """How far skin away from the mouth differs, of its own level, and the roughness as a multiple of the frame's."""
    side = len(seen)
    mask = face_mask(landmarks * side, np.array([0, 0, side, side]))
    skin = mask.copy()
    mouth = cv2.convexHull(np.round(landmarks[MOUTH] * side).astype(np.int32))
    cv2.fillConvexPoly(skin, mouth, (0.0,))
    cv2.polylines(skin, [mouth], True, (0.0,), 2 * round(_MOVES * side))
    (new, rough), (old, own) = (_coarse_and_rough(picture, mask) for picture in (face, seen))
    share, apart = _shares(_cells(skin)), new - old
    cast = np.einsum("yx,yxc->c", share, apart)
    mended = np.clip(cast, -LARGEST_MEND, LARGEST_MEND)
    differs = float(np.einsum("yx,yxc->", share, np.abs(apart - mended)) / 3)
    level = float(np.einsum("yx,yxc->", share, old)) / 3 + _DARK
    return max(differs, float(np.abs(cast - mended).max())) / level, (rough + _NOISE) / (own + _NOISE)


def _coarse_and_rough(picture: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, float]:
    rough = cv2.transform(cv2.absdiff(picture, cv2.blur(picture, (3, 3))).astype(np.float32), _GREY)
    return _cells(picture.astype(np.float32)), float(_shares(mask).ravel() @ rough.ravel())


def _shares(weights: np.ndarray) -> np.ndarray:
    return weights / max(float(weights.sum()), 1e-6)


def _cells(picture: np.ndarray) -> np.ndarray:
    return cv2.resize(picture, (_CELLS, _CELLS), interpolation=cv2.INTER_AREA)


def lips_off(face: np.ndarray, seen: np.ndarray, landmarks: np.ndarray, detector: LandmarkDetector) -> float:
    """How far the lips of a generated face are from where the frame's were, as a share of the box; NaN: not found."""
    side = len(seen)
    mask = face_mask(landmarks * side, np.array([0, 0, side, side]))[..., None]
    shown = np.rint(seen + mask * (face.astype(np.float32) - seen)).astype(np.uint8)
    found = landmarks_in_crops(shown[None], detector)[0] / side
    return float(np.linalg.norm(found[_LIPS].mean(axis=0) - landmarks[_LIPS].mean(axis=0)))
