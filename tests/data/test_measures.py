from __future__ import annotations

import json

import cv2
import numpy as np
import pandas as pd
import pytest

from stsa_lightning.data.measures import (
    CLEAR_LSE_C,
    MEANINGS,
    MEASURES,
    SyncReading,
    brightness,
    choose_shift,
    largest_jump,
    measure,
    no_measures,
    sharpness,
    speech_ratio,
)
from stsa_lightning.metrics.mouth_sync import CLEAR_CONFIDENCE


def clip(frames: int = 10, **changes):
    """A face of 100 x 120 px that stands still in the middle of its box, with a sine for sound."""
    landmarks = np.random.default_rng(0).uniform(40, 60, (131, 2)).astype(np.float32)
    wave = 0.1 * np.sin(2 * np.pi * 440 * np.arange(frames * 640) / 16_000)
    return {
        "landmarks": np.repeat(landmarks[None], frames, 0),
        "boxes": np.tile(np.array([0, 10, 100, 130], np.int32), (frames, 1)),
        "valid": np.ones(frames, bool),
        "yaw": np.full(frames, -5.0),
        "wave": wave.astype(np.float32),
        "looks": np.array([[0.0, 0.2]] * 2),
        **changes,
    }


def test_a_clip_without_anything_peculiar():
    found = measure(**clip(), sync=SyncReading(0, 7.5, "syncnet"))
    assert found == {
        "sync_offset": 0.0,
        "sync_confidence": 7.5,
        "sync_method": "syncnet",
        "sync_clear": True,
        "sync_shift": 0,
        "face_px": 120.0,
        "yaw_deg": 5.0,
        "yaw_max_deg": 5.0,
        "sharpness": 0.0,
        "brightness": 0.2,
        "jump": 0.0,
        "speech_ratio": 0.0,  # a sine is no voice
        "loudness_db": -23.0,  # a sine of amplitude 0.1: 20 log10(0.1 / sqrt 2)
        "faces": 1,
        "cuts": 0,
    }


def test_columns_are_those_declared_and_fit_json_and_pandas():
    found = [measure(**clip(), sync=SyncReading(0, 7.5, "syncnet")), measure(**clip()), no_measures()]
    for row in found:
        assert list(row) == list(MEASURES) == list(MEANINGS)
        assert json.loads(json.dumps(row, allow_nan=False)) == row
    table = pd.DataFrame(found).astype(MEASURES)
    assert table["sync_offset"].isna().tolist() == [False, True, True]
    assert table["sync_method"].tolist() == ["syncnet", "none", "none"]


def test_frames_without_a_face_do_not_count():
    material = clip(6)
    gone = np.array([False, False, True, True, False, True])
    material["valid"] = gone
    material["landmarks"][~gone] = np.nan
    material["boxes"][~gone] = 0
    material["yaw"] = np.where(gone, [0, 0, 10, -20, 0, 40], np.nan)
    found = measure(**material)
    assert (found["face_px"], found["yaw_deg"], found["yaw_max_deg"], found["jump"]) == (120, 20, 40, 0)


def test_a_clip_without_any_face_is_not_measured():
    none = np.zeros(4, bool)
    material = clip(4, valid=none, looks=np.empty((0, 2)), yaw=np.full(4, np.nan))
    found = measure(**material)
    for name in ("face_px", "yaw_deg", "yaw_max_deg", "sharpness", "brightness", "jump"):
        assert found[name] is None


@pytest.mark.parametrize(
    ("offset", "confidence", "method", "shift"),
    [
        (-5, CLEAR_LSE_C, "syncnet", -5),
        (1, 9.0, "syncnet", 1),
        (-5, CLEAR_LSE_C - 0.1, "syncnet", 0),
        (-5, CLEAR_CONFIDENCE, "lip_aperture", -5),
        (12, CLEAR_CONFIDENCE + 0.1, "lip_aperture", 12),
        (-5, CLEAR_CONFIDENCE - 0.01, "lip_aperture", 0),
        (-0.4, CLEAR_CONFIDENCE + 1, "lip_aperture", 0),
        (0.6, CLEAR_CONFIDENCE + 1, "lip_aperture", 1),
        (-2.4, CLEAR_CONFIDENCE + 1, "lip_aperture", -2),
        (15, CLEAR_CONFIDENCE + 1, "lip_aperture", 0),  # the end of what was searched
        (-15, 9.0, "syncnet", 0),
    ],
)
def test_sound_is_corrected_only_where_the_offset_is_clear(offset, confidence, method, shift):
    found = measure(**clip(), sync=SyncReading(offset, confidence, method))
    assert found["sync_shift"] == choose_shift(found) == shift
    assert measure(**clip(), sync=SyncReading(offset, confidence, method), correct=False)["sync_shift"] == 0


@pytest.mark.parametrize("sync", [None, SyncReading(float("nan"), 0.9, "lip_aperture")])
def test_nothing_is_corrected_without_a_reading(sync):
    found = measure(**clip(), sync=sync)
    assert (found["sync_offset"], found["sync_method"], found["sync_shift"]) == (None, "none", 0)


def test_sharpness_falls_with_blur_and_with_small_faces():
    rng = np.random.default_rng(1)
    face = cv2.resize(rng.integers(0, 256, (64, 64, 3), np.uint8), (256, 256), interpolation=cv2.INTER_CUBIC)
    blurred = cv2.GaussianBlur(face, (0, 0), 3)
    small = cv2.resize(face, (32, 32), interpolation=cv2.INTER_AREA)
    assert sharpness(face) > 3 * sharpness(blurred)
    assert sharpness(face) > 3 * sharpness(small)


def test_brightness_is_the_mean_of_all_colours():
    face = np.zeros((64, 64, 3), np.uint8)
    face[:32] = (255, 51, 0)
    assert brightness(face) == pytest.approx((1 + 0.2) / 6)
    assert brightness(face) == pytest.approx(face.mean() / 255)


def test_sharpness_of_a_checkerboard_by_hand():
    board = (np.indices((128, 128)).sum(0) % 2 * 100).astype(np.uint8)
    face = np.repeat(board[..., None], 3, axis=2)
    # Four neighbours differ by 100 from each pixel: the Laplacian is +400 and -400, whose variance is 400 squared.
    assert sharpness(face) == pytest.approx(400**2, rel=0.01)


def test_jump_is_relative_to_the_face_and_ignores_cuts_and_gaps():
    material = clip(8)
    landmarks, boxes, valid = material["landmarks"], material["boxes"], material["valid"]
    landmarks[3:] += (30, 40)
    assert largest_jump(landmarks, boxes, valid, ()) == pytest.approx(50 / 120, abs=1e-4)
    assert largest_jump(landmarks, boxes, valid, [3]) == 0
    valid[3] = False
    landmarks[3] = np.nan
    assert largest_jump(landmarks, boxes, valid, ()) == 0
    assert largest_jump(landmarks, boxes, np.zeros(8, bool), ()) is None


def test_speech_ratio_counts_voice_and_no_noise(spoken: np.ndarray):
    noise = np.random.default_rng(2).normal(0, 0.1, len(spoken)).astype(np.float32)
    assert speech_ratio(spoken) > 0.7
    assert speech_ratio(np.concatenate([spoken, noise])) == pytest.approx(speech_ratio(spoken) / 2, abs=0.05)
    assert speech_ratio(np.zeros(16_000, np.float32)) == 0
    assert speech_ratio(np.zeros(0, np.float32)) == 0
