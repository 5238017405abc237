"""Preparation of folders of videos: what comes out, what is rejected, and that it can be stopped at any point."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from stsa_lightning.audio import audio_features, load_audio
from stsa_lightning.data import prepare
from stsa_lightning.data.clip import Clip
from stsa_lightning.data.index import INDEX_FILE, clip_path, load_index
from stsa_lightning.data.prepare import PrepareSettings, prepare_folder
from stsa_lightning.data.sources import find_sources
from stsa_lightning.data.windows import WindowDataset
from stsa_lightning.errors import UserError
from stsa_lightning.face.box import crop_face, face_box
from stsa_lightning.video import VideoReader, write_video

SETTINGS = PrepareSettings(face_size=64, features=("logmel", "mfcc"))
TONE = (0.1 * np.sin(np.arange(3 * 16000) / 20)).astype(np.float32)
REAL = "ann/talk.mp4"


def _write(path: Path, frames: np.ndarray, audio: np.ndarray | None, fps: float = 25) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_video(path, frames, fps, audio=audio)


@pytest.fixture(scope="module")
def videos(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two seconds of a face that goes missing for a while, at 30 frames/s, and videos that cannot be used."""
    root = tmp_path_factory.mktemp("videos")
    with VideoReader(corpus / "clips" / "spk48_01.mp4") as reader:
        face = reader.get(range(60))
    face[24:36] = 0
    _write(root / REAL, face, TONE[:32000], fps=30)
    blank = np.full((40, 64, 64, 3), 90, np.uint8)
    _write(root / "bea" / "no_sound.mp4", face[:40], None)
    _write(root / "bea" / "no_face.mp4", blank, TONE[: 40 * 640])
    _write(root / "bea" / "short.mp4", blank[:10], TONE[:6400])
    (root / "bea" / "broken.mp4").write_bytes(b"this is no video" * 20)
    (root / "bea" / "empty.avi").write_bytes(b"")
    (root / "bea" / "notes.txt").write_text("no video")
    return root


@pytest.fixture
def few(videos: Path, tmp_path: Path) -> Path:
    """Three copies of the usable video."""
    root = tmp_path / "few"
    for speaker in ("ann", "bea", "cid"):
        (root / speaker).mkdir(parents=True)
        shutil.copy2(videos / REAL, root / speaker / "talk.mp4")
    return root


@pytest.fixture(scope="module")
def prepared(videos: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, prepare.PrepareReport]:
    out = tmp_path_factory.mktemp("prepared")
    return out, prepare_folder(videos, out, SETTINGS, progress=False)


def test_every_video_is_accounted_for(prepared: tuple[Path, prepare.PrepareReport]) -> None:
    out, report = prepared
    assert (report.prepared, report.reused, len(report.rejected)) == (1, 0, 5)
    index = load_index(out).set_index("clip")
    reasons = index.loc[index["status"] == "rejected", "reason"].to_dict()
    assert reasons.keys() == {f"bea/{name}" for name in ("no_sound", "no_face", "short", "broken", "empty.avi")}
    assert reasons["bea/no_sound"] == "has no sound"
    assert reasons["bea/no_face"] == "too few faces: 0 of 40 frames, expected 25 or more"
    assert reasons["bea/short"] == "too short: 10 frames at 25/s, expected 25 or more"
    assert reasons["bea/broken"].startswith("cannot be read as video")
    assert str(out.parent) not in "".join(reasons.values())
    row = index.loc["ann/talk"]
    assert (row["speaker"], row["source"], row["status"], row["features"]) == ("ann", REAL, "ok", "logmel,mfcc")
    assert (row["frames"], row["duration_s"], row["fps"]) == (50, 2.0, 30.0)
    assert 38 <= row["valid_frames"] <= 41
    assert 19 <= row["longest_run"] <= 21
    assert "rejected bea/no_sound.mp4: has no sound" in str(report)
    assert [path.name for path in (out / "clips").rglob("*.*")] == ["talk.safetensors"]


def test_contents_of_the_clip(prepared: tuple[Path, prepare.PrepareReport], videos: Path) -> None:
    clip = Clip.open(clip_path(prepared[0], "ann/talk"))
    assert clip.frames == 50
    assert not clip.valid[21:29].any()  # black from 0.8 s to 1.2 s
    assert clip.valid[:19].all()
    assert clip.valid[33:].all()
    with VideoReader(videos / REAL, fps=25) as reader:
        frames = reader.get([0, 40])
    for frame, face, landmarks, box in zip(
        frames, clip.faces([0, 40]), clip.landmarks[[0, 40]], clip.boxes[[0, 40]], strict=True
    ):
        np.testing.assert_array_equal(box, face_box(landmarks, (frame.shape[1], frame.shape[0])))
        assert np.abs(face.astype(int) - crop_face(frame, box, 64)).mean() < 3
    inside = clip.face_landmarks[clip.valid]
    assert inside.min() >= 0
    assert inside.max() <= 1
    wave = load_audio(videos / REAL)[: 50 * 640]
    np.testing.assert_allclose(clip.audio / 32768, wave, atol=1 / 32768)
    for kind in SETTINGS.features:
        expected = audio_features(kind)(wave)  # type: ignore[arg-type]
        np.testing.assert_allclose(clip.features(kind), expected, rtol=1e-2, atol=1e-2)


def test_running_again_does_nothing(videos: Path, prepared: tuple[Path, prepare.PrepareReport]) -> None:
    out, first = prepared
    path = clip_path(out, "ann/talk")
    before, index = path.stat().st_mtime_ns, load_index(out)
    report = prepare_folder(videos, out, SETTINGS, progress=False)
    assert (report.prepared, report.reused, report.rejected) == (0, 1, first.rejected)
    assert path.stat().st_mtime_ns == before
    assert load_index(out).equals(index)


def test_what_is_done_again_and_what_is_kept(few: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"

    def run(settings: PrepareSettings = SETTINGS) -> tuple[int, int]:
        report = prepare_folder(few, out, settings, progress=False)
        assert not report.rejected
        return report.prepared, report.reused

    assert run() == (3, 0)
    (out / INDEX_FILE).unlink()
    os.utime(few / "ann" / "talk.mp4")  # another time, the same contents
    assert run() == (0, 3)
    assert len(load_index(out)) == 3
    shutil.copy2(few / "ann" / "talk.mp4", few / "bea" / "talk.mp4")
    with open(few / "bea" / "talk.mp4", "ab") as file:
        file.write(b"\0" * 8)  # other contents
    clip_path(out, "cid/talk").unlink()
    clip_path(out, "ann/talk").write_bytes(b"damaged, but the index vouches for it")
    (out / INDEX_FILE).write_bytes(b"damaged")
    assert run() == (3, 0)
    assert run(PrepareSettings(face_size=32)) == (3, 0)
    assert set(load_index(out)["features"]) == {"logmel"}


def test_stopping_keeps_what_is_finished(few: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out"
    encode, calls = prepare.encode_face, 0

    def stop_in_the_second_video(face: np.ndarray) -> bytes:
        nonlocal calls
        calls += 1
        if calls == 60:
            raise KeyboardInterrupt
        return encode(face)

    monkeypatch.setattr(prepare, "encode_face", stop_in_the_second_video)
    with pytest.raises(KeyboardInterrupt):
        prepare_folder(few, out, SETTINGS, progress=False)
    assert load_index(out)["clip"].tolist() == ["ann/talk"]
    monkeypatch.undo()
    report = prepare_folder(few, out, SETTINGS, progress=False)
    assert (report.prepared, report.reused) == (2, 1)


@pytest.mark.slow
def test_killing_leaves_no_half_written_file(few: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    code = "import sys; from stsa_lightning.data.prepare import *; prepare_folder(*sys.argv[1:], progress=False)"
    process = subprocess.Popen([sys.executable, "-c", code, str(few), str(out)])
    for _ in range(3000):
        if clip_path(out, "ann/talk").is_file():
            break
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    for path in out.rglob("*.safetensors"):
        assert Clip.open(path).frames == 50
    assert prepare_folder(few, out, progress=False).reused >= 1
    assert not list(out.rglob("*.part-*"))


def test_limit(few: Path, tmp_path: Path) -> None:
    assert prepare_folder(few, tmp_path / "out", SETTINGS, limit=1, progress=False).prepared == 1
    assert load_index(tmp_path / "out")["clip"].tolist() == ["ann/talk"]


def test_settings() -> None:
    assert PrepareSettings().hash == PrepareSettings().hash != SETTINGS.hash
    assert PrepareSettings(landmark_model="a/x.task").hash == PrepareSettings(landmark_model="b/x.task").hash
    assert PrepareSettings(landmark_model="x.task").hash != PrepareSettings().hash
    with pytest.raises(UserError, match="face_size: expected at least 16, got 8"):
        PrepareSettings(face_size=8)
    with pytest.raises(UserError, match=r"features: expected one or more of .*got \['loud'\]"):
        PrepareSettings(features=("loud",))


def _touch(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")
    return root


def test_speakers_and_clip_names(tmp_path: Path) -> None:
    root = _touch(
        tmp_path, "ann/a.mp4", "ann/a.avi", "ann/x/y/a.MP4", "bob_radio_07.mp4", "12.mkv", ".trash/b.mp4", "c.txt"
    )
    clips = {source.relative: (source.speaker, source.clip) for source in find_sources(root)}
    assert clips == {
        "12.mkv": ("12", "12/12.mkv"),
        "ann/a.avi": ("ann", "ann/a.avi"),
        "ann/a.mp4": ("ann", "ann/a"),
        "ann/x/y/a.MP4": ("ann", "ann/x/y/a.MP4"),
        "bob_radio_07.mp4": ("bob_radio", "bob_radio/bob_radio_07"),
    }


def test_speakers_by_pattern(tmp_path: Path) -> None:
    root = _touch(tmp_path, "2020/ann-1.mp4", "2021/ann-1.mp4", "2021/bob-1.mp4")
    sources = find_sources(root, r"/(\w+)-")
    assert [source.clip for source in sources] == ["ann/2020/ann-1", "ann/2021/ann-1", "bob/2021/bob-1"]
    with pytest.raises(UserError, match=r"in 2020/ann-1.mp4, got None"):
        find_sources(root, "bob")
    with pytest.raises(UserError, match="regular expression"):
        find_sources(root, "(")


def test_folders_that_cannot_be_prepared(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no such folder of videos"):
        prepare_folder(tmp_path / "absent", tmp_path / "out")
    with pytest.raises(UserError, match=r"expected videos \(.mp4, "):
        prepare_folder(tmp_path, tmp_path / "out")
    root = _touch(tmp_path / "root", "ann/ann_1.mp4", "ann_1.mp4")
    with pytest.raises(UserError, match=r"ann/ann_1.mp4 and ann_1.mp4 would both become the clip ann/ann_1"):
        find_sources(root)
    with pytest.raises(FileNotFoundError, match=r"x.task does not exist"):
        prepare_folder(root / "ann", tmp_path / "out", PrepareSettings(landmark_model="x.task"))


def test_the_rendered_sample(prepared_sample: Path) -> None:
    """Everywhere, also where no real clips are: a rendered face is found in nearly every frame."""
    index = load_index(prepared_sample)
    assert index["status"].tolist() == ["ok"] * 3
    assert index["frames"].tolist() == [50] * 3
    assert (index["valid_frames"] >= 45).all()
    assert index["speaker"].is_unique
    item = WindowDataset(prepared_sample, index["clip"].tolist(), references=2)[0]
    assert item["faces"].shape == (5, 3, 128, 128)
    assert item["faces"].std() > 0.05
