"""Clip files: round trip, laziness, and what is said about a bad one."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from stsa_lightning.data.clip import (
    FORMAT_VERSION,
    Clip,
    ClipError,
    ClipMeta,
    ClipWriter,
    WriteError,
    encode_picture,
)
from stsa_lightning.face.box import resize_face

FRAMES, SIZE = 6, 32


def write_clip(path: Path, meta: ClipMeta, *, faces, landmarks, boxes, valid, audio, features) -> None:
    """A clip file whose contents are all at hand."""
    with ClipWriter(path) as writer:
        for picture in faces:
            writer.face(picture)
        writer.frames(landmarks, boxes, valid)
        for kind, values in features.items():
            writer.features(kind, [values])
        writer.audio([audio])
        writer.finish(meta)


def _face(index: int) -> np.ndarray:
    y, x = np.mgrid[:SIZE, :SIZE]
    return np.stack([4 * x + index, 4 * y, np.full_like(x, 40 * index)], axis=-1).astype(np.uint8)


def _content() -> dict[str, Any]:
    rng = np.random.default_rng(0)
    valid = np.array([1, 1, 0, 1, 1, 1], bool)
    landmarks = rng.uniform(20, 60, (FRAMES, 131, 2)).astype(np.float32)
    landmarks[~valid] = np.nan
    return {
        "faces": [encode_picture(_face(i)) if valid[i] else b"" for i in range(FRAMES)],
        "landmarks": landmarks,
        "boxes": np.where(valid[:, None], [[10, 20, 70, 60]], 0),
        "valid": valid,
        "audio": rng.integers(-3000, 3000, FRAMES * 640).astype(np.int16),
        "features": {"logmel": rng.normal(size=(FRAMES * 2, 80)), "mfcc": rng.normal(size=(FRAMES * 2, 13))},
    }


META = ClipMeta(
    clip="ann/one",
    speaker="ann",
    source="ann/one.mp4",
    source_sha256="0" * 64,
    source_bytes=1,
    source_mtime_ns=2,
    source_fps=30.0,
    width=100,
    height=80,
    frames=FRAMES,
    valid_frames=5,
    longest_run=3,
    face_size=SIZE,
    settings={"face_size": SIZE},
    settings_hash="abc",
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "clips" / "ann" / "one.safetensors"
    write_clip(path, META, **_content())
    return path


def test_round_trip(path: Path) -> None:
    content, clip = _content(), Clip.open(path)
    assert replace(clip.meta, checksum="") == META
    assert len(clip.meta.checksum) == 32
    assert clip.frames == FRAMES
    assert clip.feature_kinds == ("logmel", "mfcc")
    np.testing.assert_array_equal(clip.valid, content["valid"])
    np.testing.assert_array_equal(clip.boxes, content["boxes"])
    step = np.array([60, 40]) / 8192
    assert (np.abs(clip.landmarks - content["landmarks"])[clip.valid] <= step / 2 + 1e-5).all()
    assert np.isnan(clip.landmarks[2]).all()
    np.testing.assert_array_equal(clip.audio, content["audio"])
    features = content["features"]["logmel"]
    assert clip.features("logmel").dtype == np.float32
    np.testing.assert_allclose(clip.features("logmel"), features, atol=2e-3)
    np.testing.assert_allclose(clip.features("logmel", 3, 7), features[3:7], atol=2e-3)


def test_faces_are_decoded_in_the_order_asked(path: Path) -> None:
    faces = Clip.open(path).faces([5, 0, 3, 0])
    assert faces.shape == (4, SIZE, SIZE, 3)
    expected = np.stack([_face(i) for i in (5, 0, 3, 0)]).astype(int)
    assert np.abs(faces - expected).mean() < 2


def test_jpeg_keeps_colour_edges() -> None:
    face = np.zeros((SIZE, SIZE, 3), np.uint8)
    face[:, 1::2] = (255, 0, 0)  # columns a pixel wide would smear under chroma subsampling
    decoded = cv2.imdecode(np.frombuffer(encode_picture(face), np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
    assert np.abs(decoded.astype(int) - face).mean() < 6


def test_face_landmarks_are_normalised_to_the_boxes(path: Path) -> None:
    clip = Clip.open(path)
    expected = (clip.landmarks - (10, 20)) / (60, 40)
    np.testing.assert_allclose(clip.face_landmarks, expected, rtol=1e-5)
    assert np.isnan(clip.face_landmarks[2]).all()


def test_any_reader_of_safetensors_reads_it(path: Path) -> None:
    content, tensors = _content(), load_file(path)
    assert {name: str(values.dtype) for name, values in tensors.items()} == {
        "faces": "uint8", "face_offsets": "int64", "landmarks": "int16", "boxes": "int32", "valid": "uint8",
        "audio": "int16", "features.logmel": "float16", "features.mfcc": "float16",
    }  # fmt: skip
    assert tensors["face_offsets"].tolist() == np.cumsum([0, *map(len, content["faces"])]).tolist()
    assert tensors["faces"][: tensors["face_offsets"][-1]].tobytes() == b"".join(content["faces"])
    header = json.loads(path.read_bytes()[8:8192])
    for name in ("face_offsets", "landmarks", "boxes"):  # what maps the file finds its numbers at whole addresses
        assert header[name]["data_offsets"][0] % 8 == 0


def test_pieces_give_the_same_file(path: Path) -> None:
    content, other = _content(), path.with_name("pieces.safetensors")
    with ClipWriter(other) as writer:
        for picture in content["faces"]:
            writer.face(picture)
        writer.frames(content["landmarks"], content["boxes"], content["valid"])
        for kind, values in content["features"].items():
            writer.features(kind, np.array_split(values, 5))
        writer.audio(np.array_split(content["audio"], 7))
        meta = writer.finish(META)
    assert other.read_bytes() == path.read_bytes()
    assert meta == Clip.open(other).meta


def test_checksum_tells_a_flipped_bit(path: Path) -> None:
    Clip.open(path).verify()
    data = bytearray(path.read_bytes())
    data[9000] ^= 1
    path.write_bytes(data)
    with pytest.raises(ClipError, match=r"one.safetensors: expected data of checksum .*prepare again"):
        Clip.open(path).verify()


def test_a_file_appears_whole_or_not_at_all(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = path.read_bytes()
    with pytest.raises(ClipError, match="left before `finish`"), ClipWriter(path) as writer:
        writer.face(b"")
    with pytest.raises(KeyboardInterrupt), ClipWriter(path):
        raise KeyboardInterrupt

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(WriteError, match=r"one.safetensors: cannot be written \(No space left on device\)"):
        write_clip(path, META, **_content())
    assert [p.name for p in path.parent.iterdir()] == [path.name]
    assert path.read_bytes() == before


def test_names_too_long_for_the_header(path: Path) -> None:
    with pytest.raises(ClipError, match="do not fit into the header"):
        write_clip(path, replace(META, source="x" * 9000), **_content())


def test_requests_that_cannot_be_met(path: Path) -> None:
    clip = Clip.open(path)
    for frame in (2, -1, FRAMES):
        with pytest.raises(ClipError, match=rf"one.safetensors: frame {frame}: expected a valid one of its 6"):
            clip.faces([frame])
    with pytest.raises(ClipError, match=r"'wav2vec2', found .*logmel.*--features wav2vec2"):
        clip.features("wav2vec2")
    with pytest.raises(ClipError, match="landmarks: expected 6 frames as there are faces, got 5"):
        write_clip(path, META, **{**_content(), "landmarks": np.zeros((5, 131, 2))})
    with pytest.raises(ClipError, match="faces: expected 7 as in meta, got 6"):
        write_clip(path, replace(META, frames=7), **_content())


def test_files_that_are_no_clips(path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="stsa prepare"):
        Clip.open(path.with_name("two.safetensors"))
    tensors, record = load_file(path), json.loads(json.dumps(Clip.open(path).meta.__dict__))
    save_file(tensors, path)
    with pytest.raises(ClipError, match="another safetensors file"):
        Clip.open(path)
    save_file(tensors, path, metadata={"stsa": json.dumps({**record, "format_version": 99})})
    with pytest.raises(ClipError, match=f"expected clip format {FORMAT_VERSION}, found 99"):
        Clip.open(path)
    save_file(tensors, path, metadata={"stsa": json.dumps({"format_version": FORMAT_VERSION})})
    with pytest.raises(ClipError, match="expected the record"):
        Clip.open(path)
    save_file({"valid": tensors["valid"]}, path, metadata={"stsa": json.dumps(record)})
    with pytest.raises(ClipError, match="expected a tensor 'boxes', found"):
        _ = Clip.open(path).boxes
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(ClipError, match="found a damaged one"):
        Clip.open(path)


def test_faces_of_half_the_size_are_those_made_smaller(prepared_sample: Path) -> None:
    """Reduced decoding leaves out fine detail, as making the picture smaller does."""
    clip = Clip.open(next(prepared_sample.glob("clips/**/*.safetensors")))
    stored = clip.meta.face_size
    frames = np.flatnonzero(clip.valid)[[0, -1]]
    for size in (stored, stored // 2, stored // 2 - 3, stored // 4):
        expected = np.stack([resize_face(face, size) for face in clip.faces(frames)]).astype(float)
        faces = clip.faces(frames, size)
        assert faces.shape == expected.shape
        assert np.sqrt(np.square(faces - expected).mean()) < 2.5
    np.testing.assert_array_equal(clip.face_landmarks_of(frames), clip.face_landmarks[frames])
    with pytest.raises(ClipError, match=f"at most the stored {stored} px, got {stored + 1}"):
        clip.faces(frames, stored + 1)
