"""Who is seen in a video, when, and who speaks: for people to look at, and for programs to choose from."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from stsa_lightning.dubbing.face_selection import loudness_at_frames, watch
from stsa_lightning.dubbing.people import PeopleFinder, TrackedPerson
from stsa_lightning.dubbing.pipeline import Pipeline
from stsa_lightning.dubbing.progress import ProgressCallback, progress_bars
from stsa_lightning.dubbing.report import DubError
from stsa_lightning.face.speaking import mouth_follows_sound
from stsa_lightning.face.tracks import clear_speaker
from stsa_lightning.media.video_source import VideoSource
from stsa_lightning.utils.files import written_whole
from stsa_lightning.utils.html import data_uri, render

_GAP_S = 0.4  # who is away for no longer is not away
_WINDOW_S = 4.0  # of speech that decides who speaks
SUFFIXES = (".json", ".html")

Spans = list[tuple[float, float]]


@dataclass(frozen=True)
class Sighting:
    """One person in a video.

    Attributes:
        id: "p1" and so on, which `--face` and the segments' faces take.
        spans: when they are seen, seconds.
        share: of the frames, in which they are seen.
        place: middle of the face, as parts of the frame's width and height, in the median.
        size: height of the face as a part of the frame's, in the median.
        speaks: when their mouth follows the sound, clearly and better than the others'; seconds. What lies between is
            silent or unclear.
        follows_sound: how well it does all the time they are seen, see `mouth_follows_sound`; None: unknown.
        jpeg: their picture.
    """

    id: str
    spans: Spans
    share: float
    place: tuple[float, float]
    size: float
    speaks: Spans
    follows_sound: float | None
    jpeg: bytes

    def json(self) -> dict[str, Any]:
        """What JSON holds of it."""
        return {
            "id": self.id,
            "share": round(self.share, 4),
            "spans": _rounded(self.spans),
            "place": [round(part, 4) for part in self.place],
            "size": round(self.size, 4),
            "speaks": _rounded(self.speaks),
            "follows_sound": None if self.follows_sound is None else round(self.follows_sound, 3),
            "picture": data_uri(self.jpeg),
        }


@dataclass(frozen=True)
class PeopleReport:
    """The people of a video, in the order in which they come into the picture; `warnings` are about its file."""

    video: Path
    seconds: float
    fps: float
    size: tuple[int, int]
    shots: int
    people: tuple[Sighting, ...]
    warnings: tuple[str, ...] = ()

    def json(self) -> dict[str, Any]:
        """What JSON holds of it."""
        return {
            "video": str(self.video),
            "seconds": round(self.seconds, 3),
            "fps": round(self.fps, 4),
            "width": self.size[0],
            "height": self.size[1],
            "shots": self.shots,
            "people": [person.json() for person in self.people],
            "warnings": list(self.warnings),
        }

    def __str__(self) -> str:
        shots = f"{self.shots} shot{'s' * (self.shots > 1)}"
        lines = [f"{self.video}: {len(self.people)} people in {self.seconds:.2f} s, {shots}"]
        for person in self.people:
            speaks_s = sum(stop - start for start, stop in person.speaks)
            x, y = person.place
            lines.append(
                f"{person.id}: seen in {100 * person.share:.0f} % of the frames, from {person.spans[0][0]:.2f} s on, "
                f"at {x:.2f},{y:.2f}; speaks for {speaks_s:.1f} s"
            )
        return "\n".join([*lines, *(f"warning: {text}" for text in self.warnings)])

    def write(self, out: str | Path) -> None:
        """As JSON, or as a page that needs nothing else, by the name's ending; whole or not at all."""
        with written_whole(checked_out(out)) as part:
            if Path(out).suffix.lower() == ".json":
                part.write_text(json.dumps(self.json(), indent=1) + "\n", encoding="utf-8")
            else:
                part.write_text(render(__package__, report=self, pictures=self._pictures), encoding="utf-8")

    @cached_property
    def _pictures(self) -> dict[str, str]:
        return {person.id: data_uri(person.jpeg) for person in self.people}


def checked_out(out: str | Path) -> Path:
    """Raises DubError where a report cannot have this name, FileNotFoundError where its folder is not there."""
    out = Path(out)
    if out.suffix.lower() not in SUFFIXES:
        raise DubError(f"{out}: the name must end in {' or '.join(SUFFIXES)}")
    if not out.parent.is_dir():
        raise FileNotFoundError(f"{out.parent}: no such folder to write {out.name} into; create it first")
    return out


def find_people(
    video: str | Path, progress: bool | ProgressCallback = True, landmark_model: Path | None = None
) -> PeopleReport:
    """Everyone who is seen in a video.

    Args:
        video: any frame rate and size.
        progress: show a bar, or call a `ProgressCallback`.
        landmark_model: a FaceLandmarker `.task` file in place of FaceMesh.

    Raises:
        FileNotFoundError, VideoError: no such video, or one that cannot be read.
    """
    times = Pipeline()
    with VideoSource(video) as source, PeopleFinder(landmark_model=landmark_model) as finder:
        with progress_bars(progress) as bars:
            watch(source, finder, float("inf"), times, bars)
        fps, times_s = float(source.rate), source.times_s
        people = finder.people(fps)
        heard = loudness_at_frames(source)
        speaks = _who_speaks(people, finder.shots, times_s, heard)
        sightings = tuple(_sighting(person, times_s, fps, source.size, heard, speaks[person.id]) for person in people)
        seconds, shots = float(times_s[-1]) + 1 / fps, len(finder.shots)
        return PeopleReport(Path(video), seconds, fps, source.size, shots, sightings, tuple(source.notes()))


def _sighting(
    person: TrackedPerson,
    times_s: np.ndarray,
    fps: float,
    size: tuple[int, int],
    level: np.ndarray | None,
    speaks: Spans,
) -> Sighting:
    landmarks = person.landmarks(person.frames)
    low, high = landmarks.min(axis=1), landmarks.max(axis=1)
    x, y = np.median((low + high) / 2, axis=0) / size
    follows = float("nan") if level is None else mouth_follows_sound(landmarks, level[person.frames])
    return Sighting(
        person.id,
        _spans(times_s[person.frames], 1 / fps, _GAP_S),
        len(person.frames) / len(times_s),
        (float(x), float(y)),
        float(np.median(high[:, 1] - low[:, 1])) / size[1],
        speaks,
        None if np.isnan(follows) else follows,
        cv2.imencode(".jpg", person.picture[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 88])[1].tobytes(),
    )


def _who_speaks(
    people: Sequence[TrackedPerson], shots: list[tuple[int, int]], times_s: np.ndarray, level: np.ndarray | None
) -> dict[str, Spans]:
    """When each of the people speaks, found in windows of about 4 s within the shots."""
    found: dict[str, Spans] = {person.id: [] for person in people}
    if level is None:
        return found
    for start, stop in shots:
        windows = max(1, round(float(times_s[stop - 1] - times_s[start]) / _WINDOW_S))
        for frames in np.array_split(np.arange(start, stop), windows):
            there = [person for person in people if np.isin(frames, person.frames).any()]
            best = clear_speaker([person.landmarks(frames) for person in there], level[frames]) if there else None
            if best is not None:
                person = there[best[0]]
                seen = times_s[frames[np.isin(frames, person.frames)]]
                spans, start_s = found[person.id], float(seen[0])
                if spans and start_s - spans[-1][1] < _GAP_S:
                    start_s = spans.pop()[0]
                spans.append((start_s, float(seen[-1])))
    return found


def _spans(times_s: np.ndarray, frame_s: float, gap_s: float) -> Spans:
    """Stretches of rising times without a larger gap, the last frame of each shown for its time."""
    edges = np.flatnonzero(np.diff(times_s) > gap_s + frame_s) + 1
    return [(float(part[0]), float(part[-1]) + frame_s) for part in np.split(times_s, edges)]


def _rounded(spans: Spans) -> list[list[float]]:
    return [[round(start, 3), round(stop, 3)] for start, stop in spans]
