from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from stsa_lightning.face.box import crop_face, face_box, normalise_landmarks
from stsa_lightning.face.crops import landmarks_in_crops
from stsa_lightning.face.heatmaps import inner_lip_aperture
from stsa_lightning.face.landmarks import landmark_detector
from stsa_lightning.face.topology import MOUTH
from stsa_lightning.media.video import VideoReader


@pytest.mark.parametrize("size", [64, 128])
def test_crops_show_what_the_frame_showed(corpus: Path, size: int):
    with VideoReader(corpus / "clips" / "spk05_01.mp4") as reader:
        frames = reader.get(range(25))
    tracker, detector = landmark_detector(), landmark_detector(static=True)
    landmarks = np.stack([tracker(frame) for frame in frames])
    boxes = [face_box(points, (frames.shape[2], frames.shape[1])) for points in landmarks]
    crops = np.stack([crop_face(frame, box, size) for frame, box in zip(frames, boxes, strict=True)])
    expected = size * np.stack([normalise_landmarks(p, b) for p, b in zip(landmarks, boxes, strict=True)])
    found = landmarks_in_crops(crops, detector)
    assert np.linalg.norm(found - expected, axis=-1)[:, MOUTH].mean() < 0.01 * size
    assert np.corrcoef(inner_lip_aperture(found), inner_lip_aperture(expected))[0, 1] > 0.9


def test_no_face_is_nan():
    detector = landmark_detector(static=True)
    assert np.isnan(landmarks_in_crops(np.zeros((1, 64, 64, 3), np.uint8), detector)).all()
