"""Which way up the faces of a video are: detectors are made for upright heads and find lying ones turned.

Landmark models follow a head tilted by up to a right angle. One that is further turned is either not found, or found
the wrong way round, a mouth put where its forehead is. So a frame is looked at four ways: a face that is seen alike from
two of them is real, and the way from which it is upright is kept for the frames that follow.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from stsa_lightning.face.landmarks import LandmarkDetector
from stsa_lightning.face.turned import roll_degrees

FindFaces = Callable[[np.ndarray], list[np.ndarray]]
"""(H, W, 3) uint8 RGB -> the landmarks (131, 2) of every face, pixels."""

_ALIKE = 0.15  # of a face's size: landmarks that are nearer than that on average show one face
_TILT = 60.0  # degrees: a face tilted further is better seen from another side


class Orientation:
    """Finds faces whichever way up they are; keeps the way in which they were found.

    Attributes:
        quarters: by how many quarters of a turn, anticlockwise, frames are turned before faces are looked for.
    """

    def __init__(self) -> None:
        self.quarters = 0

    def faces(self, frame: np.ndarray, find: FindFaces) -> list[np.ndarray]:
        """Every face of a frame, seen in the way that was kept; landmarks in pixels of the frame as it is."""
        return _seen(frame, find, self.quarters)

    def settle(self, frame: np.ndarray, find: FindFaces) -> bool:
        """Look anew which way up the faces are.

        Costs one search besides the usual one where an upright face is found and confirmed, else up to three.

        Args:
            find: a detector that does not follow faces.

        Returns:
            Whether a face was found that is seen alike from two sides.
        """
        found = {quarters: _seen(frame, find, quarters) for quarters in (0, 1)}
        if _confirmed(found, 0):
            self.quarters = 0
            return True
        found |= {quarters: _seen(frame, find, quarters) for quarters in (2, 3)}
        counts = {quarters: _confirmed(found, quarters) for quarters in found}
        best = max(counts, key=counts.__getitem__)
        if counts[best] or found[0]:
            self.quarters = best  # 0 where none is better
        return counts[best] > 0


class UprightingDetector:
    """A `LandmarkDetector` of one video's clearest face, whichever way up it is.

    Args:
        following: in tracking mode.
        static: looks for faces anew in every frame.
    """

    def __init__(self, following: LandmarkDetector, static: LandmarkDetector, every: int = 25) -> None:
        self._following, self._static, self._every = following, static, every
        self._orientation, self._due = Orientation(), 0

    def all_faces(self, frame: np.ndarray) -> list[np.ndarray]:
        """See `LandmarkDetector`."""
        if self._due == 0:
            before = self._orientation.quarters
            self._orientation.settle(frame, self._static.all_faces)
            if self._orientation.quarters != before:
                self._following.forget()
        faces = self._orientation.faces(frame, self._following.all_faces)
        # Once a face is followed, it need not be looked for; where there is none, once in a while.
        self._due = -1 if faces else self._every if self._due <= 0 else self._due - 1
        return faces

    def __call__(self, frame: np.ndarray) -> np.ndarray | None:
        """See `LandmarkDetector`."""
        return next(iter(self.all_faces(frame)), None)

    def forget(self) -> None:
        """See `LandmarkDetector`."""
        self._following.forget()
        self._due = 0

    def close(self) -> None:
        """Frees both models."""
        self._following.close()
        self._static.close()


def _seen(frame: np.ndarray, find: FindFaces, quarters: int) -> list[np.ndarray]:
    if not quarters:
        return find(frame)
    height, width = frame.shape[:2]
    faces = find(np.ascontiguousarray(np.rot90(frame, quarters)))
    return [_turned_back(points, quarters, width, height) for points in faces]


def _turned_back(points: np.ndarray, quarters: int, width: int, height: int) -> np.ndarray:
    """Pixels of a frame turned by `np.rot90` to those of the frame, `width` x `height`."""
    x, y = points.T
    back = {1: (width - y, x), 2: (width - x, height - y), 3: (y, height - x)}[quarters]
    return np.stack(back, axis=1).astype(np.float32)


def _confirmed(found: dict[int, list[np.ndarray]], quarters: int) -> int:
    """How many faces are nearly upright as seen in one way, and are seen alike in another."""
    others = [face for way, faces in found.items() if way != quarters for face in faces]
    return sum(
        _tilt(face, quarters) <= _TILT and any(_alike(face, other) for other in others) for face in found[quarters]
    )


def _tilt(face: np.ndarray, quarters: int) -> float:
    """Degrees by which a face of the frame is tilted once the frame is turned."""
    return abs((float(roll_degrees(face)) - 90 * quarters + 180) % 360 - 180)


def _alike(face: np.ndarray, other: np.ndarray) -> bool:
    size = max(np.ptp(face, axis=0).max(), np.ptp(other, axis=0).max(), 1e-6)
    return bool(np.linalg.norm(face - other, axis=1).mean() <= _ALIKE * size)
