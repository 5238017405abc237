"""Channels to one, so that nothing cancels: how networks and metrics get stereo and surround sound."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import chain, pairwise
from math import log2, sqrt
from operator import mul

import numpy as np

from stsa_lightning.media.audio_clock import Piece

_OPPOSED = 0.25  # a channel that correlates less than -0.25 with the mix so far is turned over before it is added
_SILENT = 1e-12  # power below which nothing can be said
_HEARD_HZ = 4000  # what correlates shall be speech: not hum, a constant offset, or rumble
_QUARTERS = 4  # of a second: decisions are made for each,
_ENOUGH_HZ = 16_000  # and from so many samples of a second: more say nothing new
_STEPS = 16  # in which the scale doubles, 0.4 dB each: one that trembles is one, and asks for no crossfade
_SAME = 1e-4  # weights nearer than that are one: -80 dB
_NEIGHBOUR = 0.01  # share of the neighbours in a decision: they decide where a quarter is silent


def to_mono(seconds: Iterable[Piece], rate_hz: int, names: Sequence[str]) -> Iterator[Piece]:
    """Mix all channels into one, which is as loud as the loudest of them.

    A plain mean loses speech that lies in opposite phase, and is 6 to 17 dB too quiet for speech in one channel. Here
    each channel is added with the sign under which it does not cancel, and the sum scaled to the power of the loudest
    channel. Signs and scale are decided for each quarter of a second, and pass gradually from the middle of one to the
    middle of the next. They depend on half a second before and after alone: a part is mixed as in the whole if that
    much before it is given too. Equal channels are their mean.

    Args:
        seconds: (channels, n) each, without a break; all but the last are whole.
        rate_hz: of their samples.
        names: of the channels, FFmpeg's ("FL", "FC", "LFE"); "LFE" is left out, the centre counts for more than the
            sides, as in ITU-R BS.775.
    """
    shares = _shares(names)
    if len(shares) == 1:
        yield from seconds
        return
    nothing = np.zeros((_QUARTERS, len(shares), len(shares)))
    before = here = nothing  # covariances of the second before the one that waits, and of that one
    waiting: Piece | None = None
    for second in chain(seconds, [None]):
        after = nothing if second is None else _covariances(second[1], rate_hz)
        if waiting is not None:
            # A quarter's weights come from its own covariance and a little of its neighbours', and pass into those of
            # one quarter before the second, and one after.
            near = np.concatenate([before[-2:], here, after[:2]])
            near = near[1:-1] + _NEIGHBOUR * (near[:-2] + near[2:])
            weights = np.array([_weights(quarter, shares) for quarter in near.tolist()], np.float32)
            yield waiting[0], _mixed(waiting[1], weights, rate_hz)
        before, here, waiting = here, after, second


def _shares(names: Sequence[str]) -> list[float]:
    """Of each in the mix, before signs and scale."""
    shares = [_share(name) for name in names]
    return shares if any(shares) else [1.0] * len(names)


def _share(name: str) -> float:
    if name.startswith("LFE"):
        return 0.0
    if name == "FC":
        return 2.0**0.5
    return 0.5**0.5 if name[0] in "BST" else 1.0  # back, side, top


def _covariances(block: np.ndarray, rate_hz: int) -> np.ndarray:
    """(quarters, channels, channels) in the speech band, of a second or its beginning."""
    lag = max(1, rate_hz // (2 * _HEARD_HZ))  # a difference so far apart is loudest at 4 kHz, and 0 at 0 Hz
    step = max(1, rate_hz // _ENOUGH_HZ)
    change = np.empty((len(block), _QUARTERS, -(-rate_hz // (_QUARTERS * step))), np.float32)
    later, earlier = block[:, lag::step], block[:, :-lag:step]
    flat = change.reshape(len(block), -1)
    np.subtract(later, earlier, out=flat[:, : later.shape[1]])
    flat[:, later.shape[1] :] = 0
    return np.einsum("iqn,jqn->qij", change, change).astype(np.float64)


def _weights(covariance: Sequence[Sequence[float]], shares: Sequence[float]) -> list[float]:
    """By what channels of this covariance are multiplied before they are added.

    Plain numbers: for so few, arrays take five times as long.
    """
    weights, power, loudest = [0.0] * len(shares), 0.0, 0.0  # and the power of the mix so far
    for channel, share in enumerate(shares):
        if not share:
            continue
        own, with_mix = covariance[channel][channel], sum(map(mul, covariance[channel], weights))
        weights[channel] = -share if with_mix < -_OPPOSED * sqrt(power * own) else share
        power = max(0.0, power + 2 * weights[channel] * with_mix + share**2 * own)
        loudest = max(loudest, own)
    scale = 2 ** (round(log2(loudest / power) / 2 * _STEPS) / _STEPS) if power > _SILENT else 1 / sum(shares)
    return [scale * weight for weight in weights]


def _mixed(block: np.ndarray, weights: np.ndarray, rate_hz: int) -> np.ndarray:
    """(channels, n) -> (1, n), a second or its beginning.

    Args:
        weights: (quarters + 2, channels) in the middle of each quarter, of that before and that after.
    """
    knots = np.concatenate([weights[:2].mean(0, keepdims=True), weights[1:-1], weights[-2:].mean(0, keepdims=True)])
    if np.abs(knots - knots[0]).max() < _SAME:
        return np.einsum("c,cn->n", knots[0], block)[None]
    borders = [0, *(round(rate_hz * (k + 0.5) / _QUARTERS) for k in range(_QUARTERS)), rate_hz]
    gains = np.empty((len(block), rate_hz), np.float32)
    for (start, stop), (left, right) in zip(pairwise(borders), pairwise(knots[:, :, None]), strict=True):
        np.multiply(right - left, _rise(stop - start), out=gains[:, start:stop])
        gains[:, start:stop] += left
    return np.einsum("cn,cn->n", gains[:, : block.shape[1]], block)[None]


@lru_cache(maxsize=8)
def _rise(length: int) -> np.ndarray:
    return np.linspace(0, 1, length, endpoint=False, dtype=np.float32)
