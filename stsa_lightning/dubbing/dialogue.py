"""A dialogue in one pass: each person's mouth follows their own speech, in the segments of a list.

Every person has a renderer of their own; the frames go from one to the next, so that several faces may be redrawn in
one frame.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from stsa_lightning.constants import SAMPLE_RATE_HZ
from stsa_lightning.dubbing.casting import Casting, Role
from stsa_lightning.dubbing.dubber import Dubber, fitted_schedule
from stsa_lightning.dubbing.face_selection import watch
from stsa_lightning.dubbing.face_track import FAILED, RAMP_S, REASONS, ramp_frames, ramped
from stsa_lightning.dubbing.notes import failed_note, too_large
from stsa_lightning.dubbing.people import PeopleFinder
from stsa_lightning.dubbing.pipeline import Pipeline
from stsa_lightning.dubbing.progress import ProgressCallback, progress_bars
from stsa_lightning.dubbing.renderer import Renderer
from stsa_lightning.dubbing.report import DubError, DubReport, SegmentReport
from stsa_lightning.dubbing.result_file import check_no_input, write_frames
from stsa_lightning.dubbing.schedule import Schedule
from stsa_lightning.dubbing.segments import NOBODY, Segment
from stsa_lightning.dubbing.voices import Heard, Notes, PersonSpeech, Voices, laid_under, mixed
from stsa_lightning.media.audio import probe_audio
from stsa_lightning.media.in_memory import Pictures, Sound, on_disk
from stsa_lightning.media.video import check_output
from stsa_lightning.media.video_source import VideoSource
from stsa_lightning.utils.memory import release_free_memory

Between = Literal["keep", "close"]
BETWEEN = "between segments"  # why a frame passes through
_NO_MATTER_S = 0.1  # of speech that is too long


def dub_segments(
    dubber: Dubber,
    video: str | Path | Pictures,
    segments: Sequence[Segment],
    out: str | Path,
    *,
    sound: str | Path | Sound | None = None,
    between: Between = "keep",
    progress: bool | ProgressCallback = True,
) -> DubReport:
    """Dub a video in which several people speak, each in their own segments.

    The result lasts as long as the video; where a speech, or `sound`, ends later, the dubber's `fit` says what is
    shown.

    Args:
        dubber: networks and options; its `face` is of no matter, for segments name faces.
        video: the people; any frame rate and size, or a still picture, or pictures in memory.
        segments: see `segments.Segment`; `segments.read_segments` reads lists.
        out: as for `Dubber.dub`.
        sound: what is heard; None: the segments' speech at their starts.
        between: what the people of the segments do between theirs: "keep" shows the video's own frames, but for 0.2 s
            before and after each segment, in which the mouth comes and goes; "close" shuts their mouths.
        progress: as for `Dubber.dub`.

    Raises:
        as `Dubber.dub`; messages about a segment name its row, and its column where one is at fault.
    """
    if between not in get_args(Between):
        raise DubError(f"between: expected {', '.join(get_args(Between))}, got {between!r}")
    if dubber.fit == "remap":
        raise DubError("fit: expected loop, freeze or trim, got 'remap', which would move the times that segments name")
    if not segments:
        raise DubError("segments: expected at least one, got none")
    began, out, segments = time.monotonic(), Path(out), sorted(segments, key=lambda segment: segment.start_s)
    times = Pipeline()
    with ExitStack() as opened, progress_bars(progress) as bars:
        opened.callback(release_free_memory)
        laid = None if sound is None else on_disk(sound, opened)
        source = opened.enter_context(VideoSource(on_disk(video, opened)))
        check_no_input(out, [source.path, *(segment.speech for segment in segments), *([laid] if laid else [])])
        check_output(out, source.out_fps, source.size, None, SAMPLE_RATE_HZ)
        if laid is not None:
            probe_audio(laid)  # what is amiss with it shows before the work
        with times.timed("speech"):
            voices = opened.enter_context(Voices(segments, dubber.features, dubber.silence))
        finder = opened.enter_context(PeopleFinder(dubber.detector, dubber.landmark_model))
        watch(source, finder, float("inf"), times, bars)
        people = finder.people(float(source.rate))
        if not people and any(segment.face != NOBODY for segment in segments):
            raise DubError(
                f"{source.path}: no face was found in any of {finder.frames} frames; there is nothing to dub"
            )
        roles = Casting(segments, voices, people, source).roles()
        with times.timed("speech"):
            seconds, heard, notes = _heard(source, voices, laid, dubber.fit == "trim")
            opened.callback(heard[0].close)
        schedule = fitted_schedule(source, seconds, dubber.fit)
        scene = Scene(dubber, source, finder, roles, voices, schedule, between)
        opened.callback(scene.close)
        write_frames(out, scene.frames, source, schedule, heard, times, bars)
    return DubReport(
        out=out,
        frames=len(schedule),
        faces=scene.rendered,
        seconds=seconds,
        fps=source.out_fps,
        width=source.size[0],
        height=source.size[1],
        elapsed_s=time.monotonic() - began,
        passed=scene.passed(),
        shots=len(finder.shots),
        face=", ".join(scene.renderers) or "nobody",
        stages=times.seconds,
        warnings=(*source.warnings(int(schedule.source.max()) + 1), *notes, *scene.warnings(seconds, sound is None)),
        segments=scene.segments,
    )


def _heard(source: VideoSource, voices: Voices, sound: Path | None, trim: bool) -> tuple[float, Heard, Notes]:
    """Length of the result; its sound, see `Heard`; what the user should know."""
    video_s = float(source.times_s[-1] + 1 / source.rate)
    laid = None if sound is None else laid_under(sound)
    if laid is None:
        end_s = max(map(voices.said_s, range(len(voices.segments))))
    else:
        (samples, rate_hz, _), _ = laid
        end_s = len(samples) / rate_hz
    longer = end_s > video_s + 1 / source.rate and not trim
    seconds = end_s if longer else video_s
    if laid is None:
        return seconds, *mixed(voices, seconds)
    samples.resize(max(1, round(seconds * rate_hz)))
    return seconds, *laid


class Scene:
    """The people of the segments, each with a renderer that works on the frames of the one before.

    Args:
        dubber, source, schedule: as for a dub.
        finder: of the people; it has seen the source.
        roles: who says each segment.
        voices: of the segments.
        between: see `dub_segments`.

    Attributes:
        renderers: of each person who says something, by id.
    """

    def __init__(
        self,
        dubber: Dubber,
        source: VideoSource,
        finder: PeopleFinder,
        roles: Sequence[Role],
        voices: Voices,
        schedule: Schedule,
        between: Between,
    ) -> None:
        self._roles, self._voices, self._schedule, self._source = roles, voices, schedule, source
        self.renderers: dict[str, Renderer] = {}
        before: Renderer | None = None
        fps = float(source.rate)
        for name, person in {role.person.id: role.person for role in roles if role.person}.items():
            faces = finder.settled(person.tracks, fps, source.size, name, dubber.steady, dubber.check)
            numbers = self._said_by(name)
            before = self.renderers[name] = Renderer(
                dubber.engine,
                dubber.config,
                source,
                faces,
                schedule,
                PersonSpeech(voices, numbers),
                check=dubber.result_check() if dubber.check else None,
                share=self._share(numbers, faces.shots[schedule.source]) if between == "keep" else None,
                pictures=before.frames if before else None,
            )

    def frames(self, pipeline: Pipeline) -> Iterator[np.ndarray]:
        """(H, W, 3) uint8 RGB each, with all faces."""
        if not self.renderers:
            return pipeline.source("decode", self._source.read(self._schedule.source.tolist()))
        return list(self.renderers.values())[-1].frames(pipeline)

    def close(self) -> None:
        for renderer in self.renderers.values():
            renderer.close()

    def _said_by(self, name: str) -> list[int]:
        return [number for number, role in enumerate(self._roles) if role.person and role.person.id == name]

    def _during(self, number: int, margin_s: float = 0.0) -> np.ndarray:
        """(n,) which of the frames shown lie in a segment."""
        first_s, last_s = self._voices.segments[number].start_s - margin_s, self._voices.end_s(number) + margin_s
        return (self._schedule.times_s >= first_s - 1e-6) & (self._schedule.times_s < last_s - 1e-6)

    def _share(self, numbers: Sequence[int], shots: np.ndarray) -> np.ndarray:
        """(n,) how much of a face may show: all within its segments, and less and less around them."""
        near = np.any([self._during(number, RAMP_S) for number in numbers], axis=0)
        return ramped(near, shots, ramp_frames(float(self._source.out_fps)))

    # -------------------------------------------------------------------------------------------------- what came of it

    @cached_property
    def _why(self) -> dict[str, np.ndarray]:
        """(n,) of each person, place in `REASONS` of each frame shown."""
        return {
            name: np.where(renderer.failed, FAILED, renderer.faces.why[self._schedule.source])
            for name, renderer in self.renderers.items()
        }

    @cached_property
    def _shows(self) -> dict[str, np.ndarray]:
        """(n,) of each person, whether the new mouth shows in each frame."""
        return {name: (self._why[name] == 0) & (renderer.weight > 0) for name, renderer in self.renderers.items()}

    @cached_property
    def _shown(self) -> np.ndarray:
        """(n,) whether anybody's new mouth shows in each frame."""
        return np.any([np.zeros(len(self._schedule), bool), *self._shows.values()], axis=0)

    @property
    def rendered(self) -> int:
        """Frames in which a face was re-rendered."""
        return int(self._shown.sum())

    def passed(self) -> dict[str, int]:
        """Why the other frames passed through, and how many for each reason."""
        why = np.full(len(self._schedule), BETWEEN, object)
        for number, role in enumerate(self._roles):
            if role.person:
                during = self._during(number)
                why[during] = np.array(REASONS, object)[self._why[role.person.id][during]]
        return dict(Counter(why[~self._shown].tolist()))

    @property
    def segments(self) -> tuple[SegmentReport, ...]:
        reports = []
        for number, (segment, role) in enumerate(zip(self._voices.segments, self._roles, strict=True)):
            during, end_s = self._during(number), self._voices.end_s(number)
            name = role.person.id if role.person else ""
            rendered = int((self._shows[name] & during).sum()) if name else 0
            said = (segment.where, segment.start_s, end_s, Path(segment.speech))
            reports.append(SegmentReport(*said, name, role.reason, int(during.sum()), rendered))
        return tuple(reports)

    def warnings(self, seconds: float, speech_is_heard: bool) -> list[str]:
        """What the user should know; `seconds` is the length of the result."""
        found = []
        for number, (segment, report) in enumerate(zip(self._voices.segments, self.segments, strict=True)):
            said_s = self._voices.said_s(number)
            if segment.end_s is not None and said_s > segment.end_s + _NO_MATTER_S:
                late_s = said_s - segment.end_s
                found.append(f"{segment.where}: the speech is {late_s:.2f} s longer than its segment; it goes on")
            if speech_is_heard and said_s > seconds + _NO_MATTER_S:
                cut_s = said_s - max(seconds, segment.start_s)
                found.append(f"{segment.where}: {cut_s:.2f} s of the speech were cut off (--fit trim)")
            if not report.person and segment.face != NOBODY:
                found.append(f"{segment.where}: no mouth follows it: {report.reason}")
            elif report.person and 2 * report.rendered < report.frames:
                found.append(self._passed_note(number, report))
        failed = sum(int((why == FAILED).sum()) for why in self._why.values())
        large = {note for renderer in self.renderers.values() for note in too_large(renderer)}
        return [*found, *self._overlap_notes(), *([failed_note(failed)] if failed else []), *sorted(large)]

    def _passed_note(self, number: int, report: SegmentReport) -> str:
        why = Counter(np.array(REASONS, object)[self._why[report.person][self._during(number)]].tolist())
        listed = ", ".join(f"{reason} {count}" for reason, count in why.most_common() if reason != REASONS[0])
        return (
            f"{report.where}: {report.person} was re-rendered in {report.rendered} of {report.frames} frames ({listed})"
        )

    def _overlap_notes(self) -> list[str]:
        """Of speeches that one mouth would have to say at once."""
        found = []
        for name in self.renderers:
            for first, second in pairwise(self._said_by(name)):
                segments = self._voices.segments
                late_s = self._voices.said_s(first) - segments[second].start_s
                if late_s > _NO_MATTER_S:
                    found.append(
                        f"{segments[second].where}: begins {late_s:.2f} s before {name} has said that of "
                        f"{segments[first].where}; the lips follow the later one"
                    )
        return found
