"""Sound on a clock: what a decoder gives, put where its time stamps say, second by second in constant memory.

Positions are whole samples from time 0. Stamps are rounded by containers (1 ms in Matroska, 1/90000 s in MPEG-TS), and
jitter in recordings: frames that follow each other within a small tolerance are joined without a break, and a run of
them is placed as a whole. A hole is silence; of an overlap the earlier frame stands.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import av

Piece = tuple[int, np.ndarray]  # position of the first sample, and (channels, n) float32

_TOLERANCE_S = 0.004  # a deviation of more is a hole or an overlap; lips and sound may differ by ten times as much
_SETTLE = 32  # frames whose stamps place a run; rounding errors of single ones level out
_PADDING = 4096  # samples that an encoder may have added at the end; a larger excess is a wrong statement of length
_SAMPLES: dict[str, tuple[Any, float, float]] = {  # FFmpeg's formats: type, zero, full scale
    "u8": (np.uint8, 128.0, 128.0),
    "s16": (np.int16, 0.0, 2.0**15),
    "s32": (np.int32, 0.0, 2.0**31),
    "s64": (np.int64, 0.0, 2.0**63),
    "flt": (np.float32, 0.0, 1.0),
    "dbl": (np.float64, 0.0, 1.0),
}


def decoded(packets: Iterable[Any]) -> Iterator[Any]:
    """Frames of a stream's packets; one that cannot be decoded is passed over."""
    import av

    for packet in packets:
        if packet.stream.codec_context is None:  # FFmpeg has no decoder for it, at which PyAV 17 crashes
            return
        try:
            frames = packet.decode()
        except av.error.FFmpegError:  # its time passes as a hole, and holes are filled
            continue
        yield from frames


def time_of(frame: Any) -> Fraction | None:
    """The frame's time stamp in seconds; None where it has none."""
    return None if frame.pts is None or frame.time_base is None else frame.pts * frame.time_base


def samples_of(frame: av.AudioFrame) -> np.ndarray:
    """(channels, n) float32, full scale 1; a copy."""
    kind, zero, scale = _SAMPLES[frame.format.name.removesuffix("p")]
    channels, count = frame.layout.nb_channels, frame.samples
    if frame.format.is_planar:
        samples = np.array([np.frombuffer(_plane(frame, i), kind, count) for i in range(channels)])
    else:
        samples = np.frombuffer(_plane(frame, 0), kind, count * channels).reshape(count, channels).T
    if scale == 1.0:
        return samples.astype(np.float32, copy=not frame.format.is_planar)
    # In double precision where single would round twice; products with powers of two are exact.
    found = np.multiply(samples, 1 / scale, dtype=np.float32 if scale <= 2.0**15 else np.float64)
    return (found - np.float32(zero / scale) if zero else found).astype(np.float32, copy=False)


def _plane(frame: av.AudioFrame, number: int) -> Any:
    """One of `frame.planes`, which from the eighth on are counted wrongly."""
    from av.audio.plane import AudioPlane

    return AudioPlane(frame, number)


def measured(
    frames: Iterable[av.AudioFrame], base: Fraction, stated_end_s: Fraction | None
) -> Iterator[tuple[av.AudioFrame, int]]:
    """Each frame with the number of its samples that count.

    Encoders fill their last block with silence. Some containers give the last frame's true duration, others state the
    length of the whole.

    Args:
        base: unit of the frames' time stamps, seconds.
        stated_end_s: where the sound ends, if the container says so.
    """
    end = None if stated_end_s is None else int(stated_end_s / base)
    waiting: deque[av.AudioFrame] = deque()
    for frame in frames:
        waiting.append(frame)
        if end is not None and frame.pts is not None and frame.pts > end:
            if (frame.pts - end) * base * frame.sample_rate + frame.samples <= _PADDING:
                continue
            end = None
        while len(waiting) > 1:
            yield waiting[0], waiting.popleft().samples
    while waiting:
        frame = waiting.popleft()
        count = frame.samples
        if end is not None and frame.pts is not None:
            count = min(count, round((end - frame.pts) * base * frame.sample_rate))
        tick = base * frame.sample_rate
        stated = (frame.duration or 0) * tick
        # Durations are rounded, too: one that is short by less than a tick says nothing.
        if not waiting and stated and stated + max(Fraction(1), tick) < frame.samples:
            count = min(count, round(stated))
        if count > 0:
            yield frame, count


def placed(
    frames: Iterable[tuple[av.AudioFrame, int]], rate_hz: int, base: Fraction, origin_s: Fraction, follows_picture: bool
) -> Iterator[Piece]:
    """Frames of one rate with their positions; what is placed twice is for the reader to cut.

    Args:
        frames: with the number of samples that count.
        rate_hz: of the frames and of the positions.
        base: unit of the frames' time stamps, seconds.
        origin_s: time stamp of time 0.
        follows_picture: False where the sound is alone: stamps that begin anew then go on where they were, in place of
            being cut as what the picture's reader has passed by.
    """
    run, shift = _Run(rate_hz, max(_TOLERANCE_S * rate_hz, float(base * rate_hz))), 0.0
    step, zero = base * rate_hz, origin_s * rate_hz
    # Whole numbers, and one rounding: the same sample for a part as for the whole.
    factor, offset = step.numerator * zero.denominator, zero.numerator * step.denominator
    divisor = step.denominator * zero.denominator
    for frame, count in frames:
        samples = samples_of(frame)[:, :count]
        position = None if frame.pts is None else (frame.pts * factor - offset) / divisor + shift
        if position is not None and not follows_picture and run.end is not None and position < run.end - rate_hz:
            shift, position = shift + run.end - position, float(run.end)
        yield from run.add(position, samples)
    yield from run.settle()


class _Run:
    """Frames that follow each other without a break, placed by the stamps of the first of them."""

    def __init__(self, rate_hz: int, tolerance: float) -> None:
        self._rate_hz, self._tolerance = rate_hz, tolerance
        self.end: int | None = None  # position after the last frame
        self._before: int | None = None  # the same of the run before
        self._waiting: list[Piece] = []  # frames whose run is not placed yet,
        self._off: list[float] = []  # and by how much their stamps are later than that
        self._settled = True

    def add(self, position: float | None, samples: np.ndarray) -> Iterator[Piece]:
        """Take a frame, give what is placed."""
        if self.end is None or (position is not None and abs(position - self.end) > self._tolerance):
            if not self._is_stray(position):
                yield from self.settle()
                self._before, self._settled = self.end, False
                self.end = 0 if position is None else int(np.floor(position + 0.5))
            else:
                yield from self._rejoin()
        assert self.end is not None
        piece = (self.end, samples)
        self.end += samples.shape[1]
        if self._settled:
            yield piece
            return
        self._waiting.append(piece)
        self._off.append(0.0 if position is None else position - piece[0])
        if len(self._waiting) == _SETTLE or self.end - self._waiting[0][0] > self._rate_hz:
            yield from self.settle()

    def _is_stray(self, position: float | None) -> bool:
        """Whether the one frame that waits had a wrong stamp: the next one continues the run before."""
        if len(self._waiting) != 1 or self._before is None or position is None:
            return False
        return abs(position - (self._before + self._waiting[0][1].shape[1])) <= self._tolerance

    def _rejoin(self) -> Iterator[Piece]:
        assert self._before is not None
        samples = self._waiting[0][1]
        yield self._before, samples
        self.end = self._before + samples.shape[1]
        self._waiting, self._off, self._settled = [], [], True

    def settle(self) -> Iterator[Piece]:
        """Place the run: in the middle of what its stamps allow."""
        if self._waiting:
            assert self.end is not None
            move = round((min(self._off) + max(self._off)) / 2)
            yield from ((position + move, samples) for position, samples in self._waiting)
            self.end += move
        self._waiting, self._off, self._settled = [], [], True


def in_seconds(pieces: Iterable[Piece], rate_hz: int, begin_s: int) -> Iterator[Piece]:
    """One whole second after the other, from that in which the first piece lies; silence between, overlaps cut.

    What lies before `begin_s` is left out; the last one may be shorter.
    """
    written, second = begin_s * rate_hz, begin_s
    block: np.ndarray | None = None
    for position, samples in pieces:
        if position < written:
            position, samples = written, samples[:, written - position :]
        if not samples.size:
            continue
        if block is None:
            second, block = position // rate_hz, np.empty((len(samples), rate_hz), np.float32)
            written = second * rate_hz
        while samples.size:
            begin = second * rate_hz
            block[:, written - begin : position - begin] = 0  # a hole; the rest is about to be written
            if position >= begin + rate_hz:
                yield begin, block
                second, block, written = second + 1, np.empty_like(block), begin + rate_hz
                continue
            part = samples[:, : begin + rate_hz - position]
            block[:, position - begin : position - begin + part.shape[1]] = part
            samples = samples[:, part.shape[1] :]
            written = position = position + part.shape[1]
    if block is not None:
        yield second * rate_hz, block[:, : written - second * rate_hz]


def stretch(pieces: Iterable[Piece], rate_hz: int, first: int, last: int | None) -> Iterator[np.ndarray]:
    """(channels, n) of the samples from position `first` to `last` (None: the end), silence where there are none.

    Where the pieces end, it ends.
    """
    for position, samples in pieces:
        while first < position and (last is None or first < last):
            silence = min(position, first + rate_hz, position if last is None else last) - first
            yield np.zeros((len(samples), silence), np.float32)
            first += silence
        samples = samples[:, max(0, first - position) : None if last is None else max(0, last - position)]
        if samples.size:
            yield samples
            first += samples.shape[1]
        if last is not None and first >= last:
            return
