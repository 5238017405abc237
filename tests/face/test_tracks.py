"""Faces followed through rendered and real videos: one, several, lost, cut away, and who of them speaks."""

from __future__ import annotations

import gc
import weakref
from contextlib import closing
from itertools import islice
from pathlib import Path

import cv2
import numpy as np
import pytest

from stsa_lightning.face.landmarks import landmark_detector
from stsa_lightning.face.topology import positions
from stsa_lightning.face.tracks import FaceFollower, FaceTrack, Following, choose
from stsa_lightning.media.audio import load_audio
from stsa_lightning.media.stream import VideoStream
from stsa_lightning.media.video import VideoReader

COUNT = 50  # frames of a rendered video: 2 s

Speaker = tuple[np.ndarray, np.ndarray]  # frames (50, 256, 256, 3), wave


@pytest.fixture(scope="module")
def speakers(sample_root: Path) -> list[Speaker]:
    paths = sorted(sample_root.rglob("*.mp4"))
    return [(_frames(path)[:COUNT], load_audio(path)) for path in paths]


def _frames(path: Path, stop: int | None = None) -> np.ndarray:
    with VideoReader(path, fps=25) as reader:
        return reader.get(range(min(stop or len(reader), len(reader))))


def _follow(frames: np.ndarray, wave: np.ndarray | None = None, block: int = 16) -> Following:
    with FaceFollower() as follower:
        for start in range(0, len(frames), block):
            follower.update(frames[start : start + block])
        return follower.finish(wave)


def _seen(following: Following) -> np.ndarray:
    return np.isfinite(following.landmarks[:, 0, 0])


def _middle_x(following: Following) -> float:
    return float(np.nanmedian(following.landmarks[..., 0]))


def _difference(a: np.ndarray, b: np.ndarray) -> float:
    """Mean distance of landmarks as a share of the face's size."""
    return float(np.linalg.norm(a - b, axis=-1).mean() / np.ptp(a, axis=-2).max())


def test_one_face_is_what_a_tracker_finds(speakers: list[Speaker]) -> None:
    frames, wave = speakers[0]
    found = _follow(frames, wave)
    with closing(landmark_detector()) as track:
        np.testing.assert_array_equal(found.landmarks, np.stack([track(frame) for frame in frames]))
    assert (found.faces, found.choice, found.cuts) == (1, "only face", [])
    assert found.landmarks.dtype == np.float32
    assert found.yaw.shape == (COUNT,)
    assert np.abs(found.yaw).max() < 45


def test_blocks_do_not_matter(speakers: list[Speaker]) -> None:
    frames = np.concatenate([speakers[0][0][:20], speakers[1][0][:20]])
    np.testing.assert_array_equal(_follow(frames, block=1).landmarks, _follow(frames, block=40).landmarks)


def test_frames_read_in_part_are_followed_as_whole_ones(corpus: Path) -> None:
    path = corpus / "clips" / "spk28_01.mp4"  # a face of 150 px in a frame of 720
    whole = list(islice(VideoStream(path, 25), 30))
    with FaceFollower() as follower, closing(VideoStream(path, 25).frames()) as frames:
        for frame in islice(frames, 30):
            assert not follower.follow(frame)
        found = follower.finish()
    expected = _follow(np.stack(whole))
    np.testing.assert_array_equal(found.landmarks, expected.landmarks)
    assert [track.frames for track in found.kept] == [list(range(30))]


def test_frames_are_not_kept(speakers: list[Speaker]) -> None:
    with FaceFollower() as follower:
        block = speakers[0][0][:4].copy()
        kept = weakref.ref(block)
        follower.update(block)
        del block
        gc.collect()
        assert kept() is None


def test_the_face_before_a_cut_is_not_dragged_over_it(speakers: list[Speaker]) -> None:
    # Between the shots the face moves and shrinks: a tracker that goes on would look in the wrong place.
    second = np.full_like(speakers[1][0][:10], 40)
    for frame, source in zip(second, speakers[1][0], strict=False):
        frame[20:168, 100:248] = cv2.resize(source, (148, 148), interpolation=cv2.INTER_AREA)
    found = _follow(np.concatenate([speakers[0][0][:20], second]))
    assert found.cuts == [20]
    assert found.choice == "chosen in each of 2 shots: only face (2)"
    with closing(landmark_detector(static=True)) as detect:
        assert _difference(found.landmarks[20], detect(second[0])) < 0.01


@pytest.mark.parametrize("left_speaks", [True, False])
def test_who_speaks_is_kept(speakers: list[Speaker], left_speaks: bool) -> None:
    talks, (silent, _) = speakers[0], speakers[1]
    still = np.repeat(silent[:1], COUNT, axis=0)
    pair = (talks[0], still) if left_speaks else (still, talks[0])
    found = _follow(np.concatenate(pair, axis=2), talks[1])
    assert found.faces == 2
    assert found.choice.startswith("speaks: mouth follows the sound, r 0.")
    assert _seen(found).all()
    assert (_middle_x(found) < 256) == left_speaks


def test_without_sound_the_largest_is_kept(speakers: list[Speaker]) -> None:
    small = np.full_like(speakers[0][0][:10], 90)
    for frame, source in zip(small, speakers[0][0], strict=False):
        frame[64:192, 64:192] = cv2.resize(source, (128, 128), interpolation=cv2.INTER_AREA)
    found = _follow(np.concatenate([small, speakers[1][0][:10]], axis=2))
    assert (found.faces, found.choice) == (2, "largest of 2 faces")
    assert _middle_x(found) > 256


def test_people_stay_apart_and_newcomers_are_seen(speakers: list[Speaker]) -> None:
    shown = np.clip((np.arange(44) - 10) / 10, 0, 1)[:, None, None, None]  # the right one fades in, without a cut
    right = (speakers[1][0][:44] * shown + 90 * (1 - shown)).astype(np.uint8)
    found = _follow(np.concatenate([speakers[0][0][:44], right], axis=2))
    assert (found.faces, found.cuts) == (2, [])
    assert _seen(found).all()
    assert np.ptp(found.landmarks[..., 0].mean(axis=1)) < 60  # never over to the other


def test_a_lost_face_is_marked_and_found_again_at_once(speakers: list[Speaker]) -> None:
    frames = speakers[0][0][:30].copy()
    frames[10:14, 40:] = frames[10, 0, 0]  # an empty wall
    found = _follow(frames)
    assert np.flatnonzero(~_seen(found)).tolist() == [10, 11, 12, 13]
    assert np.isnan(found.yaw[10:14]).all()
    assert found.faces == 1


def test_a_face_that_jumps_is_looked_up_anew(speakers: list[Speaker]) -> None:
    frames = np.full((20, 256, 384, 3), 90, np.uint8)
    for number, frame in enumerate(frames):
        x = 0 if number < 10 else 128
        frame[:, x : x + 256] = speakers[0][0][0]
    found = _follow(frames)
    assert _seen(found).all()
    np.testing.assert_allclose(found.landmarks[10] - found.landmarks[9], np.tile((128, 0), (131, 1)), atol=4)


def test_a_face_of_one_frame_is_a_mistake(speakers: list[Speaker]) -> None:
    frames = np.full((20, 256, 256, 3), speakers[0][0][0, 0, 0], np.uint8)
    frames[9, 90:186, 80:176] = cv2.resize(speakers[0][0][0], (96, 96), interpolation=cv2.INTER_AREA)
    with closing(landmark_detector(static=True)) as detect:
        assert detect(frames[9]) is not None
    found = _follow(frames)
    assert found.cuts == []
    assert not _seen(found).any()
    assert found.faces == 0


def test_no_face_and_no_frames() -> None:
    found = _follow(np.full((30, 64, 64, 3), 90, np.uint8))
    assert (found.faces, found.choice) == (0, "no face")
    assert not _seen(found).any()
    with FaceFollower() as follower:
        empty = follower.finish(np.zeros(0, np.float32))
    assert empty.landmarks.shape == (0, 131, 2)
    assert empty.choice == "no face"


def test_errors(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="leave it out"):
        FaceFollower(tmp_path / "absent.task")
    with FaceFollower() as follower, pytest.raises(ValueError, match="uint8 RGB"):
        follower.update(np.zeros((2, 8, 8, 3)))


def _person(seed: int, lip_aperture: np.ndarray, size: float) -> FaceTrack:
    points = np.random.default_rng(seed).random((131, 2)).astype(np.float32)
    points[0], points[1] = 0, 1  # size exactly 1
    faces = np.repeat(points[None] * size, len(lip_aperture), axis=0)
    upper, lower = positions([13, 14])
    faces[:, upper] = 0.5 * size
    faces[:, lower] = faces[:, upper] + np.stack([np.zeros_like(lip_aperture), lip_aperture * size], axis=1)
    return FaceTrack(list(range(len(lip_aperture))), list(faces.astype(np.float32)))


def test_choice_between_people() -> None:
    rng = np.random.default_rng(1)
    level = np.convolve(rng.random(100) * (rng.random(100) < 0.2), np.hanning(7), mode="same")
    speaks, other = _person(0, 0.2 * np.sqrt(level), 50), _person(1, 0.2 * np.sqrt(level[::-1]), 100)
    assert choose([other, speaks], 0, 100, level)[0] is speaks
    assert choose([other, speaks], 0, 100, None) == (other, "largest of 2 faces")
    both = [_person(2, 0.2 * np.sqrt(level), 50), _person(3, 0.21 * np.sqrt(level), 60)]
    assert choose(both, 0, 100, level) == (both[1], "largest of 2 faces")  # neither stands out
    assert choose([other], 0, 100, level) == (other, "only face")


@pytest.mark.parametrize(("clip", "frames"), [("two_people_01", 40), ("two_people_03", 40)])
def test_real_pairs(corpus: Path, clip: str, frames: int) -> None:
    found = _follow(_frames(corpus / "hard" / f"{clip}.mp4", frames))
    assert (found.faces, found.choice) == (2, "largest of 2 faces")
    assert _seen(found).all()
    assert np.ptp(found.landmarks[..., 0].mean(axis=1)) < 60  # the same person throughout


def test_real_cuts(corpus: Path) -> None:
    found = _follow(_frames(corpus / "hard" / "shotcut_broll_01.mp4", 180))
    assert found.cuts == [65, 165]
    assert np.flatnonzero(np.diff(_seen(found).astype(int))).tolist() == [64, 164]  # no face in between


def test_tracking_loses_no_accuracy(corpus: Path) -> None:
    frames = _frames(corpus / "clips" / "spk35_01.mp4", 40)
    found = _follow(frames)
    with closing(landmark_detector(static=True)) as detect:
        static = np.stack([detect(frame) for frame in frames])
    apart = np.median(np.linalg.norm(found.landmarks - static, axis=-1), axis=1) / np.ptp(static, axis=1).max(axis=1)
    assert np.median(apart) < 0.006  # detecting in a picture moved by a few pixels: 0.0035


def test_profile_is_turned_to_the_left(corpus: Path) -> None:
    found = _follow(_frames(corpus / "hard" / "profile_01.mp4", 30))
    assert _seen(found).all()
    assert np.median(found.yaw) < -25
