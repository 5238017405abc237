"""The people of a video: followed within each shot, recognised in others, and chosen by id, place or speech."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path

import cv2
import numpy as np

from stsa_lightning.dubbing.face_selection import FaceSelector, by_place
from stsa_lightning.dubbing.report import DubError
from stsa_lightning.face.appearance import SAME_PERSON, difference, face_patch
from stsa_lightning.face.landmarks import LandmarkDetector
from stsa_lightning.face.pose import yaw_degrees
from stsa_lightning.face.topology import LANDMARKS
from stsa_lightning.face.tracks import FaceTrack, clear_speaker

_KEPT = 8  # patches of a track
_NEVER = 1e9  # a difference that no average makes up for
_LEAST_S = 0.4  # who is seen for less is a mistake
_LEAST_SHARE = 0.2  # of a span: who is seen for less of it is not asked for by left, right, N, largest or auto
_NEAR = 1.5  # of a face's size: further from a place nobody is there
_POINT = re.compile(r"(-?[\d.]+),(-?[\d.]+)(?:@([\d.]+))?")
_PICTURE_PX = 160
FORMS = (
    "auto, largest, left, right, a number from 1 (the leftmost) on, a person's id (p1, see `stsa faces`), or a place "
    "X,Y (parts of width and height; X,Y@SECONDS: at that time)"
)


@dataclass
class _Look:
    """What a track looks like: a few patches, evenly over its frames, and the best picture."""

    patches: list[np.ndarray] = field(default_factory=list)
    stride: int = 2
    best: float = 0.0
    picture: np.ndarray | None = None

    def add(self, number: int, frame: np.ndarray, landmarks: np.ndarray) -> None:
        """The face in its frame of this number, counted within the track."""
        if number % self.stride:
            return
        self.patches.append(face_patch(frame, landmarks))
        if len(self.patches) > _KEPT:
            self.patches, self.stride = self.patches[::2], 2 * self.stride
        good = float(np.ptp(landmarks, axis=0).min()) * np.cos(np.radians(float(yaw_degrees(landmarks)))) ** 2
        if good > 1.1 * self.best:
            self.best, self.picture = good, _portrait(frame, landmarks)


@dataclass
class TrackedPerson:
    """One person of a video.

    Attributes:
        id: "p1" and so on, in the order in which people come into the picture, of several at once from the left.
        tracks: of their face, in the order of time; no two at once.
        picture: (h, w, 3) uint8, head and shoulders.
        frames: (n,) numbers of the frames in which they are seen, rising.
    """

    id: str
    tracks: list[FaceTrack]
    picture: np.ndarray
    frames: np.ndarray

    def landmarks(self, frames: np.ndarray) -> np.ndarray:
        """(n, 131, 2) pixels in frames of rising numbers; NaN where they are not seen."""
        found = np.full((len(frames), len(LANDMARKS), 2), np.nan, np.float32)
        for track in self.tracks:
            first, last = (bisect_left(track.frames, int(end)) for end in (frames[0], frames[-1] + 1))
            for place in range(first, last):
                at = int(np.searchsorted(frames, track.frames[place]))
                if frames[at] == track.frames[place]:
                    found[at] = track.landmarks[place]
        return found


class PeopleFinder(FaceSelector):
    """Sees the frames of a video one after another and says who is in it; a context manager.

    People are told apart within a shot by where they are, and recognised in others by what they look like
    (`face.appearance`): whoever is seen at the same time is not one person.

    Args:
        detector, landmark_model: as for `FaceSelector`.
    """

    def __init__(self, detector: LandmarkDetector | None = None, landmark_model: Path | None = None) -> None:
        super().__init__("auto", detector, landmark_model)
        self._looks: dict[int, _Look] = {}

    def update(self, frame: np.ndarray) -> None:
        super().update(frame)
        for track in self._follower.seen:
            look = self._looks.setdefault(id(track), _Look())
            look.add(len(track.frames) - 1, frame, track.landmarks[-1])

    def __enter__(self) -> PeopleFinder:
        return self

    def people(self, fps: float) -> list[TrackedPerson]:
        """Everyone who is seen for 0.4 s or more, at `fps` frames a second."""
        tracks = [track for _, _, people in self._follower.everyone() for track in people]
        groups = _grouped(tracks, [np.stack(self._looks[id(track)].patches) for track in tracks])
        least = min(_LEAST_S * fps, self.frames)
        groups = [group for group in groups if sum(len(track.frames) for track in group) >= least]
        groups.sort(key=lambda group: (group[0].frames[0], group[0].middle_x))
        return [self._person(f"p{number}", group) for number, group in enumerate(groups, 1)]

    def _person(self, name: str, tracks: list[FaceTrack]) -> TrackedPerson:
        look = max((self._looks[id(track)] for track in tracks), key=lambda look: look.best)
        picture = np.zeros((1, 1, 3), np.uint8) if look.picture is None else look.picture
        return TrackedPerson(name, tracks, picture, np.concatenate([np.asarray(track.frames) for track in tracks]))


def _grouped(tracks: list[FaceTrack], patches: list[np.ndarray]) -> list[list[FaceTrack]]:
    """Tracks of one person together: those that are alike on average, unless they are seen at the same time."""
    from scipy.cluster.hierarchy import fcluster, linkage

    if len(tracks) < 2:
        return [[track] for track in tracks]
    pairs = list(combinations(range(len(tracks)), 2))
    apart = [_NEVER if _at_once(tracks[i], tracks[j]) else difference(patches[i], patches[j]) for i, j in pairs]
    numbers = fcluster(linkage(np.minimum(apart, _NEVER), "average"), SAME_PERSON, "distance")
    return [[tracks[i] for i in np.flatnonzero(numbers == number)] for number in np.unique(numbers)]


def _at_once(a: FaceTrack, b: FaceTrack) -> bool:
    """Whether two tracks share a frame."""
    return a.frames[-1] >= b.frames[0] and b.frames[-1] >= a.frames[0] and not set(a.frames).isdisjoint(b.frames)


def choose_person(
    people: Sequence[TrackedPerson],
    face: str,
    frames: np.ndarray,
    times_s: np.ndarray,
    size: tuple[int, int],
    level: np.ndarray | None = None,
) -> tuple[TrackedPerson, str] | None:
    """Whom a word for a face means in some frames of a video, and why; None: nobody is there.

    Args:
        people: all of the video's.
        face: one of `FORMS`.
        frames: (n,) rising numbers of the frames that matter.
        times_s: (F,) when each frame of the video is shown.
        size: width and height of the frames.
        level: (F,) loudness of the source's sound at its frames, to find who speaks; None: it has none.

    Raises:
        DubError: a word that is none, or an id that nobody has.
    """
    checked_person(face)
    if face.startswith("p"):
        for person in people:
            if person.id == face:
                return person, face
        known = f"p1 to p{len(people)}" if people else "nobody"
        raise DubError(f"face: expected a person of the video ({known}; see `stsa faces`), got {face}")
    if point := _POINT.fullmatch(face):
        return _at_place(people, face, point, frames, times_s, size)
    seen = {person.id: np.isin(frames, person.frames) for person in people}
    there = [person for person in people if seen[person.id].mean() >= _LEAST_SHARE]
    there = there or [person for person in people if seen[person.id].any()]
    if not there:
        return None
    landmarks = [person.landmarks(frames) for person in there]
    if face in ("auto", "largest"):
        if len(there) == 1:
            return there[0], "only face"
        found = clear_speaker(landmarks, level[frames]) if face == "auto" and level is not None else None
        if found is not None:
            return there[found[0]], f"speaks: {found[1]}"
        areas = [float(np.nansum(np.prod(np.ptp(each, axis=1), axis=1))) for each in landmarks]
        return there[int(np.argmax(areas))], f"largest of {len(there)} faces"
    ordered = sorted(range(len(there)), key=lambda i: float(np.nanmean(landmarks[i][..., 0])))
    return by_place([there[i] for i in ordered], face)


def names_a_person(face: str) -> bool:
    """Whether it takes all of the video to know who is meant, other than by `auto`, `left` and their like."""
    return face.startswith("p") or bool(_POINT.fullmatch(face))


def checked_person(face: str) -> str:
    """Raises DubError for a word that is none of `FORMS`."""
    if face in ("auto", "largest", "left", "right") or re.fullmatch(r"p?[1-9]\d*", face):
        return face
    if (point := _POINT.fullmatch(face)) and all(0 <= _number(part) <= 1 for part in point.groups()[:2]):
        return face
    raise DubError(f"face: expected {FORMS}, got {face!r}")


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return float("nan")


def _at_place(
    people: Sequence[TrackedPerson],
    face: str,
    point: re.Match[str],
    frames: np.ndarray,
    times_s: np.ndarray,
    size: tuple[int, int],
) -> tuple[TrackedPerson, str] | None:
    """Whose face is nearest to a place, in the middle of the frames that they are seen in, or at a time."""
    x, y = (_number(part) * side for part, side in zip(point.groups()[:2], size, strict=True))
    if point[3] is not None:
        frames = np.array([np.abs(times_s - _number(point[3])).argmin()])
    nearest = {}
    for person in people:
        landmarks = person.landmarks(frames)
        low, high = landmarks.min(axis=1), landmarks.max(axis=1)
        distance = np.hypot(*((low + high) / 2 - (x, y)).T) / (high - low).max(axis=1)
        if np.isfinite(distance).any():
            nearest[person.id] = float(np.nanmedian(distance))
    if not nearest or min(nearest.values()) > _NEAR:
        return None
    chosen = min(nearest, key=nearest.__getitem__)
    return next(person for person in people if person.id == chosen), f"at {face}"


def _portrait(frame: np.ndarray, landmarks: np.ndarray) -> np.ndarray:
    """Head and shoulders, at most 160 pixels high."""
    low, high = landmarks.min(axis=0), landmarks.max(axis=0)
    middle, side = (low + high) / 2, 0.95 * float((high - low).max())
    x0, y0 = np.clip(middle - (side, 1.05 * side), 0, None).astype(int)
    x1, y1 = np.ceil(middle + side).astype(int)
    part = frame[y0:y1, x0:x1]
    scale = min(1.0, _PICTURE_PX / max(part.shape[:2]))
    return cv2.resize(part, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
