from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from stsa_lightning.dubbing.face_selection import FaceSelector, _chosen, checked_face
from stsa_lightning.dubbing.face_track import NO_FACE, OCCLUDED, PROFILE, REASONS, settle_faces
from stsa_lightning.dubbing.report import DubError
from stsa_lightning.dubbing.schedule import make_schedule
from stsa_lightning.face.occlusion import PLACES
from stsa_lightning.face.topology import positions
from stsa_lightning.face.tracks import FaceTrack
from stsa_lightning.media.video_source import VideoSource

FPS, SIZE = 25.0, (200, 160)


def straight(count: int) -> np.ndarray:
    """(count, 131, 2) of a face that looks ahead, and does not move."""
    points = np.random.default_rng(3).uniform(0.2, 0.8, (131, 2)).astype(np.float32)
    ears_nose_eyes = [(0, 0.5), (1, 0.5), (0.5, 0.5), (0.2, 0.3), (0.8, 0.3)]
    points[positions([234, 454, 4, 33, 263])] = ears_nose_eyes
    return np.repeat(points[None] * 80 + 40, count, axis=0)


def settle(landmarks: np.ndarray, colours: np.ndarray | None = None, starts: tuple[int, ...] = (0,)) -> tuple:
    faces = settle_faces(landmarks, colours, list(starts), FPS, SIZE)
    return faces, [REASONS[i] for i in faces.why]


def test_the_mouth_comes_and_goes_smoothly_around_a_gap_but_not_at_a_cut() -> None:
    landmarks = straight(60)
    landmarks[20:30] = np.nan
    landmarks[45:] = np.nan
    faces, why = settle(landmarks, starts=(0, 45))
    assert set(why[20:30] + why[45:]) == {"no face"}
    assert (faces.weight[:14] == 1).all()  # nothing fades in at the beginning
    assert (np.diff(faces.weight[13:21]) < 0).sum() >= 5
    assert np.abs(np.diff(faces.weight[:45])).max() < 0.3
    assert (faces.weight[36:45] == 1).all()  # the cut needs no ramp
    assert faces.shots[44] == 0 < faces.shots[45]
    assert not faces.landmarks[20:30].any()


def test_profiles_pass_through() -> None:
    landmarks = straight(40)
    landmarks[10:30, positions([4])[0], 0] = 160  # the nose's tip beyond the cheek
    faces, _ = settle(landmarks)
    assert (faces.why[12:28] == PROFILE).all()
    assert (faces.why[:8] == 0).all()
    assert faces.valid.all()


def test_a_hand_before_the_mouth_passes_through() -> None:
    rng = np.random.default_rng(0)
    colours = rng.integers(140, 150, (100, PLACES, 3)).astype(np.uint8)
    colours[:, 30] = rng.integers(0, 255, (100, 3))  # a place that always changes says nothing
    colours[50:60, 6:28] = 60
    colours[80:82] = colours[80:82] // 2  # a lamp goes out
    faces, _ = settle(straight(100), colours)
    assert (faces.why[48:62] == OCCLUDED).all()
    assert not faces.why[:45].any()
    assert not faces.why[65:].any()


def track(x: float, size: float, frames: int) -> FaceTrack:
    face = straight(1)[0] * size + np.float32([x, 0])
    return FaceTrack(list(range(frames)), [face] * frames)


def test_whose_mouth() -> None:
    middle, left, right = track(100, 1, 50), track(0, 0.5, 50), track(300, 2, 20)
    people = [middle, left, right]

    def chosen(who: str) -> FaceTrack | None:
        found = _chosen(who, people, 0, 50, None)
        return found and found[0]

    assert chosen("left") is left
    assert chosen("right") is right
    assert chosen("2") is middle
    assert chosen("4") is None
    assert chosen("largest") is chosen("auto") is right
    assert _chosen("left", [], 0, 50, None) is None
    for wrong in ("0", "-1", "me"):
        with pytest.raises(DubError, match="expected auto, largest, left, right or a number"):
            checked_face(wrong)


def test_freeze_and_trim() -> None:
    times = np.arange(10) / 25
    assert make_schedule(times, 25, 0.3, "freeze").source.tolist() == list(range(8))
    frozen = make_schedule(times, 25, 0.52, "freeze")
    assert frozen.source.tolist() == [*range(10), 9, 9, 9]
    np.testing.assert_allclose(frozen.times_s, np.arange(13) / 25)
    assert make_schedule(times, 25, 9.0, "trim").source.tolist() == list(range(10))
    assert len(make_schedule(times, 25, 0.3, "loop")) == 8


def test_real_hand_before_the_mouth(corpus: Path) -> None:
    found = {}
    for who in ("left", "right"):
        with VideoSource(corpus / "hard" / "two_people_01.mp4") as video, FaceSelector(who) as selector:
            for frame in video.scan(until_s=2.4):
                selector.update(frame)
            found[who] = selector.finish(video.times_s, float(video.fps), video.size, None, steady=True)
    assert found["left"].landmarks[..., 0].max() < found["right"].landmarks[..., 0].min()
    assert (found["right"].why == OCCLUDED).sum() >= 3
    assert not (found["left"].why == NO_FACE).any()
