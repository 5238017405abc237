"""Video + speech -> dubbed video, streaming: a bounded number of frames in memory, whatever the length.

Two passes over the video. The first follows the faces (131 points a frame), chooses whose mouth is re-rendered,
and finds where it cannot be; references are chosen from it. The second redraws the faces block by block. Where nothing
is to be re-rendered, the frame passes through unchanged.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch

from stsa_lightning.constants import SAMPLE_RATE_HZ
from stsa_lightning.dubbing.face_selection import FaceSelector, at_frames, source_level
from stsa_lightning.dubbing.face_track import FAILED, REASONS, Faces, ramp_frames
from stsa_lightning.dubbing.people import PeopleFinder, checked_person, choose_person, names_a_person
from stsa_lightning.dubbing.pipeline import Pipeline
from stsa_lightning.dubbing.progress import Bars, ProgressCallback, progress_bars
from stsa_lightning.dubbing.renderer import Observe, RenderConfig, Renderer, Restore
from stsa_lightning.dubbing.report import DubError, DubReport
from stsa_lightning.dubbing.schedule import Fit, Schedule, make_schedule
from stsa_lightning.dubbing.speech_features import LiveSpeech, Silence, Speech, SpeechFeatures
from stsa_lightning.face.check import ResultCheck
from stsa_lightning.face.landmarks import LandmarkDetector, landmark_detector
from stsa_lightning.face.native_resolution import LARGEST_SIDE
from stsa_lightning.features.base import FEATURE_DIMS, AudioFeatures
from stsa_lightning.features.build import audio_features
from stsa_lightning.inference.engine import Engine
from stsa_lightning.inference.render_engine import Precision, RenderEngine
from stsa_lightning.media.audio import AudioError
from stsa_lightning.media.video import VideoWriter, check_output
from stsa_lightning.media.video_source import VideoSource, longest_gap_s
from stsa_lightning.models.checkpoint import load_networks
from stsa_lightning.models.guidance import Guidance
from stsa_lightning.models.synthesis import Synthesis
from stsa_lightning.utils.device import choose_device
from stsa_lightning.utils.disk_array import DiskArray
from stsa_lightning.utils.memory import limit_arenas, release_free_memory

REFERENCE_SECONDS = 10.0  # references come from this much of the video at least, even if the speech is shorter
# Half the work of x264's own preset at 16; files up to a sixth larger, 0.1 to 0.6 dB of 41 to 45 less (benchmarks).
_ENCODING: dict[str, Any] = {"preset": "veryfast", "crf": 15}
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

    # ------------------------------------------------------------------------------------------------------- to a file

    def dub(
        self,
        video: str | Path,
        audio: str | Path,
        out: str | Path,
        progress: bool | ProgressCallback = True,
        observe: Observe | None = None,
        audio_track: int | None = None,
        sound: str | Path | None = None,
    ) -> DubReport:
        """Dub one video.

        The result has the video's own frame rate and size, and the length of its sound: longer sound is met as `fit`
        says, shorter sound ends the video early. Its sound is the speech, or `sound`, with its own channels and, where
        AAC has it, its own rate.

        Args:
            video: a face; any frame rate (also a varying one) and size; or a still picture.
            audio: the new speech: a sound file, or a video whose sound is taken.
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
        check_no_input(out, [video, audio, sound or audio])
        times = Pipeline()
        with ExitStack() as opened, progress_bars(progress) as bars:
            opened.callback(release_free_memory)
            source = opened.enter_context(VideoSource(video))
            check_output(out, source.out_fps, source.size, None, SAMPLE_RATE_HZ)
            with times.timed("speech"):
                speech = opened.enter_context(Speech(audio, self.features, self.silence, audio_track, sound))
            renderer = opened.enter_context(self._renderer(source, speech, speech.seconds, times, bars, observe))
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
            warnings=(*_warnings(source, schedule, speech, why, seconds), *too_large(renderer)),
        )

    def _renderer(
        self,
        source: VideoSource,
        speech: SpeechFeatures,
        seconds: float,
        times: Pipeline,
        bars: Bars,
        observe: Observe | None = None,
    ) -> Renderer:
        faces = self._find_faces(source, seconds, times, bars)
        schedule = fitted_schedule(source, seconds, self.fit)
        check = self.result_check() if self.check else None
        ahead = 0 if check is None or isinstance(speech, LiveSpeech) else ramp_frames(float(source.out_fps))
        return Renderer(self.engine, self.config, source, faces, schedule, speech, observe, check, ahead)

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

    # ---------------------------------------------------------------------------------------------------- to a program

    def frames(
        self, video: str | Path, audio: str | Path | Iterable[np.ndarray], audio_track: int | None = None
    ) -> Iterator[np.ndarray]:
        """Dubbed frames, (H, W, 3) uint8 RGB, as they are ready; at the video's own rate.

        Live speech is given as chunks and may come in while frames are taken. A frame that is shown at a time t needs
        the speech up to t + 0.21 s (two frames of the guidance window, and what a feature looks ahead), to t + 0.41 s
        with Moonshine's; frames are made `block` at a time, and up to five blocks are on their way through the stages.
        The latency of `block=1` is thus 0.21 or 0.41 s of speech, and the time that a frame takes. Without a GPU each
        core renders frames of its own, so that a block of one frame leaves all but one core idle. The video is searched
        for faces before the first frame. With live speech no frame waits for the check of those after it: one that
        fails is the source's at once, and only afterwards the new face comes in smoothly.

        Args:
            video: as for `dub`.
            audio: a file, or chunks of (n,) float32 mono in [-1, 1] at 16 kHz.
            audio_track: of a file, as for `dub`.

        Raises:
            as `dub`; wherever a chunk's own iterator raises.
        """
        with ExitStack() as opened, progress_bars(False) as bars:
            opened.callback(release_free_memory)
            source = opened.enter_context(VideoSource(video))
            speech: Speech | LiveSpeech
            if isinstance(audio, (str, Path)):
                speech = opened.enter_context(Speech(audio, self.features, self.silence, audio_track))
                seconds = speech.seconds
            else:
                speech, seconds = opened.enter_context(LiveSpeech(audio, self.features)), LIVE_SECONDS
            times = Pipeline()
            renderer = opened.enter_context(self._renderer(source, speech, seconds, times, bars))
            opened.enter_context(times)  # ends before what its threads use
            if isinstance(speech, LiveSpeech):
                opened.callback(speech.close)  # or a thread that waits for speech would be waited for
            yield from renderer.frames(times)


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


def check_no_input(out: Path, inputs: Iterable[str | Path]) -> None:
    """Raises DubError where the result would take the place of something that it is made from."""
    if os.path.realpath(out) in map(os.path.realpath, inputs):  # unlike Path.resolve it takes links in a circle
        raise DubError(f"{out}: is an input; choose another name for the result")


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


def write_frames(
    out: Path,
    frames: Callable[[Pipeline], Iterable[np.ndarray]],
    source: VideoSource,
    schedule: Schedule,
    sound: tuple[DiskArray, int, str],
    times: Pipeline,
    bars: Bars,
) -> None:
    """Dubbed frames and sound (samples, rate, layout) into a file that appears whole or not at all."""
    samples, rate_hz, layout = sound
    fps = source.out_fps
    with (
        disk_errors_named(out),
        times,
        VideoWriter(
            out,
            fps,
            source.size,
            samples,
            rate_hz,
            layout=layout,
            timestamps=schedule.varying_times_s(fps),
            colours=source.colours,
            **_ENCODING,
        ) as writer,
    ):
        for frame in bars.track(frames(times), len(schedule), description="re-rendering"):
            with times.timed("encode"):
                writer.write(frame[None])


@contextmanager
def disk_errors_named(out: Path) -> Iterator[None]:
    """Turn errors of the disk into a UserError with the file's name and what to do."""
    try:
        yield
    except FileNotFoundError:
        raise
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise DubError(f"{out}: the disk is full; make room or write elsewhere. Nothing was left behind") from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise DubError(f"{out}: may not be written ({error.strerror}); choose another folder") from error
        raise DubError(f"{out}: cannot be written ({error.strerror or error})") from error


def fitted_schedule(source: VideoSource, seconds: float, fit: Fit) -> Schedule:
    """Which frame is shown when; a mouth moves on where the video has too few frames, or none for a while."""
    times_s, fps = source.times_s, source.out_fps
    schedule = make_schedule(times_s, float(source.rate), seconds, fit)
    if fps != source.rate or fit == "remap":
        end_s = float(times_s[-1] + 1 / source.rate)
        return schedule.at(fps, min(seconds, end_s) if fit == "trim" else seconds)
    return schedule.held(fps, longest_gap_s(times_s))


def too_large(renderer: Renderer) -> tuple[str, ...]:
    """Where faces are larger than they are rendered."""
    faces, config = renderer.faces, renderer.config
    if not config.native:
        return ()
    rendered = faces.boxes[renderer.schedule.source[renderer.weight > 0]]
    side = int(np.ptp(rendered.reshape(-1, 2, 2), axis=1).max(initial=0))
    if side <= config.largest_side:
        return ()
    return (
        f"faces of up to {side} pixels are rendered at {config.largest_side} (--resolution {side}: at their own size, "
        "which takes longer)",
    )


def failed_note(count: int) -> str:
    """What to say of generated faces that failed the check of the result."""
    return (
        f"{count} generated faces failed the check of the result, and their frames passed through: are the networks "
        "made for such a face?"
    )


def _warnings(
    source: VideoSource, schedule: Schedule, speech: Speech, why: np.ndarray, seconds: float
) -> tuple[str, ...]:
    found = [*source.warnings(int(schedule.source.max()) + 1), *speech.notes]
    if (why != 0).all():
        found.append("no frame was re-rendered")
    if (why == FAILED).any():
        found.append(failed_note(int((why == FAILED).sum())))
    if seconds < speech.seconds - 1 / SAMPLE_RATE_HZ:
        found.append(f"{speech.seconds - seconds:.2f} s of the sound were cut off (--fit trim)")
    return tuple(found)
