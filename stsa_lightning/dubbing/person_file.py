"""A prepared person in one file: a safetensors file of the faces, and of the frames as JPEG pictures in any order.

It is read piece by piece, so that memory does not grow with it, and holds numbers and JSON alone: nothing in it is run.
"""

from __future__ import annotations

import json
import os
import shutil
import threading
from collections.abc import Iterable, Iterator
from copy import copy
from dataclasses import asdict, fields
from fractions import Fraction
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from safetensors import SafetensorError, safe_open

from stsa_lightning.dubbing.face_track import Faces
from stsa_lightning.media.rgb_converter import Colours
from stsa_lightning.media.video_source import KnownFrames, out_rate
from stsa_lightning.utils.disk_array import DiskArray
from stsa_lightning.utils.errors import UserError
from stsa_lightning.utils.files import written_whole

FORMAT = 1
_KEY = "stsa_person"  # the one metadata entry: JSON of `_header`
# Without chroma subsampling, 42 to 47 dB PSNR of the video's frames.
_JPEG = [cv2.IMWRITE_JPEG_QUALITY, 95, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]
_TYPES = {"bool": "BOOL", "uint8": "U8", "int32": "I32", "int64": "I64", "float32": "F32", "float64": "F64"}
_ARRAYS = tuple(field.name for field in fields(Faces) if field.name != "choice")
_COPIED = 1 << 20


def write_person(path: str | Path, video: KnownFrames, faces: Faces) -> Path:
    """Write a person into a file that appears whole or not at all; its folder is there."""
    jpeg, starts = DiskArray(dtype=np.uint8), [0]
    try:
        for picture in video.read(range(len(faces.valid))):
            _, data = cv2.imencode(".jpg", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), _JPEG)
            jpeg.append(data.reshape(-1))
            starts.append(len(jpeg))
        arrays = {name: getattr(faces, name) for name in _ARRAYS}
        arrays |= {"times_s": video.times_s[: len(faces.valid)], "starts": np.array(starts, np.int64)}
        with written_whole(path) as part, open(part, "wb") as file:
            file.write(_head(arrays, len(jpeg), _header(video, faces)))
            for array in arrays.values():
                file.write(np.ascontiguousarray(array).data)
            jpeg.file.seek(0)
            shutil.copyfileobj(jpeg.file, file, _COPIED)
    finally:
        jpeg.close()
    return Path(path)


def _header(video: KnownFrames, faces: Faces) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "name": video.path.name,
        "size": list(video.size),
        "rate": str(video.rate),
        "colours": asdict(video.colours),
        "choice": faces.choice,
        "warnings": video.warnings(len(faces.valid)),
    }


def _head(arrays: dict[str, np.ndarray], jpeg_bytes: int, header: dict[str, Any]) -> bytes:
    """What a safetensors file begins with: the length of its JSON, and that, padded to eight bytes."""
    said: dict[str, Any] = {"__metadata__": {_KEY: json.dumps(header)}}
    sizes = {name: (_TYPES[array.dtype.name], list(array.shape), array.nbytes) for name, array in arrays.items()}
    at = 0
    for name, (kind, shape, count) in {**sizes, "jpeg": ("U8", [jpeg_bytes], jpeg_bytes)}.items():
        said[name] = {"dtype": kind, "shape": shape, "data_offsets": [at, at + count]}
        at += count
    text = json.dumps(said).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


class StoredVideo:
    """The frames of a person's file in any order, from any thread, as `VideoSource` has a video's; a context manager.

    Attributes:
        path: the file.
        faces: of its frames.
        size, rate, times_s, colours, out_fps: as of the video that it was made from.

    Raises:
        FileNotFoundError: no such file.
        UserError: it is damaged, or holds something else.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if not self.path.is_file():
            raise FileNotFoundError(f"{path}: no such file")
        try:
            with safe_open(self.path, framework="np") as file:
                header = json.loads((file.metadata() or {}).get(_KEY, "null"))
                self._check_format(header)
                arrays = {name: file.get_tensor(name) for name in (*_ARRAYS, "times_s", "starts")}
                begin = self.path.stat().st_size - file.get_slice("jpeg").get_shape()[0]
            self._take(header, arrays, begin)
        except SafetensorError as error:
            raise UserError(f"{path}: not a complete file of a prepared person ({error}); prepare it again") from error
        except (KeyError, TypeError, AttributeError, ZeroDivisionError, RecursionError) as error:
            raise self._damaged(f"its description is not complete: {error}") from error
        except ValueError as error:
            raise error if isinstance(error, UserError) else self._damaged(str(error)) from error
        self._lock, self._file = threading.Lock(), open(self.path, "rb", buffering=0)  # noqa: SIM115

    def _check_format(self, header: Any) -> None:
        if not isinstance(header, dict):
            raise UserError(
                f"{self.path}: a safetensors file, but no prepared person: its metadata has no {_KEY!r} entry"
            )
        if header.get("format") != FORMAT:
            raise UserError(
                f"{self.path}: format {header.get('format')!r}, this version reads {FORMAT}; prepare it again"
            )

    def _take(self, header: dict[str, Any], arrays: dict[str, np.ndarray], begin: int) -> None:
        width, height = map(int, header["size"])
        self.size, self.rate = (width, height), Fraction(header["rate"])
        self.colours = Colours(**{name: int(value) for name, value in header["colours"].items()})
        self._warnings = [str(warning) for warning in header["warnings"]]
        self.times_s, self._starts = arrays.pop("times_s"), begin + arrays.pop("starts")
        self.faces = Faces(**arrays, choice=str(header["choice"]))
        count = len(self.faces.valid)
        expected = {"landmarks": (count, 131, 2), "boxes": (count, 4)}
        for name in _ARRAYS:
            found = getattr(self.faces, name).shape
            if found != expected.get(name, (count,)):
                raise self._damaged(f"{name}: expected shape {expected.get(name, (count,))}, found {found}")
        if not count or self.times_s.shape != (count,) or self._starts.shape != (count + 1,):
            raise self._damaged("frames and faces differ in number")
        if width < 1 or height < 1 or self.rate <= 0 or (np.diff(self.times_s) <= 0).any():
            raise self._damaged("its frames have no size, or no times")
        finite = (self.faces.landmarks, self.faces.degrees, self.faces.weight, self.times_s)
        if not all(np.isfinite(array).all() for array in finite):
            raise self._damaged("numbers that are not finite")

    def _damaged(self, why: str) -> UserError:
        return UserError(f"{self.path}: damaged: {why}; prepare it again")

    @property
    def fps(self) -> Fraction:
        return self.rate

    @property
    def out_fps(self) -> Fraction:
        return out_rate(self.rate)

    def read(self, numbers: Iterable[int]) -> Iterator[np.ndarray]:
        """(H, W, 3) uint8 RGB each."""
        for number in numbers:
            first, last = self._starts[number : number + 2].tolist()
            data = np.frombuffer(self._bytes(first, last - first), np.uint8)
            picture = cv2.imdecode(data, cv2.IMREAD_COLOR) if len(data) else None
            if picture is None or picture.shape != (self.size[1], self.size[0], 3):
                raise self._damaged(f"frame {number} cannot be read")
            yield cv2.cvtColor(picture, cv2.COLOR_BGR2RGB)

    def _bytes(self, at: int, count: int) -> bytes:
        if hasattr(os, "pread"):
            return os.pread(self._file.fileno(), max(0, count), at)
        with self._lock:  # Windows: one place in the file for all threads
            self._file.seek(at)
            return self._file.read(max(0, count))

    def again(self) -> StoredVideo:
        """The same frames for another reader, with a life of its own; what is known of them is read once."""
        other = copy(self)
        # Where the place in the file is one, so is the lock.
        other._file = open(os.dup(self._file.fileno()), "rb", buffering=0)  # noqa: SIM115
        return other

    def warnings(self, _shown: int) -> list[str]:
        """What the user should know of the video that it was made from."""
        return self._warnings

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> StoredVideo:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
