"""Renders one video under one speech, block by block, in stages that overlap."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
import torch

from stsa_lightning.dubbing.face_track import Faces, ramp_frames, ramped
from stsa_lightning.dubbing.pipeline import Pipeline
from stsa_lightning.dubbing.schedule import Schedule
from stsa_lightning.dubbing.speech_features import SpeechFeatures, audio_windows
from stsa_lightning.face.blend import blend_face
from stsa_lightning.face.check import ResultCheck
from stsa_lightning.face.crops import to_uint8
from stsa_lightning.face.heatmaps import outer_lip_aperture
from stsa_lightning.face.native_resolution import FaceWarp, for_reading, native_face, native_size, shrunk
from stsa_lightning.face.references import PoseFollower, candidates, choose_references
from stsa_lightning.face.upright_box import UprightBox
from stsa_lightning.inference.engine import Engine
from stsa_lightning.inference.frame_inputs import FrameInputBuilder, FrameInputs
from stsa_lightning.media.video import nearest
from stsa_lightning.media.video_source import VideoSource
from stsa_lightning.utils.disk_array import DiskArray

WINDOW_FPS = 25  # the networks' clock: neighbours in a window are 0.04 s apart, whatever the video's rate
BLOCK_BYTES = 64 * 2**20  # frames of a block together, of which a handful are at work at a time; binds at 1080p
_REFERENCES_KEPT = 4  # shots whose encoded references are held: a video that turns comes back to its last ones

Restore = Callable[[np.ndarray], np.ndarray]
Observe = Callable[[int, np.ndarray, UprightBox], None]
"""Called for each rendered frame with its number, its driving heatmap (S, S) in [0, 1] and the box of its face."""


@dataclass(frozen=True)
class RenderConfig:
    """What the networks were trained for, and how their faces are used.

    Attributes:
        face_size: side S of the networks' faces, pixels.
        num_references: how many references they use, N.
        num_frames: frames of a guidance window, odd, T.
        heatmap_sigma: width of heatmap lines, pixels.
        block: frames in a batch.
        pose_matched_references: choose references for each frame by its pose, for networks with `align_references`.
        restore: sharpens each generated face, (S, S, 3) uint8 RGB -> a square picture of any size.
        detail: keep the frame's own detail where the generated face agrees with it.
        largest_side: faces larger than S are rendered at their own size, up to this one; S: all at the networks' size.
    """

    face_size: int
    num_references: int
    num_frames: int
    heatmap_sigma: float
    block: int
    pose_matched_references: bool = False
    restore: Restore | None = None
    detail: bool = True
    largest_side: int = 0

    @property
    def native(self) -> bool:
        """Whether faces may be rendered larger than the networks see them; a restorer has detail of its own."""
        return self.largest_side > self.face_size and self.restore is None


@dataclass
class Block:
    """A few consecutive frames of one shot on their way through the stages.

    Attributes:
        shown: (n,) numbers in the schedule.
        sources: (n,) numbers in the source.
        frames: the pictures, (H, W, 3) uint8 RGB each.
        rendered: (m,) indices of the frames whose face is rendered.
        weight: (n,) opacity of the generated faces.
        inputs, references: what the engine renders them from.
        native: the references at their own resolution; None: faces are rendered at the networks' size.
        warps: (m,) where each generated face is read in its references.
        chosen: (m, N) which of the native references these are.
        originals: (m, S, S, 3) uint8, the faces of those frames.
        faces: the generated faces, square pictures uint8; empty where none shows.
    """

    shown: np.ndarray
    sources: np.ndarray
    frames: list[np.ndarray]
    rendered: np.ndarray
    weight: np.ndarray
    inputs: FrameInputs | None = None
    references: Any = None
    native: NativeReferences | None = None
    warps: list[FaceWarp] = field(default_factory=list)
    chosen: np.ndarray | None = None
    originals: np.ndarray | None = None
    faces: list[np.ndarray] = field(default_factory=list)


class NativeReferences:
    """The reference faces of a shot at their own resolution, on disk: of dozens, few serve at a time."""

    def __init__(self) -> None:
        self._pixels, self._shapes, self._starts = DiskArray(dtype=np.uint8), list[tuple[int, ...]](), [0]

    def append(self, face: np.ndarray) -> None:
        """The next reference, (h, w, 3) uint8."""
        self._pixels.append(face.reshape(-1))
        self._shapes.append(face.shape)
        self._starts.append(len(self._pixels))

    def read(self, number: int) -> np.ndarray:
        """(h, w, 3) uint8."""
        return self._pixels[self._starts[number] : self._starts[number + 1]].reshape(self._shapes[number])


@dataclass(frozen=True)
class ShotReferences:
    """The references of a shot.

    Attributes:
        encoded: what `Engine.encode` returned.
        landmarks: (M, 131, 2) of the references, normalised to the face box.
        first: number of the shot's first frame.
        chosen: (n, N) int64, which references serve each of its frames.
        native, places: the references at their own resolution, and (M,) which of these each reference is.
    """

    encoded: Any
    landmarks: np.ndarray
    first: int
    chosen: np.ndarray
    native: NativeReferences | None
    places: np.ndarray


class Renderer:
    """Renders one video under one speech; a context manager.

    Args:
        engine: the networks.
        config: see `RenderConfig`.
        video: the video, scanned.
        faces: of its frames.
        schedule: which frame is shown when.
        speech: audio features of the new speech.
        observe: see `Observe`; called in a thread, in order.
        check: of the generated faces, closed with the renderer; None: they are all shown.
        ahead: faces are checked so many frames before they are shown, to fade out smoothly before one that is wrong.
        share: (n,) float32 in [0, 1] for each frame shown, how much of the face may show; None: all of it.
        pictures: the frames shown, in place of the video's own: what another face was already rendered into.

    Attributes:
        failed: (n,) bool, for each frame shown whether its generated face was wrong, and the frame passed through.
    """

    def __init__(
        self,
        engine: Engine,
        config: RenderConfig,
        video: VideoSource,
        faces: Faces,
        schedule: Schedule,
        speech: SpeechFeatures,
        observe: Observe | None = None,
        check: ResultCheck | None = None,
        ahead: int = 0,
        share: np.ndarray | None = None,
        pictures: Callable[[Pipeline], Iterator[np.ndarray]] | None = None,
    ) -> None:
        self.engine, self.config, self.video, self.observe = engine, config, video, observe
        self.faces, self.schedule, self.speech = faces, schedule, speech
        self.step = block_size(config.block, video.size)
        self._builder = FrameInputBuilder(config.face_size, config.heatmap_sigma)
        self._offsets_s = (np.arange(config.num_frames) - config.num_frames // 2) / WINDOW_FPS
        self._halfway_s = (schedule.times_s[1:] + schedule.times_s[:-1]) / 2
        self._nearest_face = _nearest_faces(faces, video.times_s[: len(faces.valid)])
        self._lip_aperture = _lip_apertures(faces)
        self._check, self._ahead, self._ramp = check, ahead, ramp_frames(float(video.fps))
        weight = faces.weight[schedule.source]
        self.weight = weight if share is None else np.minimum(weight, share)
        self._pictures = pictures
        self.failed = np.zeros(len(schedule), bool)
        self._reference_video: VideoSource | None = None
        self._references = lru_cache(_REFERENCES_KEPT)(self._shot_references)
        self._native_reference = lru_cache(config.num_references + 1)(_native_reference)

    def frames(self, pipeline: Pipeline) -> Iterator[np.ndarray]:
        """Yield the dubbed frames in order, (H, W, 3) uint8 RGB each; stages run ahead in the pipeline's threads."""
        pictures, stage = self._decoded(), "decode"
        if self._pictures is not None:
            pictures, stage = self._pictures(pipeline), "hand over"
        blocks: Iterator[Block] = pipeline.source(stage, self._blocks(pictures))
        blocks = pipeline.stage("prepare", self._prepare, blocks)
        blocks = pipeline.stage("render", self._render, blocks)
        blocks = self._weighted_blocks(pipeline.stage("check", self._check_faces, blocks))
        for frames in pipeline.stage("blend", self._blend, blocks):
            yield from frames

    def close(self) -> None:
        """Close the reference reader and the check, and free encoded references: a cached method keeps `self` alive."""
        if self._reference_video is not None:
            self._reference_video.close()
        if self._check is not None:
            self._check.close()
        del self._references

    def __enter__(self) -> Renderer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # ----------------------------------------------------------------------------------------------------------- stages

    def _decoded(self) -> Iterator[np.ndarray]:
        return self.video.read(int(source) for part in self._numbers() for source in self.schedule.source[part])

    def _blocks(self, pictures: Iterator[np.ndarray]) -> Iterator[Block]:
        for part in self._numbers():
            weight = self.weight[part]
            frames = [next(pictures) for _ in part]
            yield Block(part, self.schedule.source[part], frames, np.flatnonzero(weight > 0), weight)

    def _numbers(self) -> Iterator[np.ndarray]:
        """Numbers in the schedule of each block, all of one shot, for as long as there is speech."""
        shots, start = self.faces.shots[self.schedule.source], 0
        while start < len(self.schedule) and (start == 0 or self.speech.covers(self.schedule.times_s[start])):
            part = np.arange(start, min(start + self.step, len(self.schedule)))
            part = part[: int(np.argmin(np.append(shots[part] == shots[start], False)))]
            yield np.array([k for k in part if k == 0 or self.speech.covers(self.schedule.times_s[k])])
            start += len(part)

    @torch.inference_mode()
    def _prepare(self, block: Block) -> Block:
        """Build what the networks are fed for a block."""
        if not len(block.rendered):
            return block
        shown, sources = block.shown[block.rendered], block.sources[block.rendered]
        block.originals = self._crops([block.frames[i] for i in block.rendered], sources)
        times_s = self.schedule.times_s[shown][:, None] + self._offsets_s  # (m, T)
        audio = audio_windows(self.speech, (times_s * WINDOW_FPS).reshape(-1))  # (m * T, D, 10)
        shot = self._references(int(self.faces.shots[sources[0]]))
        block.references, block.native = shot.encoded, shot.native
        chosen = shot.chosen[sources - shot.first]
        block.chosen = shot.places[chosen]
        block.inputs = self._builder.frames(
            block.originals,
            audio.reshape(*times_s.shape, *audio.shape[1:]),
            numbers=sources,
            windows=self._windows(times_s, sources),
            landmarks_of=self.faces.in_boxes,
            reference_landmarks=shot.landmarks,
            chosen=chosen,
        )
        return block

    def _render(self, block: Block) -> Block:
        if block.inputs is not None:
            generated = self.engine.render(block.inputs, block.references)
            if self.observe is not None:
                heatmaps = self.engine.heatmaps(block.inputs, block.references)[:, 0].float().cpu().numpy()
                for i, heatmap in zip(block.rendered, heatmaps, strict=True):
                    self.observe(int(block.shown[i]), heatmap, self.faces.box(block.sources[i]))
            finite = generated.faces.isfinite().flatten(1).all(dim=1)
            self.failed[block.shown[block.rendered]] = ~finite.cpu().numpy()
            block.faces = list(to_uint8(generated.faces.float().nan_to_num(0.0)))
            if block.native is not None:
                block.warps = generated.warps(block.inputs.theta if self.config.pose_matched_references else None)
            block.inputs, block.references = None, None
        return block

    def _check_faces(self, block: Block) -> Block:
        """Which of the faces may be shown."""
        if block.originals is None:
            return block
        shown, sources = block.shown[block.rendered], block.sources[block.rendered]
        if self.config.restore is not None:
            block.faces = [self.config.restore(face) for face in block.faces]
        if self._check is not None:
            self.failed[shown] |= self._check(block.faces, block.originals, self.faces.in_boxes(sources), shown)
        return block

    def _weighted_blocks(self, blocks: Iterator[Block]) -> Iterator[Block]:
        """Blocks with their weights, each as soon as enough of what follows is checked."""
        waiting = deque[Block]()
        for block in blocks:
            waiting.append(block)
            while waiting and block.shown[-1] - waiting[0].shown[-1] >= self._ahead:
                yield self._weighted(waiting.popleft(), int(block.shown[-1]) + 1)
        while waiting:
            yield self._weighted(waiting.popleft(), len(self.schedule))

    def _weighted(self, block: Block, known: int) -> Block:
        """What fails goes out as what is covered does; of the frames before `known` it is known whether they fail."""
        first = max(0, int(block.shown[0]) - self._ramp)
        around = np.arange(first, min(known, int(block.shown[-1]) + 1 + self._ramp))
        sources = self.schedule.source[around]
        kept = ramped(~self.failed[around], self.faces.shots[sources], self._ramp)[block.shown - first]
        block.weight = np.minimum(kept, self.weight[block.shown])
        return block

    def _blend(self, block: Block) -> list[np.ndarray]:
        for place, (i, face) in enumerate(zip(block.rendered, block.faces, strict=True)):
            source = block.sources[i]
            if not block.weight[i]:
                continue
            sharp = self._native(block, place)
            block.frames[i] = blend_face(
                block.frames[i],
                face if sharp is None else sharp,
                self.faces.boxes[source],
                self.faces.landmarks[source],
                weight=float(block.weight[i]),
                detail=self.config.detail,
                degrees=float(self.faces.degrees[source]),
                compared_at=None if sharp is None else self.config.face_size,
            )
        return block.frames

    def _native(self, block: Block, place: int) -> np.ndarray | None:
        """A generated face of a block at its own resolution; None: it is no larger than the networks'."""
        if block.native is None or block.chosen is None:
            return None
        box = self.faces.boxes[block.sources[block.rendered[place]]]
        size = native_size(box, self.config.face_size, self.config.largest_side)
        if size is None:
            return None
        references = [self._native_reference(block.native, i) for i in block.chosen[place].tolist()]
        return native_face(block.faces[place], block.warps[place], references, size)

    # ------------------------------------------------------------------------------------------------------------ parts

    def _shot_references(self, shot: int) -> ShotReferences:
        """References of a shot, from closed to open lips, and for `align_references` those in its frames' poses."""
        frames, count = np.flatnonzero(self.faces.shots == shot), self.config.num_references
        weight = self.faces.weight[frames]
        fit = weight == 1 if (weight == 1).any() else weight > 0
        references = frames[choose_references(self._lip_aperture[frames], fit, count)]
        chosen = np.arange(count)[None].repeat(len(frames), 0)
        if self.config.pose_matched_references:
            pool = frames[candidates(fit)]
            matched = pool[self._pose_matched(frames, pool)]
            distinct, index = np.unique(matched, return_inverse=True)
            references, chosen = np.concatenate([references, distinct]), count + index.reshape(matched.shape)
        ordered = np.unique(references)
        self._reference_video = self._reference_video or self.video.again()
        pictures = zip(ordered, self._reference_video.read(ordered.tolist()), strict=True)
        native = NativeReferences() if self.config.native else None
        crops = []
        for i, picture in pictures:
            crops.append(self._crops([picture], np.array([i]))[0])
            if native is not None:
                native.append(shrunk(self.faces.box(i).read(picture), self.config.largest_side))
        places = np.searchsorted(ordered, references)
        landmarks = self.faces.in_boxes(references)
        inputs = self._builder.references(np.stack(crops)[places], landmarks)
        return ShotReferences(self.engine.encode(inputs), landmarks, int(frames[0]), chosen, native, places)

    def _pose_matched(self, frames: np.ndarray, pool: np.ndarray) -> np.ndarray:
        """Which frames of the pool serve each frame as references: (n, N) indices into the pool."""
        follower = PoseFollower(self.faces.in_boxes(pool), self._lip_aperture[pool], self.config.num_references)
        chosen = []
        for block in np.array_split(frames, -(-len(frames) // 1024)):
            known = self.faces.valid[block, None, None]
            chosen.append(follower(np.where(known, self.faces.in_boxes(block), np.nan)))
        return np.concatenate(chosen)

    def _windows(self, times_s: np.ndarray, sources: np.ndarray) -> np.ndarray:
        """Frames with a face nearest to each of the times (m, T) around the frames `sources` (m,): (m, T)."""
        shown = self.schedule.source[np.searchsorted(self._halfway_s, times_s)]  # as `nearest`
        # Do not take neighbours across a shot cut.
        same = self.faces.shots[shown] == self.faces.shots[sources][:, None]
        return self._nearest_face[np.where(same, shown, sources[:, None])]

    def _crops(self, frames: list[np.ndarray], sources: np.ndarray) -> np.ndarray:
        boxes = map(self.faces.box, sources.tolist())
        return np.stack([box.crop(frame, self.config.face_size) for frame, box in zip(frames, boxes, strict=True)])


def _native_reference(references: NativeReferences, number: int) -> np.ndarray:
    return for_reading(references.read(number))


def _nearest_faces(faces: Faces, times_s: np.ndarray) -> np.ndarray:
    """(F,) for each frame the nearest frame of its shot with a face; itself where the shot has none."""
    found = np.arange(len(faces.valid))
    edges = np.flatnonzero(np.diff(faces.shots)) + 1
    for part in np.split(found.copy(), edges):
        known = part[faces.valid[part]]
        if len(known):
            found[part] = known[nearest(times_s[known], times_s[part])]
    return found


def _lip_apertures(faces: Faces) -> np.ndarray:
    """(F,) lip aperture as a share of the box."""
    blocks = (np.arange(i, min(i + 1024, len(faces.valid))) for i in range(0, len(faces.valid), 1024))
    return np.concatenate([outer_lip_aperture(faces.in_boxes(block)) for block in blocks])


def block_size(frames: int, size: tuple[int, int]) -> int:
    """Frames worked on at a time: `frames`, or fewer where they are large."""
    return max(1, min(frames, BLOCK_BYTES // (3 * size[0] * size[1])))
