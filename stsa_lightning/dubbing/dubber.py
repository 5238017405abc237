"""Video + speech -> dubbed video, streaming: a bounded number of frames in memory, whatever the length.

Two passes over the video. The first follows the faces (131 points a frame), chooses whose mouth is re-rendered,
and finds where it cannot be; references are chosen from it. The second redraws the faces block by block. Where nothing
is to be re-rendered, the frame passes through unchanged.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch

from stsa_lightning.constants import SAMPLE_RATE_HZ
from stsa_lightning.data.calibration_speech import calibration_windows
from stsa_lightning.dubbing.face_selection import FaceSelector, loudness, watch
from stsa_lightning.dubbing.face_track import FAILED, REASONS, Faces
from stsa_lightning.dubbing.notes import dub_notes, too_large
from stsa_lightning.dubbing.people import PeopleFinder, checked_person, choose_person, names_a_person
from stsa_lightning.dubbing.person import Person
from stsa_lightning.dubbing.person_file import StoredVideo
from stsa_lightning.dubbing.pipeline import Pipeline
from stsa_lightning.dubbing.progress import Bars, ProgressCallback, progress_bars
from stsa_lightning.dubbing.render_config import RenderConfig, Restore
from stsa_lightning.dubbing.renderer import Observe, Renderer
from stsa_lightning.dubbing.report import DubError, DubReport
from stsa_lightning.dubbing.result_file import check_no_input, write_frames
from stsa_lightning.dubbing.schedule import Fit, Schedule, make_schedule
from stsa_lightning.dubbing.speech_features import LiveSpeech, Silence, Speech, SpeechFeatures
from stsa_lightning.face.check import ResultCheck
from stsa_lightning.face.landmarks import LandmarkDetector, landmark_detector
from stsa_lightning.face.native_resolution import LARGEST_SIDE
from stsa_lightning.features.base import FEATURE_DIMS, AudioFeatures
from stsa_lightning.features.build import audio_features
from stsa_lightning.inference.engine import Engine
from stsa_lightning.inference.frame_inputs import FrameInputBuilder
from stsa_lightning.inference.keypoint_calibration import Calibrator
from stsa_lightning.inference.render_engine import Precision, RenderEngine
from stsa_lightning.media.in_memory import Pictures, Sound, on_disk
from stsa_lightning.media.video import check_output
from stsa_lightning.media.video_source import KnownFrames, VideoSource, longest_gap_s
from stsa_lightning.models.checkpoint import load_networks
from stsa_lightning.models.guidance import Guidance
from stsa_lightning.models.hub import find_networks
from stsa_lightning.models.synthesis import Synthesis
from stsa_lightning.utils.device import choose_device
from stsa_lightning.utils.memory import limit_arenas, release_free_memory

REFERENCE_SECONDS = 10.0  # references come from this much of the video at least, even if the speech is shorter
Resolution = int | Literal["auto", "network"]
LIVE_SECONDS = 6 * 3600.0  # the longest live speech


class Dubber:
    """Re-renders the mouth of a video to match new speech.

    Args:
        guidance, synthesis: the trained networks; put into eval mode and onto `device`.
        features: audio features that both were trained on.
        num_frames: frames of a guidance window, odd.
        heatmap_sigma: width of the heatmaps' lines that the networks were trained on, pixels.
        block: frames per batch; 1 for the least latency.
        detector: finds one face a frame, in place of following all of them.
        landmark_model: a FaceLandmarker `.task` file in place of FaceMesh.
        device: "cpu", "cuda", "cuda:1", "mps" (never tried), or "auto" for the best there is.
        face: whose mouth: "auto" (who speaks in the source, else the largest face), "largest", "left", "right", or "N",
            the N-th from the left, chosen in each shot; or one person through all shots: "p1" (`dubbing.people`), or a
            place "X,Y" (parts of width and height), where need be "X,Y@SECONDS".
        fit: what is shown where the speech is longer than the video: "loop" (forward and backward), "freeze" (the last
            frame), "trim" (the result ends with the video). "remap" shows the whole video slower or faster, so
            that it lasts as long as the speech, whichever is longer.
        silence: "close" lets the networks hear silence in the pauses of the speech, which closes the mouth; "keep"
            leaves their noise, music and breath.
        restore: sharpens each generated face before it is blended: (S, S, 3) uint8 RGB to a square picture of any size.
        steady: smooth landmarks and boxes over time.
        detail: keep the frame's own detail where the new face agrees with it.
        check: pass frames through that would come out worse than they went in: no lips are seen in them, or the
            generated face is none, or not this one.
        resolution: largest side at which a face is rendered, pixels: "auto" for its own up to 512, "network" for the
            networks' size, which is then enlarged; larger ones show the references' own detail
            (`face.native_resolution`), unless `restore` sharpens them.
        calibrate: say predicted lips and jaw again with the person's own mouth (`inference.keypoint_calibration`), with
            networks that draw their heatmaps through keypoints and choose references by the pose.
        precision: "fast" or "exact", see `RenderEngine`.
        engine: renders in place of a `RenderEngine` of the networks.

    Raises:
        DubError: networks and features of different sizes, an unknown choice.
    """

    def __init__(
        self,
        guidance: Guidance,
        synthesis: Synthesis,
        features: AudioFeatures,
        *,
        num_frames: int = 5,
        heatmap_sigma: float = 1.0,
        block: int = 32,
        detector: LandmarkDetector | None = None,
        landmark_model: Path | None = None,
        device: str | torch.device = "cpu",
        face: str = "auto",
        fit: Fit = "loop",
        silence: Silence = "close",
        restore: Restore | None = None,
        steady: bool = True,
        detail: bool = True,
        check: bool = True,
        resolution: Resolution = "auto",
        calibrate: bool = True,
        precision: Precision = "fast",
        engine: Engine | None = None,
    ) -> None:
        limit_arenas()
        _check_fit(guidance, synthesis, features)
        if num_frames < 1 or num_frames % 2 == 0 or block < 1:
            raise DubError(f"num_frames must be odd and block at least 1, got num_frames {num_frames}, block {block}")
        choices: dict[str, tuple[str, Any]] = {"fit": (fit, Fit), "silence": (silence, Silence)}
        for name, (value, allowed) in {**choices, "precision": (precision, Precision)}.items():
            if value not in get_args(allowed):
                raise DubError(f"{name}: expected {', '.join(get_args(allowed))}, got {value!r}")
        self.engine: Engine = engine or RenderEngine(
            guidance, synthesis, precision=precision, device=choose_device(device)
        )
        size, num_references, pose_matched = synthesis.face_size, synthesis.num_references, synthesis.align_references
        self.config = RenderConfig(
            size,
            num_references,
            num_frames,
            heatmap_sigma,
            block,
            pose_matched,
            restore,
            detail,
            largest_side(resolution, size),
        )
        if calibrate and pose_matched and guidance.draws_keypoints:
            speech = cache(partial(calibration_windows, features, num_frames))
            calibrator = Calibrator(self.engine, FrameInputBuilder(size, heatmap_sigma), speech)
            self.config = replace(self.config, calibrator=calibrator)
        self.features, self.detector, self.landmark_model = features, detector, landmark_model
        self.check = check
        self.face, self.fit, self.silence, self.steady = checked_person(face), fit, silence, steady

    @classmethod
    def from_checkpoint(cls, path: str | Path, device: str | torch.device = "cpu", **options: Any) -> Dubber:
        """A dubber from a `.safetensors` export or a training checkpoint (`.ckpt`).

        Args:
            path: the checkpoint.
            device: see the class.
            options: other keyword arguments of the class.

        Raises:
            FileNotFoundError, UserError: the file is missing, damaged or holds something else.
        """
        guidance, synthesis, meta = load_networks(path)
        extractor = {"device": str(choose_device(device))} if meta["features"] == "wav2vec2" else {}
        known = {"num_frames": int(meta["num_frames"]), "heatmap_sigma": float(meta.get("heatmap_sigma", 1.0))}
        features = audio_features(meta["features"], **extractor)
        return cls(guidance, synthesis, features, device=device, **{**known, **options})

    @classmethod
    def from_pretrained(
        cls, source: str | Path | None = None, device: str | torch.device = "cpu", **options: Any
    ) -> Dubber:
        """A dubber from networks by name: see `models.hub.find_networks`; without one, those of the package.

        Raises:
            as `from_checkpoint` and `find_networks`.
        """
        return cls.from_checkpoint(find_networks(source), device, **options)

    # ------------------------------------------------------------------------------------------------------- to a file

    def dub(
        self,
        video: str | Path | Pictures | Person,
        audio: str | Path | Sound,
        out: str | Path,
        progress: bool | ProgressCallback = True,
        observe: Observe | None = None,
        audio_track: int | None = None,
        sound: str | Path | Sound | None = None,
    ) -> DubReport:
        """Dub one video.

        The result has the video's own frame rate and size, and the length of its sound: longer sound is met as `fit`
        says, shorter sound ends the video early. Its sound is the speech, or `sound`, with its own channels and, where
        AAC has it, its own rate.

        Args:
            video: a face; any frame rate (also a varying one) and size; or a still picture; or pictures in memory; or a
                prepared person.
            audio: the new speech: a sound file, or a video whose sound is taken, or sound in memory.
            out: .mp4, .mov or .mkv in a folder that exists; replaced only once the new one is complete.
            progress: show a progress bar, or call a `ProgressCallback`.
            observe: called with each rendered frame, see `renderer.Observe`; costs a second run of guidance.
            audio_track: which of several sound tracks of `audio` is the speech, from 1 on; None: its default track.
            sound: what is heard in place of the speech, such as its mix with music and effects; the lips follow
                `audio`.

        Raises:
            FileNotFoundError: no such video, audio, sound or output folder.
            VideoError, AudioError: a file that cannot be read; audio without sound.
            DubError: no frame has a face; the output is one of the inputs, or cannot be written.
        """
        began, out = time.monotonic(), Path(out)
        times = Pipeline()
        with ExitStack() as opened, progress_bars(progress) as bars:
            opened.callback(release_free_memory)
            said = on_disk(audio, opened)
            heard = None if sound is None else on_disk(sound, opened)
            source, person = self._opened(video, opened)
            check_no_input(out, [source.path, said, heard or said])
            check_output(out, source.out_fps, source.size, None, SAMPLE_RATE_HZ)
            with times.timed("speech"):
                speech = opened.enter_context(Speech(said, self.features, self.silence, audio_track, heard))
            given = speech, speech.seconds, times, bars, observe
            renderer = opened.enter_context(self._renderer(source, person, *given))
            seconds = self._write(renderer, speech, out, times, bars)
        faces, schedule = renderer.faces, renderer.schedule
        why = np.where(renderer.failed, FAILED, faces.why[schedule.source])
        passed = {name: int((why == i).sum()) for i, name in enumerate(REASONS) if i and (why == i).any()}
        return DubReport(
            out=out,
            frames=len(why),
            faces=int((why == 0).sum()),
            seconds=seconds,
            fps=source.out_fps,
            width=source.size[0],
            height=source.size[1],
            elapsed_s=time.monotonic() - began,
            passed=passed,
            shots=len(np.unique(faces.shots[schedule.source])),
            face=faces.choice,
            stages=times.seconds,
            warnings=(*dub_notes(source, schedule, speech, why, seconds), *too_large(renderer)),
        )

    def _opened(self, video: str | Path | Pictures | Person, opened: ExitStack) -> tuple[KnownFrames, Person | None]:
        """The frames of a dub, closed with `opened`, and the person that they were prepared as."""
        if not isinstance(video, Person):
            return opened.enter_context(VideoSource(on_disk(video, opened))), None
        if video.engine is not self.engine:
            raise DubError("the person was prepared by another dubber; prepare or load it with this one")
        source = video.video.again()
        opened.callback(source.close)
        return source, video

    def _renderer(
        self,
        source: KnownFrames,
        person: Person | None,
        speech: SpeechFeatures,
        seconds: float,
        times: Pipeline,
        bars: Bars,
        observe: Observe | None = None,
    ) -> Renderer:
        if person is None:
            assert isinstance(source, VideoSource)
            faces, references = self._find_faces(source, seconds, times, bars), None
        else:
            faces, references = person.faces, person.references
        schedule = fitted_schedule(source, seconds, self.fit)
        check = self.result_check() if self.check else None
        given = source, faces, schedule, speech, observe, check, isinstance(speech, LiveSpeech)
        return Renderer(self.engine, self.config, *given, references=references)

    def result_check(self) -> ResultCheck:
        """Where the caller has a detector of their own, lips are not looked for in results."""
        return ResultCheck(None if self.detector else landmark_detector(self.landmark_model, static=True))

    def _write(self, renderer: Renderer, speech: Speech, out: Path, times: Pipeline, bars: Bars) -> float:
        """Redraw all frames into a file; its length in seconds."""
        schedule, source = renderer.schedule, renderer.video
        end_s = float(schedule.times_s[-1]) + 1 / float(source.out_fps)
        seconds = min(speech.seconds, end_s) if self.fit == "trim" else speech.seconds
        sound = (speech.cut(seconds), speech.rate_hz, speech.layout)
        write_frames(out, renderer.frames, source, schedule, sound, times, bars)
        return seconds

    def _find_faces(self, source: VideoSource, seconds: float, times: Pipeline, bars: Bars) -> Faces:
        """Faces of the frames that are shown, and of as many more as references are chosen from."""
        chosen = names_a_person(self.face)  # people are numbered, and recognised, in the whole of a video
        enough_s = float("inf") if chosen or self.fit == "remap" else max(seconds, REFERENCE_SECONDS)
        finder = PeopleFinder if chosen else partial(FaceSelector, self.face)
        with finder(self.detector, self.landmark_model) as selector:
            watch(source, selector, enough_s, times, bars)
            if isinstance(selector, PeopleFinder):
                faces = self._of_person(selector, source)
            else:
                level = loudness(source) if self.face == "auto" else None
                faces = selector.finish(source.times_s, float(source.rate), source.size, level, self.steady, self.check)
        if not faces.valid.any():
            raise DubError(
                f"{source.path}: no face was found in any of {len(faces.valid)} frames; there is nothing to dub"
            )
        return faces

    def _of_person(self, finder: PeopleFinder, source: VideoSource) -> Faces:
        """The faces of whom `face` names, by id or place."""
        fps, times_s = float(source.rate), source.times_s
        people = finder.people(fps)
        found = choose_person(people, self.face, np.arange(len(times_s)), times_s, source.size)
        if found is None:
            raise DubError(f"{source.path}: nobody is at {self.face}; `stsa faces` shows who is where")
        person, reason = found
        choice = reason if reason == person.id else f"{person.id}, {reason}"
        return finder.settled(person.tracks, fps, source.size, choice, self.steady, self.check)

    # ---------------------------------------------------------------------------------------------------- once for many

    def prepare(self, video: str | Path | Pictures, progress: bool | ProgressCallback = False) -> Person:
        """Do once what `dub`, `frames` and live streams of a video have in common: find the faces of all of its frames.

        Args:
            video: as for `dub`; for `Person.stream` one shot, the face and its mouth seen throughout.
            progress: as for `dub`.

        Raises:
            as `dub`.
        """
        with ExitStack() as opened, progress_bars(progress) as bars:
            source = opened.enter_context(VideoSource(on_disk(video, opened)))
            try:
                faces = self._find_faces(source, float("inf"), Pipeline(), bars)
            finally:
                release_free_memory()
            return self._person(source, faces, opened.pop_all())

    def load_person(self, path: str | Path) -> Person:
        """A person that `Person.save` wrote, ready at once.

        Raises:
            FileNotFoundError: no such file.
            UserError: it is damaged, or holds something else.
        """
        opened = ExitStack()
        stored = opened.enter_context(StoredVideo(path))
        return self._person(stored, stored.faces, opened)

    def _person(self, video: KnownFrames, faces: Faces, opened: ExitStack) -> Person:
        check = self.result_check if self.check else lambda: None
        return Person(self.engine, self.config, self.features, video, faces, check, opened)

    # ---------------------------------------------------------------------------------------------------- to a program

    def frames(
        self,
        video: str | Path | Pictures | Person,
        audio: str | Path | Sound | Iterable[np.ndarray],
        audio_track: int | None = None,
    ) -> Iterator[np.ndarray]:
        """Dubbed frames, (H, W, 3) uint8 RGB, as they are ready; at the video's own rate.

        Live speech is given as chunks and may come in while frames are taken. A frame that is shown at a time t needs
        the speech up to t + 0.21 s (two frames of the guidance window, and what a feature looks ahead), to t + 0.41 s
        with Moonshine's; frames are made `block` at a time, and up to six blocks are on their way through the stages.
        The latency of `block=1` is thus 0.21 or 0.41 s of speech, and the time that a frame takes. Without a GPU each
        core renders frames of its own, so that a block of one frame leaves all but one core idle. A video is searched
        for faces before the first frame, a prepared person is not. With live speech no frame waits for those after it:
        references change more often, and a frame whose check fails is the source's at once, and only afterwards the new
        face comes in smoothly.
        Interruptions, and motion between utterances: `Person.stream`.

        Args:
            video: as for `dub`.
            audio: a file, or sound in memory, or chunks of (n,) float32 mono in [-1, 1] at 16 kHz.
            audio_track: of a file, as for `dub`.

        Raises:
            as `dub`; wherever a chunk's own iterator raises.
        """
        with ExitStack() as opened, progress_bars(False) as bars:
            opened.callback(release_free_memory)
            source, person = self._opened(video, opened)
            speech: Speech | LiveSpeech
            if isinstance(audio, (str, Path, Sound)):
                said = on_disk(audio, opened)
                speech = opened.enter_context(Speech(said, self.features, self.silence, audio_track))
                seconds = speech.seconds
            else:
                speech, seconds = opened.enter_context(LiveSpeech(audio, self.features)), LIVE_SECONDS
            times = Pipeline()
            renderer = opened.enter_context(self._renderer(source, person, speech, seconds, times, bars))
            opened.enter_context(times)  # ends before what its threads use
            if isinstance(speech, LiveSpeech):
                opened.callback(speech.close)  # or a thread that waits for speech would be waited for
            yield from renderer.frames(times)


def largest_side(resolution: Resolution, face_size: int) -> int:
    """Largest side at which a face is rendered, pixels; DubError where a resolution is none or below the networks'."""
    if isinstance(resolution, str):
        sides = {"auto": max(LARGEST_SIDE, face_size), "network": face_size}
        if resolution in sides:
            return sides[resolution]
    elif resolution >= face_size:
        return resolution
    raise DubError(
        f"resolution: expected auto, network or {face_size} or more pixels, the side of the networks' faces, "
        f"got {resolution!r}"
    )


def _check_fit(guidance: Guidance, synthesis: Synthesis, features: AudioFeatures) -> None:
    """Raises DubError where networks and features do not belong together."""
    for name in ("audio_dim", "face_size"):
        mine, theirs = getattr(guidance, name), getattr(synthesis, name)
        if mine != theirs:
            raise DubError(
                f"the two networks do not belong together: {name} is {mine} in guidance, {theirs} in synthesis"
            )
    if features.dim != guidance.audio_dim:
        kinds = [kind for kind, dim in FEATURE_DIMS.items() if dim == guidance.audio_dim]
        raise DubError(
            f"the networks take {guidance.audio_dim} audio features a step{f' ({kinds[0]})' if kinds else ''}, "
            f"got {features.kind} with {features.dim}"
        )


def fitted_schedule(source: KnownFrames, seconds: float, fit: Fit) -> Schedule:
    """Which frame is shown when; a mouth moves on where the video has too few frames, or none for a while."""
    times_s, fps = source.times_s, source.out_fps
    schedule = make_schedule(times_s, float(source.rate), seconds, fit)
    if fps != source.rate or fit == "remap":
        end_s = float(times_s[-1] + 1 / source.rate)
        return schedule.at(fps, min(seconds, end_s) if fit == "trim" else seconds)
    return schedule.held(fps, longest_gap_s(times_s))
