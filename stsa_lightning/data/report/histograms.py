"""Histograms as numbers that a template draws: bars, ticks and the line of a limit, in the units of a small picture."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from stsa_lightning.data.filters import Filters, filtered_values

WIDTH, HEIGHT = 300, 110  # of the bars' area
_BINS = 24


@dataclass(frozen=True)
class Bar:
    """One bin: place and size in the picture; `pale` is the height of its upper, uncertain part."""

    x: float
    width: float
    height: float
    pale: float
    label: str


@dataclass(frozen=True)
class Histogram:
    """A measure's spread. `ticks` are (x, text); `limit` is the same for a filter's limit, or None."""

    title: str
    note: str
    bars: list[Bar]
    ticks: list[tuple[float, str]]
    most: int
    limit: tuple[float, str] | None
    median: str
    spread: str
    count: int


@dataclass(frozen=True)
class _Measure:
    title: str
    limit: str = ""  # name of the filter that acts on it
    column: str = ""  # where none does
    unit: str = ""
    note: str = ""
    whole: bool = False  # a bin for each whole number
    within: tuple[float, float] = field(default=(-math.inf, math.inf))  # the values that are possible


_SHARE = (0.0, 1.0)
_POSITIVE = (0.0, math.inf)
_MEASURES = (
    _Measure("Length", "min_seconds", unit="s", within=_POSITIVE),
    _Measure(
        "Offset of the sound",
        column="sync_offset",
        unit="frames",
        note="As found in the videos; positive: the sound is early. Pale: not clear, so chance.",
        whole=True,
    ),
    _Measure("Sync confidence, SyncNet", "min_confidence", note="LSE-C: higher is clearer."),
    _Measure(
        "Sync confidence, lip aperture",
        "min_aperture_confidence",
        note="The weaker measure, lips against loudness; a scale of its own.",
    ),
    _Measure("Height of the face", "min_face_px", unit="px", note="In the video, median of a clip.", within=_POSITIVE),
    _Measure("Turn of the head", "max_yaw", unit="°", note="From frontal, median of a clip.", within=_POSITIVE),
    _Measure("Sharpness", "min_sharpness", note="Variance of the Laplacian at 128 px.", within=_POSITIVE),
    _Measure("Brightness", column="brightness", note="Mean grey of the face, 0 to 1.", within=_SHARE),
    _Measure("Frames with a face", "min_valid", note="Share of a clip.", within=_SHARE),
    _Measure("Time with sound", "min_speech", note="Share of a clip.", within=_SHARE),
    _Measure("Largest jump", "max_jump", note="Between frames, in heights of the face; not at cuts.", within=_POSITIVE),
)


def histograms(clips: pd.DataFrame, limits: Filters) -> list[Histogram]:
    """The histograms of prepared clips, with the limits drawn in; a measure that no clip has is left out."""
    found = []
    for measured in _MEASURES:
        values = filtered_values(clips, measured.limit) if measured.limit else clips[measured.column]
        values = values.astype("float64").dropna()
        if values.empty:
            continue
        clear = clips.loc[values.index, "sync_clear"].astype(bool) if measured.column == "sync_offset" else None
        limit = getattr(limits, measured.limit) if measured.limit else None
        found.append(_histogram(measured, values.to_numpy(), None if clear is None else clear.to_numpy(), limit))
    return found


def _histogram(measured: _Measure, values: np.ndarray, clear: np.ndarray | None, limit: float | None) -> Histogram:
    edges = _edges(values, measured, limit)
    shown = np.clip(values, edges[0], np.nextafter(edges[-1], -math.inf))  # the outliers stand in the outer bins
    counts = np.histogram(shown, edges)[0]
    sure = counts if clear is None else np.histogram(shown[clear], edges)[0]
    most = int(counts.max())

    def x(value: float) -> float:
        return round(WIDTH * (value - edges[0]) / (edges[-1] - edges[0]), 2)

    bars = []
    for index, (count, certain) in enumerate(zip(counts.tolist(), sure.tolist(), strict=True)):
        low, high = edges[index], edges[index + 1]
        place = f"{(low + high) / 2:g}" if measured.whole else f"{low:.4g} to {high:.4g}"
        label = f"{place}{_unit(measured.unit)}: {count} clip{'s' * (count != 1)}"
        size = HEIGHT / most
        if count:
            bars.append(
                Bar(x(low), x(high) - x(low), round(count * size, 2), round((count - certain) * size, 2), label)
            )
    middle, low, high = (f"{v:.{2 if abs(v) < 1 else 3}g}" for v in np.percentile(values, [50, 5, 95]).tolist())
    drawn = limit is not None and edges[0] <= limit <= edges[-1]
    return Histogram(
        measured.title,
        measured.note,
        bars,
        [(x(tick), f"{tick:g}") for tick in _ticks(edges)],
        most,
        (x(limit), f"{limit:g}{_unit(measured.unit)}") if drawn and limit is not None else None,
        middle + _unit(measured.unit),
        f"{low} to {high}{_unit(measured.unit)}",
        len(values),
    )


def _edges(values: np.ndarray, measured: _Measure, limit: float | None) -> np.ndarray:
    """Bins between round numbers over all but the outermost values, and over the limit."""
    low, high = np.percentile(values, [1, 98]) if len(values) > 40 else (values.min(), values.max())
    if limit is not None:
        low, high = min(low, limit), max(high, limit)
    if measured.within == _SHARE:
        low, high = min(low, 0.8), 1.0
    if measured.whole:
        reach = max(5, math.ceil(max(abs(low), abs(high))))
        return np.arange(-reach, reach + 2) - 0.5
    step = _round_step((high - low or abs(high) or 1.0) / _BINS)
    first = max(
        math.floor(low / step), math.ceil(measured.within[0] / step) if math.isfinite(measured.within[0]) else -1e9
    )
    last = max(math.floor(high / step) + 1, first + 1)
    if limit is not None:  # a bin on either side of it for what is beyond
        first = min(first, math.floor(limit / step) - 1) if values.min() < limit else first
        last = max(last, math.floor(limit / step) + 2) if values.max() > limit else last
    if measured.within == _SHARE:
        last = round(1 / step)
    return np.arange(first, last + 1) * step


def _ticks(edges: np.ndarray) -> list[float]:
    step = _round_step((edges[-1] - edges[0]) / 6)
    first, last = math.ceil(edges[0] / step - 1e-9), math.floor(edges[-1] / step + 1e-9)
    return [round(index * step, 9) for index in range(first, last + 1)]


def _round_step(at_least: float) -> float:
    """The least of 1, 2, 5 times a power of ten that is not below a positive number."""
    power = 10.0 ** math.floor(math.log10(at_least))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= at_least * (1 - 1e-9))


def _unit(unit: str) -> str:
    return unit if unit in ("", "°") else f" {unit}"
