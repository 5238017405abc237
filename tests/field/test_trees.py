"""Folders as people have them: every entry is accounted for once, whatever it is and whatever it is called."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pandas as pd
import pytest

from stsa_lightning.data import prepare as preparation
from stsa_lightning.data.clip import Clip, ClipMeta, ClipWriter
from stsa_lightning.data.corpora import OtherFilesWarning, Source, find_sources
from stsa_lightning.data.corpora.tree import search
from stsa_lightning.data.index import clip_path, empty_row, load_index
from stsa_lightning.data.prepare import JOURNAL, PrepareReport, PrepareSettings, prepare
from stsa_lightning.media.audio import load_audio, probe_audio
from stsa_lightning.media.stream import VideoStream
from stsa_lightning.media.video import probe
from stsa_lightning.utils.names import from_legible, legible, storable
from tests.field import odd_tree

SETTINGS = PrepareSettings(face_size=64, sync="none")


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A rendered speaker, 1.2 s."""
    from stsa_lightning.data.sample import render_sample

    root = tmp_path_factory.mktemp("odd")
    render_sample(root, speakers=1, clips=1, seconds=1.2)
    return next(root.rglob("*.mp4"))


@pytest.fixture
def root(tmp_path: Path, video: Path) -> tuple[Path, dict[str, set[str]]]:
    """The odd tree, and what is in it."""
    made = odd_tree.build(tmp_path / "root", video, device=os.geteuid() == 0)
    return tmp_path / "root", made


def _run(root: Path, out: Path, workers: int = 0) -> PrepareReport:
    with pytest.warns(OtherFilesWarning):
        sources = find_sources("folder", root)
    return prepare(sources, out, SETTINGS, root=root, workers=workers, progress=False)


def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first good video is prepared; the other good ones get empty clips of their own names."""
    real, made = preparation.prepare_clip, []

    def prepare_clip(source: Source, out: Path, settings: PrepareSettings) -> ClipMeta:
        if not made or source.path.parent.name == "cut":
            made.append(real(source, out, settings))
            return made[0]
        meta = replace(made[0], clip=source.clip, speaker=source.speaker, source=source.relative)
        frames = meta.frames
        with ClipWriter(clip_path(out, source.clip), len(f"{source.clip}{source.relative}".encode())) as writer:
            for _ in range(frames):
                writer.face(b"")
            writer.frames(np.zeros((frames, 131, 2)), np.zeros((frames, 4)), np.zeros(frames, bool))
            writer.audio([np.zeros(640 * frames, np.int16)])
            return writer.finish(meta)

    monkeypatch.setattr(preparation, "prepare_clip", prepare_clip)


def test_odd_tree_every_entry_is_accounted_for_once(
    root: tuple[Path, dict[str, set[str]]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, made = root
    _quick(monkeypatch)
    report = _run(folder, tmp_path / "out")
    index = load_index(tmp_path / "out")
    kept = [from_legible(source) for source in index[index["status"] == "ok"]["source"]]
    rejected = index[index["status"] == "rejected"].set_index("source")["reason"]
    assert sorted(kept) == sorted(made["good"])
    assert sorted(map(from_legible, rejected.index)) == sorted(made["bad"])
    assert report.rejected == sorted(rejected.items())
    tree = search(folder)
    assert tree.others.total() + tree.unnamed.total() == len(made["others"])
    assert tree.unnamed == {".xyz": 1}
    assert tree.hidden == len(made["hidden"])
    # Words for people: no exception's name, no bytes, nothing about a file that is not missing.
    for reason in rejected:
        assert reason.isprintable()
        assert not any(word in reason for word in ("Error", "codec", "no such", "Errno", str(folder)))
    assert "device" in rejected["bob/null.mp4"]
    assert "named pipe" in rejected["dev/to_pipe.mp4"]
    assert rejected["bob/hard.mp4"] == "is the file ann/good.mp4 once more"
    assert rejected["cut/text.mp4"] == rejected["cut/playlist.mkv"]
    assert rejected["cut/text.mp4"] == "is a list of files, neither video nor sound; give one of them"
    # Clips are called by valid text on one line, and their files are found by it.
    for clip in index[index["status"] == "ok"]["clip"]:
        assert clip.isprintable()
        assert Clip.open(clip_path(tmp_path / "out", clip)).meta.clip == clip
    again = _run(folder, tmp_path / "out")
    assert (again.prepared, again.reused, again.rejected) == (0, report.prepared, report.rejected)
    pd.testing.assert_frame_equal(load_index(tmp_path / "out"), index)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_odd_tree_killed_and_run_again_ends_alike(
    root: tuple[Path, dict[str, set[str]]], tmp_path: Path, workers: int
) -> None:
    folder, made = root
    _run(folder, tmp_path / "whole")
    words = ["prepare", "folder", "--root", folder, "--face-size", "64", "--sync", "none", "--workers", workers]
    command = [sys.executable, "-m", "stsa_lightning", *map(str, words), "--out", str(tmp_path / "out")]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    journal = tmp_path / "out" / JOURNAL
    while process.poll() is None and not (journal.is_file() and journal.read_bytes().count(b"\n") > 15):
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "out" / "index.parquet").exists()
    subprocess.run(command, check=True, capture_output=True)
    index = load_index(tmp_path / "out")
    assert index.equals(load_index(tmp_path / "whole"))
    assert len(index) == len(made["good"]) + len(made["bad"])


def test_journal_with_bad_lines_the_others_are_kept(video: Path, tmp_path: Path) -> None:
    root, out = tmp_path / "root", tmp_path / "out"
    (root / "ann").mkdir(parents=True)
    os.link(video, root / "ann" / "a.mp4")
    sources = find_sources("folder", root)
    prepare(sources, out, SETTINGS, root=root, workers=0, progress=False)
    right = load_index(out)
    row = {name: value.item() if hasattr(value, "item") else value for name, value in right.loc[0].items()}
    bad = [
        {**row, "clip": "ann/\udcff"},
        {**row, "clip": "ann/b", "frames": "many"},
        {**row, "clip": "ann/c", "source_bytes": 10**30},
        {**row, "clip": "ann/d", "sync_clear": None},
        {**row, "clip": ["ann"]},
        {"clip": "ann/e"},
        [1],
    ]
    lines = [*map(json.dumps, bad), "[" * 100_000, "{", json.dumps(row)]
    (out / JOURNAL).write_bytes(
        b"\xff\xfe\n" + "\n".join(lines).encode() + b"\n" + json.dumps(empty_row())[:40].encode()
    )
    (out / "index.parquet").unlink()
    report = prepare(sources, out, SETTINGS, root=root, workers=0, progress=False)
    assert (report.prepared, report.reused) == (0, 1)
    assert load_index(out).equals(right)


def test_file_that_becomes_readable_is_prepared_by_the_next_run(video: Path, tmp_path: Path) -> None:
    root, out = tmp_path / "root", tmp_path / "out"
    (root / "ann").mkdir(parents=True)
    (root / "ann" / "a.mp4").symlink_to(tmp_path / "later.mp4")
    first = prepare(find_sources("folder", root), out, SETTINGS, root=root, workers=0, progress=False)
    assert [name for name, _ in first.rejected] == ["ann/a.mp4"]
    os.link(video, tmp_path / "later.mp4")
    second = prepare(find_sources("folder", root), out, SETTINGS, root=root, workers=0, progress=False)
    assert (second.prepared, second.rejected) == (1, [])


def test_folder_that_may_not_be_entered_costs_itself_alone(
    video: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("ann", "bob"):
        (tmp_path / name).mkdir()
        os.symlink(video, tmp_path / name / "a.mp4")
    scandir = os.scandir

    def forbidding(path):
        if Path(path).name == "ann":
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", forbidding)
    found = {source.relative: source.fault for source in find_sources("folder", tmp_path)}
    assert found == {"ann": "is a folder that cannot be opened (Permission denied)", "bob/a.mp4": ""}


@pytest.mark.parametrize("name", list(odd_tree.NAMES))
def test_name_is_legible_reversible_and_storable(name: str, tmp_path: Path) -> None:
    raw = os.fsdecode(odd_tree.NAMES[name])
    text = legible(raw)
    assert text.isprintable()
    assert text.encode()
    assert from_legible(text) == raw
    path = tmp_path / f"{storable(f'ann/{text}/{text}')}.safetensors.part-1234567"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"")


def test_long_names_with_one_beginning_stay_apart() -> None:
    names = [f"ann/{'a' * 240}{end}" for end in ("1", "2")] + [f"{'b/' * 1500}{end}" for end in ("1", "2")]
    assert len({storable(name) for name in names}) == 4
    assert storable("ann/b.mp4") == "ann/b.mp4"
    assert max(len(storable(name)) for name in names) < 600


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".avi"])
def test_tags_in_another_encoding_do_not_matter(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"a{suffix}"
    with av.open(str(path), "w") as container:
        container.metadata["title"] = "TITLETITLE"
        picture = container.add_stream("mpeg4", rate=25)
        picture.width = picture.height = 64
        sound = container.add_stream("mp2", rate=16_000)
        sound.metadata["title"] = "TITLETITLE"
        for number in range(5):
            frame = av.VideoFrame.from_ndarray(np.full((64, 64, 3), 40 * number, np.uint8), format="rgb24")
            container.mux(picture.encode(frame))
        wave = av.AudioFrame.from_ndarray(np.full((1, 1152), 9, np.int16), format="s16", layout="mono")
        wave.sample_rate = 16_000
        container.mux(sound.encode(wave))
        for stream in (picture, sound):
            container.mux(stream.encode())
    data = path.read_bytes()
    assert b"TITLETITLE" in data
    path.write_bytes(data.replace(b"TITLETITLE", "TÎTLETÎTLE".encode("latin-1")))
    assert probe(path).has_audio
    assert len(list(VideoStream(path))) == 5
    assert len(load_audio(path))
    probe_audio(path).name.encode()  # can be printed
