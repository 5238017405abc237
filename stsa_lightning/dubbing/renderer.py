"""One video under one speech: its faces redrawn block by block, in stages that overlap."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from stsa_lightning.dubbing.face_track import Faces, ramp_frames, ramped
from stsa_lightning.dubbing.pipeline import Pipeline
from stsa_lightning.dubbing.schedule import Schedule
from stsa_lightning.dubbing.speech import Heard, windows
from stsa_lightning.face.alignment import chosen_transforms
from stsa_lightning.face.blend import blend_face
from stsa_lightning.face.check import ResultCheck
from stsa_lightning.face.heatmaps import draw_heatmaps, outer_lip_aperture
from stsa_lightning.face.references import PoseFollower, candidates, choose_references
from stsa_lightning.face.turned import TurnedBox
from stsa_lightning.media.footage import Footage
from stsa_lightning.media.video import nearest
from stsa_lightning.models.synthesis import mask_lower_half

WINDOW_FPS = 25  # the networks' clock: neighbours in a window are 0.04 s apart, whatever the video's rate
BLOCK_BYTES = 64 * 2**20  # frames of a block together, of which a handful are at work at a time; binds at 1080p
_REFERENCES_KEPT = 4  # shots whose encoded references are held: a video that turns comes back to its last ones

Restore = Callable[[np.ndarray], np.ndarray]
Observe = Callable[[int, np.ndarray, TurnedBox], None]
"""Told of each redrawn frame: its number, the heatmap (S, S) in [0, 1] that drives it, where the face is."""


class Engine(Protocol):
    """Both networks at work."""

    def encode(self, images: Tensor, heatmaps: Tensor) -> Any:
        """References (1, M, 3, S, S) in [0, 1] and their heatmaps (1, M, 1, S, S): what `render` wants of them.

        The first N are those of the whole shot; the others are there for `chosen`.
        """

    def render(
        self, masked: Tensor, contours: Tensor, audio: Tensor, references: Any, chosen: Tensor, theta: Tensor
    ) -> Tensor:
        """Masked faces (F, 3, S, S), masked heatmaps (F, T, 1, S, S), audio (F, T, D, 10): faces (F, 3, S, S).

        `chosen` (F, N) int64 are the references nearest to each frame's pose, `theta` (F, N, 2, 3) say where they are
        read to lie as its face.
        """

    def heatmaps(self, contours: Tensor, audio: Tensor, references: Any) -> Tensor:
        """The heatmaps (F, 1, S, S) that `render` draws from."""


@dataclass(frozen=True)
class Look:
    """What the networks were made for, and how their answer is used.

    Attributes:
        face_size: side S of their faces, pixels.
        num_references: how many they look at.
        num_frames: frames of a guidance window, odd.
        heatmap_sigma: width of the heatmaps' lines, pixels.
        block: frames in a batch.
        follow: choose references for each frame by its pose, for networks with `align_references`.
        restore: sharpens each generated face, (S, S, 3) uint8 RGB -> a square picture of any size.
        detail: keep the frame's own detail where the new face agrees with it.
    """

    face_size: int
    num_references: int
    num_frames: int
    heatmap_sigma: float
    block: int
    follow: bool = False
    restore: Restore | None = None
    detail: bool = True


@dataclass
class Block:
    """A few consecutive frames of one shot on their way through the stages.

    Attributes:
        shown: (n,) numbers in the schedule.
        sources: (n,) numbers in the source.
        frames: the pictures, (H, W, 3) uint8 RGB each.
        redrawn: (m,) which of them are redrawn.
        weight: (n,) how much of the new faces shows.
        inputs: what the engine's `render` wants.
        seen: (m, S, S, 3) uint8, the faces of those frames.
        faces: what the networks made of them, square pictures uint8; none where they made nothing that shows.
    """

    shown: np.ndarray
    sources: np.ndarray
    frames: list[np.ndarray]
    redrawn: np.ndarray
    weight: np.ndarray
    inputs: tuple[Any, ...] = ()
    seen: np.ndarray | None = None
    faces: list[np.ndarray] = field(default_factory=list)


@dataclass(frozen=True)
class ShotReferences:
    """What the networks may look at in a shot.

    Attributes:
        encoded: what the engine makes of it.
        landmarks: (M, 131, 2) of the references in their boxes.
        first: number of the shot's first frame.
        chosen: (n, N) int64, which of the references each of its frames looks at.
    """

    encoded: Any
    landmarks: np.ndarray
    first: int
    chosen: np.ndarray

    def of(self, sources: np.ndarray, landmarks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """References (m, N) of some frames with these landmarks, and where they are read for them (m, N, 2, 3)."""
        chosen = self.chosen[sources - self.first]
        return chosen, chosen_transforms(self.landmarks, landmarks, chosen)


class Scene:
    """One video under one speech, ready to be redrawn.

    Args:
        engine: the networks.
        look: see `Look`.
        footage: the video, scanned.
        faces: of its frames.
        schedule: which frame is shown when.
        speech: the new speech.
        observe: see `Observe`; called in a thread, in order.
        check: of the generated faces, closed with the scene; None: they are all shown.
        ahead: faces are checked so many frames before they are shown, to go out smoothly before one that is wrong.

    Attributes:
        failed: (n,) bool, for each frame shown whether its generated face was wrong, and the frame passed through.
    """

    def __init__(
        self,
        engine: Engine,
        look: Look,
        footage: Footage,
        faces: Faces,
        schedule: Schedule,
        speech: Heard,
        observe: Observe | None = None,
        check: ResultCheck | None = None,
        ahead: int = 0,
    ) -> None:
        self.engine, self.look, self.footage, self.observe = engine, look, footage, observe
        self.faces, self.schedule, self.speech = faces, schedule, speech
        self.step = block_size(look.block, footage.size)
        self._offsets_s = (np.arange(look.num_frames) - look.num_frames // 2) / WINDOW_FPS
        self._halfway_s = (schedule.times_s[1:] + schedule.times_s[:-1]) / 2
        self._nearest_face = _nearest_faces(faces, footage.times_s[: len(faces.valid)])
        self._lip_aperture = _lip_apertures(faces)
        self._check, self._ahead, self._ramp = check, ahead, ramp_frames(float(footage.fps))
        self.failed = np.zeros(len(schedule), bool)
        self._others: Footage | None = None  # reads references
        self._references = lru_cache(_REFERENCES_KEPT)(self._encoded)

    def frames(self, pipeline: Pipeline) -> Iterator[np.ndarray]:
        """The dubbed frames in order, (H, W, 3) uint8 RGB each; stages run ahead in the pipeline's threads."""
        blocks: Iterator[Block] = pipeline.source("decode", self._blocks())
        blocks = pipeline.stage("prepare", self._prepare, blocks)
        blocks = pipeline.stage("render", self._render, blocks)
        blocks = self._weighed(pipeline.stage("check", self._checked, blocks))
        for frames in pipeline.stage("blend", self._blend, blocks):
            yield from frames

    def close(self) -> None:
        """Frees what reads references and finds lips, and what was encoded: a cached method keeps its object alive."""
        if self._others is not None:
            self._others.close()
        if self._check is not None:
            self._check.close()
        del self._references

    def __enter__(self) -> Scene:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # ----------------------------------------------------------------------------------------------------------- stages

    def _blocks(self) -> Iterator[Block]:
        numbers = self._numbers()
        pictures = self.footage.read(int(source) for part in numbers for source in self.schedule.source[part])
        for part in self._numbers():
            sources = self.schedule.source[part]
            redrawn = np.flatnonzero(self.faces.weight[sources] > 0)
            yield Block(part, sources, [next(pictures) for _ in part], redrawn, self.faces.weight[sources])

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
        """What the networks want to know of a block."""
        if not len(block.redrawn):
            return block
        shown, sources = block.shown[block.redrawn], block.sources[block.redrawn]
        block.seen = self._crops([block.frames[i] for i in block.redrawn], sources)
        times_s = self.schedule.times_s[shown][:, None] + self._offsets_s  # (m, T)
        heard = windows(self.speech, (times_s * WINDOW_FPS).reshape(-1))  # (m * T, D, 10)
        references = self._references(int(self.faces.shots[sources[0]]))
        chosen, theta = references.of(sources, self.faces.in_boxes(sources))
        block.inputs = (
            mask_lower_half(_images(block.seen)),
            self._contours(times_s, sources),
            _tensor(heard).unflatten(0, times_s.shape),
            references.encoded,
            _tensor(chosen),
            _tensor(theta),
        )
        return block

    def _render(self, block: Block) -> Block:
        if len(block.redrawn):
            drawn = self.engine.render(*block.inputs)
            if self.observe is not None:
                heatmaps = self.engine.heatmaps(*block.inputs[1:4])[:, 0].float().cpu().numpy()
                for place, heatmap in zip(block.redrawn, heatmaps, strict=True):
                    self.observe(int(block.shown[place]), heatmap, self.faces.place(block.sources[place]))
            whole = drawn.isfinite().flatten(1).all(dim=1)
            faces = (drawn.float().nan_to_num(0.0).clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy()
            self.failed[block.shown[block.redrawn]] = ~whole.cpu().numpy()
            block.faces, block.inputs = list(faces), ()
        return block

    def _checked(self, block: Block) -> Block:
        """Which of the faces may be shown."""
        if block.seen is None:
            return block
        shown, sources = block.shown[block.redrawn], block.sources[block.redrawn]
        if self.look.restore is not None:
            block.faces = [self.look.restore(face) for face in block.faces]
        if self._check is not None:
            self.failed[shown] |= self._check(block.faces, block.seen, self.faces.in_boxes(sources), shown)
        return block

    def _weighed(self, blocks: Iterator[Block]) -> Iterator[Block]:
        """Blocks with their weights, each as soon as enough of what follows is checked."""
        waiting = deque[Block]()
        for block in blocks:
            waiting.append(block)
            while waiting and block.shown[-1] - waiting[0].shown[-1] >= self._ahead:
                yield self._weigh(waiting.popleft(), int(block.shown[-1]) + 1)
        while waiting:
            yield self._weigh(waiting.popleft(), len(self.schedule))

    def _weigh(self, block: Block, known: int) -> Block:
        """What fails goes out as what is covered does; of the frames before `known` it is known whether they fail."""
        first = max(0, int(block.shown[0]) - self._ramp)
        around = np.arange(first, min(known, int(block.shown[-1]) + 1 + self._ramp))
        sources = self.schedule.source[around]
        kept = ramped(~self.failed[around], self.faces.shots[sources], self._ramp)[block.shown - first]
        block.weight = np.minimum(kept, self.faces.weight[block.sources])
        return block

    def _blend(self, block: Block) -> list[np.ndarray]:
        for place, face in zip(block.redrawn, block.faces, strict=True):
            source = block.sources[place]
            if not block.weight[place]:
                continue
            block.frames[place] = blend_face(
                block.frames[place],
                face,
                self.faces.boxes[source],
                self.faces.landmarks[source],
                weight=float(block.weight[place]),
                detail=self.look.detail,
                degrees=float(self.faces.degrees[source]),
            )
        return block.frames

    # ------------------------------------------------------------------------------------------------------------ parts

    def _encoded(self, shot: int) -> ShotReferences:
        """Those of the whole shot, from closed to open lips, and those that lie as its frames do."""
        frames, count = np.flatnonzero(self.faces.shots == shot), self.look.num_references
        weight = self.faces.weight[frames]
        fit = weight == 1 if (weight == 1).any() else weight > 0
        seen = frames[choose_references(self._lip_aperture[frames], fit, count)]
        chosen = np.arange(count)[None].repeat(len(frames), 0)
        if self.look.follow:
            offered = frames[candidates(fit)]
            followed = offered[self._followed(frames, offered)]
            posed, back = np.unique(followed, return_inverse=True)
            seen, chosen = np.concatenate([seen, posed]), count + back.reshape(followed.shape)
        ordered = np.unique(seen)
        self._others = self._others or self.footage.again()
        pictures = zip(ordered, self._others.read(ordered.tolist()), strict=True)
        crops = {int(i): self._crops([picture], np.array([i]))[0] for i, picture in pictures}
        landmarks = self.faces.in_boxes(seen)
        whole = draw_heatmaps(landmarks, "whole", self.look.face_size, self.look.heatmap_sigma)
        images = _images(np.stack([crops[i] for i in seen.tolist()]))
        return ShotReferences(
            self.engine.encode(images[None], _tensor(whole)[None, :, None]), landmarks, int(frames[0]), chosen
        )

    def _followed(self, frames: np.ndarray, offered: np.ndarray) -> np.ndarray:
        """Which of the frames on offer each frame looks at: (n, N) places."""
        follow = PoseFollower(self.faces.in_boxes(offered), self._lip_aperture[offered], self.look.num_references)
        chosen = []
        for block in np.array_split(frames, -(-len(frames) // 1024)):
            known = self.faces.valid[block, None, None]
            chosen.append(follow(np.where(known, self.faces.in_boxes(block), np.nan)))
        return np.concatenate(chosen)

    def _contours(self, times_s: np.ndarray, sources: np.ndarray) -> Tensor:
        """Masked heatmaps of the faces nearest to each of the times (m, T): (m, T, 1, S, S)."""
        shown = self.schedule.source[np.searchsorted(self._halfway_s, times_s)]  # as `nearest`
        # Beyond a cut is somebody else.
        same = self.faces.shots[shown] == self.faces.shots[sources][:, None]
        around = self._nearest_face[np.where(same, shown, sources[:, None])]
        unique, back = np.unique(around, return_inverse=True)
        heatmaps = draw_heatmaps(self.faces.in_boxes(unique), "masked", self.look.face_size, self.look.heatmap_sigma)
        return _tensor(heatmaps)[torch.from_numpy(back.reshape(around.shape))][:, :, None]

    def _crops(self, frames: list[np.ndarray], sources: np.ndarray) -> np.ndarray:
        boxes = map(self.faces.place, sources.tolist())
        return np.stack([place.crop(frame, self.look.face_size) for frame, place in zip(frames, boxes, strict=True)])


def _tensor(array: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array))


def _images(faces: np.ndarray) -> Tensor:
    """(n, S, S, 3) uint8 -> (n, 3, S, S) in [0, 1]."""
    return _tensor(faces).permute(0, 3, 1, 2).float() / 255


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
