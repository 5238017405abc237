"""What is measured once per clip when it is prepared, and filtered by at every training: sync, size, pose, quality."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal, NamedTuple

import cv2
import numpy as np

from stsa_lightning.constants import SAMPLE_RATE_HZ
from stsa_lightning.features.voice_activity import voice_probability
from stsa_lightning.metrics.mouth_sync import CLEAR_CONFIDENCE

SyncMethod = Literal["syncnet", "lip_aperture", "none"]

# Column of the index -> its pandas dtype, and what it says.
_MEASURES: Final[dict[str, tuple[str, str]]] = {
    "sync_offset": ("float64", "frames (of 25/s) by which the sound is early in the source; negative: late"),
    "sync_confidence": ("float64", "how clear that is: LSE-C of SyncNet, or the lip aperture's own; not comparable"),
    "sync_method": ("object", "who found it: syncnet, lip_aperture (without its weights), or none"),
    "sync_clear": ("bool", "whether the offset is to be believed"),
    "sync_shift": ("int64", "frames of this offset that were corrected in the clip file"),
    "face_px": ("float64", "median height of the face box, pixels of the source"),
    "yaw_deg": ("float64", "median turn of the head from frontal, degrees"),
    "yaw_max_deg": ("float64", "largest turn of the head, degrees"),
    "sharpness": ("float64", "median over faces of 128 px of the variance of their Laplacian, grey levels squared"),
    "brightness": ("float64", "median over faces of their mean grey, 0 to 1"),
    "jump": ("float64", "largest step of the face from one frame to the next but at cuts, in heights of its box"),
    "speech_ratio": ("float64", "share of the time in which a voice is heard"),
    "loudness_db": ("float64", "root mean square of the sound, dB of full scale"),
    "faces": ("int64", "most faces seen at once"),
    "cuts": ("int64", "cuts within the clip"),
}
MEASURES: Final[dict[str, str]] = {name: dtype for name, (dtype, _) in _MEASURES.items()}
MEANINGS: Final[dict[str, str]] = {name: meaning for name, (_, meaning) in _MEASURES.items()}

# Below an LSE-C of 3 the best shift is often chance; public preparation recipes draw the line at the same place.
CLEAR_LSE_C: Final = 3.0
# A minimum at the end of the searched range tells of no sync within it, or of a larger offset.
_LARGEST_SHIFT: Final = 14

_SHARPNESS_SIDE_PX = 128
_SILENCE_DB = -100.0
_VOICE = 0.5  # probability


class SyncReading(NamedTuple):
    """Offset (frames of 25/s by which the sound is early; negative: late), its confidence, and how it was found."""

    offset: float
    confidence: float
    method: SyncMethod


def no_measures() -> dict[str, Any]:
    """The columns of a video that was rejected before it could be measured."""
    empty = {"float64": None, "int64": 0, "bool": False, "object": ""}
    return {**{name: empty[dtype] for name, dtype in MEASURES.items()}, "sync_method": "none"}


def measure(
    *,
    landmarks: np.ndarray,
    boxes: np.ndarray,
    valid: np.ndarray,
    yaw: np.ndarray,
    wave: np.ndarray,
    looks: np.ndarray,
    sync: SyncReading | None = None,
    cuts: Sequence[int] = (),
    faces: int = 1,
    correct: bool = True,
) -> dict[str, Any]:
    """The columns `MEASURES` of one clip.

    Args:
        landmarks: (F, 131, 2) pixels of the source, NaN where there is no face.
        boxes: (F, 4) x0, y0, x1, y1 pixels of the source.
        valid: (F,) bool, frames with a face.
        yaw: (F,) degrees, 0 is frontal; NaN where there is no face.
        wave: (samples,) float32 at 16 kHz in [-1, 1], of the clip's length.
        looks: (n, 2), `sharpness` and `brightness` of some faces spread over the clip.
        sync: as found before any correction; None where nothing could be measured.
        cuts: numbers of the frames that begin a new shot.
        faces: most faces seen at once.
        correct: whether the sound may be moved; `sync_shift` is then what `choose_shift` says, else 0.

    Returns:
        Plain numbers and strings, rounded, fit for JSON; None where a number could not be measured.
    """
    valid = np.asarray(valid, bool)
    heights = (boxes[:, 3] - boxes[:, 1])[valid]
    turns = np.abs(yaw[valid & np.isfinite(yaw)])
    loudness = _loudness_db(wave)
    found = {
        **no_measures(),
        **_sync_columns(sync),
        "face_px": round(float(np.median(heights)), 1) if len(heights) else None,
        "yaw_deg": round(float(np.median(turns)), 1) if len(turns) else None,
        "yaw_max_deg": round(float(turns.max()), 1) if len(turns) else None,
        "sharpness": round(float(np.median(looks[:, 0])), 1) if len(looks) else None,
        "brightness": round(float(np.median(looks[:, 1])), 3) if len(looks) else None,
        "jump": largest_jump(landmarks, boxes, valid, cuts),
        "speech_ratio": round(speech_ratio(wave), 3),
        "loudness_db": round(loudness, 1),
        "faces": int(faces),
        "cuts": len(cuts),
    }
    found["sync_shift"] = choose_shift(found) if correct else 0
    return found


def choose_shift(measures: Mapping[str, Any]) -> int:
    """By how many frames of offset the sound is to be corrected; 0 unless the offset is clear.

    SyncNet's offset is followed from an LSE-C of `CLEAR_LSE_C` on, the lip aperture's from its own clear confidence
    on. An offset at the end of the searched range is never followed.
    """
    if not measures["sync_clear"]:
        return 0
    shift = round(measures["sync_offset"])
    return shift if abs(shift) <= _LARGEST_SHIFT else 0


def sharpness(face: np.ndarray) -> float:
    """Variance of the Laplacian of a face brought to 128 px: (S, S, 3) uint8 RGB -> grey levels squared.

    A small face that was enlarged is as unsharp as a face out of focus.
    """
    grey = cv2.cvtColor(face, cv2.COLOR_RGB2GRAY)
    if grey.shape[0] != _SHARPNESS_SIDE_PX:
        size = (_SHARPNESS_SIDE_PX, _SHARPNESS_SIDE_PX)
        grey = cv2.resize(grey, size, interpolation=cv2.INTER_AREA if len(grey) > size[0] else cv2.INTER_CUBIC)
    return float(cv2.meanStdDev(cv2.Laplacian(grey, cv2.CV_16S))[1].item() ** 2)


def brightness(face: np.ndarray) -> float:
    """Mean grey of a face, (S, S, 3) uint8 RGB, from 0 to 1."""
    return sum(cv2.mean(face)[:3]) / (3 * 255)


def largest_jump(landmarks: np.ndarray, boxes: np.ndarray, valid: np.ndarray, cuts: Sequence[int]) -> float | None:
    """Largest step of the landmarks' median between neighbouring frames of one shot, over the box's height.

    A head in motion moves by a few hundredths; a tracker that leaps to another face by a whole height.

    Returns:
        None without two neighbouring frames with a face.
    """
    pairs = valid[1:] & valid[:-1]
    pairs[[cut - 1 for cut in cuts if 0 < cut < len(valid)]] = False
    at = np.flatnonzero(pairs)
    if not len(at):
        return None
    centres = np.array([np.median(points, axis=0) for points in landmarks])  # (F, 2), without a copy of all
    steps = np.linalg.norm(centres[at + 1] - centres[at], axis=1)
    return round(float((steps / np.maximum(boxes[at, 3] - boxes[at, 1], 1)).max()), 4)


def speech_ratio(wave: np.ndarray) -> float:
    """Share of the time in which somebody speaks, in noise and over music, too; of song it is a part."""
    heard = voice_probability(wave)
    return float(np.mean(heard >= _VOICE)) if len(heard) else 0.0


def _loudness_db(wave: np.ndarray) -> float:
    minutes = np.array_split(wave, len(wave) // (60 * SAMPLE_RATE_HZ) + 1)  # no copy of an hour in double precision
    power = sum(float(np.square(minute, dtype=np.float64).sum()) for minute in minutes)
    return float(10 * np.log10(max(power / len(wave), 10 ** (_SILENCE_DB / 10)))) if len(wave) else _SILENCE_DB


def _sync_columns(sync: SyncReading | None) -> dict[str, Any]:
    if sync is None or not (np.isfinite(sync.offset) and np.isfinite(sync.confidence)):
        return {}
    return {
        "sync_offset": round(float(sync.offset), 2),
        "sync_confidence": round(float(sync.confidence), 3),
        "sync_method": sync.method,
        "sync_clear": bool(sync.confidence >= (CLEAR_LSE_C if sync.method == "syncnet" else CLEAR_CONFIDENCE)),
    }
