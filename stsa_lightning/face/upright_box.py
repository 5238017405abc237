"""Heads that are tilted, lie or stand upside down in the picture: seen upright, and put back as they lay.

A frame of such a head is looked at in coordinates that are turned about the frame's middle until the head is upright.
Landmarks and boxes of a face are kept in these upright coordinates, in pixels of the frame's own scale; where a head is
nearly upright the turn is exactly 0 and they are the frame's own coordinates.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from stsa_lightning.face.box import crop_face, face_box, resize_face
from stsa_lightning.face.topology import LANDMARKS, MOUTH, positions
from stsa_lightning.media.shown_frame import Frame, showing

# Up to the first, networks that were trained on upright heads do as well on a tilted one; from the second on the head
# is turned by its whole roll, and by a growing part of it in between, so that a head that is slowly tilted never jumps.
# Dubs of two real clips tilted by 10 degrees came 5 dB nearer to those of the upright clips when turned; of eight clips
# whose own heads are tilted by 9 to 17, seven came nearer to their own frames, by up to 3.4 dB.
UPRIGHT_DEGREES, WHOLE_DEGREES = 8.0, 15.0
_EYES = positions([33, 263])  # outer corners
_SIGMA_S, _REACH_S = 0.16, 0.48  # the roll is averaged over time; its noise would shake the mouth


def roll_degrees(landmarks: np.ndarray) -> np.ndarray:
    """How far heads are tilted in the picture's plane.

    Args:
        landmarks: (..., 131, 2), any unit with equal axes.

    Returns:
        (...) float64 degrees within [-180, 180]: 0 upright, positive clockwise as one sees it, 90 with the crown to the
        picture's right; NaN where landmarks are.

    Raises:
        ValueError: wrong shape.
    """
    if np.shape(landmarks)[-2:] != (len(LANDMARKS), 2):
        raise ValueError(f"landmarks: expected (..., 131, 2), got {np.shape(landmarks)}")
    eyes = landmarks[..., _EYES, :].astype(np.float64)
    along = eyes[..., 1, :] - eyes[..., 0, :]
    # The line from the eyes to the mouth as well: of a head turned to the side that between the eyes is short.
    down = landmarks[..., MOUTH, :].mean(axis=-2) - eyes.mean(axis=-2)
    return np.degrees(np.arctan2(along[..., 1] - down[..., 0], along[..., 0] + down[..., 1]))


def steady_turns(landmarks: np.ndarray, fps: float | None) -> np.ndarray:
    """By how much each frame of one shot is turned so that its head is upright.

    Args:
        landmarks: (n, 131, 2) pixels of consecutive frames; NaN where there is no face.
        fps: frames a second; None takes each frame by itself.

    Returns:
        (n,) float32 degrees, smooth over time: exactly 0 where the head is nearly upright or there is none.
    """
    return turns(headings(landmarks), fps)


def headings(landmarks: np.ndarray) -> np.ndarray:
    """(..., 131, 2) -> (...) complex of length 1, whose angle is the head's roll; 0 where there is no face."""
    roll = np.radians(roll_degrees(landmarks))
    seen = np.isfinite(roll)
    return np.where(seen, np.exp(1j * np.where(seen, roll, 0)), 0)


def turns_reach(fps: float) -> int:
    """How many frames before and after it a frame's turn depends on."""
    return round(_REACH_S * fps)


def turns(headings: np.ndarray, fps: float | None) -> np.ndarray:
    """`steady_turns` of (n,) `headings`."""
    seen = headings != 0
    reach = 0 if fps is None else turns_reach(fps)
    if fps is not None and reach:
        weights = np.exp(-0.5 * (np.arange(-reach, reach + 1) / fps / _SIGMA_S) ** 2)
        headings = np.convolve(headings, weights)[reach : reach + len(headings)]
    degrees = np.degrees(np.angle(headings))
    share = np.clip((np.abs(degrees) - UPRIGHT_DEGREES) / (WHOLE_DEGREES - UPRIGHT_DEGREES), 0, 1)
    return np.where(seen, degrees * share * share * (3 - 2 * share), 0).astype(np.float32)


def to_upright(points: np.ndarray, degrees: np.ndarray | float, frame_size: tuple[int, int]) -> np.ndarray:
    """Pixels of the frame to upright pixels: (..., n, 2) with degrees (...), of the same type; 0 changes nothing."""
    return _turned(points, -np.asarray(degrees, np.float64), frame_size)


def from_upright(points: np.ndarray, degrees: np.ndarray | float, frame_size: tuple[int, int]) -> np.ndarray:
    """The inverse of `to_upright`."""
    return _turned(points, np.asarray(degrees, np.float64), frame_size)


def _turned(points: np.ndarray, degrees: np.ndarray, frame_size: tuple[int, int]) -> np.ndarray:
    if not degrees.any():
        return points
    middle, angle = np.asarray(frame_size) / 2, np.radians(degrees)[..., None]
    x, y = np.moveaxis(points - middle, -1, 0)
    turned = np.stack([np.cos(angle) * x - np.sin(angle) * y, np.sin(angle) * x + np.cos(angle) * y], -1) + middle
    return np.where((degrees == 0)[..., None, None], points, turned).astype(points.dtype)


def upright_box(landmarks: np.ndarray, degrees: float, frame_size: tuple[int, int], margin_px: int) -> np.ndarray:
    """`face_box` of upright landmarks; that of a turned head is not clipped: what it lacks is filled up in the crop.

    Raises:
        ValueError: as `face_box`.
    """
    if degrees == 0:
        return face_box(landmarks, frame_size, margin_px)
    if not np.isfinite(landmarks).all() or not in_picture(landmarks, degrees, frame_size):
        raise ValueError("landmarks: expected a face within the frame")
    low, high = np.floor(landmarks.min(axis=0)) - margin_px, np.ceil(landmarks.max(axis=0)) + margin_px
    return np.concatenate([low, high]).astype(np.int32)


def in_picture(landmarks: np.ndarray, degrees: np.ndarray | float, frame_size: tuple[int, int]) -> np.ndarray:
    """Whether the middle of a face lies within the frame: upright (..., 131, 2), degrees (...) -> (...) bool."""
    middle = from_upright((landmarks.min(axis=-2) + landmarks.max(axis=-2))[..., None, :] / 2, degrees, frame_size)
    return np.all((middle >= 0) & (middle < frame_size), axis=(-2, -1))


@dataclass(frozen=True)
class UprightBox:
    """Where a face is in its frame: a box in coordinates in which the head is upright.

    Attributes:
        box: (4,) x0, y0, x1, y1, whole upright pixels; within the frame where `degrees` is 0.
        degrees: by which the head is tilted, clockwise.
    """

    box: np.ndarray
    degrees: float = 0.0

    @property
    def corners(self) -> tuple[int, int, int, int]:
        x0, y0, x1, y1 = (int(v) for v in self.box)
        return x0, y0, x1, y1

    def crop(self, frame: Frame, size: int) -> np.ndarray:
        """The upright face: (H, W, 3) uint8 -> (size, size, 3) uint8, each axis resized on its own.

        Raises:
            ValueError: a box that is empty, or leaves a frame that is not turned.
        """
        if self.degrees == 0:
            return crop_face(frame, self.box, size)
        x0, y0, x1, y1 = self._checked(frame)
        return resize_face(self._seen(frame, (max(size, x1 - x0), max(size, y1 - y0))), size)

    def read(self, frame: np.ndarray) -> np.ndarray:
        """The upright face at the frame's own scale: (y1 - y0, x1 - x0, 3), of the frame's type.

        Raises:
            ValueError: as `crop`.
        """
        x0, y0, x1, y1 = self._checked(frame)
        return frame[y0:y1, x0:x1] if self.degrees == 0 else self._seen(frame, (x1 - x0, y1 - y0))

    def add(self, frame: np.ndarray, change: np.ndarray) -> None:
        """Change a frame in place by what is to be added to the upright face, or to its lowest rows alone.

        Args:
            frame: (H, W, 3) uint8.
            change: (h, x1 - x0, 3) float32, levels of the last h rows.
        """
        x0, y0, x1, y1 = self._checked(frame)
        above = y1 - y0 - len(change)
        if self.degrees:
            x0, y0, x1, y1 = self._around(_size(frame), 1)
            places = self._to_face(frame, (x0, y0))
            change = cv2.copyMakeBorder(change, above, 0, 0, 0, cv2.BORDER_CONSTANT)
            change = cv2.warpAffine(change, places, (x1 - x0, y1 - y0), flags=_WARP, borderMode=cv2.BORDER_CONSTANT)
        else:
            y0 += above
        face = frame[y0:y1, x0:x1]
        change = change + face
        face[:] = np.clip(np.rint(change, out=change), 0, 255, out=change)

    def _checked(self, frame: Frame) -> tuple[int, int, int, int]:
        x0, y0, x1, y1 = self.corners
        width, height = _size(frame)
        inside = self.degrees != 0 or (x0 >= 0 and y0 >= 0 and x1 <= width and y1 <= height)
        if not (x0 < x1 and y0 < y1 and inside):
            raise ValueError(
                f"box: expected x0, y0, x1, y1 within the frame of {width} x {height}, got {[x0, y0, x1, y1]}"
            )
        return x0, y0, x1, y1

    def _seen(self, frame: Frame, size: tuple[int, int]) -> np.ndarray:
        """The upright face sampled at `size` (width, height); beyond the frame its outermost pixels go on."""
        x0, y0, x1, y1 = self.corners
        step = np.array([x1 - x0, y1 - y0]) / size
        corner = np.array([x0, y0]) + step / 2
        turn = _rotation(self.degrees)
        middle = np.asarray(_size(frame)) / 2
        places = np.column_stack([turn * step, turn @ (corner - middle) + middle - 0.5])
        seen = showing(frame, self.reach(_size(frame)))
        return cv2.warpAffine(seen, places, size, flags=_WARP, borderMode=cv2.BORDER_REPLICATE)

    def reach(self, frame_size: tuple[int, int]) -> tuple[int, int, int, int]:
        """x0, y0, x1, y1 of the part of the frame that the face is read from."""
        return self.corners if self.degrees == 0 else self._around(frame_size, _TAPS)

    def _around(self, frame_size: tuple[int, int], beyond: int) -> tuple[int, int, int, int]:
        """x0, y0, x1, y1 of the part of the frame that holds the turned box and some pixels beyond it."""
        x0, y0, x1, y1 = self.box
        there = from_upright(np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1]], np.float64), self.degrees, frame_size)
        low = np.clip(np.floor(there.min(axis=0)) - beyond, 0, np.array(frame_size) - 1).astype(int)
        high = np.clip(np.ceil(there.max(axis=0)) + beyond, low + 1, frame_size).astype(int)
        return int(low[0]), int(low[1]), int(high[0]), int(high[1])

    def _to_face(self, frame: np.ndarray, corner: tuple[int, int]) -> np.ndarray:
        """(2, 3): from pixels of the frame, counted from a corner, to pixels of the upright face."""
        turn, middle = _rotation(-self.degrees), np.asarray(_size(frame)) / 2
        return np.column_stack([turn, turn @ (np.array(corner) + 0.5 - middle) + middle - self.box[:2] - 0.5])


_WARP = cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP
_TAPS = 3  # pixels that cubic interpolation reads beyond a place, and rounding


def _rotation(degrees: float) -> np.ndarray:
    cosine, sine = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return np.array([[cosine, -sine], [sine, cosine]])


def _size(frame: Frame) -> tuple[int, int]:
    return frame.shape[1], frame.shape[0]
