"""Which clips of a prepared corpus are good enough: limits on the measures of the index, applied when it is read.

Nothing is prepared again for another limit. `suggested_filters` gives limits to begin with.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import pandas as pd

from stsa_lightning.utils.errors import UserError


@dataclass(frozen=True)
class Filters:
    """Limits on the clips; None switches one off.

    A clip for which a measure is missing does not pass a limit on it.

    Args:
        min_confidence: least confidence of SyncNet (LSE-C); clips that were measured by the lip aperture are judged
            by `min_aperture_confidence` instead, as the two scales have nothing in common.
        min_aperture_confidence: least confidence of the built-in measure of sync, for clips measured by it.
        max_offset: most frames (25/s) between lips and sound that remain after the correction. Of clips measured by
            the lip aperture only clear offsets count: the others are chance.
        min_face_px: least median height of the face box, pixels of the source.
        max_yaw: most median turn of the head from frontal, degrees.
        min_seconds: least length.
        min_sharpness: least variance of the Laplacian of the face at 128 px.
        min_valid: least share of frames with a face, 0 to 1.
        min_speech: least share of the time with sound, 0 to 1.
        max_jump: largest step of the face between frames, in heights of its box; larger ones are tracking errors.
        languages: the languages to keep, as the index names them.
    """

    min_confidence: float | None = None
    min_aperture_confidence: float | None = None
    max_offset: float | None = None
    min_face_px: float | None = None
    max_yaw: float | None = None
    min_seconds: float | None = None
    min_sharpness: float | None = None
    min_valid: float | None = None
    min_speech: float | None = None
    max_jump: float | None = None
    languages: list[str] | None = None

    def __post_init__(self) -> None:
        for name in ("max_offset", "min_face_px", "max_yaw", "min_seconds", "min_sharpness", "max_jump"):
            value = getattr(self, name)
            if value is not None and not value >= 0:
                raise UserError(f"{name}: expected 0 or more, got {value}")
        for name in ("min_valid", "min_speech"):
            value = getattr(self, name)
            if value is not None and not 0 <= value <= 1:
                raise UserError(f"{name}: expected a share from 0 to 1, got {value}")
        if self.languages is not None and not self.languages:
            raise UserError("languages: expected one or more, got none; leave it out to keep all")

    def active(self) -> dict[str, object]:
        return {field.name: value for field in fields(self) if (value := getattr(self, field.name)) is not None}


def suggested_filters(index: pd.DataFrame) -> Filters:
    """Limits to begin with on talking heads from the web; the report of a corpus shows what they would remove.

    Chosen on real clips: good ones have sharpness 45 to 1200, jumps below 0.2 and sound for half of the time or more;
    faces of LRS2's size are about 100 px high. Profiles, faces that come and go, dark blurred faces and lost tracks are
    beyond the limits. The limit on SyncNet's confidence is among them where the index has clips measured by it.
    """
    return Filters(
        min_confidence=3.0 if (_column(index, "sync_method") == "syncnet").any() else None,
        max_offset=2,
        min_face_px=80,
        max_yaw=35,
        min_seconds=2,
        min_sharpness=40,
        min_valid=0.9,
        min_speech=0.4,
        max_jump=0.25,
    )


def apply_filters(index: pd.DataFrame, filters: Filters | None) -> pd.DataFrame:
    """The lines of the index within all limits.

    Raises:
        UserError: none is left (the message counts what each limit removed), the index lacks a measure, or a limit
            on a confidence that no clip of the index was measured with.
    """
    if filters is None or index.empty:
        return index
    failed = failures(index, filters)
    kept = index[~failed.any(axis=1)].reset_index(drop=True)
    if kept.empty:
        removed = ", ".join(f"{name} {failed[name].sum()}" for name in failed if failed[name].any())
        raise UserError(
            f"filters: no clip is left of {len(index)}; removed by {removed}; loosen them "
            "(`stsa prepare report` shows how the measures are spread)"
        )
    return kept


def failures(index: pd.DataFrame, filters: Filters) -> pd.DataFrame:
    """Which limits each clip fails: bool, the index's lines by the limits that are set."""
    limits: dict[str, Any] = filters.active()
    table = {name: ~_passed(index, name, limit) for name, limit in limits.items()}
    return pd.DataFrame(table, index=index.index, dtype=bool)


def filtered_values(index: pd.DataFrame, name: str) -> pd.Series:
    """What a limit acts on, for each line; NaN where the clip has no such measure or the limit is not for it."""
    if name in _METHOD:
        return _column(index, "sync_confidence").where(_column(index, "sync_method") == _METHOD[name])
    if name == "max_offset":
        remaining = (_column(index, "sync_offset") - _column(index, "sync_shift")).abs()
        return remaining.where((_column(index, "sync_method") == "syncnet") | _column(index, "sync_clear").astype(bool))
    if name == "min_valid":
        return _column(index, "valid_frames") / _column(index, "frames").clip(lower=1)
    return _column(index, _COLUMN[name])


_METHOD = {"min_confidence": "syncnet", "min_aperture_confidence": "lip_aperture"}
_COLUMN = {
    "min_face_px": "face_px",
    "max_yaw": "yaw_deg",
    "min_seconds": "duration_s",
    "min_sharpness": "sharpness",
    "min_speech": "speech_ratio",
    "max_jump": "jump",
    "languages": "language",
}


def _passed(index: pd.DataFrame, name: str, limit: Any) -> pd.Series:
    """Which lines a limit lets through."""
    values = filtered_values(index, name)
    if name == "languages":
        return values.isin(limit)
    passed = values >= limit if name.startswith("min_") else values <= limit
    if name in _METHOD:
        return passed | _measured_otherwise(index, name)
    if name == "max_offset":  # an unclear offset by the lip aperture says nothing
        return passed | ((index["sync_method"] == "lip_aperture") & values.isna())
    return passed


def _measured_otherwise(index: pd.DataFrame, name: str) -> pd.Series:
    """Lines whose sync was measured in the way that another limit judges."""
    other = next(limit for limit in _METHOD if limit != name)
    found = set(index["sync_method"])
    if len(index) and _METHOD[name] not in found:
        raise UserError(
            f"{name}: expected clips whose sync was measured by {_METHOD[name]!r}, found {sorted(found)} alone; "
            f"set {other} instead, or leave it out"
        )
    return index["sync_method"] == _METHOD[other]


def _column(index: pd.DataFrame, name: str) -> pd.Series:
    if name not in index:
        raise UserError(f"filters: expected an index with the column {name!r}, found none; prepare the corpus again")
    return index[name]
