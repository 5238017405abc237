"""Faces cut out of the frames of a video while these go by, once: everybody's, for who is kept shows at the end."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import ceil, hypot
from typing import Any

import numpy as np

from stsa_lightning.constants import FPS
from stsa_lightning.data.clip import encode_picture
from stsa_lightning.data.measures import brightness, sharpness
from stsa_lightning.data.settings import PrepareSettings
from stsa_lightning.face.tracks import FaceTrack
from stsa_lightning.face.upright_box import UprightBox, headings, to_upright, turns, turns_reach, upright_box
from stsa_lightning.media.shown_frame import ShownFrame
from stsa_lightning.utils.stage_times import StageTimes

REACH = turns_reach(FPS)  # frames by which the pictures lag behind, as a head's turn is averaged with what follows
_WHOLE_BYTES = (128 << 20) // (REACH + 1)  # of larger frames the faces' surroundings alone wait
_ROW = 10  # numbers that are kept of a face: frame, degrees, box (4), place and length of its picture, its looks (2)


@dataclass(frozen=True)
class CutFaces:
    """The face of each of F frames, as far as there is one.

    Attributes:
        degrees: (F,) float32, by which it is tilted.
        boxes: (F, 4) int32 upright pixels; zeros where there is none.
        places: (F, 2) int64, where its picture begins in the file, and its length in bytes.
        looks: (F, 2) float64, its sharpness and brightness, see `data.measures`.
    """

    degrees: np.ndarray
    boxes: np.ndarray
    places: np.ndarray
    looks: np.ndarray


@dataclass(frozen=True)
class SeenFrame:
    """A frame, and the landmarks (131, 2) of whoever is seen in it; `cut`: it is the first of a new shot."""

    pixels: ShownFrame
    faces: list[tuple[FaceTrack, np.ndarray]]
    cut: bool = False


class _Person:
    """What is kept of one person of a shot."""

    def __init__(self, track: FaceTrack) -> None:
        self.track = track
        self.headings: dict[int, complex] = {}  # of the last frames
        self.rows = array("d")

    def turns(self, first: int, stop: int) -> np.ndarray:
        """By how many degrees the head is turned in each frame of a stretch, once all within reach of it are known."""
        for frame in [frame for frame in self.headings if frame < first - REACH]:
            del self.headings[frame]
        around = [self.headings.get(frame, 0) for frame in range(first - REACH, stop + REACH)]
        return turns(np.array(around), FPS)[REACH : REACH + stop - first]


class FaceCutter:
    """Cuts out and encodes the faces that a `FaceFollower` finds, a few frames behind it.

    Args:
        size: width and height of the frames.
        file: takes the pictures, one after another.
        settings: resolved.
        stages: takes the times of the stages.
    """

    def __init__(self, size: tuple[int, int], file: Any, settings: PrepareSettings, stages: StageTimes) -> None:
        self.size, self._file, self._settings, self._stages = size, file, settings, stages
        self._people: dict[int, _Person] = {}  # by the track's identity
        self._waiting: list[SeenFrame] = []
        self._first = 0  # number of the first that waits
        self._written = 0

    def update(self, frames: Sequence[SeenFrame]) -> None:
        """The next frames."""
        for frame in frames:
            if frame.cut:  # of a new shot the frames before know nothing
                self._cut_out(len(self._waiting))
            for track, landmarks in frame.faces:
                person = self._people.setdefault(id(track), _Person(track))
                person.headings[self._first + len(self._waiting)] = complex(headings(landmarks))
            if frame.faces and np.prod(frame.pixels.shape) > _WHOLE_BYTES:
                frame.pixels.keep([self._surroundings(landmarks) for _, landmarks in frame.faces])
            self._waiting.append(frame)
        self._cut_out(len(self._waiting) - REACH)

    def _surroundings(self, landmarks: np.ndarray) -> tuple[int, int, int, int]:
        """x0, y0, x1, y1 of all that a face may be read from, however it is turned."""
        low, high = landmarks.min(axis=0), landmarks.max(axis=0)
        reach = 2**0.5 * (hypot(*(high - low)) / 2 + self._settings.margin_px + 2) + 4
        x, y = ((low + high) / 2).tolist()
        return int(x - reach), int(y - reach), ceil(x + reach), ceil(y + reach)

    def _cut_out(self, count: int) -> None:
        """Deal with the first so many of the frames that wait."""
        if count <= 0:
            return
        with self._stages.timed("crop"):
            first, frames = self._first, self._waiting[:count]
            self._first, self._waiting = first + count, self._waiting[count:]
            turned = dict[int, list[float]]()
            for number, frame in enumerate(frames):
                for track, landmarks in frame.faces:
                    person = self._people[id(track)]
                    if id(track) not in turned:
                        turned[id(track)] = person.turns(first, first + count).tolist()
                    self._cut(first + number, frame.pixels, person, landmarks, turned[id(track)][number])

    def _cut(self, number: int, frame: ShownFrame, person: _Person, landmarks: np.ndarray, degrees: float) -> None:
        upright = to_upright(landmarks, degrees, self.size)
        try:
            box = upright_box(upright, degrees, self.size, self._settings.margin_px)
        except ValueError:  # tracked out of the frame
            return
        face = UprightBox(box, degrees).crop(frame, self._settings.face_size)
        picture = encode_picture(face)
        self._file.write(picture)
        looks = sharpness(face), brightness(face)
        person.rows.extend((number, degrees, *box.tolist(), self._written, len(picture), *looks))
        self._written += len(picture)

    def finish(self, frames: int, kept: Sequence[FaceTrack]) -> CutFaces:
        """The faces of those who are kept, after the last frame.

        Args:
            frames: of the video.
            kept: one person of a shot at most.
        """
        self._cut_out(len(self._waiting))
        rows = [np.frombuffer(self._people[id(track)].rows).reshape(-1, _ROW) for track in kept]
        found = np.concatenate([np.zeros((0, _ROW)), *rows])
        every = np.zeros((frames, _ROW - 1))
        every[found[:, 0].astype(np.int64)] = found[:, 1:]
        degrees, boxes, places, looks = np.split(every, [1, 5, 7], axis=1)
        return CutFaces(degrees[:, 0].astype(np.float32), boxes.astype(np.int32), places.astype(np.int64), looks)

    def pictures(self, faces: CutFaces) -> Iterator[bytes]:
        """The JPEG of every frame; empty where there is none."""
        for place, length in faces.places.tolist():
            self._file.seek(place)
            yield self._file.read(length)
