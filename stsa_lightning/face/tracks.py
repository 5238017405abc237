"""Faces followed through a video: cuts, several people, lost faces; and whose landmarks to keep."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, MutableSequence, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from stsa_lightning.face.cuts import CutDetector
from stsa_lightning.face.face_detector import FaceDetector
from stsa_lightning.face.landmarks import LandmarkDetector, landmark_detector
from stsa_lightning.face.orientation import Orientation
from stsa_lightning.face.pose import yaw_degrees
from stsa_lightning.face.speaking import mouth_follows_sound, sound_level
from stsa_lightning.face.topology import LANDMARKS
from stsa_lightning.media.shown_frame import Frame
from stsa_lightning.utils.disk_array import DiskArray

MAX_FACES = 5  # followed at once
_LOOK_EVERY = 25  # frames between two looks for further faces
_SAME = 0.3  # of a face's size: two faces nearer than that in place and size are one, found twice
_FAR, _FAR_GONE = 0.6, 1.5  # nearer than that it may be the person of the frame before, or one who was gone meanwhile
_JUMP = 0.25  # of a face's size: a face that moves or grows that much in one frame is looked up anew
_LEAST_FRAMES = 3  # a face seen in fewer frames of a shot is a mistake
_LEAST_SHARE = 0.2  # of a shot: who is seen for less is not counted among its people
# A mouth follows the sound, and better than the others'. Both limits are divided by the root of the shot's frames, as
# chance correlations are. Of pairs of real clips, 4 s each, both talking, with the sound of one, 57 in 100 are decided,
# 94 % of these rightly; the limits were chosen on the same clips.
_CLEAR_R, _CLEAR_MARGIN = 2.5, 1.2


@dataclass
class FaceTrack:
    """One person within one shot."""

    frames: list[int] = field(default_factory=list)  # rising
    landmarks: MutableSequence[np.ndarray] = field(default_factory=list)  # (131, 2) each, pixels

    def add(self, frame: int, landmarks: np.ndarray) -> None:
        self.frames.append(frame)
        self.landmarks.append(landmarks)

    def within(self, start: int, stop: int) -> np.ndarray:
        """Landmarks of the frames of a shot: (stop - start, 131, 2) float32, NaN where the face is not seen."""
        out = np.full((stop - start, len(LANDMARKS), 2), np.nan, np.float32)
        self.put(out, start)
        return out

    def put(self, out: np.ndarray, start: int) -> None:
        """As `within`, into an array that holds NaN."""
        for frame, landmarks in zip(self.frames, self.landmarks, strict=True):
            out[frame - start] = landmarks

    @property
    def area(self) -> float:
        """Area of the face's box, summed over the frames."""
        return sum(float(np.prod(np.ptp(landmarks, axis=0))) for landmarks in self.landmarks)

    @property
    def middle_x(self) -> float:
        """Where the face is from left to right, pixels, on average."""
        return sum(_place(landmarks)[0] for landmarks in self.landmarks) / len(self.landmarks)


class _OnDisk(MutableSequence[np.ndarray]):
    """Landmarks of one person, in a file that all people share: those of an hour would fill the memory."""

    def __init__(self, points: DiskArray) -> None:
        self._points, self._rows, self._last = points, list[int](), np.zeros(0)

    def insert(self, index: int, value: np.ndarray) -> None:
        if index != len(self):
            raise IndexError("landmarks are kept in the order of frames")
        self._rows.append(len(self._points))
        self._points.append(value.reshape(1, -1))
        self._last = value

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: Any) -> Any:
        row = self._rows[index]
        if row == self._rows[-1]:
            return self._last
        return self._points[row : row + 1].reshape(-1, 2)

    def __setitem__(self, index: Any, value: Any) -> None:
        raise TypeError("landmarks on disk stay as they are")

    __delitem__ = __setitem__  # type: ignore[assignment]


@dataclass(frozen=True)
class Following:
    """What was followed through a video of F frames.

    Attributes:
        landmarks: (F, 131, 2) float32 pixels of the kept face; NaN where there is none.
        cuts: first frames of the shots after the first.
        faces: the most people seen in one shot.
        choice: whose face was kept and why, in words.
        yaw: (F,) float32 degrees, see `yaw_degrees`; NaN where there is no face.
        kept: who was kept, shot by shot, where anybody was seen.
    """

    landmarks: np.ndarray
    cuts: list[int]
    faces: int
    choice: str
    yaw: np.ndarray
    kept: list[FaceTrack]


class FaceFollower:
    """Follows the faces of one video, given in order and in blocks of any size; a context manager.

    While there is one face, it is followed in tracking mode. About once a second, and after each cut, a quick look
    counts the faces; if there are several, all of them (up to `MAX_FACES`) are followed until fewer are seen. A face
    that is lost or jumps is looked up anew in that very frame. Where no face is followed, heads that lie or stand
    upside down are looked for as well. What is kept of a frame is the landmarks: 1 kB for each face, on disk.

    Args:
        landmark_model: None for FaceMesh; a FaceLandmarker `.task` file. See `landmark_detector`.

    Raises:
        ImportError, FileNotFoundError, ValueError: as `landmark_detector`.
    """

    def __init__(self, landmark_model: Path | str | None = None) -> None:
        self._model = landmark_model
        self._detectors: dict[tuple[bool, int], LandmarkDetector] = {}
        self._open = ExitStack()
        self._is_cut, self._find_faces = CutDetector(), FaceDetector()
        self._points = DiskArray(2 * len(LANDMARKS))
        self._frames = 0
        self._expected = 1  # faces
        self._orientation = Orientation(self._find_faces)
        self._shots: list[tuple[int, list[FaceTrack]]] = [(0, [])]  # first frame, people
        self._detector(static=False)  # what is amiss with the model shows before the work begins

    def update(self, frames: np.ndarray) -> None:
        """Follow the next frames: (n, H, W, 3) uint8 RGB at 25/s.

        Raises:
            ValueError: frames of another shape or type.
        """
        if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[3] != 3:
            raise ValueError(f"frames: expected (n, H, W, 3) uint8 RGB, got {frames.shape} {frames.dtype}")
        for frame in frames:
            self.follow(frame)

    def follow(self, frame: Frame) -> bool:
        """Follow the next frame, (H, W, 3) uint8 RGB at 25/s; whether it is the first one after a cut."""
        number, shot = self._frames, self._shots[-1]
        self._frames += 1
        cut = self._is_cut(frame)
        if cut:
            shot = (number, [])
            self._shots.append(shot)
            self._expected = 0
            self._orientation = Orientation(self._find_faces)
        start, tracks = shot
        if (number - start) % _LOOK_EVERY == 0:
            self._look(frame, seen=sum(track.frames[-1] == number - 1 for track in tracks))
        faces = self._faces(frame, static=False)
        if any(_went_astray(track.landmarks[-1], faces) for track in tracks if track.frames[-1] == number - 1):
            again = self._faces(frame, static=True)
            if len(again) >= len(faces):
                faces = again
                self._detector(static=False).forget()
        _add(faces, tracks, number, lambda: FaceTrack(landmarks=_OnDisk(self._points)))
        return cut

    @property
    def seen(self) -> list[FaceTrack]:
        """Whoever was seen in the last frame."""
        return [track for track in self._shots[-1][1] if track.frames[-1] == self._frames - 1]

    def shots(self) -> list[tuple[int, int, list[FaceTrack]]]:
        """First frame, the first after the last, and the people of each shot."""
        return [(start, stop, _people(real, stop - start)) for start, stop, real in self.everyone()]

    def everyone(self) -> list[tuple[int, int, list[FaceTrack]]]:
        """As `shots`, but with those who are seen for a small part of a shot."""
        stops = [start for start, _ in self._shots[1:]] + [self._frames]
        return [
            (start, stop, _real(tracks, stop - start)) for (start, tracks), stop in zip(self._shots, stops, strict=True)
        ]

    def _look(self, frame: Frame, seen: int) -> None:
        """Set which way up faces are, and how many to follow."""
        before = self._orientation.quarters
        self._orientation.sure &= seen > 0  # whoever comes may be another way up
        expected = min(max(self._orientation.look(frame), seen, 1), MAX_FACES)
        if self._orientation.quarters != before:
            self._detector(static=False).forget()
        if expected != self._expected:
            self._expected = expected
            self._detector(static=False).forget()

    def _faces(self, frame: Frame, static: bool) -> list[np.ndarray]:
        return _within(self._orientation.faces(frame, self._detector(static)), frame)

    def _detector(self, static: bool) -> LandmarkDetector:
        key = (static, max(1, self._expected))
        if key not in self._detectors:
            detector = landmark_detector(self._model, static, key[1])
            self._detectors[key] = self._open.enter_context(closing(detector))
        return self._detectors[key]

    def finish(self, wave: np.ndarray | None = None) -> Following:
        """Choose, in each shot, whose face is kept: who speaks, if that is clear, else the largest.

        People are not recognised across cuts: each shot is chosen for itself.

        Args:
            wave: (samples,) float mono at 16 kHz, from the first frame on; None: no sound.
        """
        self.close()
        landmarks = np.full((self._frames, len(LANDMARKS), 2), np.nan, np.float32)
        level = None if wave is None else sound_level(wave, self._frames)
        faces, choices, kept = 0, Counter[str](), list[FaceTrack]()
        for start, stop, people in self.shots():
            if people:
                chosen, choice = choose(people, start, stop, None if level is None else level[start:stop])
                chosen.put(landmarks[start:stop], start)
                choices[choice] += 1
                kept.append(chosen)
            faces = max(faces, len(people))
        cuts = [start for start, _ in self._shots[1:]]
        return Following(landmarks, cuts, faces, _summary_of(choices), yaw_degrees(landmarks), kept)

    def close(self) -> None:
        """Frees the models, which `finish` does as well."""
        self._open.close()
        self._detectors.clear()

    def __enter__(self) -> FaceFollower:
        return self

    def __exit__(self, _kind: type[BaseException] | None, _error: object, _trace: TracebackType | None) -> None:
        self.close()


def _real(tracks: list[FaceTrack], frames: int) -> list[FaceTrack]:
    """The tracks of a shot that are no mistakes."""
    return [track for track in tracks if len(track.frames) >= min(_LEAST_FRAMES, frames)]


def _people(real: list[FaceTrack], frames: int) -> list[FaceTrack]:
    """Who counts among the people of a shot: without those hardly seen if others are."""
    return [track for track in real if len(track.frames) >= _LEAST_SHARE * frames] or real


def choose(people: list[FaceTrack], start: int, stop: int, level: np.ndarray | None) -> tuple[FaceTrack, str]:
    """Of the people of a shot the one to keep, and why: who speaks if that is clear, else the largest.

    Args:
        people: at least one.
        start, stop: first frame of the shot, and the first after it.
        level: (stop - start,) of `sound_level`; None: no sound.
    """
    if len(people) == 1:
        return people[0], "only face"
    if level is not None:
        found = clear_speaker([track.within(start, stop) for track in people], level)
        if found is not None:
            return people[found[0]], f"speaks: {found[1]}"
    return max(people, key=lambda track: track.area), f"largest of {len(people)} faces"


def clear_speaker(people: Sequence[np.ndarray], level: np.ndarray) -> tuple[int, str] | None:
    """Whose mouth follows the sound, clearly and better than the others': which one, and in words; None: unclear.

    Args:
        people: (F, 131, 2) landmarks of each, NaN where not seen.
        level: (F,) of `sound_level`.
    """
    follows = np.nan_to_num([mouth_follows_sound(landmarks, level) for landmarks in people])
    best, *others = np.argsort(follows)[::-1]
    second = follows[others[0]] if others else 0.0
    scale = max(len(level), 1) ** 0.5
    if follows[best] < _CLEAR_R / scale or follows[best] - second < _CLEAR_MARGIN / scale:
        return None
    against = f" against {second:.2f}" if others else ""
    return int(best), f"mouth follows the sound, r {follows[best]:.2f}{against}"


def _summary_of(choices: Counter[str]) -> str:
    """The reasons of all shots in one line."""
    if not choices:
        return "no face"
    if choices.total() == 1:
        return next(iter(choices))
    shots = "; ".join(f"{reason} ({count})" if count > 1 else reason for reason, count in choices.items())
    return f"chosen in each of {choices.total()} shots: {shots}"


def _within(faces: list[np.ndarray], frame: Frame) -> list[np.ndarray]:
    """The faces whose middle lies in the frame, each once."""
    kept: list[np.ndarray] = []
    for face in faces:
        x, y, _ = _place(face)
        inside = 0 <= x < frame.shape[1] and 0 <= y < frame.shape[0]
        if inside and all(_distance(face, other) > _SAME for other in kept):
            kept.append(face)
    return kept


def _went_astray(before: np.ndarray, faces: list[np.ndarray]) -> bool:
    """Whether a face of the frame before is not where it must be in this one."""
    return min((_distance(before, face) for face in faces), default=math.inf) > _JUMP


def _distance(a: np.ndarray, b: np.ndarray) -> float:
    """How far two faces are apart in place and size, as a share of the larger one's size."""
    (ax, ay, a_size), (bx, by, b_size) = _place(a), _place(b)
    return max(math.hypot(ax - bx, ay - by), abs(a_size - b_size)) / max(a_size, b_size, 1e-6)


def _place(face: np.ndarray) -> tuple[float, float, float]:
    """Middle and size of a face's box. Asked for several times a frame, hence the bare reductions."""
    left, top = np.minimum.reduce(face).tolist()
    right, bottom = np.maximum.reduce(face).tolist()
    return (left + right) / 2, (top + bottom) / 2, max(right - left, bottom - top)


def _add(faces: list[np.ndarray], tracks: list[FaceTrack], number: int, new: Callable[[], FaceTrack]) -> None:
    """Give each face of a frame to the nearest person of the shot, or to a new one."""
    here = [track for track in tracks if track.frames[-1] == number - 1]
    gone = [track for track in tracks if track.frames[-1] < number - 1]
    faces = _assign(faces, here, _FAR, number)
    faces = _assign(faces, gone, _FAR_GONE, number)
    if len(faces) == len(tracks) == 1 and tracks[0].frames[-1] < number:  # nobody else it could be
        tracks[0].add(number, faces.pop())
    for face in faces:
        tracks.append(new())
        tracks[-1].add(number, face)


def _assign(faces: list[np.ndarray], tracks: list[FaceTrack], far: float, number: int) -> list[np.ndarray]:
    """Give faces to people, the nearest pairs first; what is left over."""
    pairs = [
        (_distance(track.landmarks[-1], face), t, f) for t, track in enumerate(tracks) for f, face in enumerate(faces)
    ]
    given_tracks, given_faces = set[int](), set[int]()
    for distance, t, f in sorted(pairs):
        if distance < far and t not in given_tracks and f not in given_faces:
            tracks[t].add(number, faces[f])
            given_tracks.add(t)
            given_faces.add(f)
    return [face for f, face in enumerate(faces) if f not in given_faces]
