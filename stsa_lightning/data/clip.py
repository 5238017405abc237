"""One clip of a prepared corpus: a safetensors file that describes itself, written whole or not at all, read lazily.

Tensors (F frames at 25/s): ``faces`` (bytes,) uint8, the JPEG pictures of all frames one after another;
``face_offsets`` (F + 1,) int64, where each begins; ``landmarks`` (F, 131, 2) float32, pixels of the source's frame;
``boxes`` (F, 4) int32; ``valid`` (F,) uint8; ``audio`` (samples,) int16 at 16 kHz; ``features.KIND`` (steps, D) float16
at 50 Hz. A frame that is not valid has no picture, landmarks of NaN and an empty box.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from stsa_lightning.errors import UserError
from stsa_lightning.face.box import normalise_landmarks
from stsa_lightning.files import written_whole

FORMAT_VERSION = 1
FPS = 25
JPEG_QUALITY = 95
_META_KEY = "stsa"
_FEATURES = "features."


class ClipError(UserError):
    """A clip file that cannot be used: damaged, of another format, or without what is asked for."""


@dataclass(frozen=True)
class ClipMeta:
    """Where a clip comes from and how it was made.

    ``source`` is relative to the folder of videos; ``source_bytes`` and ``source_mtime_ns`` tell whether it changed.
    ``width``, ``height`` (pixels) and ``source_fps`` are the source's own; the clip runs at 25 frames/s.
    """

    clip: str
    speaker: str
    source: str
    source_sha256: str
    source_bytes: int
    source_mtime_ns: int
    source_fps: float
    width: int
    height: int
    frames: int
    valid_frames: int
    longest_run: int
    face_size: int
    settings: dict[str, Any]
    settings_hash: str
    format_version: int = FORMAT_VERSION


def encode_face(face: np.ndarray) -> bytes:
    """(S, S, 3) uint8 RGB -> JPEG without chroma subsampling: red lips on pale skin keep their edge."""
    full_chroma = [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]
    settings = [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY, *full_chroma]
    return cv2.imencode(".jpg", cv2.cvtColor(face, cv2.COLOR_RGB2BGR), settings)[1].tobytes()


def write_clip(
    path: Path | str,
    meta: ClipMeta,
    *,
    faces: Sequence[bytes],
    landmarks: np.ndarray,
    boxes: np.ndarray,
    valid: np.ndarray,
    audio: np.ndarray,
    features: Mapping[str, np.ndarray],
) -> None:
    """Write a clip file; under its name it appears complete.

    Args:
        path: the file; folders are made. What an interrupted earlier writing of it left is removed.
        meta: provenance and settings.
        faces: F JPEG pictures, empty for frames that are not valid.
        landmarks: (F, 131, 2) pixels of the frame.
        boxes: (F, 4).
        valid: (F,) bool.
        audio: (samples,) int16, 16 kHz.
        features: kind -> (steps, D).

    Raises:
        ClipError: lengths that differ from `meta.frames`.
    """
    path = Path(path)
    lengths = {"faces": len(faces), "landmarks": len(landmarks), "boxes": len(boxes), "valid": len(valid)}
    for name, length in lengths.items():
        if length != meta.frames:
            raise ClipError(f"{path}: {name}: expected {meta.frames} frames as in meta, got {length}")
    tensors: dict[str, np.ndarray] = {
        "faces": np.frombuffer(b"".join(faces), np.uint8),
        "face_offsets": np.cumsum([0, *map(len, faces)], dtype=np.int64),
        "landmarks": np.ascontiguousarray(landmarks, np.float32),
        "boxes": np.ascontiguousarray(boxes, np.int32),
        "valid": np.ascontiguousarray(valid, np.uint8),
        "audio": np.ascontiguousarray(audio, np.int16),
        **{_FEATURES + kind: np.ascontiguousarray(values, np.float16) for kind, values in features.items()},
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    for leftover in path.parent.glob(f"{path.name}.part-*"):
        leftover.unlink(missing_ok=True)
    with written_whole(path) as part, open(part, "wb") as file:
        file.write(save(tensors, metadata={_META_KEY: json.dumps(asdict(meta))}))
        os.fsync(file.fileno())


class Clip:
    """A clip file, read as far as it is asked; `Clip.open(path)`."""

    def __init__(self, path: Path, file: Any, meta: ClipMeta) -> None:
        self.path = path
        self.meta = meta
        self._file = file
        self._names = frozenset(file.keys())

    @classmethod
    def open(cls, path: Path | str) -> Clip:
        """Open a clip file.

        Raises:
            FileNotFoundError: there is none.
            ClipError: it is damaged, no clip file, or of another format version.
        """
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(f"{path}: no such clip file; prepare the corpus again: stsa prepare")
        try:
            file = safe_open(path, framework="numpy")
            text = (file.metadata() or {}).get(_META_KEY)
        except (SafetensorError, OSError) as error:
            raise ClipError(f"{path}: expected a clip file, found a damaged one ({error}); prepare it again") from None
        return cls(path, file, _parse_meta(path, text))

    @property
    def frames(self) -> int:
        """Frames of the clip, valid or not."""
        return self.meta.frames

    @property
    def feature_kinds(self) -> tuple[str, ...]:
        """The audio features that the clip holds."""
        return tuple(sorted(name.removeprefix(_FEATURES) for name in self._names if name.startswith(_FEATURES)))

    @cached_property
    def valid(self) -> np.ndarray:
        """(F,) bool: frames with a face."""
        return self._tensor("valid").astype(bool)

    @cached_property
    def boxes(self) -> np.ndarray:
        """(F, 4) int32: x0, y0, x1, y1 in pixels of the source's frame."""
        return self._tensor("boxes")

    @cached_property
    def landmarks(self) -> np.ndarray:
        """(F, 131, 2) float32 pixels of the source's frame; NaN where not valid."""
        return self._tensor("landmarks")

    @cached_property
    def face_landmarks(self) -> np.ndarray:
        """(F, 131, 2) float32 normalised to the boxes; NaN where not valid."""
        boxes = np.where(self.valid[:, None], self.boxes, np.array([0, 0, 1, 1], np.int32))
        return normalise_landmarks(self.landmarks, boxes)

    @property
    def audio(self) -> np.ndarray:
        """(samples,) int16 mono, 16 kHz."""
        return self._tensor("audio")

    @cached_property
    def _face_offsets(self) -> np.ndarray:
        return self._tensor("face_offsets")

    def faces(self, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        """The faces of some frames: (n, S, S, 3) uint8 RGB; only these are read and decoded.

        Raises:
            ClipError: a frame that does not exist, is not valid, or whose picture is damaged.
        """
        size = self.meta.face_size
        out = np.empty((len(indices), size, size, 3), np.uint8)
        data = self._file.get_slice("faces")
        for face, index in zip(out, np.asarray(indices).tolist(), strict=True):
            if not (0 <= index < self.frames and self.valid[index]):
                raise ClipError(f"{self.path}: frame {index}: expected a valid one of its {self.frames} frames")
            start, stop = self._face_offsets[index : index + 2].tolist()
            picture = cv2.imdecode(data[start:stop], cv2.IMREAD_COLOR)
            if picture is None or picture.shape != face.shape:
                raise ClipError(f"{self.path}: frame {index}: expected a {size} px JPEG, found a damaged one")
            cv2.cvtColor(picture, cv2.COLOR_BGR2RGB, dst=face)
        return out

    def features(self, kind: str, start: int = 0, stop: int | None = None) -> np.ndarray:
        """Audio features, steps `start` to `stop` of 50 Hz as far as there are: (steps, D) float32.

        Raises:
            ClipError: the clip holds no features of this kind.
        """
        if kind not in self.feature_kinds:
            raise ClipError(
                f"{self.path}: expected audio features of kind {kind!r}, found {list(self.feature_kinds)}; "
                f"prepare the corpus again with --features {kind}"
            )
        tensor = self._file.get_slice(_FEATURES + kind)
        start, stop, _ = slice(start, stop).indices(tensor.get_shape()[0])  # it does not limit slices to what there is
        return tensor[start : max(start, stop)].astype(np.float32)

    def _tensor(self, name: str) -> np.ndarray:
        if name not in self._names:
            raise ClipError(f"{self.path}: expected a tensor {name!r}, found {sorted(self._names)}; prepare it again")
        return self._file.get_tensor(name)


def _parse_meta(path: Path, text: str | None) -> ClipMeta:
    if text is None:
        raise ClipError(f"{path}: expected a clip file with a {_META_KEY!r} record, found another safetensors file")
    record = json.loads(text)
    if record.get("format_version") != FORMAT_VERSION:
        raise ClipError(
            f"{path}: expected clip format {FORMAT_VERSION}, found {record.get('format_version')}; prepare it again"
        )
    expected = {field.name for field in fields(ClipMeta)}
    if record.keys() != expected:
        raise ClipError(f"{path}: expected the record {sorted(expected)}, found {sorted(record)}; prepare it again")
    return ClipMeta(**record)
