"""What is evaluated: one clip under one task with the predictions of every method, and what metrics need of one."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from stsa_lightning.constants import FPS
from stsa_lightning.face.box import denormalise_landmarks, resize_face
from stsa_lightning.face.heatmaps import inner_lip_aperture
from stsa_lightning.metrics.base import Region
from stsa_lightning.utils.disk_array import in_blocks

Task = Literal["paired", "unpaired"]
ScoredRegion = Region | Literal["mouth@native"]
NATIVE = "mouth@native"  # the lower half of the face at the frame's own resolution
GROUND_TRUTH = "ground truth"

# (n, S, S, 3) uint8 -> (n, 131, 2) float32 pixels of the crop, NaN where no face was found.
FindLandmarks = Callable[[np.ndarray], np.ndarray]
FramePairs = Callable[[], Iterator[tuple[np.ndarray, np.ndarray]]]
FrameBlocks = Callable[[], Iterator[np.ndarray]]


@dataclass
class ClipSample:
    """One clip under one task: F frames, n of them with a face; face crops S x S, with one box for all methods.

    Images may be mapped from disk: read them in blocks.

    Attributes:
        speaker: who is seen in it.
        task: `paired`, driven by its own speech; `unpaired`, by another's, so that there is no true image.
        ground_truth: (n, S, S, 3) uint8, the real faces (of the source video in an unpaired task).
        predictions: method -> (n, S, S, 3) uint8.
        valid: (F,) bool, frames with a face.
        scored: (F,) bool, valid frames that frame metrics count: reference frames are left out.
        boxes: (F, 4) boxes of the crops in the source's frames, upright pixels (`face.upright_box`).
        times_s: (F,) time stamps from 0.
        references: (k, S, S, 3) uint8, the reference images of the networks.
        wave: (samples,) float32, 16 kHz, the driving speech; None: unknown.
        true_wave: (samples,) float32, 16 kHz, the source's own audio.
        lip_aperture: (F,) true lip aperture of the speaker of `wave`, pixels of the crop; None in a
            paired task: that of the ground truth.
        pairs: whole frames, blocks of (generated, true) uint8 RGB; None if there are only face crops.
        frames: method -> blocks of whole frames at 25/s, for SyncNet.
        degrees: (F,) tilt of the heads; None if there are no whole frames.
        silence: (n, S, S, 3) uint8, the evaluated method driven by digital silence.
        native: the ground truth and methods that render at the frame's own resolution -> (n, H, H, 3) uint8, H of S or
            more; empty where it is not asked for.
        notes: messages for the report.
    """

    name: str
    speaker: str
    task: Task
    ground_truth: np.ndarray
    predictions: dict[str, np.ndarray]
    valid: np.ndarray
    scored: np.ndarray
    boxes: np.ndarray
    times_s: np.ndarray
    references: np.ndarray
    wave: np.ndarray | None = None
    true_wave: np.ndarray | None = None
    lip_aperture: np.ndarray | None = None
    pairs: FramePairs | None = None
    frames: dict[str, FrameBlocks] = field(default_factory=dict)
    degrees: np.ndarray | None = None
    silence: np.ndarray | None = None
    native: dict[str, np.ndarray] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def main(self) -> str:
        """The evaluated method: the last one before the ground truth."""
        return [name for name in self.predictions if name != GROUND_TRUTH][-1]


def as_images(pictures: np.ndarray, device: str = "cpu") -> Tensor:
    """(n, H, W, 3) uint8 -> (n, 3, H, W) float32 in [0, 1]."""
    copied = np.array(pictures)  # memory maps are read-only, which torch warns of
    return torch.from_numpy(copied).to(device).permute(0, 3, 1, 2).float() / 255


class Prediction:
    """The prediction of one method for a sample, with lazily computed landmarks.

    Args:
        ground_truth: the prediction of the ground truth, whose landmarks are shared; None: this is it.
        pictures: generated and true faces of the scored frames, (m, 3, S, S) in [0, 1], if known in higher precision
            than the 8 bits of the sample.
    """

    def __init__(
        self,
        sample: ClipSample,
        method: str,
        find: FindLandmarks,
        ground_truth: Prediction | None = None,
        device: str = "cpu",
        pictures: tuple[Tensor, Tensor] | None = None,
    ) -> None:
        self.sample, self.method, self._find, self.device, self._pictures = sample, method, find, device, pictures
        self.ground_truth = self if ground_truth is None else ground_truth
        self.faces = sample.ground_truth if ground_truth is None else sample.predictions[method]
        self.cache: dict[Hashable, Any] = {}  # of metrics, for results that other methods' predictions need again

    def images(self, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Iterate over generated and true faces of the scored frames in batches of `size`: (m, 3, S, S) in [0, 1]."""
        if self._pictures is not None:
            yield from zip(*(faces.split(size) for faces in self._pictures), strict=True)
            return
        for places in in_blocks(np.flatnonzero(self.sample.scored[self.sample.valid]), size):
            yield as_images(self.faces[places], self.device), as_images(self.sample.ground_truth[places], self.device)

    def native_images(self, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """As `images`, at the frame's own resolution, (m, 3, H, H); what a method rendered smaller is enlarged."""
        true = self.sample.native.get(GROUND_TRUTH)
        if true is None:
            return
        for places in in_blocks(np.flatnonzero(self.sample.scored[self.sample.valid]), size):
            yield as_images(self.native_faces(places), self.device), as_images(true[places], self.device)

    def native_faces(self, places: np.ndarray) -> np.ndarray:
        """Some of the faces at the frame's own resolution, (m, H, H, 3) uint8."""
        if self.method in self.sample.native:
            return self.sample.native[self.method][places]
        side = self.sample.native[GROUND_TRUTH].shape[1]
        return np.stack([resize_face(face, side) for face in self.faces[places]])

    def whole_images(self) -> Iterator[tuple[Tensor, Tensor]] | None:
        """Iterate over generated and true whole frames, (m, 3, H, W) in [0, 1]; None if this method has none."""
        if self.sample.pairs is None or self.method not in (self.sample.main, GROUND_TRUTH):
            return None
        pairs = self.sample.pairs()
        if self.method == GROUND_TRUTH:
            pairs = ((true, true) for _, true in pairs)
        return ((as_images(a, self.device), as_images(b, self.device)) for a, b in pairs)

    @cached_property
    def landmarks(self) -> np.ndarray:
        """(F, 131, 2) landmarks detected in the prediction, pixels of the crop; NaN where no face was found."""
        if self is not self.ground_truth and self.faces is self.ground_truth.faces:
            return self.ground_truth.landmarks
        return self.landmarks_of(self.faces)

    def landmarks_of(self, faces: np.ndarray) -> np.ndarray:
        """Landmarks of n faces, put on the clip's frames: (F, 131, 2), as `landmarks`."""
        found = np.full((len(self.sample.valid), 131, 2), np.nan, np.float32)
        found[self.sample.valid] = self._find(faces)
        return found

    @property
    def scored_landmarks(self) -> tuple[Tensor, Tensor]:
        """Generated and true landmarks, (F, 131, 2); NaN also in frames that are not scored."""
        generated, true = (
            torch.from_numpy(np.where(self.sample.scored[:, None, None], found, np.float32(np.nan)))
            for found in (self.landmarks, self.ground_truth.landmarks)
        )
        return generated, true

    @property
    def frame_landmarks(self) -> np.ndarray:
        """(F, 131, 2) in pixels of the source's frame: independent of the box's own jumps."""
        return denormalise_landmarks(self.landmarks / self.faces.shape[1], self.sample.boxes)

    @property
    def lip_aperture(self) -> np.ndarray:
        """(F,) inner lip aperture, pixels of the crop."""
        return inner_lip_aperture(self.landmarks)

    @property
    def true_lip_aperture(self) -> np.ndarray:
        """(F,) lip aperture of the driving speaker."""
        own_speech = self.sample.task == "paired" or self.method == GROUND_TRUTH
        if own_speech or self.sample.lip_aperture is None:
            return self.ground_truth.lip_aperture
        return self.sample.lip_aperture

    @property
    def wave(self) -> np.ndarray | None:
        """(samples,) the driving speech, 16 kHz."""
        return self.sample.true_wave if self.method == GROUND_TRUTH else self.sample.wave

    @cached_property
    def clock(self) -> np.ndarray:
        """(ticks,) number of the frame that is shown at each 1/25 s."""
        times_s = self.sample.times_s
        if len(times_s) < 2:
            return np.zeros(len(times_s), np.int64)
        seconds = times_s[-1] + times_s[-1] - times_s[-2]
        ticks = np.arange(max(1, round(seconds * FPS))) / FPS
        return np.searchsorted((times_s[1:] + times_s[:-1]) / 2, ticks, side="left")
