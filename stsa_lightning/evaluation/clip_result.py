"""What is measured: one clip under one task, with every answer to it, and how a metric looks at one of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from stsa_lightning.face.box import denormalise_landmarks
from stsa_lightning.face.heatmaps import inner_lip_opening
from stsa_lightning.utils.disk_array import in_blocks

Task = Literal["paired", "unpaired"]
TRUTH = "ground truth"
CLOCK_FPS = 25.0  # of everything that compares mouth and sound

# (n, S, S, 3) uint8 -> (n, 131, 2) float32 pixels of the crop, NaN where no face was found.
FindLandmarks = Callable[[np.ndarray], np.ndarray]
FramePairs = Callable[[], Iterator[tuple[np.ndarray, np.ndarray]]]
FrameBlocks = Callable[[], Iterator[np.ndarray]]


@dataclass
class Case:
    """One clip under one task. F frames, of which n have a face; crops S x S, one box for truth and answers.

    Pictures may be mapped from disk, so they are read some at a time.

    Args:
        name: of the clip.
        task: ``paired``, its own speech; ``unpaired``, another's, so that no true picture of the answer exists.
        truth: (n, S, S, 3) uint8, the real faces (of the source, in an unpaired task).
        answers: name -> (n, S, S, 3) uint8.
        valid: (F,) bool, frames with a face.
        scored: (F,) bool, those among them that frame metrics count: not the references' own.
        boxes: (F, 4) of the crops within the source's frames, upright pixels (`face.turned`).
        times_s: (F,) from 0.
        references: (k, S, S, 3) uint8, what the networks were shown.
        wave: (samples,) float32 16 kHz, what the answers say; None: unknown.
        true_wave: what the source itself says.
        opening: (F,) true lip opening of whoever says ``wave``; None in a paired task: the truth's own.
        pairs: whole frames, blocks of (generated, true) uint8 RGB; None where only faces exist.
        frames: answer -> blocks of whole frames at 25/s, for SyncNet.
        degrees: (F,) by which the frames' heads are tilted; None where whole frames are not looked at.
        silence: (n, S, S, 3) of the main answer driven by digital silence.
        notes: what had to be matched.
    """

    name: str
    speaker: str
    task: Task
    truth: np.ndarray
    answers: dict[str, np.ndarray]
    valid: np.ndarray
    scored: np.ndarray
    boxes: np.ndarray
    times_s: np.ndarray
    references: np.ndarray
    wave: np.ndarray | None = None
    true_wave: np.ndarray | None = None
    opening: np.ndarray | None = None
    pairs: FramePairs | None = None
    frames: dict[str, FrameBlocks] = field(default_factory=dict)
    degrees: np.ndarray | None = None
    silence: np.ndarray | None = None
    notes: list[str] = field(default_factory=list)

    @property
    def main(self) -> str:
        """The answer that is being evaluated: the one before the truth."""
        return [name for name in self.answers if name != TRUTH][-1]


def as_images(pictures: np.ndarray, device: str = "cpu") -> Tensor:
    """(n, H, W, 3) uint8 -> (n, 3, H, W) in [0, 1]."""
    return (
        torch.from_numpy(np.array(pictures)).to(device).permute(0, 3, 1, 2).float() / 255
    )  # a copy: maps are read-only


class View:
    """One answer of a case, as metrics look at it; what is costly is found once.

    Args:
        case: the clip.
        answer: whose name.
        find: landmarks of crops.
        truth: the view of the truth, whose landmarks are shared; None: this is it.
        device: of the picture tensors.
        pictures: generated and true faces of the scored frames, (m, 3, S, S) in [0, 1], where they are known more
            exactly than the case's bytes.
    """

    def __init__(
        self,
        case: Case,
        answer: str,
        find: FindLandmarks,
        truth: View | None = None,
        device: str = "cpu",
        pictures: tuple[Tensor, Tensor] | None = None,
    ) -> None:
        self.case, self.answer, self._find, self.device, self._pictures = case, answer, find, device, pictures
        self.truth = self if truth is None else truth
        self.faces = case.truth if truth is None else case.answers[answer]
        self.kept: dict[Any, Any] = {}  # what a meter found here and will ask for again

    def images(self, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Generated and true faces of the scored frames, ``size`` at a time: (m, 3, S, S) in [0, 1]."""
        if self._pictures is not None:
            yield from zip(*(faces.split(size) for faces in self._pictures), strict=True)
            return
        for places in in_blocks(np.flatnonzero(self.case.scored[self.case.valid]), size):
            yield as_images(self.faces[places], self.device), as_images(self.case.truth[places], self.device)

    @cached_property
    def landmarks(self) -> np.ndarray:
        """(F, 131, 2) found in the answer, pixels of the crop; NaN where nothing was found."""
        if self is not self.truth and self.faces is self.truth.faces:
            return self.truth.landmarks
        return self.found_in(self.faces)

    def found_in(self, faces: np.ndarray) -> np.ndarray:
        """Landmarks of n faces on the clip's own frames: (F, 131, 2), as `landmarks`."""
        found = np.full((len(self.case.valid), 131, 2), np.nan, np.float32)
        found[self.case.valid] = self._find(faces)
        return found

    @property
    def scored_landmarks(self) -> tuple[Tensor, Tensor]:
        """Generated and true landmarks, (F, 131, 2); NaN also in frames that are not scored."""
        pair = []
        for found in (self.landmarks, self.truth.landmarks):
            kept = np.where(self.case.scored[:, None, None], found, np.nan)
            pair.append(torch.from_numpy(kept.astype(np.float32)))
        return pair[0], pair[1]

    @property
    def frame_landmarks(self) -> np.ndarray:
        """(F, 131, 2) in pixels of the source's frame: free of the box's own jumps."""
        return denormalise_landmarks(self.landmarks / self.faces.shape[1], self.case.boxes)

    @property
    def opening(self) -> np.ndarray:
        """(F,) inner lip opening found, pixels of the crop."""
        return inner_lip_opening(self.landmarks)

    @property
    def says_own(self) -> bool:
        """Whether this is the real video with its real sound."""
        return self.case.task == "paired" or self.answer == TRUTH

    @property
    def true_opening(self) -> np.ndarray:
        """(F,) opening of whoever really said it."""
        return self.truth.opening if self.says_own or self.case.opening is None else self.case.opening

    @property
    def wave(self) -> np.ndarray | None:
        """(samples,) what this answer says, 16 kHz."""
        return self.case.true_wave if self.answer == TRUTH else self.case.wave

    @cached_property
    def clock(self) -> np.ndarray:
        """(ticks,) for each 1/25 s the number of the frame that is shown."""
        times_s = self.case.times_s
        if len(times_s) < 2:
            return np.zeros(len(times_s), np.int64)
        seconds = times_s[-1] + times_s[-1] - times_s[-2]
        ticks = np.arange(max(1, round(seconds * CLOCK_FPS))) / CLOCK_FPS
        return np.searchsorted((times_s[1:] + times_s[:-1]) / 2, ticks, side="left")
