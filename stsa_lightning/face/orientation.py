"""Which way up the faces of a video are.

Landmark models follow a head tilted by up to a right angle. One that is further turned they fit the wrong way round, a
mouth put where its forehead is, and say nothing of it. The detector of whole faces knows better when it compares: the
way of which it was surest was right in 1820 of 1824 pictures of 19 real heads, at 24 angles and two sizes. By itself
its sureness says less, as it can be of a head upside down (up to 0.91; of upright ones 0.79 to 0.98).
"""

from __future__ import annotations

import numpy as np

from stsa_lightning.face.face_detector import FaceDetector
from stsa_lightning.face.landmarks import LandmarkDetector
from stsa_lightning.media.shown_frame import Frame

_SURE = 0.85  # so sure of the best way, it need not be looked for again
_LEAST = 0.70  # less speaks for no other way
_SURER = 0.05  # by so much another way must be better than the frame as it is


class Orientation:
    """Finds faces whichever way up they are; keeps the way in which they were found.

    Args:
        find_faces: finds whole faces.

    Attributes:
        quarters: by how many quarters of a turn, anticlockwise, frames are turned before faces are looked for.
        sure: whether a clear face was seen when the way was last looked for.
    """

    def __init__(self, find_faces: FaceDetector) -> None:
        self.quarters, self.sure = 0, False
        self._find_faces = find_faces

    def look(self, frame: Frame) -> int:
        """Look which way up faces are, unless that is certain; how many are seen.

        It costs four detections, a few milliseconds each, and one once the way is certain.
        """
        if self.sure:
            return len(self._scores(frame, self.quarters))
        scores = [self._scores(frame, quarters) for quarters in range(4)]
        best = [max(found, default=0.0) for found in scores]
        way = best.index(max(best))
        if best[way] < max(_LEAST, best[0] + _SURER):
            way = 0
        self.quarters, self.sure = way, best[way] >= _SURE
        return len(scores[way])

    def faces(self, frame: Frame, detector: LandmarkDetector) -> list[np.ndarray]:
        """Landmarks of every face of a frame, in pixels of the frame as it is; looked for in the way that is kept."""
        if not self.quarters:
            return detector.all_faces(frame)
        height, width = frame.shape[:2]
        faces = detector.all_faces(self._turned(frame, self.quarters))
        return [_turned_back(points, self.quarters, width, height) for points in faces]

    def _scores(self, frame: Frame, quarters: int) -> list[float]:
        return self._find_faces(self._turned(frame, quarters)).scores.tolist()

    @staticmethod
    def _turned(frame: Frame, quarters: int) -> Frame:
        return np.ascontiguousarray(np.rot90(frame, quarters)) if quarters else frame


class UprightingDetector:
    """A `LandmarkDetector` that finds one video's faces whichever way up they are.

    Args:
        detector: in tracking mode; closed with this one.
        every: frames without a face between two looks at other ways.
    """

    def __init__(self, detector: LandmarkDetector, every: int = 25) -> None:
        self._detector, self._find_faces, self._every = detector, FaceDetector(), every
        self._orientation, self._frames, self._seen = Orientation(self._find_faces), 0, False

    def all_faces(self, frame: Frame) -> list[np.ndarray]:
        """See `LandmarkDetector`."""
        if self._frames % self._every == 0 and not (self._seen and self._orientation.sure):
            before = self._orientation.quarters
            self._orientation.look(frame)
            if self._orientation.quarters != before:
                self._detector.forget()
        faces = self._orientation.faces(frame, self._detector)
        self._frames, self._seen = self._frames + 1, bool(faces)
        return faces

    def __call__(self, frame: Frame) -> np.ndarray | None:
        """See `LandmarkDetector`."""
        return next(iter(self.all_faces(frame)), None)

    def forget(self) -> None:
        """See `LandmarkDetector`."""
        self._detector.forget()
        self._orientation, self._frames, self._seen = Orientation(self._find_faces), 0, False

    def close(self) -> None:
        """Frees the models."""
        self._detector.close()


def _turned_back(points: np.ndarray, quarters: int, width: int, height: int) -> np.ndarray:
    """Pixels of a frame turned by `np.rot90` to those of the frame, `width` x `height`."""
    x, y = points.T
    back = {1: (width - y, x), 2: (width - x, height - y), 3: (y, height - x)}[quarters]
    return np.stack(back, axis=1).astype(np.float32)
