"""Who says each segment."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from stsa_lightning.dubbing.face_selection import loudness_at_frames
from stsa_lightning.dubbing.people import TrackedPerson, choose_person
from stsa_lightning.dubbing.report import DubError
from stsa_lightning.dubbing.segments import NOBODY, Segment
from stsa_lightning.dubbing.voices import Voices
from stsa_lightning.media.video_source import VideoSource


@dataclass(frozen=True)
class Role:
    """Who says a segment, and why, in words; `person` None: nobody who is seen."""

    person: TrackedPerson | None
    reason: str


class Casting:
    """Finds out who says each segment.

    Args:
        segments, voices: what is said.
        people: of the video.
        source: the video, scanned.
    """

    def __init__(
        self, segments: Sequence[Segment], voices: Voices, people: Sequence[TrackedPerson], source: VideoSource
    ) -> None:
        self._segments, self._people, self._times_s, self._size = segments, people, source.times_s, source.size
        sought = any(segment.face == "auto" for segment in segments)
        self._level = loudness_at_frames(source) if sought else None
        self._shown = [
            (source.times_s >= segment.start_s) & (source.times_s < voices.end_s(number))
            for number, segment in enumerate(segments)
        ]

    def roles(self) -> list[Role]:
        """Of each segment.

        A face that a segment names is looked for in its own time. Segments of one speaker that name none are said by
        whom another one of this speaker names, else by whoever is found in all of them together.

        Raises:
            DubError: a face that is none of the video's; the message names the segment.
        """
        return [self._role(number) for number in range(len(self._segments))]

    def _role(self, number: int) -> Role:
        segment = self._segments[number]
        if segment.face != "auto" or not segment.speaker:
            return self._found(number, self._shown[number])
        theirs = [n for n, other in enumerate(self._segments) if other.speaker == segment.speaker]
        named = next((n for n in theirs if self._segments[n].face != "auto"), None)
        if named is not None:
            return self._found(named, self._shown[named])
        return self._found(number, np.any([self._shown[n] for n in theirs], axis=0))

    def _found(self, number: int, frames: np.ndarray) -> Role:
        segment = self._segments[number]
        if segment.face == NOBODY:
            return Role(None, "a voice from off screen")
        if not frames.any():
            return Role(None, "the video is over")
        try:
            found = choose_person(
                self._people, segment.face, np.flatnonzero(frames), self._times_s, self._size, self._level
            )
        except DubError as error:
            raise DubError(f"{segment.where}, column {error}") from None
        return Role(None, "nobody is seen there") if found is None else Role(*found)
