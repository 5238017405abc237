"""What goes wrong, and what is left behind then: nothing."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stsa_lightning.cli import main
from stsa_lightning.dubbing import Dubber, DubError
from stsa_lightning.dubbing.manifest import read_manifest
from stsa_lightning.media.audio import write_wav
from stsa_lightning.media.video import VideoError, VideoWriter
from stsa_lightning.utils.errors import UserError


@pytest.fixture
def clip(short_clips: list[Path]) -> Path:
    return short_clips[0]


@pytest.fixture
def speech(tmp_path: Path) -> Path:
    path = tmp_path / "speech.wav"
    write_wav(path, 0.2 * np.random.default_rng(0).standard_normal(8000).astype(np.float32).clip(-4, 4))
    return path


@pytest.mark.parametrize(
    ("number", "message"), [(errno.ENOSPC, "the disk is full; make room"), (errno.EACCES, "may not be written")]
)
def test_a_disk_that_takes_no_more(
    tmp_path: Path, clip: Path, speech: Path, checkpoint: Path, number: int, message: str, monkeypatch: Any
) -> None:
    whole = VideoWriter.write

    def write(self: VideoWriter, frames: np.ndarray) -> None:
        if self.frames == 3:
            raise OSError(number, os.strerror(number))
        whole(self, frames)

    monkeypatch.setattr(VideoWriter, "write", write)
    out = tmp_path / "out" / "out.mp4"
    out.parent.mkdir()
    with pytest.raises(DubError, match=rf"out\.mp4: {message}"):
        Dubber.from_checkpoint(checkpoint).dub(clip, speech, out, progress=False)
    assert not list(out.parent.iterdir())


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="needs a folder that takes no files, such as Linux's /proc")
def test_a_folder_that_takes_no_files_is_reported_before_the_work(clip: Path, speech: Path, checkpoint: Path) -> None:
    dubber = Dubber.from_checkpoint(checkpoint)
    dubber._find_faces = lambda *_: pytest.fail("worked first")  # type: ignore[method-assign]
    with pytest.raises(VideoError, match=r"/proc/x\.mp4: its folder takes no files .* choose another one"):
        dubber.dub(clip, speech, Path("/proc/x.mp4"))


@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_ctrl_c_and_sigterm_leave_nothing(tmp_path: Path, clip: Path, checkpoint: Path, number: signal.Signals) -> None:
    write_wav(tmp_path / "long.wav", np.full(16_000 * 60, 0.1, np.float32))
    out = tmp_path / "out"
    out.mkdir()
    words = ["dub", str(clip), str(tmp_path / "long.wav"), "-o", str(out / "a.mp4"), "--checkpoint", str(checkpoint)]
    command = [sys.executable, "-m", "stsa_lightning", *words, "--device", "cpu"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    while not list(out.iterdir()):
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(number)
    _, output = process.communicate()
    assert process.returncode == 128 + number, output
    assert "stsa: stopped" in output
    assert "Traceback" not in output
    assert not list(out.iterdir())


def test_a_manifest_goes_on_past_failures_and_resumes(
    tmp_path: Path, clip: Path, speech: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    list_csv = tmp_path / "list.csv"
    list_csv.write_text(f"video,audio,out\nnone.mp4,speech.wav,a.mp4\n{clip},speech.wav,b.mp4\n")
    words = ["dub", "--manifest", str(list_csv), "--checkpoint", str(checkpoint), "--device", "cpu", "--json"]
    words.append("--no-check")  # the networks are not trained
    with pytest.raises(SystemExit) as ended:
        main(words)
    output = capsys.readouterr()
    failed, done = (json.loads(line) for line in output.out.splitlines())
    assert ended.value.code == 1
    assert f"{list_csv}: line 2: {tmp_path / 'none.mp4'}: no such file" in failed["error"]
    assert (done["frames"], done["rendered"], done["passed"]) == (13, 13, {})
    assert {"decode", "prepare", "render", "blend", "encode", "find: landmarks"} <= set(done["stages"])
    assert "1 dubbed, 0 skipped (they exist), 1 failed" in output.err
    list_csv.write_text(f"video,audio,out\n{clip},speech.wav,b.mp4\n")
    main(words)
    assert json.loads(capsys.readouterr().out) == {"out": str(tmp_path / "b.mp4"), "skipped": True}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("video,audio\na,b\n", "expected the columns video, audio, out in its first line, out is missing"),
        ("video,audio,out\na,b,\n", "line 2: expected video, audio and out"),
        ("video,audio,sound,out,Sound\na,b,c,d.mp4,e\n", "expected each column once, found sound 2 times"),
        ("video,audio,out\na,b,c.mp4\nd,e,./c.mp4\n", r"c\.mp4 is the result of more than one line"),
    ],
)
def test_manifests_that_make_no_sense(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "list.csv").write_text(text)
    with pytest.raises(UserError, match=message):
        read_manifest(tmp_path / "list.csv")


def test_a_manifest_names_the_sound_where_there_is_one(tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text("video,sound,audio,out\na,mix.wav,b,c.mp4\na,,b,d.mp4\n")
    with_sound, without = read_manifest(tmp_path / "list.csv")
    assert (with_sound.sound, without.sound) == (tmp_path / "mix.wav", None)
    (tmp_path / "a").touch()
    (tmp_path / "b").touch()
    without.check()
    with pytest.raises(FileNotFoundError, match=r"line 2: .*mix\.wav: no such file"):
        with_sound.check()


class CancelledError(Exception):
    pass


def test_progress_counts_frames_and_ends_the_dub_when_it_raises(
    tmp_path: Path, clip: Path, speech: Path, checkpoint: Path
) -> None:
    dubber, seen = Dubber.from_checkpoint(checkpoint, check=False), list[tuple[str, int, int]]()
    (tmp_path / "out").mkdir()
    out = tmp_path / "out" / "out.mp4"
    dubber.dub(clip, speech, out, progress=lambda *args: seen.append(args))
    rendering = [(frame, total) for stage, frame, total in seen if stage == "re-rendering"]
    assert rendering == [(frame, 13) for frame in range(14)]
    finding = [(frame, total) for stage, frame, total in seen if stage == "finding the face"]
    assert [frame for frame, _ in finding] == list(range(len(finding)))
    assert finding[-1][0] == finding[-1][1]
    before = out.read_bytes()

    def cancel(stage: str, frame: int, _total: int) -> None:
        if (stage, frame) == ("re-rendering", 5):
            raise CancelledError

    with pytest.raises(CancelledError):
        dubber.dub(clip, speech, out, progress=cancel)
    assert [path.name for path in out.parent.iterdir()] == ["out.mp4"]
    assert out.read_bytes() == before


def test_progress_and_errors_for_programs(
    tmp_path: Path, clip: Path, speech: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--checkpoint", str(checkpoint), "--device", "cpu", "--json", "--progress", "json", "--no-check"]
    main(["dub", str(clip), str(speech), "-o", str(tmp_path / "a.mp4"), *words])
    output = capsys.readouterr()
    assert json.loads(output.out)["rendered"] == 13
    lines = [json.loads(line) for line in output.err.splitlines() if line.startswith("{")]
    assert {"stage": "re-rendering", "frame": 0, "total": 13} in lines
    assert lines[-1] == {"stage": "re-rendering", "frame": 13, "total": 13}
    with pytest.raises(SystemExit) as ended:
        main(["dub", str(clip), str(tmp_path / "none.wav"), "-o", str(tmp_path / "a.mp4"), *words])
    output = capsys.readouterr()
    assert ended.value.code == 2
    failed = json.loads(output.out)
    assert failed["out"] == str(tmp_path / "a.mp4")
    assert f"stsa: {failed['error']}\n" in output.err
    assert "none.wav: no such audio or video file" in failed["error"]


def test_live_frames_are_those_of_the_file(tmp_path: Path, clip: Path, speech: Path, checkpoint: Path) -> None:
    from stsa_lightning.media.audio import load_audio

    wave = load_audio(speech)
    live = Dubber.from_checkpoint(checkpoint, block=1, check=False).frames(clip, iter(np.array_split(wave, 9)))
    whole = Dubber.from_checkpoint(checkpoint, block=8, check=False, silence="keep").frames(clip, speech)
    for a, b in zip(live, whole, strict=True):
        apart = np.abs(a.astype(int) - b)
        # By the rounding of another block: at edges of references, read a hair elsewhere, a level or two.
        assert apart.max() <= 3
        assert apart.mean() < 0.02


def test_a_restorer_sees_each_generated_face(clip: Path, speech: Path, checkpoint: Path) -> None:
    seen = []

    def blue(face: np.ndarray) -> np.ndarray:
        seen.append((face.shape, face.dtype))
        return np.full((256, 256, 3), (0, 0, 255), np.uint8)

    frames = list(Dubber.from_checkpoint(checkpoint, restore=blue, check=False).frames(clip, speech))
    assert seen == [((64, 64, 3), np.uint8)] * len(frames)
    assert ((frames[0][..., 2].astype(int) - frames[0][..., 0]) > 150).mean() > 0.02
