"""One clip of a prepared corpus: a safetensors file that describes itself, written whole or not at all, read lazily.

Tensors (F frames at 25/s): `faces` (bytes,) uint8, the JPEG pictures of all frames one after another;
`face_offsets` (F + 1,) int64, where each begins; `boxes` (F, 4) int32, pixels of the source's frame, turned
about its middle where the head is tilted (`face.upright_box`), so that all faces are upright; `landmarks` (F, 131,
2) int16, places in the box in steps of 1/8192 of its sides, up to four of them away (of a face of 200 pixels a step is
a fortieth
of one); `valid` (F,) uint8; `audio` (samples,) int16 at 16 kHz; `features.KIND` (steps, D) float16 at 50 Hz. A
frame that is not valid has no picture, no landmarks (0) and an empty box.

The file is written from front to back in bounded memory, and the header, whose room is kept, last.
"""

from __future__ import annotations

import hashlib
import json
import os
import struct
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from safetensors import SafetensorError, safe_open

from stsa_lightning.constants import SAMPLES_PER_FRAME
from stsa_lightning.face.box import denormalise_landmarks, normalise_landmarks, resize_face
from stsa_lightning.utils.errors import UserError
from stsa_lightning.utils.files import written_whole

# Raised with what a clip holds, too: the sound of clips up to 3 may lie off the picture, up to 4 any sound is speech,
# up to 6 SyncNet alone corrected offsets of one and two frames.
FORMAT_VERSION = 7
JPEG_QUALITY = 90  # 43 dB to the crop: far above what networks reach; 95 would take a half more
_META_KEY = "stsa"
_FEATURES = "features."
_DECODING = {  # by how many times smaller
    1: cv2.IMREAD_COLOR,
    2: cv2.IMREAD_REDUCED_COLOR_2,
    4: cv2.IMREAD_REDUCED_COLOR_4,
    8: cv2.IMREAD_REDUCED_COLOR_8,
}
_LANDMARK_STEPS = 8192  # of a side of the box
_HEADER_BYTES = 8192  # room of the header, its length included; a safetensors header may end in spaces
_SHORT_NAMES = 512  # bytes of path for which that is enough; a name stands in the header thrice, escaped twice
_DIGEST_BYTES = 16
_DTYPES: dict[type[np.generic], str] = {
    np.uint8: "U8", np.int16: "I16", np.float16: "F16", np.int32: "I32", np.float32: "F32", np.int64: "I64"
}  # fmt: skip


def _landmark_steps(landmarks: np.ndarray, boxes: np.ndarray, valid: np.ndarray) -> Iterator[np.ndarray]:
    """Landmarks in pixels as they are stored, frame by frame: (1, 131, 2) int16."""
    for points, box, face in zip(landmarks, boxes, valid, strict=True):
        places = normalise_landmarks(points, box) if face else np.zeros((len(points), 2), np.float32)
        yield (places * _LANDMARK_STEPS).round().clip(-32768, 32767).astype(np.int16)[None]


class ClipError(UserError):
    """A clip file that cannot be used: damaged, of another format, or without what is asked for."""


@dataclass(frozen=True)
class ClipMeta:
    """Where a clip comes from and how it was made.

    `source` is relative to the folder of videos; `source_bytes` and `source_mtime_ns` tell whether it changed.
    `width`, `height` (pixels) and `source_fps` are the source's own; the clip runs at 25 frames/s.
    `part`: which part of the source it is, "" for all of it; `split` and `language`: what the corpus says, or "";
    `face_choice`: which face was followed, and why; `note`: which of several picture or sound tracks were taken, or "";
    `measures`: of `stsa_lightning.data.measures`; `checksum`: BLAKE2b of the file's data, hexadecimal.
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
    part: str = ""
    split: str = ""
    language: str = ""
    face_choice: str = ""
    note: str = ""
    measures: dict[str, Any] = field(default_factory=dict)
    checksum: str = ""
    format_version: int = FORMAT_VERSION


def encode_picture(picture: np.ndarray) -> bytes:
    """(H, W, 3) uint8 RGB -> JPEG without chroma subsampling: red lips on pale skin keep their edge."""
    full_chroma = [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]
    settings = [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY, cv2.IMWRITE_JPEG_OPTIMIZE, 1, *full_chroma]
    return cv2.imencode(".jpg", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), settings)[1].tobytes()


class WriteError(UserError):
    """The disk does not take what is written (full, a quota, read-only): no fault of the video."""


@contextmanager
def disk_blamed(path: Path) -> Iterator[None]:
    """What the system refuses while a clip file is made is the disk's fault, unless an error says better whose."""
    try:
        yield
    except OSError as error:
        if error.errno is None or isinstance(error, UserError):
            raise
        raise WriteError(f"{path}: cannot be written ({error.strerror})") from error


class ClipWriter:
    """Writes a clip file piece by piece, in this order: every face, `frames`, features, audio, `finish`.

    A context manager. Under its name the file appears complete, when `finish` has been called; else nothing is left.

    Args:
        path: the file; folders are made.
        names_bytes: length of the clip's and its source's name, for which the header must have room.

    Raises:
        WriteError: in any method, the disk does not take what is written.
    """

    def __init__(self, path: Path | str, names_bytes: int = 0) -> None:
        self.path = Path(path)
        self._offsets = [0]  # of the pictures; the last is where they end
        self._tensors: dict[str, dict[str, Any]] = {}
        self._size = 0  # of the data
        self._digest = hashlib.blake2b(digest_size=_DIGEST_BYTES)
        self._header_bytes = _HEADER_BYTES * (1 + names_bytes // _SHORT_NAMES)
        self._stack = ExitStack()
        self._finished = False

    def __enter__(self) -> ClipWriter:
        with disk_blamed(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._part = self._stack.enter_context(written_whole(self.path))
            self._file = self._stack.enter_context(open(self._part, "wb"))
            self._file.seek(self._header_bytes)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: Any) -> None:
        unfinished = None
        if kind is None and not self._finished:
            unfinished = ClipError(f"{self.path}: the clip was left before `finish`")
            kind, error = ClipError, unfinished
        with disk_blamed(self.path):
            self._stack.__exit__(kind, error, trace)
        if unfinished is not None:
            raise unfinished

    def face(self, picture: bytes) -> None:
        """The next frame's JPEG, empty where there is no face."""
        self._write(picture)
        self._offsets.append(self._size)

    def frames(self, landmarks: np.ndarray, boxes: np.ndarray, valid: np.ndarray) -> None:
        """What is known of each frame, after the last face: pixels (F, 131, 2), boxes (F, 4), valid (F,) bool.

        Raises:
            ClipError: lengths that differ from the number of faces.
        """
        count = len(self._offsets) - 1
        for name, length in {"landmarks": len(landmarks), "boxes": len(boxes), "valid": len(valid)}.items():
            if length != count:
                raise ClipError(f"{self.path}: {name}: expected {count} frames as there are faces, got {length}")
        self._write(bytes(-self._size % 8))  # so that all numbers are aligned; the offsets pass over it
        self._tensors["faces"] = {"dtype": "U8", "shape": [self._size], "data_offsets": [0, self._size]}
        self._stream("face_offsets", np.int64, [np.array(self._offsets)])
        self._stream("boxes", np.int32, [boxes])
        self._stream("landmarks", np.int16, _landmark_steps(landmarks, boxes, valid))
        self._valid = valid

    def features(self, kind: str, blocks: Iterable[np.ndarray]) -> None:
        """Features of one kind in pieces (steps, D), after `frames`."""
        self._stream(_FEATURES + kind, np.float16, blocks)

    def audio(self, blocks: Iterable[np.ndarray]) -> None:
        """The sound, int16 at 16 kHz, in pieces (samples,) of any length, after the features."""
        self._stream("audio", np.int16, blocks)

    def finish(self, meta: ClipMeta) -> ClipMeta:
        """Complete the file. Returns `meta` with the checksum.

        Raises:
            ClipError: another number of frames than `meta.frames`.
        """
        if meta.frames != len(self._offsets) - 1:
            raise ClipError(f"{self.path}: faces: expected {meta.frames} as in meta, got {len(self._offsets) - 1}")
        self._stream("valid", np.uint8, [self._valid])
        meta = replace(meta, checksum=self._digest.hexdigest())
        header = json.dumps({"__metadata__": {_META_KEY: json.dumps(asdict(meta))}, **self._tensors}).encode()
        if len(header) > self._header_bytes - 8:
            raise ClipError(f"{self.path}: names and settings of {len(header)} bytes do not fit into the header")
        with disk_blamed(self.path):
            self._file.seek(0)
            self._file.write(struct.pack("<Q", self._header_bytes - 8) + header.ljust(self._header_bytes - 8))
            self._file.flush()
            os.fsync(self._file.fileno())
        self._finished = True
        return meta

    def _stream(self, name: str, dtype: type[np.generic], blocks: Iterable[np.ndarray]) -> None:
        begin, shape = self._size, [0]
        for block in blocks:
            self._write(np.ascontiguousarray(block, dtype).data.cast("B") if block.size else b"")
            shape = [shape[0] + len(block), *block.shape[1:]]
        self._tensors[name] = {"dtype": _DTYPES[dtype], "shape": shape, "data_offsets": [begin, self._size]}

    def _write(self, data: bytes | memoryview) -> None:
        with disk_blamed(self.path):
            self._file.write(data)
        self._digest.update(data)
        self._size += len(data)


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
        return denormalise_landmarks(self.face_landmarks, self.boxes)

    @cached_property
    def face_landmarks(self) -> np.ndarray:
        """(F, 131, 2) float32 normalised to the boxes; NaN where not valid."""
        return self.face_landmarks_of(slice(None))

    @property
    def audio(self) -> np.ndarray:
        """(samples,) int16 mono, 16 kHz."""
        return self._tensor("audio")

    @property
    def wave(self) -> np.ndarray:
        """(samples,) float32 in [-1, 1], 16 kHz: the audio, no longer than the frames."""
        return (self.audio / 32768).astype(np.float32)[: self.frames * SAMPLES_PER_FRAME]

    @cached_property
    def _face_offsets(self) -> np.ndarray:
        return self._tensor("face_offsets")

    def face_landmarks_of(self, indices: Sequence[int] | np.ndarray | slice) -> np.ndarray:
        """`face_landmarks` of some frames, (n, 131, 2); only these are read, however long the clip is."""
        stored = self._file.get_slice("landmarks")
        if isinstance(indices, slice):
            steps = stored[indices]
        else:
            steps = np.concatenate([stored[i : i + 1] for i in np.asarray(indices).tolist()])
        found = steps.astype(np.float32) / _LANDMARK_STEPS
        found[~self.valid[indices]] = np.nan
        return found

    def faces(self, indices: Sequence[int] | np.ndarray, size: int | None = None) -> np.ndarray:
        """The faces of some frames: (n, S, S, 3) uint8 RGB; only these are read and decoded.

        Args:
            size: S, at most that of the stored faces, which is the default. Where half of the stored size (a quarter,
                an eighth) is enough, no more than that is decoded.

        Raises:
            ClipError: a frame that does not exist, is not valid, or whose picture is damaged; faces asked for that are
                larger than stored.
        """
        stored = self.meta.face_size
        size = stored if size is None else size
        if size > stored:
            raise ClipError(
                f"{self.path}: expected a face size of at most the stored {stored} px, got {size}; prepare the corpus "
                f"again with --face-size {size} (the filter min_face_px leaves out faces smaller in the video itself)"
            )
        times = max(times for times in _DECODING if times * size <= stored)
        decoded = -(-stored // times)
        out = np.empty((len(indices), size, size, 3), np.uint8)
        data = self._file.get_slice("faces")
        for face, index in zip(out, np.asarray(indices).tolist(), strict=True):
            if not (0 <= index < self.frames and self.valid[index]):
                raise ClipError(f"{self.path}: frame {index}: expected a valid one of its {self.frames} frames")
            start, stop = self._face_offsets[index : index + 2].tolist()
            picture = cv2.imdecode(data[start:stop], _DECODING[times])
            if picture is None or picture.shape != (decoded, decoded, 3):
                raise ClipError(f"{self.path}: frame {index}: expected a {stored} px JPEG, found a damaged one")
            cv2.cvtColor(resize_face(picture, size), cv2.COLOR_BGR2RGB, dst=face)
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

    def verify(self) -> None:
        """Read all of the file and compare its checksum.

        Raises:
            ClipError: its data are not those that were written.
        """
        digest = hashlib.blake2b(digest_size=_DIGEST_BYTES)
        with open(self.path, "rb") as file:
            file.seek(8 + struct.unpack("<Q", file.read(8))[0])
            while block := file.read(1 << 20):
                digest.update(block)
        if digest.hexdigest() != self.meta.checksum:
            raise ClipError(
                f"{self.path}: expected data of checksum {self.meta.checksum}, found {digest.hexdigest()}: the file is "
                f"damaged; delete it and prepare again"
            )

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
            f"{path}: expected clip format {FORMAT_VERSION}, found {record.get('format_version')}; prepare the corpus "
            "again: the same `stsa prepare` command replaces its clips"
        )
    expected = {field.name for field in fields(ClipMeta)}
    if record.keys() != expected:
        raise ClipError(f"{path}: expected the record {sorted(expected)}, found {sorted(record)}; prepare it again")
    return ClipMeta(**record)
