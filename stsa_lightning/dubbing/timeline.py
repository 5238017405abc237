"""Where speech that comes in lies on the clock of a live stream, and which features its frames hear.

Frame i lasts from i / 25 s to (i + 1) / 25 s and has exactly the samples of that time, so that sound and frames cannot
drift apart. Between utterances there is silence.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from itertools import count

import numpy as np

from stsa_lightning.constants import FPS, SAMPLE_RATE_HZ
from stsa_lightning.dubbing.growing_features import GrowingFeatures
from stsa_lightning.dubbing.report import DubError
from stsa_lightning.dubbing.speech_features import silent_row
from stsa_lightning.features.base import FEATURE_RATE_HZ, HOP, AudioFeatures

_STEPS = FEATURE_RATE_HZ // FPS  # of features in a frame
_SEEN = 5  # frames before and after an utterance in which its features are heard: lips open before the sound begins
_FADE = 5  # frames in which lips come to rest where speech is cut off or does not come, 0.2 s
_GIVEN_UP = 25  # frames after which speech that does not come is taken to have ended, 1 s
_HELD = 100  # steps of features beyond those wanted that are fed at a time


class Samples:
    """A queue of samples."""

    def __init__(self) -> None:
        self._chunks = deque[np.ndarray]()
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def push(self, chunk: np.ndarray) -> None:
        self._chunks.append(chunk)
        self._count += len(chunk)

    def take(self, wanted: int) -> np.ndarray:
        """The next (n,) of them, n = `wanted` or as many as there are."""
        taken = []
        while wanted and self._chunks:
            chunk = self._chunks.popleft()
            taken.append(chunk[:wanted])
            if len(chunk) > wanted:
                self._chunks.appendleft(chunk[wanted:])
            wanted -= len(taken[-1])
        self._count -= sum(map(len, taken))
        return np.concatenate([np.zeros(0, np.float32), *taken])


class Utterance:
    """Speech without a gap of its own.

    Args:
        extractor: of its features.
        rate_hz: of its sound.

    Attributes:
        start: number of the frame at which it begins; None: not placed yet.
        weight: how much of it lips follow, 0 to 1.
        waited: frames for which its sound was waited for.
        ended, cut: no more will come; it was interrupted.
    """

    def __init__(self, extractor: AudioFeatures, rate_hz: int) -> None:
        self.start: int | None = None
        self.weight, self.waited, self.ended, self.cut = 1.0, 0, False, False
        self._features, self._heard, self._sound = GrowingFeatures(extractor), Samples(), Samples()
        self._per_frame, self._pushed = rate_hz // FPS, 0

    def push(self, sound: np.ndarray, heard: np.ndarray) -> None:
        """Sound at its own rate, and the same at 16 kHz: (n,) float32 each."""
        self._sound.push(sound)
        self._heard.push(heard)
        self._pushed += len(sound)

    @property
    def frames(self) -> float:
        """How many frames it lasts, as far as is known."""
        return -(-self._pushed // self._per_frame) if self.ended else np.inf

    def ready(self, frame: int, start: float) -> bool:
        """Whether there is enough of it to render a frame, if it begins at `start`."""
        there = self._features.samples + len(self._heard)
        return self.ended or there >= self._features.wanted(int(frame + _SEEN - start) * _STEPS)

    def take(self) -> np.ndarray:
        """The sound of a frame."""
        sound = self._sound.take(self._per_frame)
        return np.pad(sound, (0, self._per_frame - len(sound)))

    def interrupt(self) -> None:
        """Its sound ends here; its features go on, so that lips may fade."""
        self.ended = self.cut = True
        self._heard = self._sound = Samples()

    def add(self, rows: np.ndarray, first: int, silent: np.ndarray) -> None:
        """Put what is heard of it into feature steps (n, D) of silence from the step `first` on."""
        assert self.start is not None
        first -= self.start * _STEPS
        last = first + len(rows)
        missing = (last + _HELD) * HOP - self._features.samples
        self._features.push(self._heard.take(max(0, missing)))
        self._features.ended = self.ended and not len(self._heard)
        low, high = max(0, first), min(last, self._features.steps)
        if low < high:
            rows[low - first : high - first] += self.weight * (self._features.rows(low, high) - silent)


@dataclass(frozen=True)
class Moment:
    """A frame's number, its sound (rate / 25,) float32, whether speech is in it and an utterance ends in it."""

    number: int
    sound: np.ndarray
    speaking: bool
    last: bool


class Timeline:
    """The speech of a stream, frame by frame, for one thread; `rows` belongs to the frame that `advance` gave last.

    Args:
        extractor: of the features that the networks were trained on.
        rate_hz: of the sound, a multiple of 25 from 8000 on.
        turn: frames after which `rows` begins at step 0 again; 0: never.

    Attributes:
        rate_hz: of the sound.
        late: frames of silence that were put into speech because it came too slowly.

    Raises:
        DubError: a rate that is none.
    """

    def __init__(self, extractor: AudioFeatures, rate_hz: int = SAMPLE_RATE_HZ, turn: int = 0) -> None:
        if rate_hz < 8000 or rate_hz % FPS:
            raise DubError(f"rate_hz: expected a multiple of {FPS} from 8000 on, such as 24000, got {rate_hz!r}")
        self._extractor, self.rate_hz, self._turn = extractor, rate_hz, turn
        self._silent = silent_row(extractor)
        self._silence = np.zeros(rate_hz // FPS, np.float32)
        self._utterances = deque[Utterance]()
        self._numbers, self._origin = count(), 0
        self.late = 0

    @property
    def busy(self) -> bool:
        """Whether there is speech to come."""
        return bool(self._utterances)

    @property
    def open(self) -> bool:
        """Whether an utterance was begun and not ended."""
        return bool(self._utterances) and not self._utterances[-1].ended

    def push(self, sound: np.ndarray, heard: np.ndarray) -> None:
        """See `Utterance.push`; the first after an end begins another utterance."""
        if not self.open:
            self._utterances.append(Utterance(self._extractor, self.rate_hz))
        self._utterances[-1].push(sound, heard)

    def end(self) -> None:
        """The utterance is complete."""
        if self._utterances:
            self._utterances[-1].ended = True

    def clear(self) -> None:
        """Interrupt who speaks, and drop what was to be said."""
        self._utterances = deque(utterance for utterance in self._utterances if utterance.start is not None)
        for utterance in self._utterances:
            utterance.interrupt()

    def advance(self) -> Moment:
        """The next frame."""
        number = next(self._numbers)
        self._origin = number - number % self._turn if self._turn else 0
        self._utterances = deque(utterance for utterance in self._utterances if not _is_over(utterance, number))
        self._place(number)
        sound, last = self._silence, False
        for utterance in self._utterances:
            if utterance.start is None:
                break
            if not utterance.ready(number, utterance.start):
                self._hold(utterance, number)
            elif utterance.cut:
                utterance.weight = max(0.0, utterance.weight - 1 / _FADE)
            else:
                utterance.weight, utterance.waited = min(1.0, utterance.weight + 1 / _FADE), 0
                if utterance.start <= number < utterance.start + utterance.frames:
                    sound, last = utterance.take(), number == utterance.start + utterance.frames - 1
        return Moment(number, sound, sound is not self._silence, last)

    def _place(self, number: int) -> None:
        """Say when utterances begin that have no place yet: when those before them end, the lips opening first."""
        free: float = number + _SEEN
        for utterance in self._utterances:
            if utterance.start is not None:
                if not utterance.cut:
                    free = max(free, utterance.start + utterance.frames)
            elif free == np.inf:
                return
            elif utterance.ready(number, free):
                utterance.start, utterance.waited = int(free), 0
                free += utterance.frames
            else:
                self._wait(utterance)
                return

    def _hold(self, utterance: Utterance, number: int) -> None:
        """Speech that does not come begins later; where it has begun, lips come to rest meanwhile."""
        assert utterance.start is not None
        if number >= utterance.start:
            self.late += 1
            utterance.weight = max(0.0, utterance.weight - 1 / _FADE)
        utterance.start += 1
        self._wait(utterance)

    def _wait(self, utterance: Utterance) -> None:
        utterance.waited += 1
        utterance.ended |= utterance.waited >= _GIVEN_UP

    # --------------------------------------------------------------------------------------- as `SpeechFeatures` has it

    def covers(self, _time_s: float) -> bool:
        return True

    def rows(self, first: int, last: int) -> np.ndarray:
        """(n, D) float32; those of silence where nobody speaks."""
        found = np.repeat(self._silent[None], last - first, axis=0)
        for utterance in self._utterances:
            if utterance.start is not None:
                utterance.add(found, first + self._origin * _STEPS, self._silent)
        return found


def _is_over(utterance: Utterance, number: int) -> bool:
    """Whether no frame from `number` on hears an utterance."""
    if utterance.start is None:
        return False
    return utterance.weight < 1e-6 if utterance.cut else number >= utterance.start + utterance.frames + _SEEN
