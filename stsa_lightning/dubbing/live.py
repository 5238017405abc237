"""A prepared person speaks live: speech is pushed as it comes, and frames are taken with their sound."""

from __future__ import annotations

import logging
import math
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np

from stsa_lightning.constants import FPS, SAMPLE_RATE_HZ
from stsa_lightning.dubbing.renderer import Renderer
from stsa_lightning.dubbing.report import DubError
from stsa_lightning.dubbing.schedule import Schedule, ping_pong
from stsa_lightning.dubbing.timeline import Timeline

_TURN_S = 3600.0  # the schedule begins again after so long, or a little less: at the end of a turn of the video
_SLOWEST = FPS  # a picture a second at least, however slow the processor is
_MEMORY = 0.1  # of the mean of rendering times, the part of the last one
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class LiveFrame:
    """A frame of a live stream, with its sound.

    Attributes:
        number: from 0 on, 25 a second.
        time_s: when it is shown, from the stream's beginning.
        picture: (H, W, 3) uint8 RGB, not to be written to.
        sound: (rate / 25,) float32, what is heard while it is shown.
        speaking: whether that is speech; else the person is at rest.
        last: an utterance ends in it.
        repeated: the picture is that of the frame before, for the processor cannot render so many.
    """

    number: int
    time_s: float
    picture: np.ndarray
    sound: np.ndarray
    speaking: bool
    last: bool
    repeated: bool


class Stream(Iterator[LiveFrame]):
    """Frames of a person without end, 25 a second: who says what is pushed, and moves on with closed lips between.

    Taking a frame renders it and returns at once: nobody is waited for, and nothing sleeps (`paced` does). `push`,
    `end` and `clear` may be called from any thread and cost nothing; they count from the next frame on. Memory holds
    what was pushed and not yet shown.

    Speech begins when 0.2 s of it are there (of log-mel and MFCC features the first sample), with the lips opening
    0.2 s before its sound, and then has to stay 0.4 s ahead (0.2 s); where it comes in at its own pace, sound and lips
    are thus 0.4 s behind. Speech that comes too slowly is cut by silence, which is counted in `late`, and taken to
    have ended after a second.

    Args:
        renderer: of the person's frames as they are shown (see `turns`), under the timeline; closed with the stream.
        timeline: of what is said.

    Attributes:
        repeated: frames whose picture was that of the one before, because rendering takes longer than 1/25 s.
    """

    def __init__(self, renderer: Renderer, timeline: Timeline) -> None:
        self.rate_hz, self.repeated, self._clock = timeline.rate_hz, 0, time.perf_counter
        self._renderer, self._timeline, self._opened = renderer, timeline, ExitStack()
        self._opened.callback(renderer.close)
        frames = renderer.video.again()
        self._opened.callback(frames.close)
        self._source = 0
        self._pictures = frames.read(iter(lambda: self._source, None))
        self._inbox: deque[tuple[Callable[..., None], tuple[Any, ...]]] = deque()
        self._resampler = _Resampler(self.rate_hz)
        self._picture: np.ndarray | None = None
        self._every, self._due, self._mean_s = 1, 0, 0.0
        self._closed = self._warned = False

    # --------------------------------------------------------------------------------------------------- what is said

    def push(self, sound: np.ndarray) -> None:
        """Speech that comes next.

        Args:
            sound: (n,) mono, float in [-1, 1] or int16, of any length, at `rate_hz`.

        Raises:
            DubError: another shape or type, or numbers that are not finite.
        """
        self._inbox.append((self._push, (checked_sound(sound),)))

    def end(self) -> None:
        """What was pushed is complete: it is said to its end without waiting for more, then the person is at rest."""
        self._inbox.append((self._end, ()))

    def clear(self) -> None:
        """An interruption: no sound from the next frame on, what is queued is dropped, lips close within 0.2 s."""
        self._inbox.append((self._clear, ()))

    @property
    def busy(self) -> bool:
        """Whether anything is being said, or is still to be said."""
        return bool(self._inbox) or self._timeline.busy

    @property
    def late(self) -> int:
        """Frames of silence that cut speech, because it came in too slowly."""
        return self._timeline.late

    @property
    def rendered_fps(self) -> float:
        """Pictures a second that differ; below 25 where the processor does not render so many."""
        return FPS / self._every

    def _push(self, sound: np.ndarray) -> None:
        self._timeline.push(sound, self._resampler(sound))

    def _end(self) -> None:
        rest = self._resampler.finish()
        if self._timeline.open:
            self._timeline.push(np.zeros(0, np.float32), rest)
        self._timeline.end()

    def _clear(self) -> None:
        self._resampler.finish()
        self._timeline.clear()

    # --------------------------------------------------------------------------------------------------- what is shown

    def __next__(self) -> LiveFrame:
        if self._closed:
            raise StopIteration
        begun = self._clock()
        while self._inbox:
            act, given = self._inbox.popleft()
            act(*given)
        moment = self._timeline.advance()
        repeated = moment.number < self._due and self._picture is not None
        if repeated:
            self.repeated += 1
        else:
            number = moment.number % len(self._renderer.schedule)
            self._source = int(self._renderer.schedule.source[number])
            self._picture = self._renderer.render(number, next(self._pictures))
            self._slow_down(self._clock() - begun, moment.number)
        assert self._picture is not None
        return LiveFrame(
            moment.number, moment.number / FPS, self._picture, moment.sound, moment.speaking, moment.last, repeated
        )

    def _slow_down(self, taken_s: float, number: int) -> None:
        """Render so many of the frames as there is time for."""
        if number:  # the first one warms up
            self._mean_s = taken_s if not self._mean_s else self._mean_s + _MEMORY * (taken_s - self._mean_s)
        self._every = min(_SLOWEST, max(1, math.ceil(self._mean_s * FPS)))
        self._due = number + self._every
        if self._every > 1 and not self._warned:
            self._warned = True
            _log.warning(
                "a frame takes %.0f ms: pictures are repeated, %.3g a second are rendered in place of %d",
                1e3 * self._mean_s,
                self.rendered_fps,
                FPS,
            )

    def close(self) -> None:
        """End the stream."""
        if not self._closed:
            self._closed = True
            self._opened.close()

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def paced(
    frames: Iterable[LiveFrame],
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], object] = time.sleep,
) -> Iterator[LiveFrame]:
    """Each frame no sooner than its time stamp says, counted from the first; what is late catches up."""
    begun_s: float | None = None
    for frame in frames:
        now_s = clock()
        begun_s = now_s - frame.time_s if begun_s is None else begun_s
        if (early_s := begun_s + frame.time_s - now_s) > 0:
            sleep(early_s)
        yield frame


def turns(times_s: np.ndarray, rate: Fraction) -> Schedule:
    """A video forward and backward, 25 frames a second, as often as it fits into an hour; once at least."""
    turn_s = 2 * float(times_s[-1]) or 1 / float(rate)
    seconds = turn_s * max(1, int(_TURN_S / turn_s))
    return ping_pong(times_s, float(rate), seconds).at(Fraction(FPS), seconds)


def checked_sound(sound: np.ndarray) -> np.ndarray:
    """(n,) float32 of mono samples as programs have them, see `Stream.push`."""
    if not isinstance(sound, np.ndarray) or sound.ndim != 1 or not (sound.dtype == np.int16 or sound.dtype.kind == "f"):
        found = f"{sound.dtype} {sound.shape}" if isinstance(sound, np.ndarray) else type(sound).__name__
        raise DubError(f"sound: expected a NumPy array of mono samples (n,), float in [-1, 1] or int16, got {found}")
    samples = sound.astype(np.float32)  # a copy: the caller may use its own again
    if sound.dtype == np.int16:
        samples /= 2**15
    elif not np.isfinite(samples).all():
        raise DubError("sound: numbers that are not finite (NaN or infinite)")
    return samples


class _Resampler:
    """To 16 kHz, chunk by chunk."""

    def __init__(self, rate_hz: int) -> None:
        self._rate_hz = rate_hz
        self._resampler: Any = None

    def __call__(self, sound: np.ndarray) -> np.ndarray:
        if self._rate_hz == SAMPLE_RATE_HZ or not len(sound):
            return sound
        import av

        if self._resampler is None:
            self._resampler = av.AudioResampler("flt", "mono", SAMPLE_RATE_HZ)
        frame = av.AudioFrame.from_ndarray(sound[None], "flt", "mono")
        frame.rate = self._rate_hz
        return self._joined(self._resampler.resample(frame))

    def finish(self) -> np.ndarray:
        """What is left; then it begins anew."""
        if self._resampler is None:
            return np.zeros(0, np.float32)
        rest, self._resampler = self._joined(self._resampler.resample(None)), None
        return rest

    def _joined(self, frames: Iterable[Any]) -> np.ndarray:
        return np.concatenate([np.zeros(0, np.float32), *(frame.to_ndarray().reshape(-1) for frame in frames)])
