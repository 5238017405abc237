"""Audio features of a sound that is still coming in, in bounded memory."""

from __future__ import annotations

import numpy as np

from stsa_lightning.features.base import HOP, SPAN, AudioFeatures

# Steps before and after those wanted that an extractor hears as well: one before is all that log-mel and MFCC look at;
# the others listen to as much as they are given (what Moonshine needs of it: benchmarks/diary.md).
_BEFORE = {"wav2vec2": 100, "moonshine": 50}
_AFTER = {"moonshine": 10}
_AHEAD = 25  # steps that are described in one go where their sound is there: what is heard besides is heard once
_REMEMBERED = 50  # steps that are kept: windows overlap


class GrowingFeatures:
    """Steps are described as soon as the samples that they need are there, and read forward.

    A step needs the samples up to 25 ms after its beginning, with Moonshine 225 ms. Log-mel and MFCC features come out
    as of the whole; Moonshine and wav2vec 2.0, which listen to all of a sound, hear one or two seconds back and what
    has come in since.

    Args:
        extractor: of the features that the networks were trained on.

    Attributes:
        samples: how many came in.
        ended: set it once no more will come.
    """

    def __init__(self, extractor: AudioFeatures) -> None:
        self._extractor = extractor
        self._before, self._after = _BEFORE.get(extractor.kind, 1), _AFTER.get(extractor.kind, 0)
        self._chunks, self._dropped = [np.zeros(0, np.float32)], 0  # what is kept of the sound, and steps before it
        self._features, self._described = np.zeros((0, extractor.dim), np.float32), 0
        self.samples, self.ended = 0, False

    @property
    def held(self) -> int:
        """Samples in memory."""
        return self.samples - self._dropped * HOP

    @property
    def steps(self) -> int:
        """Of all that came in."""
        return -(-self.samples // HOP)

    def push(self, samples: np.ndarray) -> None:
        """(n,) float32 mono in [-1, 1] at 16 kHz, which come next."""
        self._chunks.append(np.asarray(samples, np.float32).reshape(-1))
        self.samples += len(self._chunks[-1])

    def wanted(self, last: int) -> int:
        """How many samples have to be there for the steps before `last`, unless the sound ended."""
        return (last - 1 + self._after) * HOP + SPAN

    def rows(self, first: int, last: int) -> np.ndarray:
        """Feature steps first ... last - 1, `wanted` of which came in: (n, D) float32, zeros outside of the sound.

        Raises:
            ValueError: a step that was forgotten.
        """
        self._describe(min(last, self.steps))
        kept = self._described - len(self._features)  # the first step that is kept
        low, high = (min(max(step, 0), self._described) for step in (first, last))
        if low < min(kept, high):
            raise ValueError(f"live speech is read forward: step {low} is forgotten, the first kept is {kept}")
        found = np.zeros((last - first, self._features.shape[1]), np.float32)
        found[low - first : high - first] = self._features[low - kept : high - kept]
        return found

    def _describe(self, last: int) -> None:
        """Features up to the step `last` - 1 at least."""
        if last <= self._described:
            return
        there = self.steps if self.ended else (self.samples - SPAN) // HOP + 1 - self._after
        last = max(last, min(last + _AHEAD, there))
        before = max(self._dropped, self._described - self._before)
        wave = np.concatenate(self._chunks)
        piece = wave[(before - self._dropped) * HOP : (last - 1 + self._after - self._dropped) * HOP + SPAN]
        rows = np.concatenate(list(self._extractor.chunks(piece)))[self._described - before : last - before]
        self._features = np.concatenate([self._features[-_REMEMBERED:], rows])
        self._described = last
        forget = max(0, self._described - self._before - self._dropped)
        self._chunks, self._dropped = [wave[forget * HOP :].copy()], self._dropped + forget
