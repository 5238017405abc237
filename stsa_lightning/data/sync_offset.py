"""The offset of audio and lips of a clip, by SyncNet or by the lip aperture."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from stsa_lightning.constants import FPS, SAMPLES_PER_FRAME
from stsa_lightning.data.measures import SyncReading
from stsa_lightning.face.heatmaps import inner_lip_aperture
from stsa_lightning.face.tracks import Following
from stsa_lightning.media.audio import shift_sound
from stsa_lightning.metrics.mouth_sync import lip_aperture_sync

_SYNC_FRAMES = 120 * FPS  # two minutes tell the offset of a longer video


@dataclass(frozen=True)
class _Face:
    """The chosen face, upright: landmarks (F, 131, 2), NaN where there is none; boxes (F, 4); degrees, valid (F,)."""

    landmarks: np.ndarray
    boxes: np.ndarray
    degrees: np.ndarray
    valid: np.ndarray
    following: Following


def _stretch(face: _Face) -> tuple[int, int]:
    """First frame and end of the stretch whose sync stands for all: the middle of a long video."""
    first = max(0, (len(face.valid) - _SYNC_FRAMES) // 2)
    return first, min(len(face.valid), first + _SYNC_FRAMES)


def _aperture_reading(face: _Face, wave: np.ndarray) -> SyncReading:
    first, stop = _stretch(face)
    heights = face.boxes[first:stop, 3] - face.boxes[first:stop, 1]
    lip_aperture = inner_lip_aperture(face.landmarks[first:stop]) / np.maximum(heights, 1)
    heard = wave[first * SAMPLES_PER_FRAME : stop * SAMPLES_PER_FRAME]
    return SyncReading(*lip_aperture_sync(lip_aperture, heard), "lip_aperture")


class _SyncNet:
    """SyncNet's reading of a face, whose frames come block by block."""

    def __init__(self, face: _Face) -> None:
        from stsa_lightning.metrics.sync import SyncMeter, tracked_boxes

        self.first, self.stop = _stretch(face)
        boxes = np.where(face.valid[:, None], face.boxes, np.nan)
        self._squares = tracked_boxes(boxes[self.first : self.stop])
        self._degrees = face.degrees[self.first : self.stop]
        self._meter = SyncMeter(_syncnet(), "tracked")

    def update(self, block: np.ndarray, number: int) -> None:
        """The frames from `number` on."""
        from stsa_lightning.metrics.sync import crop_tracked

        low, high = max(self.first, number), min(self.stop, number + len(block))
        if low < high:
            part = slice(low - self.first, high - self.first)
            frames = block[low - number : high - number]
            self._meter.update(crop_tracked(frames, self._squares[part], self._degrees[part]))

    def finish(self, wave: np.ndarray) -> SyncReading:
        score = self._meter.finish(wave[self.first * SAMPLES_PER_FRAME : self.stop * SAMPLES_PER_FRAME])
        return SyncReading(float(score.offset), float(score.lse_c), "syncnet")


@lru_cache(maxsize=1)
def _syncnet() -> Any:
    import torch

    from stsa_lightning.models.syncnet import load_syncnet

    return load_syncnet().to("cuda" if torch.cuda.is_available() else "cpu")


def _in_sync(wave: np.ndarray, shift: int) -> np.ndarray:
    return shift_sound(wave, shift) if shift else wave
