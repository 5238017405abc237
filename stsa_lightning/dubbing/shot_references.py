"""The references of a video's shots: chosen, read and encoded when first wanted, then kept."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from stsa_lightning.dubbing.face_track import Faces
from stsa_lightning.dubbing.render_config import RenderConfig
from stsa_lightning.face.heatmaps import outer_lip_aperture
from stsa_lightning.face.native_resolution import shrunk
from stsa_lightning.face.references import candidates, choose_references
from stsa_lightning.inference.engine import Engine
from stsa_lightning.inference.frame_inputs import FrameInputBuilder
from stsa_lightning.inference.keypoint_calibration import KeypointCalibration
from stsa_lightning.media.video_source import KnownFrames
from stsa_lightning.utils.disk_array import DiskArray

_SHOTS_KEPT = 4  # shots whose encoded references are held: a video that turns comes back to its last ones


class NativeReferences:
    """The reference faces of a shot at their own resolution, on disk: of dozens, few serve at a time."""

    def __init__(self) -> None:
        self._pixels, self._shapes, self._starts = DiskArray(dtype=np.uint8), list[tuple[int, ...]](), [0]

    def append(self, face: np.ndarray) -> None:
        """The next reference, (h, w, 3) uint8."""
        self._pixels.append(face.reshape(-1))
        self._shapes.append(face.shape)
        self._starts.append(len(self._pixels))

    def read(self, number: int) -> np.ndarray:
        """(h, w, 3) uint8."""
        return self._pixels[self._starts[number] : self._starts[number + 1]].reshape(self._shapes[number])


@dataclass(frozen=True)
class ShotReferences:
    """The references of a shot.

    Attributes:
        encoded: what `Engine.encode` returned.
        landmarks: (M, 131, 2) of the references, normalised to the face box.
        native, places: the references at their own resolution, and (M,) which of these each reference is.
        calibration: of guidance to the person whom they show.
    """

    encoded: Any
    landmarks: np.ndarray
    native: NativeReferences | None
    places: np.ndarray
    calibration: KeypointCalibration | None


class VideoReferences:
    """`ShotReferences` of a video by the number of the shot; for any number of renderers and threads.

    Args:
        engine, config, video, faces: as for `Renderer`. The frames are read by a reader of its own.
    """

    def __init__(self, engine: Engine, config: RenderConfig, video: KnownFrames, faces: Faces) -> None:
        self._engine, self._config, self._video, self._faces = engine, config, video, faces
        self._builder = FrameInputBuilder(config.face_size, config.heatmap_sigma)
        self._lip_aperture = _lip_apertures(faces)
        self._reader: KnownFrames | None = None
        self._lock = threading.Lock()
        self._shots = lru_cache(_SHOTS_KEPT)(self._shot)

    def __call__(self, shot: int) -> ShotReferences:
        with self._lock:
            return self._shots(shot)

    def close(self) -> None:
        """Close the reader, and free what is encoded: a cached method keeps `self` alive."""
        if self._reader is not None:
            self._reader.close()
        del self._shots

    def _shot(self, shot: int) -> ShotReferences:
        """From closed to open lips, and for `align_references` frames of the shot to choose from."""
        frames, count = np.flatnonzero(self._faces.shots == shot), self._config.num_references
        weight = self._faces.weight[frames]
        fit = weight == 1 if (weight == 1).any() else weight > 0
        references = frames[choose_references(self._lip_aperture[frames], fit, count)]
        if self._config.pose_matched_references:
            references = np.append(references, frames[candidates(fit)])
        ordered = np.unique(references)
        crops, native = self._read(ordered)
        places = np.searchsorted(ordered, references)
        landmarks = self._faces.in_boxes(references)
        encoded = self._engine.encode(self._builder.references(crops[places], landmarks))
        calibrator = self._config.calibrator
        calibration = None if calibrator is None else calibrator(encoded, landmarks)
        return ShotReferences(encoded, landmarks, native, places, calibration)

    def _read(self, numbers: np.ndarray) -> tuple[np.ndarray, NativeReferences | None]:
        """Faces of some frames, (n, S, S, 3) uint8, and the same at their own resolution where they are wanted."""
        self._reader = self._reader or self._video.again()
        native = NativeReferences() if self._config.native else None
        crops = []
        for number, picture in zip(numbers, self._reader.read(numbers.tolist()), strict=True):
            box = self._faces.box(number)
            crops.append(box.crop(picture, self._config.face_size))
            if native is not None:
                native.append(shrunk(box.read(picture), self._config.largest_side))
        return np.stack(crops), native


def _lip_apertures(faces: Faces) -> np.ndarray:
    """(F,) lip aperture as a share of the box."""
    blocks = (np.arange(i, min(i + 1024, len(faces.valid))) for i in range(0, len(faces.valid), 1024))
    return np.concatenate([outer_lip_aperture(faces.in_boxes(block)) for block in blocks])
