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
from stsa_lightning.face.references import PoseFollower, candidates, choose_references
from stsa_lightning.inference.engine import Engine
from stsa_lightning.inference.frame_inputs import FrameInputBuilder
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
        first: number of the shot's first frame.
        chosen: (n, N) int64, which references serve each of its frames.
        native, places: the references at their own resolution, and (M,) which of these each reference is.
    """

    encoded: Any
    landmarks: np.ndarray
    first: int
    chosen: np.ndarray
    native: NativeReferences | None
    places: np.ndarray


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
        """From closed to open lips, and for `align_references` those in the poses of the shot's frames."""
        frames, count = np.flatnonzero(self._faces.shots == shot), self._config.num_references
        weight = self._faces.weight[frames]
        fit = weight == 1 if (weight == 1).any() else weight > 0
        references = frames[choose_references(self._lip_aperture[frames], fit, count)]
        chosen = np.arange(count)[None].repeat(len(frames), 0)
        if self._config.pose_matched_references:
            pool = frames[candidates(fit)]
            matched = pool[self._pose_matched(frames, pool)]
            distinct, index = np.unique(matched, return_inverse=True)
            references, chosen = np.concatenate([references, distinct]), count + index.reshape(matched.shape)
        ordered = np.unique(references)
        crops, native = self._read(ordered)
        places = np.searchsorted(ordered, references)
        landmarks = self._faces.in_boxes(references)
        inputs = self._builder.references(crops[places], landmarks)
        return ShotReferences(self._engine.encode(inputs), landmarks, int(frames[0]), chosen, native, places)

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

    def _pose_matched(self, frames: np.ndarray, pool: np.ndarray) -> np.ndarray:
        """Which frames of the pool serve each frame as references: (n, N) indices into the pool."""
        follower = PoseFollower(self._faces.in_boxes(pool), self._lip_aperture[pool], self._config.num_references)
        chosen = []
        for block in np.array_split(frames, -(-len(frames) // 1024)):
            known = self._faces.valid[block, None, None]
            chosen.append(follower(np.where(known, self._faces.in_boxes(block), np.nan)))
        return np.concatenate(chosen)


def _lip_apertures(faces: Faces) -> np.ndarray:
    """(F,) lip aperture as a share of the box."""
    blocks = (np.arange(i, min(i + 1024, len(faces.valid))) for i in range(0, len(faces.valid), 1024))
    return np.concatenate([outer_lip_aperture(faces.in_boxes(block)) for block in blocks])
