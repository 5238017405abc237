"""Guidance's keypoints are said again with the mouth of a person, which opens and shuts as before."""

from __future__ import annotations

import numpy as np
import pytest

from stsa_lightning.data.calibration_speech import calibration_windows
from stsa_lightning.face.mouth_motion import AlignedFaces, MouthMotion, lips_of
from stsa_lightning.face.topology import KEYPOINT_POSITIONS, LANDMARKS, LIP_MEASURE_KEYPOINTS, MASKED_POSITIONS
from stsa_lightning.features.build import audio_features
from stsa_lightning.inference.keypoint_calibration import KeypointCalibration

FRAMES = 64
MOTION = MouthMotion.load()
AVERAGE = AlignedFaces.of((MOTION.average[None] + 1) / 2)
UPPER, LOWER = LIP_MEASURE_KEYPOINTS[1]
RNG = np.random.default_rng(3)
# This person's lips and jaw: elsewhere than others', thicker and wider.
OWN = np.array([0.03, 0, 0.06]) @ MOTION.by_lips + np.tile([0.02, -0.03], 57)
POSE = 0.01 * RNG.normal(size=(2, AVERAGE.fixed.shape[1]))  # two ways to turn the head
LIPS = np.array([0.3, 0.8, -0.1])  # what outer and inner aperture and width do as the lips part


def heads(pose: np.ndarray, opening: np.ndarray) -> np.ndarray:
    """Landmarks (n, 131, 2) of upright heads turned by `pose` (n, 2), lips open by `opening` (n,)."""
    turned = pose @ POSE
    landmarks = np.zeros((len(pose), len(LANDMARKS), 2))
    landmarks[:, KEYPOINT_POSITIONS] = (
        AVERAGE.keypoints + OWN + turned @ MOTION.by_pose + np.outer(opening, LIPS) @ MOTION.by_lips
    ).reshape(len(pose), -1, 2)
    landmarks[:, MASKED_POSITIONS] = (AVERAGE.fixed + turned).reshape(len(pose), -1, 2)
    return (landmarks + 1) / 2


def nearer(points: np.ndarray, degrees: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """The same of tilted and nearer heads."""
    angle = np.radians(degrees)
    turn = scale[:, None, None] * np.stack(
        [np.stack([np.cos(angle), -np.sin(angle)], -1), np.stack([np.sin(angle), np.cos(angle)], -1)], -2
    )
    return (points - 0.5) @ turn.swapaxes(-1, -2) + 0.5


class Stranger:
    """Frames of someone whose mouth guidance puts elsewhere in each, of other shape, thickness and width."""

    def __init__(self, seed: int, count: int = FRAMES, off: float = 0.02) -> None:
        rng = np.random.default_rng(seed)
        pose, opening, said = rng.normal(size=(count, 2)), rng.uniform(0, 0.15, count), rng.uniform(0, 0.15, count)
        placed = {"degrees": rng.uniform(-20, 20, count), "scale": rng.uniform(0.8, 1.2, count)}
        self.landmarks = nearer(heads(pose, opening), **placed)
        right = heads(pose, said)[:, KEYPOINT_POSITIONS]  # what is said is something else
        shape = (np.array([-2, 0, 4]) * off @ MOTION.by_lips).reshape(57, 2) / 2  # thinner, wider, and open as they are
        elsewhere = off * rng.normal(size=(count, 1, 2))
        self.right = nearer(right, **placed).swapaxes(1, 2)
        self.predicted = nearer(right + shape + elsewhere, **placed).swapaxes(1, 2)

    def calibration(self, places: np.ndarray | None = None) -> KeypointCalibration:
        places = np.arange(len(self.landmarks)) if places is None else places
        return KeypointCalibration(self.predicted[places], self.landmarks, places)


def error(found: np.ndarray, frames: Stranger) -> float:
    return float(np.abs(found - frames.right).mean() / np.abs(frames.predicted - frames.right).mean())


def aperture_of(keypoints: np.ndarray) -> np.ndarray:
    return np.linalg.norm(keypoints[..., UPPER] - keypoints[..., LOWER], axis=-1)


def test_keypoints_of_other_frames_are_where_the_person_has_them() -> None:
    frames = Stranger(1)
    assert error(Stranger(0).calibration()(frames.predicted, frames.landmarks), frames) < 0.15


def test_lips_are_as_far_open_as_before() -> None:
    frames = Stranger(1)
    found = Stranger(0).calibration()(frames.predicted, frames.landmarks)
    before, after = aperture_of(frames.predicted), aperture_of(found)
    assert before.std() > 0.015
    np.testing.assert_allclose(after, before, atol=0.004)


def test_lips_are_as_thick_and_the_mouth_as_wide_as_the_persons() -> None:
    frames = Stranger(1)
    faces = AlignedFaces.of(frames.landmarks)
    found = Stranger(0).calibration()(frames.predicted, frames.landmarks)
    right, before, after = (
        lips_of(faces.align(keypoints.swapaxes(1, 2))) for keypoints in (frames.right, frames.predicted, found)
    )
    for measure in (0, 2):
        assert np.abs(after - right)[:, measure].mean() < 0.3 * np.abs(before - right)[:, measure].mean()


def test_a_single_picture_says_where_the_mouth_is_and_half_of_how_its_lips_are() -> None:
    frames, known = Stranger(1), Stranger(0)
    alone = KeypointCalibration(known.predicted[np.zeros(32, int)], known.landmarks[:1], np.zeros(32, int))
    assert error(alone(frames.predicted, frames.landmarks), frames) < 0.5
    missing = alone._own_lips(np.zeros((1, 3)), np.ones((1, 1), bool))[0]
    np.testing.assert_allclose(missing[[0, 2]], alone._missing.mean(0) / 2)


def test_frames_that_are_not_allowed_say_nothing() -> None:
    known, frames = Stranger(0), Stranger(1)
    allowed = np.random.default_rng(5).random((FRAMES, FRAMES)) < 0.5
    one = known.calibration()(frames.predicted, frames.landmarks, allowed)[0]
    changed = Stranger(0)
    changed.landmarks += np.where(allowed[0], 0, 0.1)[:, None, None] * RNG.normal(size=(len(LANDMARKS), 2))
    other = changed.calibration()(frames.predicted, frames.landmarks, allowed)[0]
    np.testing.assert_allclose(one, other, atol=1e-6)
    assert np.abs(one - known.calibration()(frames.predicted, frames.landmarks)[0]).max() > 1e-5
    none = known.calibration()(frames.predicted, frames.landmarks, np.zeros((FRAMES, FRAMES), bool))
    np.testing.assert_array_equal(none, frames.predicted.astype(np.float32))


def test_frames_without_a_face_are_left_as_they_are() -> None:
    frames = Stranger(1)
    nowhere = np.full_like(frames.landmarks, np.nan)
    found = Stranger(0).calibration()(frames.predicted, nowhere)
    np.testing.assert_array_equal(found, frames.predicted.astype(np.float32))


@pytest.mark.parametrize("num_frames", [1, 5])
def test_calibration_speech_is_speech_and_always_the_same(num_frames: int) -> None:
    windows = calibration_windows(audio_features("logmel"), num_frames)
    assert windows.shape == (32, num_frames, 80, 10)
    np.testing.assert_array_equal(windows, calibration_windows(audio_features("logmel"), num_frames))
    loudness = windows[:, num_frames // 2].mean((1, 2))
    assert loudness.std() > 0.2
    assert abs(np.corrcoef(loudness, np.arange(32))[0, 1]) < 0.5  # not louder and louder as a head turns
