"""Renders one video under one speech, block by block, in stages that overlap."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache, partial

import numpy as np
import torch

from stsa_lightning.constants import FPS
from stsa_lightning.dubbing.face_track import Faces, ramp_frames, ramped
from stsa_lightning.dubbing.pipeline import Pipeline
from stsa_lightning.dubbing.render_config import RenderConfig
from stsa_lightning.dubbing.schedule import Schedule
from stsa_lightning.dubbing.shot_references import NativeReferences, ShotReferences, VideoReferences
from stsa_lightning.dubbing.speech_features import SpeechFeatures, audio_windows
from stsa_lightning.face.blend import blend_face
from stsa_lightning.face.check import ResultCheck
from stsa_lightning.face.crops import to_uint8
from stsa_lightning.face.native_resolution import FaceWarp, for_reading, native_face, native_size
from stsa_lightning.face.upright_box import UprightBox
from stsa_lightning.inference.engine import Engine, Guided
from stsa_lightning.inference.frame_inputs import FrameInputBuilder, FrameInputs
from stsa_lightning.inference.reference_chooser import ReferenceChooser, ToServe, with_next
from stsa_lightning.media.video import nearest
from stsa_lightning.media.video_source import KnownFrames

BLOCK_BYTES = 40 * 2**20  # frames of a block together, of which a handful are at work at a time; binds at 1080p

Observe = Callable[[int, np.ndarray, UprightBox], None]
"""Called for each rendered frame with its number, its driving heatmap (S, S) in [0, 1] and the box of its face."""


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
        guided, to_serve: how their lips shall be, and what else decides which references serve them.
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
    references: ShotReferences | None = None
    guided: Guided | None = None
    to_serve: ToServe | None = None
    warps: list[FaceWarp] = field(default_factory=list)
    chosen: np.ndarray | None = None
    originals: np.ndarray | None = None
    faces: list[np.ndarray] = field(default_factory=list)


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
        live: no frame waits for those after it. Else faces are checked before they are shown, to fade out smoothly
            before one that is wrong, and references are chosen that suit the next block as well.
        share: (n,) float32 in [0, 1] for each frame shown, how much of the face may show; None: all of it.
        pictures: the frames shown, in place of the video's own: what another face was already rendered into.
        references: of the video, which the caller keeps for other renderers; None: its own.

    Attributes:
        failed: (n,) bool, for each frame shown whether its generated face was wrong, and the frame passed through.
    """

    def __init__(
        self,
        engine: Engine,
        config: RenderConfig,
        video: KnownFrames,
        faces: Faces,
        schedule: Schedule,
        speech: SpeechFeatures,
        observe: Observe | None = None,
        check: ResultCheck | None = None,
        live: bool = False,
        share: np.ndarray | None = None,
        pictures: Callable[[Pipeline], Iterator[np.ndarray]] | None = None,
        references: VideoReferences | None = None,
    ) -> None:
        self.engine, self.config, self.video, self.observe = engine, config, video, observe
        self.faces, self.schedule, self.speech = faces, schedule, speech
        self.step = block_size(config.block, video.size)
        self._builder = FrameInputBuilder(config.face_size, config.heatmap_sigma)
        self._offsets_s = (np.arange(config.num_frames) - config.num_frames // 2) / FPS
        self._halfway_s = (schedule.times_s[1:] + schedule.times_s[:-1]) / 2
        self._nearest_face = _nearest_faces(faces, video.times_s[: len(faces.valid)])
        self._check, self._live, self._ramp = check, live, ramp_frames(float(video.fps))
        self._ahead = 0 if live or check is None else ramp_frames(float(video.out_fps))
        weight = faces.weight[schedule.source]
        self.weight = weight if share is None else np.minimum(weight, share)
        self._pictures = pictures
        self.failed = np.zeros(len(schedule), bool)
        self._owns_references = references is None
        self._references = references or VideoReferences(engine, config, video, faces)
        self._native_reference = lru_cache(config.num_references + 1)(_native_reference)
        self._chooser: tuple[int, ReferenceChooser] | None = None  # of the shot that was rendered last

    def frames(self, pipeline: Pipeline) -> Iterator[np.ndarray]:
        """Yield the dubbed frames in order, (H, W, 3) uint8 RGB each; stages run ahead in the pipeline's threads."""
        pictures, stage = self._decoded(), "decode"
        if self._pictures is not None:
            pictures, stage = self._pictures(pipeline), "hand over"
        blocks: Iterator[Block] = pipeline.source(stage, self._blocks(pictures))
        blocks = pipeline.stage("prepare", self._prepare, blocks)
        pairs = ((block, None) for block in blocks) if self._live else with_next(blocks)
        blocks = pipeline.stage("render", lambda pair: self._render(*pair), pairs)
        blocks = self._weighted_blocks(pipeline.stage("check", self._check_faces, blocks))
        for frames in pipeline.stage("blend", self._blend, blocks):
            yield from frames

    def render(self, number: int, picture: np.ndarray) -> np.ndarray:
        """One dubbed frame at once, in the caller's thread; frames are asked for in order, but some may be left out.

        Args:
            number: in the schedule.
            picture: (H, W, 3) uint8 RGB, the source's frame that is shown then.
        """
        block = self._block(np.array([number]), [picture])
        block = self._check_faces(self._render(self._prepare(block)))
        return self._blend(self._weighted(block, number + 1))[0]

    def close(self) -> None:
        """Close the check, and references that are no one else's."""
        if self._owns_references:
            self._references.close()
        if self._check is not None:
            self._check.close()

    def __enter__(self) -> Renderer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # ----------------------------------------------------------------------------------------------------------- stages

    def _decoded(self) -> Iterator[np.ndarray]:
        return self.video.read(int(source) for part in self._numbers() for source in self.schedule.source[part])

    def _blocks(self, pictures: Iterator[np.ndarray]) -> Iterator[Block]:
        for part in self._numbers():
            yield self._block(part, [next(pictures) for _ in part])

    def _block(self, part: np.ndarray, pictures: list[np.ndarray]) -> Block:
        weight = self.weight[part]
        return Block(part, self.schedule.source[part], pictures, np.flatnonzero(weight > 0), weight)

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
        """Build what the networks are fed for a block, and predict its lips."""
        if not len(block.rendered):
            return block
        shown, sources = block.shown[block.rendered], block.sources[block.rendered]
        faces = (
            self.faces.box(source).crop(block.frames[i], self.config.face_size)
            for i, source in zip(block.rendered, sources.tolist(), strict=True)
        )
        block.originals = np.stack(list(faces))
        times_s = self.schedule.times_s[shown][:, None] + self._offsets_s  # (m, T)
        audio = audio_windows(self.speech, (times_s * FPS).reshape(-1))  # (m * T, D, 10)
        block.references = self._references(int(self.faces.shots[sources[0]]))
        landmarks = self.faces.in_boxes(sources)
        block.inputs = self._builder.frames(
            block.originals,
            audio.reshape(*times_s.shape, *audio.shape[1:]),
            self._windows(times_s, sources),
            self.faces.in_boxes,
        )
        calibration = block.references.calibration
        calibrate = None if calibration is None else partial(calibration, frames=landmarks)
        block.guided = self.engine.guide(block.inputs, block.references.encoded, calibrate)
        every = np.ones((len(sources), len(block.references.landmarks)), bool)
        lips = block.guided.inner_lip_aperture()
        block.to_serve = ToServe(lips, landmarks, self.faces.valid[sources], every)
        return block

    def _render(self, block: Block, following: Block | None = None) -> Block:
        """Draw a block's faces; references change less often where it is known what follows."""
        if block.inputs is None or block.references is None or block.guided is None or block.to_serve is None:
            return block
        guided, shot, number = block.guided, block.references, int(self.faces.shots[block.sources[0]])
        if following is not None and self.faces.shots[following.sources[0]] != number:
            following = None
        chosen = self._chooser_of(number, shot)(block.to_serve, None if following is None else following.to_serve)
        generated = self.engine.render(block.inputs, guided, chosen, shot.encoded)
        if self.observe is not None:
            for i, heatmap in zip(block.rendered, guided.heatmaps[:, 0].float().cpu().numpy(), strict=True):
                self.observe(int(block.shown[i]), heatmap, self.faces.box(block.sources[i]))
        finite = generated.faces.isfinite().flatten(1).all(dim=1)
        self.failed[block.shown[block.rendered]] = ~finite.cpu().numpy()
        block.faces = list(to_uint8(generated.faces.float().nan_to_num(0.0)))
        if shot.native is not None:
            block.warps = generated.warps(chosen.theta if self.config.pose_matched_references else None)
            block.chosen = shot.places[chosen.numbers.numpy()]
        block.inputs = block.guided = None
        return block

    def _chooser_of(self, number: int, shot: ShotReferences) -> ReferenceChooser:
        """A shot's; it begins anew with each shot, so that what was rendered before decides nothing."""
        if self._chooser is None or self._chooser[0] != number:
            config = self.config
            chooser = ReferenceChooser(shot.landmarks, config.num_references, config.pose_matched_references)
            self._chooser = number, chooser
        return self._chooser[1]

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
        if block.references is None or block.references.native is None or block.chosen is None:
            return None
        box = self.faces.boxes[block.sources[block.rendered[place]]]
        size = native_size(box, self.config.face_size, self.config.largest_side)
        if size is None:
            return None
        references = [self._native_reference(block.references.native, i) for i in block.chosen[place].tolist()]
        return native_face(block.faces[place], block.warps[place], references, size)

    # ------------------------------------------------------------------------------------------------------------ parts

    def _windows(self, times_s: np.ndarray, sources: np.ndarray) -> np.ndarray:
        """Frames with a face nearest to each of the times (m, T) around the frames `sources` (m,): (m, T)."""
        shown = self.schedule.source[np.searchsorted(self._halfway_s, times_s)]  # as `nearest`
        # Do not take neighbours across a shot cut.
        same = self.faces.shots[shown] == self.faces.shots[sources][:, None]
        return self._nearest_face[np.where(same, shown, sources[:, None])]


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


def block_size(frames: int, size: tuple[int, int]) -> int:
    """Frames worked on at a time: `frames`, or fewer where they are large."""
    return max(1, min(frames, BLOCK_BYTES // (3 * size[0] * size[1])))
