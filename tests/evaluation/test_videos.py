"""Videos of any system: which meet, in which frames, and what is said of differences."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from stsa_lightning.evaluation.protocol import Protocol
from stsa_lightning.evaluation.run import evaluate_videos
from stsa_lightning.evaluation.videos import match, match_times
from stsa_lightning.media.audio import load_audio
from stsa_lightning.media.video import VideoReader, write_video
from stsa_lightning.utils.errors import UserError


def touched(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")
    return root


def test_videos_meet_by_place_then_by_a_name_that_is_unique(tmp_path: Path):
    made = touched(tmp_path / "made", "a/1.mp4", "b/1.mp4", "2.mkv", "3.mp4", "notes.txt")
    true = touched(tmp_path / "true", "a/1.mp4", "b/1.avi", "c/2.mp4", "4.mp4")
    matched = match(made, true)
    assert [(name, a.name, b.name) for name, a, b in matched.pairs] == [
        ("c/2", "2.mkv", "2.mp4"),
        ("a/1", "1.mp4", "1.mp4"),
        ("b/1", "1.mp4", "1.avi"),
    ]
    assert len(matched.alone) == 2
    assert any("3.mp4: no true video" in line for line in matched.alone)
    assert any("4.mp4: no generated video" in line for line in matched.alone)


def test_an_ambiguous_name_is_listed(tmp_path: Path):
    made = touched(tmp_path / "made", "1.mp4", "2.mp4")
    true = touched(tmp_path / "true", "a/1.mp4", "b/1.mp4", "2.mp4")
    matched = match(made, true)
    assert [name for name, *_ in matched.pairs] == ["2"]
    assert any("ambiguous" in line for line in matched.alone)


def test_nothing_that_meets_is_an_error(tmp_path: Path):
    made, true = touched(tmp_path / "made", "x.mp4"), touched(tmp_path / "true", "y.mp4")
    with pytest.raises(UserError, match="the same names"):
        match(made, true)
    with pytest.raises(UserError, match="one of each"):
        match(made / "x.mp4", true)
    with pytest.raises(FileNotFoundError):
        match(made, tmp_path / "none")
    assert match(made / "x.mp4", true / "y.mp4").pairs[0][0] == "y"


def test_frames_meet_in_time():
    def times(frames: int, fps: float) -> np.ndarray:
        return np.arange(frames) / fps

    same = match_times(times(10, 25), 25, times(8, 25), 25.001)
    assert same.true.tolist() == same.generated.tolist() == list(range(8))
    assert "first 8" in same.notes[0]
    assert not match_times(times(10, 25), 25, times(10, 25), 25).notes
    halved = match_times(times(10, 50), 50, times(5, 25), 25)
    assert halved.generated[::2].tolist() == [0, 1, 2, 3, 4]
    assert len(halved.true) == 10
    assert "matched by time" in halved.notes[0]
    short = match_times(times(50, 50), 50, times(5, 25), 25)
    assert len(short.true) == 10
    assert any("10 of 50" in note for note in short.notes)
    assert any("longer" in note for note in match_times(times(10, 50), 50, times(50, 25), 25).notes)


@pytest.fixture(scope="module")
def folders(sample_root: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two true clips; generated: a smaller blurred one, and one without sound, short, at another rate."""
    made = tmp_path_factory.mktemp("made")
    first, second = sorted(sample_root.rglob("*.mp4"))[:2]
    for source, fps in ((first, 25), (second, 30)):
        path = made / source.relative_to(sample_root)
        path.parent.mkdir()
        with VideoReader(source, fps=fps) as reader:
            frames = reader.get(range(20))
        if fps == 25:
            frames = np.stack([cv2.resize(cv2.GaussianBlur(f, (0, 0), 3), (128, 128)) for f in frames])
        write_video(path, frames, fps, load_audio(source) if fps == 25 else None)
    return made, sample_root


def test_a_folder_against_a_folder(folders: tuple[Path, Path], tmp_path: Path):
    protocol = Protocol(metrics=("psnr", "lmd", "lip_aperture", "silence"), regions=("mouth", "frame"), baselines=False)
    report = evaluate_videos(*folders, tmp_path, protocol, name="blurred")
    row, ground_truth = report.row("paired", "blurred"), report.row("paired", "ground truth")
    assert 15 < row.value("psnr_mouth") < 60
    assert 15 < row.value("psnr_frame") < 60
    assert ground_truth.value("psnr_frame") == np.inf
    assert ground_truth.value("lmd") == 0 < row.value("lmd")
    assert row.videos == 2
    assert "driven by silence" in report.absent["silence"]
    notes = "\n".join(report.notes)
    for said in ("no generated video", "resized", "first 20", "30 generated and 25 true frames/s", "no sound"):
        assert said in notes, said
    per_clip = {clip["clip"]: clip["psnr_mouth"] for clip in report.clips if clip["method"] == "blurred"}
    assert min(per_clip.values()) == per_clip[min(per_clip)]  # the blurred one


def test_a_video_without_a_face_is_listed(folders: tuple[Path, Path], tmp_path: Path):
    made, true = folders
    for folder, root in (("made", made), ("true", true)):
        source = sorted(root.rglob("*.mp4"))[0]
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "good.mp4").write_bytes(source.read_bytes())
        write_video(tmp_path / folder / "grey.mp4", np.full((5, 64, 64, 3), 128, np.uint8), 25)
    protocol = Protocol(metrics=("psnr",), baselines=False)
    report = evaluate_videos(tmp_path / "made", tmp_path / "true", tmp_path / "out", protocol)
    assert report.row("paired", "made").videos == 1
    assert any("no face was found" in note for note in report.notes)
    with pytest.raises(UserError, match="no face"):
        evaluate_videos(tmp_path / "made/grey.mp4", tmp_path / "true/grey.mp4", tmp_path / "out", protocol)
