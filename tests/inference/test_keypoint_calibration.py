"""Guidance's keypoints are moved to where a person has them, and open and shut as before."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from stsa_lightning.data.calibration_speech import calibration_windows
from stsa_lightning.face.topology import JAW_KEYPOINTS, KEYPOINT_POSITIONS, LANDMARKS, LIP_MEASURE_KEYPOINTS, MOUTH
from stsa_lightning.features.build import audio_features
from stsa_lightning.inference.engine import Guided
from stsa_lightning.inference.frame_inputs import example_inputs
from stsa_lightning.inference.keypoint_calibration import KeypointCalibration
from stsa_lightning.models.guidance import Guidance
from stsa_lightning.models.presets import GUIDANCE

FRAMES = 64
UPPER, LOWER = LIP_MEASURE_KEYPOINTS[1]
RNG = np.random.default_rng(3)
FACE = RNG.uniform(0.2, 0.8, (len(LANDMARKS), 2))  # any points will do: nothing below knows what a face looks like
YAW = RNG.normal(0, 0.03, FACE.shape)  # how they move when the head turns
OPEN = np.zeros_like(FACE)  # and when the lips part
OPEN[MOUTH, 1] = RNG.uniform(0.2, 0.4, len(MOUTH))
OPEN[KEYPOINT_POSITIONS[UPPER]], OPEN[KEYPOINT_POSITIONS[LOWER]] = (0, 0), (0, 1)
FACE[KEYPOINT_POSITIONS[LOWER]] = FACE[KEYPOINT_POSITIONS[UPPER]]


def person(yaw: np.ndarray, aperture: np.ndarray) -> np.ndarray:
    """Landmarks (n, 131, 2) of upright frames."""
    return FACE + yaw[:, None, None] * YAW + aperture[:, None, None] * OPEN


def turned(points: np.ndarray, degrees: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """The same of tilted and nearer heads."""
    angle = np.radians(degrees)
    turn = scale[:, None, None] * np.stack(
        [np.stack([np.cos(angle), -np.sin(angle)], -1), np.stack([np.sin(angle), np.cos(angle)], -1)], -2
    )
    return (points - 0.5) @ turn.swapaxes(-1, -2) + 0.5


def aperture_of(keypoints: np.ndarray) -> np.ndarray:
    return np.linalg.norm(keypoints[..., UPPER] - keypoints[..., LOWER], axis=-1)


class Stranger:
    """Frames of someone whom guidance puts elsewhere: by as much in every frame, and by more the further they turn."""

    def __init__(self, seed: int, count: int = FRAMES, off: float = 0.02) -> None:
        rng = np.random.default_rng(seed)
        self.yaw, self.aperture = rng.uniform(-1, 1, count), rng.uniform(0, 0.1, count)
        self.said = rng.uniform(0, 0.1, count)  # by what guidance hears, which is something else
        self.degrees, self.scale = rng.uniform(-20, 20, count), rng.uniform(0.8, 1.2, count)
        self.landmarks = turned(person(self.yaw, self.aperture), self.degrees, self.scale)
        same, by_yaw = (off * np.random.default_rng(9).normal(size=(2, 57, 2)))[:, None]
        same[:, LOWER], by_yaw[:, LOWER] = same[:, UPPER], by_yaw[:, UPPER]  # guidance opens lips as they are
        right = person(self.yaw, self.said)[:, KEYPOINT_POSITIONS]
        self.right = turned(right, self.degrees, self.scale).swapaxes(1, 2)
        wrong = right + same + 0.5 * self.yaw[:, None, None] * by_yaw
        self.predicted = turned(wrong, self.degrees, self.scale).swapaxes(1, 2)

    def calibration(self, places: np.ndarray | None = None) -> KeypointCalibration:
        places = np.arange(len(self.landmarks)) if places is None else places
        return KeypointCalibration(self.predicted[places], self.landmarks, places)


def error(calibration: KeypointCalibration, frames: Stranger) -> float:
    found = frames.predicted + calibration(frames.landmarks)
    return float(np.abs(found - frames.right).mean() / np.abs(frames.predicted - frames.right).mean())


def test_keypoints_of_other_frames_are_moved_to_where_the_person_has_them():
    assert error(Stranger(0).calibration(), Stranger(1)) < 0.1


def test_half_of_the_frames_twice_are_as_good_as_these_once():
    twice, once = (Stranger(0).calibration(places) for places in (np.arange(32).repeat(2), np.arange(32)))
    assert error(twice, Stranger(1)) == pytest.approx(error(once, Stranger(1)), abs=0.02)


def test_lips_are_as_far_open_as_before():
    frames = Stranger(1)
    shift = Stranger(0).calibration()(frames.landmarks)
    np.testing.assert_allclose(
        aperture_of(frames.predicted + shift), aperture_of(frames.predicted), atol=0.002
    )  # of 0.1 where they are wide open


def test_one_picture_moves_them_half_the_way():
    alone = Stranger(0).calibration(np.zeros(32, int))
    straight = turned(person(np.zeros(1), np.zeros(1)), np.zeros(1), np.ones(1))
    assert 0.3 < np.abs(alone(straight)).mean() / np.abs(Stranger(0).calibration()(straight)).mean() < 0.9


def test_who_is_as_guidance_thinks_is_left_alone():
    assert np.abs(Stranger(0, off=0.0).calibration()(Stranger(1).landmarks)).max() < 1e-3


def test_frames_that_are_not_allowed_say_nothing():
    known, frames = Stranger(0), Stranger(1)
    allowed = np.random.default_rng(5).random((FRAMES, FRAMES)) < 0.5
    one = known.calibration()(frames.landmarks, allowed)[0]
    changed = Stranger(0)
    changed.landmarks[:, KEYPOINT_POSITIONS] += np.where(allowed[0], 0, 0.1)[:, None, None] * OPEN[KEYPOINT_POSITIONS]
    other = changed.calibration()(frames.landmarks, allowed)[0]
    np.testing.assert_allclose(one, other, atol=1e-6)
    assert np.abs(one - known.calibration()(frames.landmarks)[0]).max() > 1e-5
    none = known.calibration()(frames.landmarks, np.zeros((FRAMES, FRAMES), bool))
    assert not none.any()


def test_heads_turned_further_than_any_known_are_moved_as_the_furthest_known():
    calibration = Stranger(0).calibration()
    far, further = (np.linalg.norm(calibration(person(np.array([yaw]), np.zeros(1)))) for yaw in (1.2, 2.0))
    assert further < 1.1 * far  # and the face as a whole is read a little smaller


def test_frames_without_a_face_are_not_moved():
    assert not Stranger(0).calibration()(np.full((2, len(LANDMARKS), 2), np.nan)).any()


@pytest.mark.parametrize("num_frames", [1, 5])
def test_calibration_speech_is_speech_and_always_the_same(num_frames: int):
    windows = calibration_windows(audio_features("logmel"), num_frames)
    assert windows.shape == (32, num_frames, 80, 10)
    np.testing.assert_array_equal(windows, calibration_windows(audio_features("logmel"), num_frames))
    loudness = windows[:, num_frames // 2].mean((1, 2))
    assert loudness.std() > 0.2
    assert abs(np.corrcoef(loudness, np.arange(32))[0, 1]) < 0.5  # not louder and louder as a head turns


def misplaced(seed: int) -> tuple[Stranger, np.ndarray, np.ndarray]:
    """Frames, and right keypoints of which guidance puts the jaw and the lips, each as a whole, elsewhere in each."""
    frames, rng = Stranger(seed), np.random.default_rng(seed)
    apart = 0.02 * rng.normal(size=(FRAMES, 2, 2)).repeat([JAW_KEYPOINTS, 57 - JAW_KEYPOINTS], axis=2)
    return frames, frames.right + apart, apart


def test_jaw_and_lips_lie_nearer_to_where_the_person_has_them():
    frames, predicted, apart = misplaced(1)
    shift = Stranger(0).calibration().place(predicted, frames.landmarks)
    assert 0.6 < np.abs(apart + shift).mean() / np.abs(apart).mean() < 0.8
    moved = predicted + shift
    for part in (slice(JAW_KEYPOINTS), slice(JAW_KEYPOINTS, None)):  # by as much, so that no shape is changed
        np.testing.assert_allclose(np.ptp(shift[..., part], axis=-1), 0, atol=1e-6)
    np.testing.assert_allclose(aperture_of(moved), aperture_of(predicted), atol=1e-6)


def test_few_frames_tell_little_of_a_place_and_none_nothing():
    frames, predicted, _ = misplaced(1)
    known = Stranger(0).calibration()
    every = np.abs(known.place(predicted, frames.landmarks)).mean()
    two = np.zeros((FRAMES, FRAMES), bool)
    none, two[:, :2] = two.copy(), True
    assert np.abs(known.place(predicted, frames.landmarks, two)).mean() < 0.6 * every
    assert not known.place(predicted, frames.landmarks, none).any()
    assert not known.place(predicted, np.full_like(frames.landmarks, np.nan)).any()


def test_what_is_placed_is_drawn_there():
    frames, predicted, _ = misplaced(1)
    known, guidance = Stranger(0).calibration(), Guidance(**{**GUIDANCE["tiny"], "heatmap_sigma": 1.0})
    _, inputs, _ = example_inputs(64, 80, 5, 2, FRAMES)
    keypoints = torch.from_numpy(predicted).float()
    placed = known.placed(Guided(torch.zeros(FRAMES, 1, 64, 64), keypoints), inputs, frames.landmarks, guidance.draw)
    shift = torch.from_numpy(known.place(keypoints.numpy(), frames.landmarks))
    torch.testing.assert_close(placed.keypoints, keypoints + shift)
    torch.testing.assert_close(placed.heatmaps, guidance.draw(placed.keypoints, inputs.masked_heatmaps[:, 2]))
