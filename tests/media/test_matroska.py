from __future__ import annotations

from pathlib import Path

import pytest

from stsa_lightning.media.matroska import as_one_recording

EBML, SEGMENT, TRACKS, CLUSTER = (bytes.fromhex(name) for name in ("1a45dfa3", "18538067", "1654ae6b", "1f43b675"))
BLOCK = b"\xa3\x84\x81\x00\x00\x80"  # a SimpleBlock of 4 bytes


def element(name: bytes, body: bytes, endless: bool = False) -> bytes:
    size = b"\x01" + (b"\xff" * 7 if endless else len(body).to_bytes(7, "big"))
    return name + size + body


def recording(endless: bool) -> tuple[bytes, bytes]:
    """Headers with the segment's own, and a cluster."""
    cluster = element(CLUSTER, BLOCK * 3, endless)
    tracks = element(TRACKS, bytes(20))
    segment = element(SEGMENT, tracks + cluster, endless)
    return element(EBML, bytes(5)) + segment[: -len(cluster)], cluster


def void(length: int) -> bytes:
    return b"\xec\x01" + (length - 9).to_bytes(7, "big")


@pytest.mark.parametrize("endless", [False, True], ids=["stated sizes", "as live streams are"])
def test_later_recordings_lose_their_headers_and_keep_their_clusters(tmp_path: Path, endless: bool) -> None:
    headers, cluster = recording(endless)
    file, written = tmp_path / "a.mkv", (headers + cluster) * 3
    file.write_bytes(written)
    joined = as_one_recording(file)
    assert joined is not None
    first = element(EBML, bytes(5)) + SEGMENT + b"\x01" + b"\xff" * 7 + element(TRACKS, bytes(20)) + cluster
    blanked = bytes(joined)
    assert len(blanked) == len(written)
    assert blanked[: len(first)] == first
    at = len(first)
    for _ in range(2):
        for length in (17, 12, 32):
            assert blanked[at : at + 9] == void(length)
            at += length
        assert blanked[at : at + len(cluster)] == cluster
        at += len(cluster)
    assert at == len(written)
    assert file.read_bytes() == written


@pytest.mark.parametrize("endless", [False, True])
@pytest.mark.parametrize("tail", [b"", b"\x00" * 9, EBML])
def test_one_recording_is_left_to_ffmpeg(tmp_path: Path, endless: bool, tail: bytes) -> None:
    (tmp_path / "a.mkv").write_bytes(b"".join(recording(endless)) + tail)
    assert as_one_recording(tmp_path / "a.mkv") is None


@pytest.mark.parametrize("content", [b"", EBML, b"\x00\x00\x00\x18ftypmp42"])
def test_what_is_no_matroska_is_left_to_ffmpeg(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a").write_bytes(content)
    assert as_one_recording(tmp_path / "a") is None
