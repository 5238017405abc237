"""Video + speech -> dubbed video, streaming: a bounded number of frames in memory, whatever the length.

Two passes over the video. The first finds the face in every frame (131 points a frame are kept); references are chosen
from it. The second redraws the faces block by block. A frame without a face passes through unchanged.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
import torch
from rich.progress import Progress
from torch import Tensor

from stsa_lightning.audio import (
    FEATURE_DIMS,
    SAMPLE_RATE_HZ,
    AudioFeatures,
    audio_features,
    feature_windows,
    load_audio,
    native_sample_rate,
)
from stsa_lightning.errors import UserError
from stsa_lightning.face.blend import blend_face
from stsa_lightning.face.box import crop_face, face_box, normalise_landmarks
from stsa_lightning.face.heatmaps import draw_heatmaps, lip_openness
from stsa_lightning.face.landmarks import LandmarkDetector, landmark_detector
from stsa_lightning.face.references import choose_references
from stsa_lightning.nets.checkpoint import load_networks
from stsa_lightning.nets.guidance import Guidance
from stsa_lightning.nets.synthesis import References, Synthesis, mask_lower_half
from stsa_lightning.video import AAC_RATES_HZ, VideoReader, VideoWriter, check_output, nearest

WINDOW_FPS = 25  # the networks' clock: neighbours in a window are 0.04 s apart, whatever the video's rate
REFERENCE_SECONDS = 10.0  # references come from this much of the video at least, even if the speech is shorter
BLOCK_BYTES = 256 * 2**20  # frames of a block together; binds at 4K


class DubError(UserError):
    """A video, speech and networks that do not go together."""


@dataclass(frozen=True)
class DubReport:
    """What became of a video. `faces`: frames redrawn; `seconds`: length of the result; `elapsed_s`: time taken."""

    out: Path
    frames: int
    faces: int
    seconds: float
    fps: Fraction
    width: int
    height: int
    elapsed_s: float

    def __str__(self) -> str:
        return (
            f"{self.out}: {self.frames} frames ({self.faces} redrawn), {self.seconds:.2f} s, {float(self.fps):g} "
            f"frames/s, {self.width} x {self.height}, in {self.elapsed_s:.1f} s"
        )


@dataclass(frozen=True)
class Schedule:
    """Which source frame is shown when: `source` (n,) numbers, `times_s` (n,) rising from 0."""

    source: np.ndarray
    times_s: np.ndarray


def ping_pong(times_s: np.ndarray, fps: float, seconds: float) -> Schedule:
    """The video forward, backward, forward ... for `seconds`, at its own pace, the turning frames shown once.

    Args:
        times_s: (F,) time stamps of the source's frames, from 0.
        fps: pace of a source of a single frame.
        seconds: length wanted; the result is the least number of frames that covers it, one at least.
    """
    gaps = np.diff(times_s) if len(times_s) > 1 else np.array([1 / fps])
    there = np.arange(len(times_s))
    cycle, pace = np.concatenate([there, there[-2:0:-1]]), np.concatenate([gaps, gaps[::-1]])
    if len(times_s) == 1:
        cycle, pace = np.zeros(1, np.int64), gaps
    turns = int(seconds / pace.sum()) + 2
    starts = np.concatenate([[0.0], np.cumsum(np.tile(pace, turns))])
    count = max(1, int(np.searchsorted(starts, seconds - 1e-6)))
    return Schedule(np.tile(cycle, turns)[:count], starts[:count])


@dataclass(frozen=True)
class Faces:
    """The face of every source frame, in pixels: `landmarks` (F, 131, 2), `boxes` (F, 4), `valid` (F,); else zeros."""

    landmarks: np.ndarray
    boxes: np.ndarray
    valid: np.ndarray

    @property
    def normalised(self) -> np.ndarray:
        """(F, 131, 2) landmarks in their boxes; of meaning where valid."""
        boxes = np.where(self.valid[:, None], self.boxes, [0, 0, 1, 1])
        return normalise_landmarks(self.landmarks, boxes)


def find_faces(frames: Iterable[np.ndarray], size: tuple[int, int], detector: LandmarkDetector) -> Faces:
    """Run a detector over single frames in their order; `size` is their width and height."""
    landmarks, boxes = [], []
    for frame in frames:
        points = detector(frame)
        box = None if points is None else _box_in_frame(points, size)
        landmarks.append(np.zeros((131, 2), np.float32) if points is None or box is None else points)
        boxes.append(np.zeros(4, np.int32) if box is None else box)
    valid = np.array([box.any() for box in boxes], bool)
    return Faces(np.stack(landmarks), np.stack(boxes), valid)


def _box_in_frame(landmarks: np.ndarray, size: tuple[int, int]) -> np.ndarray | None:
    """The face's box; None where a tracker followed a face out of the picture."""
    try:
        return face_box(landmarks, size)
    except ValueError:
        return None


class Dubber:
    """Redraws the mouth of a video so that it says new speech (STSA, section 4 of the method).

    Args:
        guidance, synthesis: the trained networks; put into eval mode and onto `device`.
        features: what both were trained to hear.
        window: frames of a guidance window, odd.
        sigma: width of the heatmaps' ridges that the networks were trained on, pixels.
        block: frames per batch.
        detector: finds faces; None makes a fresh FaceMesh tracker for each video.
        device: "cpu", "cuda", "cuda:1", "mps", or "auto" for the best there is.

    Raises:
        DubError: networks and features of different sizes.
    """

    def __init__(
        self,
        guidance: Guidance,
        synthesis: Synthesis,
        features: AudioFeatures,
        *,
        window: int = 5,
        sigma: float = 1.0,
        block: int = 32,
        detector: LandmarkDetector | None = None,
        device: str | torch.device = "cpu",
    ) -> None:
        for name in ("audio_dim", "face_size"):
            mine, theirs = getattr(guidance, name), getattr(synthesis, name)
            if mine != theirs:
                raise DubError(
                    f"the two networks do not belong together: {name} is {mine} in guidance, {theirs} in synthesis"
                )
        if features.dim != guidance.audio_dim:
            kinds = [kind for kind, dim in FEATURE_DIMS.items() if dim == guidance.audio_dim]
            raise DubError(
                f"the networks hear {guidance.audio_dim} audio features a step{f' ({kinds[0]})' if kinds else ''}, "
                f"got {features.kind} with {features.dim}"
            )
        if window < 1 or window % 2 == 0 or block < 1:
            raise DubError(f"window must be odd and block at least 1, got window {window}, block {block}")
        self.device = choose_device(device)
        self.guidance, self.synthesis = guidance.eval().to(self.device), synthesis.eval().to(self.device)
        self.features, self.window, self.sigma = features, window, sigma
        self.block, self.detector = block, detector

    @classmethod
    def from_checkpoint(
        cls,
        path: str | Path,
        device: str | torch.device = "cpu",
        detector: LandmarkDetector | None = None,
        block: int = 32,
    ) -> Dubber:
        """A dubber from a ``.safetensors`` export or a training checkpoint (``.ckpt``).

        Raises:
            FileNotFoundError, UserError: the file is missing, damaged or holds something else.
        """
        guidance, synthesis, meta = load_networks(path)
        options = {"device": str(choose_device(device))} if meta["features"] == "wav2vec2" else {}
        features = audio_features(meta["features"], **options)
        window, sigma = int(meta["window"]), float(meta.get("sigma", 1.0))
        return cls(
            guidance,
            synthesis,
            features,
            window=window,
            sigma=sigma,
            block=block,
            detector=detector,
            device=device,
        )

    def dub(self, video: str | Path, audio: str | Path, out: str | Path, progress: bool = True) -> DubReport:
        """Dub one video.

        The result has the video's own frame rate and size, and the speech's length: a longer speech has the video run
        forward and backward, a shorter one ends it early.

        Args:
            video: a face; any frame rate (also a varying one) and size. Its own sound is not used.
            audio: the new speech: a sound file, or a video whose sound is taken.
            out: .mp4, .mov or .mkv in a folder that exists; replaced only once the new one is complete.
            progress: show a progress bar.

        Raises:
            FileNotFoundError: no such video, audio or output folder.
            VideoError, AudioError: a file that cannot be read; audio without sound.
            DubError: no frame has a face; the output is one of the inputs.
        """
        began, out = time.monotonic(), Path(out)
        if out.resolve() in (Path(video).resolve(), Path(audio).resolve()):
            raise DubError(f"{out}: is an input; choose another name for the result")
        with VideoReader(video) as reader, Progress(disable=not progress, transient=True) as bars:
            size = (reader.info.width, reader.info.height)
            check_output(out, reader.fps, size, None, SAMPLE_RATE_HZ)
            wave = load_audio(audio)
            sound, rate_hz = _sound(audio, wave)
            schedule = ping_pong(reader.timestamps_s, float(reader.fps), len(wave) / SAMPLE_RATE_HZ)
            faces = self._find_faces(reader, schedule, bars)
            scene = Scene(self, reader, faces, schedule, self.features(wave))
            with VideoWriter(
                out, reader.fps, size, sound, rate_hz, timestamps=_varying(schedule, reader.fps)
            ) as writer:
                for frames in bars.track(scene.blocks(), scene.block_count, description="redrawing"):
                    writer.write(frames)
        redrawn = int(faces.valid[schedule.source].sum())
        elapsed_s = time.monotonic() - began
        return DubReport(out, writer.frames, redrawn, len(wave) / SAMPLE_RATE_HZ, reader.fps, *size, elapsed_s)

    def _find_faces(self, reader: VideoReader, schedule: Schedule, bars: Progress) -> Faces:
        """Faces of the frames that are shown, and of as many more as references are chosen from."""
        enough = int(np.searchsorted(reader.timestamps_s, REFERENCE_SECONDS))
        count = max(int(schedule.source.max()) + 1, min(len(reader), enough))
        size = (reader.info.width, reader.info.height)
        step = block_size(self.block, size)
        blocks = (reader.get(range(i, min(i + step, count))) for i in range(0, count, step))
        frames = (frame for block in blocks for frame in block)
        with self._detector() as detector:
            faces = find_faces(bars.track(frames, count, description="finding the face"), size, detector)
        if not faces.valid.any():
            raise DubError(f"{reader.info.path}: no face was found in any of {count} frames; there is nothing to dub")
        return faces

    @contextmanager
    def _detector(self) -> Iterator[LandmarkDetector]:
        if self.detector is not None:
            yield self.detector
            return
        detector = landmark_detector()
        try:
            yield detector
        finally:
            detector.close()


class Scene:
    """One video under one speech, ready to be redrawn block by block."""

    def __init__(
        self, dubber: Dubber, reader: VideoReader, faces: Faces, schedule: Schedule, features: np.ndarray
    ) -> None:
        self.guidance, self.synthesis, self.device = dubber.guidance, dubber.synthesis, dubber.device
        self.reader, self.faces, self.schedule, self.features = reader, faces, schedule, features
        self.face_size, self.sigma = dubber.synthesis.face_size, dubber.sigma
        self.step = block_size(dubber.block, (reader.info.width, reader.info.height))
        self.landmarks = faces.normalised
        self.offsets_s = (np.arange(dubber.window) - dubber.window // 2) / WINDOW_FPS
        known, times_s = np.flatnonzero(faces.valid), reader.timestamps_s[: len(faces.valid)]
        self.nearest_face = known[nearest(times_s[known], times_s)]  # (F,) for each source frame
        self.reference_heatmaps, self.references = self._references()

    @property
    def block_count(self) -> int:
        return -(-len(self.schedule.source) // self.step)

    def blocks(self) -> Iterator[np.ndarray]:
        """The dubbed frames, in order."""
        for start in range(0, len(self.schedule.source), self.step):
            shown = np.arange(start, min(start + self.step, len(self.schedule.source)))
            frames = self.reader.get(self.schedule.source[shown])
            with_face = np.flatnonzero(self.faces.valid[self.schedule.source[shown]])
            if len(with_face):
                self._redraw(frames, with_face, shown[with_face])
            yield frames

    @torch.inference_mode()
    def _references(self) -> tuple[Tensor, References]:
        """Heatmaps (1, N, 1, S, S) of the references, and what the synthesis network makes of them."""
        opening = lip_openness(self.landmarks)
        chosen = choose_references(opening, self.faces.valid, self.synthesis.references)
        crops = np.concatenate([self._crops(self.reader.get([i]), np.array([i])) for i in chosen])
        heatmaps = self._tensor(draw_heatmaps(self.landmarks[chosen], "whole", self.face_size, self.sigma))[
            None, :, None
        ]
        return heatmaps, self.synthesis.encode_references(self._images(crops)[None], heatmaps)

    @torch.inference_mode()
    def _redraw(self, frames: np.ndarray, places: np.ndarray, shown: np.ndarray) -> None:
        """Redraw `frames[places]` in place; `shown` (n,) are their numbers in the schedule."""
        sources = self.schedule.source[shown]
        faces = self._images(self._crops(frames[places], sources))
        times_s = self.schedule.times_s[shown][:, None] + self.offsets_s  # (n, T)
        windows = feature_windows(self.features, times_s * WINDOW_FPS)  # (n * T, D, 10)
        audio = self._tensor(windows).unflatten(0, times_s.shape)  # (n, T, D, 10)
        contours = self._masked_heatmaps(times_s)
        drawn = draw_faces(
            self.guidance, self.synthesis, faces, contours, audio, self.reference_heatmaps, self.references
        )
        pictures = drawn.float().permute(0, 2, 3, 1).cpu().numpy()
        for place, source, picture in zip(places, sources, pictures, strict=True):
            box, landmarks = self.faces.boxes[source], self.faces.landmarks[source]
            frames[place] = blend_face(frames[place], picture, box, landmarks)

    def _masked_heatmaps(self, times_s: np.ndarray) -> Tensor:
        """Of the face nearest to each of the times (n, T): (n, T, 1, S, S)."""
        sources = self.nearest_face[self.schedule.source[nearest(self.schedule.times_s, times_s)]]
        unique, back = np.unique(sources, return_inverse=True)
        heatmaps = self._tensor(draw_heatmaps(self.landmarks[unique], "masked", self.face_size, self.sigma))
        return heatmaps[torch.from_numpy(back.reshape(sources.shape)).to(self.device)][:, :, None]

    def _crops(self, frames: np.ndarray, sources: np.ndarray) -> np.ndarray:
        boxes = self.faces.boxes[sources]
        return np.stack([crop_face(f, b, self.face_size) for f, b in zip(frames, boxes, strict=True)])

    def _images(self, faces: np.ndarray) -> Tensor:
        """(n, S, S, 3) uint8 -> (n, 3, S, S) in [0, 1]."""
        return self._tensor(faces).permute(0, 3, 1, 2).float() / 255

    def _tensor(self, array: np.ndarray) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(array)).to(self.device)


@torch.inference_mode()
def draw_faces(
    guidance: Guidance,
    synthesis: Synthesis,
    faces: Tensor,
    contours: Tensor,
    audio: Tensor,
    reference_heatmaps: Tensor,
    references: References,
) -> Tensor:
    """Both stages for n frames of one video: the centre of each window is drawn.

    Args:
        guidance, synthesis: the networks, in eval mode.
        faces: (n, 3, S, S) in [0, 1]; their lower halves are not looked at.
        contours: (n, T, 1, S, S) masked heatmaps of each frame's window.
        audio: (n, T, D, 10).
        reference_heatmaps: (1, N, 1, S, S).
        references: of batch 1, from ``synthesis.encode_references``.

    Returns:
        (n, 3, S, S) in [0, 1].
    """
    count, centre = len(faces), contours.shape[1] // 2
    heatmaps = guidance(audio, contours, reference_heatmaps.expand(count, -1, -1, -1, -1)).heatmap[:, centre]
    return synthesis.render(mask_lower_half(faces), heatmaps, audio[:, centre], references.expand(count)).face


def block_size(frames: int, size: tuple[int, int]) -> int:
    """Frames read at a time: `frames`, or fewer where they are large."""
    return max(1, min(frames, BLOCK_BYTES // (3 * size[0] * size[1])))


def _sound(path: str | Path, wave: np.ndarray) -> tuple[np.ndarray, int]:
    """The speech at its own rate where AAC knows that rate, for the result's sound track."""
    rate_hz = native_sample_rate(path)
    rate_hz = rate_hz if rate_hz in AAC_RATES_HZ else 48_000
    return (wave if rate_hz == SAMPLE_RATE_HZ else load_audio(path, rate_hz)), rate_hz


def _varying(schedule: Schedule, fps: Fraction) -> np.ndarray | None:
    """The schedule's time stamps, None where they are those of an even rate."""
    even = np.arange(len(schedule.times_s)) / float(fps)
    return None if np.abs(schedule.times_s - even).max() < 1e-3 else schedule.times_s


def choose_device(name: str | torch.device) -> torch.device:
    """The named device; the best there is for ``auto``."""
    if str(name) != "auto":
        return torch.device(name)
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
