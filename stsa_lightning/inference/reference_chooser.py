"""Which references serve each frame, once it is known how far its lips shall open."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from stsa_lightning.face.references import AHEAD, ReferenceFollower
from stsa_lightning.inference.frame_inputs import ChosenReferences

Block = TypeVar("Block")


@dataclass(frozen=True)
class ToServe:
    """What decides which references suit F frames.

    Attributes:
        wanted: (F,) inner aperture that their lips shall have, see `Guided.inner_lip_aperture`.
        landmarks: (F, 131, 2), normalised to the face box.
        known: (F,) bool, whose landmarks were found; others keep what the frame before has.
        allowed: (F, M) bool, which references may serve each frame.
    """

    wanted: np.ndarray
    landmarks: np.ndarray
    known: np.ndarray
    allowed: np.ndarray

    def __len__(self) -> int:
        return len(self.wanted)

    def before(self, following: ToServe) -> ToServe:
        """These frames and as many of those after them as a choice looks at."""
        pairs = zip(vars(self).values(), vars(following).values(), strict=True)
        return ToServe(*(np.concatenate([own, then[:AHEAD]]) for own, then in pairs))


class ReferenceChooser:
    """To be called with the frames of a shot in order, in dubbing as in evaluation.

    Args:
        landmarks: (M, 131, 2) of the references, normalised to the face box.
        count: references of a frame, N.
        matched: of those after the first N, which are guidance's, the ones that suit each frame; else the first N.
    """

    def __init__(self, landmarks: np.ndarray, count: int, matched: bool) -> None:
        self._landmarks, self._count = landmarks, count
        self._follower = ReferenceFollower(landmarks[count:], count) if matched else None

    def __call__(self, frames: ToServe, following: ToServe | None = None) -> ChosenReferences:
        """The references of F frames; with what is known of those after them, they change less often."""
        numbers = np.arange(self._count)[None].repeat(len(frames), 0)
        if self._follower is not None:
            every = frames if following is None else frames.before(following)
            seen = np.where(every.known[:, None, None], every.landmarks, np.nan)
            allowed = every.allowed[:, self._count :]
            numbers = self._count + self._follower(seen, every.wanted, allowed, len(frames))
        return ChosenReferences.of(self._landmarks, frames.landmarks, numbers)


def with_next(blocks: Iterable[Block]) -> Iterator[tuple[Block, Block | None]]:
    """Each block with the one after it, which is known before the first of them is served."""
    known = list[Block]()
    for block in blocks:
        if known:
            yield known.pop(), block
        known.append(block)
    for block in known:
        yield block, None
