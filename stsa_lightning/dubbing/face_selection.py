"""Whose mouth is re-rendered: the faces of a video followed through it, and one of them chosen in each shot."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Protocol, TypeVar

import numpy as np

from stsa_lightning.constants import FPS, SAMPLE_RATE_HZ
from stsa_lightning.dubbing.face_track import Faces, settle_faces
from stsa_lightning.dubbing.pipeline import Pipeline
from stsa_lightning.dubbing.progress import Bars
from stsa_lightning.dubbing.report import DubError
from stsa_lightning.face.cuts import CutDetector
from stsa_lightning.face.landmarks import LandmarkDetector
from stsa_lightning.face.occlusion import CUES, PLACES, face_colours, lip_contrast
from stsa_lightning.face.speaking import sound_level
from stsa_lightning.face.topology import LANDMARKS
from stsa_lightning.face.tracks import FaceFollower, FaceTrack, choose
from stsa_lightning.media.audio import AudioError, load_audio
from stsa_lightning.media.video_source import VideoSource
from stsa_lightning.utils.disk_array import DiskArray

_MINUTE = 60 * SAMPLE_RATE_HZ

Someone = TypeVar("Someone")
Shot = tuple[int, int, list[FaceTrack]]  # first frame, the first after the last, the people


class Follower(Protocol):
    """What `FaceFollower` does."""

    def update(self, frames: np.ndarray) -> None: ...
    @property
    def seen(self) -> list[FaceTrack]: ...
    def shots(self) -> list[Shot]: ...
    def everyone(self) -> list[Shot]: ...
    def close(self) -> None: ...


class OneFace:
    """A `Follower` of the one face that a detector of the caller finds."""

    def __init__(self, detector: LandmarkDetector) -> None:
        self._detector, self._is_cut = detector, CutDetector()
        self._frames, self._shots = 0, [(0, FaceTrack())]

    def update(self, frames: np.ndarray) -> None:
        for frame in frames:
            if self._is_cut(frame):
                self._shots.append((self._frames, FaceTrack()))
            landmarks = self._detector(frame)
            if landmarks is not None:
                self._shots[-1][1].add(self._frames, landmarks)
            self._frames += 1

    @property
    def seen(self) -> list[FaceTrack]:
        track = self._shots[-1][1]
        return [track] if track.frames and track.frames[-1] == self._frames - 1 else []

    def shots(self) -> list[Shot]:
        stops = [start for start, _ in self._shots[1:]] + [self._frames]
        return [
            (start, stop, [track] * bool(track.frames)) for (start, track), stop in zip(self._shots, stops, strict=True)
        ]

    everyone = shots

    def close(self) -> None:
        """The detector is the caller's."""


class FaceSelector:
    """Sees the frames of a video one after another and says what is re-rendered; a context manager.

    Args:
        face: "auto" (who speaks in the source, else the largest), "largest", "left", "right", or "N", the N-th from the
            left, chosen in each shot.
        detector: finds one face a frame; None follows all faces.
        landmark_model: see `FaceFollower`.

    Raises:
        DubError: an unknown `face`.
    """

    def __init__(
        self, face: str = "auto", detector: LandmarkDetector | None = None, landmark_model: Path | None = None
    ) -> None:
        self.face = checked_face(face)
        self._follower: Follower = FaceFollower(landmark_model) if detector is None else OneFace(detector)
        self._colours: dict[int, bytearray] = {}  # of each person, by identity
        self._contrast: dict[int, bytearray] = {}
        self.frames = 0

    def update(self, frame: np.ndarray) -> None:
        """(H, W, 3) uint8 RGB, the next frame."""
        self._follower.update(frame[None])
        self.frames += 1
        for track in self._follower.seen:
            colours = face_colours(frame, track.landmarks[-1])
            self._colours.setdefault(id(track), bytearray()).extend(colours.tobytes())
            contrast = lip_contrast(frame, track.landmarks[-1])
            self._contrast.setdefault(id(track), bytearray()).extend(contrast.tobytes())

    def finish(
        self,
        times_s: np.ndarray,
        fps: float,
        size: tuple[int, int],
        level: np.ndarray | None,
        steady: bool,
        check: bool = True,
    ) -> Faces:
        """What is re-rendered.

        Args:
            times_s: (F,) when each frame is shown.
            fps: frames a second.
            size: width and height of the frames.
            level: of the source's sound, `sound_level` at 25/s; None: it has none.
            steady: see `settle_faces`.
            check: pass through where no lips are seen.
        """
        chosen, choices = list[FaceTrack](), Counter[str]()
        loudness = None if level is None else at_frames(level, times_s)
        for start, stop, people in self._follower.shots():
            found = _chosen(self.face, people, start, stop, loudness)
            if found is not None:
                chosen.append(found[0])
                choices[found[1]] += 1
        self.close()
        message = "; ".join(f"{reason} ({n} shots)" if n > 1 else reason for reason, n in choices.items()) or "no face"
        return self.settled(chosen, fps, size, message, steady, check)

    def settled(
        self, tracks: list[FaceTrack], fps: float, size: tuple[int, int], choice: str, steady: bool, check: bool
    ) -> Faces:
        """`settle_faces` of some tracks, no two of which are seen at once."""
        landmarks = np.full((self.frames, len(LANDMARKS), 2), np.nan, np.float32)
        colours = np.zeros((self.frames, PLACES, 3), np.uint8)
        contrast = np.full((self.frames, CUES), np.nan, np.float32)
        for track in tracks:
            track.put(landmarks, 0)
            colours[track.frames] = np.frombuffer(self._colours[id(track)], np.uint8).reshape(-1, PLACES, 3)
            contrast[track.frames] = np.frombuffer(self._contrast[id(track)], np.float32).reshape(-1, CUES)
        starts = [start for start, _ in self.shots]
        return settle_faces(landmarks, colours, starts, fps, size, choice, steady, contrast if check else None)

    @property
    def shots(self) -> list[tuple[int, int]]:
        """First frame of each shot, and the first after it."""
        return [(start, stop) for start, stop, _ in self._follower.everyone()]

    def close(self) -> None:
        self._follower.close()

    def __enter__(self) -> FaceSelector:
        return self

    def __exit__(self, _kind: type[BaseException] | None, _error: object, _trace: TracebackType | None) -> None:
        self.close()


def watch(source: VideoSource, selector: FaceSelector, until_s: float, times: Pipeline, bars: Bars) -> None:
    """Show a selector the frames of a video up to a time."""
    expected = int(min(source.info.frames, until_s * source.fps + 1))
    with Pipeline() as pipeline:
        frames = pipeline.source("find: decode", source.scan(until_s))
        for frame in bars.track(frames, expected, description="finding the face"):
            with times.timed("find: landmarks"):
                selector.update(frame)
    times.seconds.update(pipeline.seconds)


def loudness(source: VideoSource) -> np.ndarray | None:
    """Of the source's sound, to find the speaker; None where it has none that decides."""
    if not source.info.has_audio:
        return None
    try:
        return source_level(source.path, float(source.times_s[-1]) + 1)
    except AudioError:
        return None


def loudness_at_frames(source: VideoSource) -> np.ndarray | None:
    """(F,) the same at the source's frames."""
    level = loudness(source)
    return None if level is None else at_frames(level, source.times_s)


def checked_face(face: str) -> str:
    if face in ("auto", "largest", "left", "right") or (face.isdecimal() and int(face) > 0):
        return face
    raise DubError(f"face: expected auto, largest, left, right or a number from 1 (the leftmost) on, got {face!r}")


def _chosen(
    face: str, people: list[FaceTrack], start: int, stop: int, level: np.ndarray | None
) -> tuple[FaceTrack, str] | None:
    """Of the people of a shot the one to re-render, and why; None: nobody."""
    if not people:
        return None
    if face == "auto":
        return choose(people, start, stop, None if level is None else level[start:stop])
    if face == "largest":
        return max(people, key=lambda track: track.area), "the largest"
    return by_place(sorted(people, key=lambda track: track.middle_x), face)


def by_place(ordered: Sequence[Someone], face: str) -> tuple[Someone, str] | None:
    """Who of some, from the left to the right, is meant by "left", "right" or a number, and why; None: nobody."""
    if face in ("left", "right"):
        return ordered[0 if face == "left" else -1], f"on the {face}"
    place = int(face) - 1
    return (ordered[place], f"number {face} from the left") if place < len(ordered) else None


def at_frames(level: np.ndarray, times_s: np.ndarray) -> np.ndarray:
    """(F,) a level at 25/s, at the frames of another rate."""
    return level[np.clip((times_s * FPS + 1e-6).astype(int), 0, len(level) - 1)]


def source_level(path: Path, seconds: float) -> np.ndarray:
    """`sound_level` of a file's own sound at 25/s, a minute in memory at a time."""
    samples = DiskArray()
    try:
        samples.claim(len(load_audio(path, stop_s=seconds, out_file=samples.file)))
        parts = [sound_level(samples[i : i + _MINUTE], FPS * 60) for i in range(0, len(samples), _MINUTE)]
    finally:
        samples.close()
    return np.concatenate(parts)
