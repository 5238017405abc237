"""Names of files: none is a protocol or a pattern; parts never look finished and go with their process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from stsa_lightning.data.corpora.tree import VIDEO_SUFFIXES
from stsa_lightning.media.stream import VideoStream
from stsa_lightning.media.video import VideoError, VideoReader, VideoWriter, check_output, probe, write_video
from stsa_lightning.media.video_source import VideoSource
from stsa_lightning.utils.files import Part, written_whole

NAMES = ["out:1.mp4", "http:x.mp4", "take%03d.mp4", "two\nlines.mov", "-a.mkv", "a?b#c|d.mp4", "é" * 100 + ".mp4"]
FRAMES = np.full((3, 32, 48, 3), 90, np.uint8)


@pytest.mark.parametrize("name", [*NAMES, "x" * 251 + ".mp4", "b\udcff.mp4"])
def test_video_any_name_is_written_and_read(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    write_video(path, FRAMES, 25)
    assert os.listdir(tmp_path) == [name]
    assert probe(path).frames == 3
    assert len(list(VideoStream(path))) == 3
    with VideoReader(path) as reader, VideoSource(path) as source:
        assert reader.get([0, 2]).shape == (2, 32, 48, 3)
        assert len(list(source.scan())) == 3


def test_relative_name_with_a_colon_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_video("take:1.mp4", FRAMES, 25)
    assert probe("take:1.mp4").frames == 3


def test_output_name_that_cannot_be_is_refused_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").mkdir()
    with pytest.raises(VideoError, match=r"a\.mp4: is a folder"):
        check_output(tmp_path / "a.mp4", 25, (48, 32), None, 16_000)
    with pytest.raises(VideoError, match="cannot be a file's name here"):
        check_output(tmp_path / ("x" * 253 + ".mp4"), 25, (48, 32), None, 16_000)


def test_part_is_no_video_by_its_name(tmp_path: Path) -> None:
    with VideoWriter(tmp_path / "a.mp4", 25, (48, 32)) as writer:
        (part,) = tmp_path.iterdir()
        assert part.name == f"a.mp4.part-{os.getpid()}"
        assert part.suffix.lower() not in VIDEO_SUFFIXES
        writer.write(FRAMES)


@pytest.mark.skipif(sys.platform == "win32", reason="no locks of files there")
def test_part_of_a_killed_process_goes_that_of_a_living_one_stays(tmp_path: Path) -> None:
    code = (
        "import sys, time; from stsa_lightning.utils.files import Part; part = Part(sys.argv[1]); print(1, flush=True);"
        "time.sleep(60)"
    )
    started = [
        subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "a.mp4")], stdout=subprocess.PIPE)
        for _ in range(2)
    ]
    try:
        for process in started:
            assert process.stdout is not None
            process.stdout.readline()
        dead, living = started
        dead.send_signal(signal.SIGKILL)
        dead.wait()
        (tmp_path / "a.mp4.part-12.txt").write_text("of another")
        with written_whole(tmp_path / "a.mp4") as part:
            names = set(os.listdir(tmp_path))
            part.write_bytes(b"new")
        assert f"a.mp4.part-{dead.pid}" not in names
        assert f"a.mp4.part-{living.pid}" in names
        assert (tmp_path / "a.mp4").read_bytes() == b"new"
        assert (tmp_path / "a.mp4.part-12.txt").exists()
    finally:
        for process in started:
            process.kill()
            process.wait()


def test_part_of_long_names_that_begin_alike_differ(tmp_path: Path) -> None:
    first, second = Part(tmp_path / ("é" * 120 + "1.mp4")), Part(tmp_path / ("é" * 120 + "2.mp4"))
    assert first.path != second.path
    for part in (first, second):
        assert len(os.fsencode(part.path.name)) <= 255
        part.keep()
    assert len(os.listdir(tmp_path)) == 2
