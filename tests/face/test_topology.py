"""The landmark sets, the lines between them and their symmetry."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from stsa_lightning.face.landmarks import landmark_detector
from stsa_lightning.face.topology import (
    CONTENT,
    CONTENT_POSITIONS,
    JAW,
    KEYPOINT_POSITIONS,
    KEYPOINTS,
    LANDMARKS,
    LINES,
    MASKED,
    MASKED_POSITIONS,
    MIRROR,
    MOUTH,
    positions,
)


def test_sets_and_their_positions() -> None:
    assert (len(LANDMARKS), len(MASKED), len(CONTENT), len(KEYPOINTS)) == (131, 76, 55, 57)
    for ids, places in ((MASKED, MASKED_POSITIONS), (CONTENT, CONTENT_POSITIONS), (KEYPOINTS, KEYPOINT_POSITIONS)):
        np.testing.assert_array_equal(LANDMARKS[places], ids)
    assert not set(MASKED_POSITIONS) & set(CONTENT_POSITIONS)
    np.testing.assert_array_equal(np.concatenate([JAW, MOUTH]), KEYPOINT_POSITIONS)
    assert LANDMARKS[MOUTH][0] == 61  # the right corner of the mouth comes first


def test_parts_have_all_the_lines_of_the_whole() -> None:
    def pairs(kind: str) -> set[tuple[int, ...]]:
        return {tuple(sorted(line)) for line in LINES[kind].tolist()}  # type: ignore[index]

    assert pairs("whole") == pairs("masked") | pairs("lip") | pairs("jaw")
    assert len(pairs("whole")) == len(pairs("masked")) + len(pairs("lip")) + len(pairs("jaw"))
    assert {p for pair in pairs("masked") for p in pair} <= set(MASKED_POSITIONS.tolist())


def test_mirror_is_an_involution_that_keeps_the_lines() -> None:
    np.testing.assert_array_equal(MIRROR[MIRROR], np.arange(131))
    midline = LANDMARKS[np.arange(131) == MIRROR]
    assert set(midline.tolist()) == {152, 168, 6, 197, 195, 5, 4, 0, 17, 13, 14}
    for kind, lines in LINES.items():
        there = {tuple(sorted(line)) for line in lines.tolist()}
        mirrored = {tuple(sorted(line)) for line in MIRROR[lines].tolist()}
        assert there == mirrored, kind


def test_mirror_matches_the_mirrored_picture_of_a_face(corpus: Path) -> None:
    video = cv2.VideoCapture(str(corpus / "clips" / "spk01_01.mp4"))
    frame = np.ascontiguousarray(video.read()[1][:, :, ::-1])
    detect = landmark_detector(static=True)
    face, mirrored = detect(frame), detect(frame[:, ::-1])
    detect.close()
    assert face is not None
    assert mirrored is not None
    expected = face[MIRROR] * (-1, 1) + (frame.shape[1], 0)
    width = np.ptp(face[:, 0])
    distance = np.linalg.norm(mirrored - expected, axis=1) / width
    assert distance.mean() < 0.02
    assert distance.max() < 0.06


def test_unknown_landmark() -> None:
    with pytest.raises(ValueError, match=r"131.*\[468\]"):
        positions([0, 468])
