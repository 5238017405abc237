"""Channels to one, so that nothing cancels: what networks and measures hear of stereo and surround sound."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import chain, pairwise

import numpy as np

from stsa_lightning.audio.clock import Piece

_OPPOSED = 0.25  # a channel that correlates less than -0.25 with the mix so far is turned over before it is added
_SILENT = 1e-12  # power below which nothing can be said
_HEARD_HZ = 4000  # what correlates shall be speech: not hum, a constant offset, or rumble
_QUARTERS = 4  # of a second: decisions are made for each
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
    nothing = np.zeros((len(shares), len(shares)))
    held: list[tuple[int, np.ndarray, np.ndarray]] = []  # two quarters that wait for what follows, with covariances
    left = here = None  # weights of the quarter before, and of this one
    for position, block in chain(_quarters(seconds, rate_hz), [(0, None)] * 2):
        covariance = nothing if block is None else _covariance(block, rate_hz)
        held.append((position, np.zeros((len(shares), 0), np.float32) if block is None else block, covariance))
        if len(held) < 3:
            continue
        # Weights of the next quarter, from its own covariance and a little of its neighbours'.
        (position, block, own), (_, _, after) = held[:2]
        if here is None:
            left = here = _weights(own + _NEIGHBOUR * after, shares)
        there = _weights(after + _NEIGHBOUR * (own + covariance), shares)
        yield position, _crossfaded(block, (left + here) / 2, here, (here + there) / 2)
        left, here, held = here, there, held[1:]


def _quarters(seconds: Iterable[Piece], rate_hz: int) -> Iterator[Piece]:
    borders = [round(rate_hz * k / _QUARTERS) for k in range(_QUARTERS + 1)]
    for position, block in seconds:
        for start, stop in pairwise(borders):
            if start < block.shape[1]:
                yield position + start, block[:, start:stop]


def _shares(names: Sequence[str]) -> np.ndarray:
    """(channels,) of each in the mix, before signs and scale."""
    shares = np.array([_share(name) for name in names])
    return shares if shares.any() else np.ones(len(names))


def _share(name: str) -> float:
    if name.startswith("LFE"):
        return 0.0
    if name == "FC":
        return 2.0**0.5
    return 0.5**0.5 if name[0] in "BST" else 1.0  # back, side, top


def _covariance(block: np.ndarray, rate_hz: int) -> np.ndarray:
    """(channels, channels) in the speech band."""
    lag = max(1, rate_hz // (2 * _HEARD_HZ))  # a difference so far apart is loudest at 4 kHz, and 0 at 0 Hz
    change = block[:, lag:] - block[:, :-lag]
    return (change @ change.T).astype(np.float64)


def _weights(covariance: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """(channels,) by which channels of this covariance are multiplied before they are added."""
    used = np.flatnonzero(shares)
    weights = np.zeros(len(shares))
    for channel in used:
        with_mix = float(covariance[channel] @ weights)
        limit = _OPPOSED * np.sqrt(max(0.0, float(weights @ covariance @ weights)) * covariance[channel, channel])
        weights[channel] = -shares[channel] if with_mix < -limit else shares[channel]
    power, loudest = float(weights @ covariance @ weights), float(covariance[used, used].max())
    if not power > _SILENT:
        return weights / np.abs(weights).sum()
    return weights * np.sqrt(loudest / power)


def _crossfaded(block: np.ndarray, left: np.ndarray, middle: np.ndarray, right: np.ndarray) -> np.ndarray:
    """(channels, n) -> (1, n), under weights that pass from those at its beginning to its middle's to its end's."""
    half = block.shape[1] // 2
    halves = ((block[:, :half], left, middle), (block[:, half:], middle, right))
    return np.concatenate([_ramp(*part) for part in halves])[None]


def _ramp(block: np.ndarray, left: np.ndarray, right: np.ndarray) -> np.ndarray:
    if np.abs(right - left).max() < _SAME:
        return left.astype(np.float32) @ block
    mixed, change = np.stack([left, right - left]).astype(np.float32) @ block
    change *= _rise(block.shape[1])
    return np.add(mixed, change, out=change)


@lru_cache(maxsize=8)
def _rise(length: int) -> np.ndarray:
    return np.linspace(0, 1, length, endpoint=False, dtype=np.float32)
