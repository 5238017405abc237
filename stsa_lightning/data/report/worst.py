"""The worst clips of a corpus, by how far they miss the limits, with pictures of them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pandas as pd

from stsa_lightning.data.clip import Clip, ClipError, encode_picture
from stsa_lightning.data.filters import Filters, filtered_values
from stsa_lightning.data.index import clip_path
from stsa_lightning.utils.html import data_uri

# What each limit acts on, and its unit.
LIMIT_NAMES: dict[str, tuple[str, str]] = {
    "min_confidence": ("confidence of SyncNet", ""),
    "min_aperture_confidence": ("confidence of the lip aperture", ""),
    "max_offset": ("offset that remains", " frames"),
    "min_face_px": ("height of the face", " px"),
    "max_yaw": ("turn of the head", "°"),
    "min_seconds": ("length", " s"),
    "min_sharpness": ("sharpness", ""),
    "min_valid": ("share of frames with a face", ""),
    "min_speech": ("share of time with sound", ""),
    "max_jump": ("largest jump of the face", ""),
    "languages": ("language", ""),
}
_PICTURES = 3
_PICTURE_PX = 112


@dataclass(frozen=True)
class WorstClip:
    """One of the worst clips: `worst` says which measure, `others` which more are beyond their limits."""

    clip: str
    speaker: str
    badness: float
    worst: str
    others: list[str]
    pictures: list[str]  # data addresses
    missing: str  # why there are none


def badness(clips: pd.DataFrame, limits: Filters) -> pd.DataFrame:
    """By how much each clip misses each limit, as a share: lines of `clips` by limits, within [-1, 1].

    1 - value / limit where a limit is the least allowed, 1 - limit / value where it is the most: 0 at the limit, 0.5 at
    half the least or twice the most, negative within it. NaN where a clip has no such measure. Of `min_valid` the
    frames without a face count, as a most: else the best there is would lie just above the limit.
    """
    table: dict[str, pd.Series] = {}
    for name, limit in limits.active().items():
        least = name.startswith("min_") and name != "min_valid"
        if not isinstance(limit, (int, float)) or (least and limit <= 0):
            continue
        values = filtered_values(clips, name).astype("float64")
        if name == "min_valid":
            values, limit = 1 - values, 1 - limit
        missed = 1 - (values / limit if least else limit / values)
        table[name] = missed.fillna(0).clip(-1, 1).where(values.notna())  # 0 / 0 is at the limit
    return pd.DataFrame(table, index=clips.index, dtype="float64")


def worst_clips(root: Path | str, clips: pd.DataFrame, limits: Filters, count: int = 20) -> list[WorstClip]:
    """The clips that miss a limit by most, the worst first; of equals, those that miss more in all."""
    missed = badness(clips, limits)
    if missed.empty or not len(missed.columns):
        return []
    order = pd.DataFrame({"worst": missed.max(axis=1), "all": missed.clip(lower=0).sum(axis=1)})
    order = order.dropna().sort_values(["worst", "all"], ascending=False, kind="stable").head(count)
    return [_described(root, clips.loc[line], missed.loc[line], limits) for line in order.index]


def _described(root: Path | str, clip: pd.Series, missed: pd.Series, limits: Filters) -> WorstClip:
    name, line = str(clip["clip"]), clip.to_frame().T
    order = [str(limit) for limit in missed.dropna().sort_values(ascending=False, kind="stable").index]
    said = {limit: _said(limit, float(filtered_values(line, limit).iloc[0]), limits) for limit in order}
    first, *rest = said
    pictures, missing = _pictures(clip_path(root, name))
    others = [said[limit] for limit in rest if missed[limit] > 0]
    return WorstClip(name, str(clip["speaker"]), float(missed[first]), said[first], others, pictures, missing)


def _said(name: str, value: float, limits: Filters) -> str:
    (meaning, unit), side = LIMIT_NAMES[name], "least" if name.startswith("min_") else "most"
    return f"{meaning} {value:.3g}{unit} (at {side} {getattr(limits, name):g}{unit})"


def _pictures(path: Path) -> tuple[list[str], str]:
    """Faces from the beginning, the middle and the end of a clip, as data addresses; or why there are none."""
    try:
        clip = Clip.open(path)
        valid = np.flatnonzero(clip.valid)
        places = np.linspace(0, len(valid) - 1, _PICTURES).round().astype(int)
        faces = clip.faces(valid[np.unique(places)])
    except FileNotFoundError:
        return [], "the clip file is missing"
    except ClipError:
        return [], "the clip file is damaged"
    small = (cv2.resize(face, (_PICTURE_PX, _PICTURE_PX), interpolation=cv2.INTER_AREA) for face in faces)
    return [data_uri(encode_picture(face)) for face in small], ""
