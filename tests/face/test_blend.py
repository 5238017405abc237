from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from stsa_lightning.face.blend import blend_face, face_mask
from stsa_lightning.face.box import crop_face, face_box
from stsa_lightning.face.topology import JAW, MOUTH, positions


def synthetic_face(cx: float = 100, cy: float = 90, radius: float = 50) -> np.ndarray:
    """131 landmarks: an oval from temple to temple, brows and eyes above, the mouth below."""
    points = np.zeros((131, 2), np.float32)
    angle = np.linspace(np.pi + 0.3, -0.3, 25)
    points[:25] = np.stack([np.cos(angle) * radius, np.sin(angle) * 1.2 * radius], -1)
    points[25:45] = np.stack([np.linspace(-0.7, 0.7, 20) * radius, np.full(20, -0.6 * radius)], -1)
    points[45:59] = np.stack([np.linspace(-0.1, 0.1, 14) * radius, np.linspace(-0.3, 0.2, 14) * radius], -1)
    points[59:91] = np.stack([np.linspace(-0.6, 0.6, 32) * radius, np.full(32, -0.3 * radius)], -1)
    turn = np.linspace(0, 2 * np.pi, 40)
    points[91:] = np.stack([np.cos(turn) * 0.3 * radius, (0.6 + 0.1 * np.sin(turn)) * radius], -1)
    return points + np.float32([cx, cy])


@pytest.fixture
def frame() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (200, 220, 3), np.uint8)


def test_pixels_outside_the_mask_are_untouched(frame: np.ndarray) -> None:
    landmarks = synthetic_face()
    box = face_box(landmarks, (220, 200))
    before = frame.copy()
    found = blend_face(frame, np.ones((64, 64, 3), np.float32), box, landmarks)
    np.testing.assert_array_equal(frame, before)
    assert found.dtype == np.uint8
    x0, y0, x1, y1 = box
    mask = np.zeros(frame.shape[:2], np.float32)
    mask[y0:y1, x0:x1] = face_mask(landmarks, box)
    np.testing.assert_array_equal(found[mask == 0], frame[mask == 0])
    assert 0.2 < (mask > 0)[y0:y1, x0:x1].mean() < 0.8


def test_mask_covers_what_the_network_invents(frame: np.ndarray) -> None:
    landmarks = synthetic_face()
    box = face_box(landmarks, (220, 200))
    mask = face_mask(landmarks, box)
    assert mask.shape == (box[3] - box[1], box[2] - box[0])
    assert mask.dtype == np.float32
    assert 0 <= mask.min() < mask.max() == 1
    mouth = np.round(landmarks[MOUTH] - box[:2]).astype(int)
    assert (mask[mouth[:, 1], mouth[:, 0]] == 1).all()
    eyes = np.round(landmarks[positions([145, 374, 159, 386])] - box[:2]).astype(int)
    assert mask[eyes[:, 1], eyes[:, 0]].max() < 0.01
    jaw = np.round(landmarks[JAW[4:-4]] - box[:2]).astype(int)
    assert mask[jaw[:, 1], jaw[:, 0]].max() < 0.2
    # Smooth: no step that the eye would find as a line.
    assert max(np.abs(np.diff(mask, axis=0)).max(), np.abs(np.diff(mask, axis=1)).max()) < 0.35


@pytest.mark.parametrize("up", [0.0, 0.2, 0.4])
def test_nothing_of_the_upper_half_shows_however_high_the_mouth(up: float) -> None:
    landmarks = synthetic_face()
    landmarks[MOUTH, 1] -= up * 50
    box = face_box(landmarks, (220, 200))
    mask = face_mask(landmarks, box)
    assert (mask[: len(mask) // 2] == 0).all()
    below = mask[round(0.6 * len(mask)) :]
    assert below.max() == 1


def test_a_wider_feather_is_softer() -> None:
    landmarks = synthetic_face()
    box = face_box(landmarks, (220, 200))
    narrow, wide = face_mask(landmarks, box, 0.02), face_mask(landmarks, box, 0.2)
    assert (wide <= narrow).all()
    assert wide.sum() < 0.8 * narrow.sum()


@pytest.mark.parametrize("kind", [np.uint8, np.float32, np.float64])
def test_the_same_face_changes_nothing(frame: np.ndarray, kind: type) -> None:
    landmarks = synthetic_face()
    box = face_box(landmarks, (220, 200))
    x0, y0, x1, y1 = box
    crop = frame[y0:y1, x0:x1]  # of the box's own size: no resizing
    face = crop if kind is np.uint8 else (crop / 255).astype(kind)
    np.testing.assert_array_equal(blend_face(frame, face, box, landmarks), frame)


def test_a_colour_cast_is_mended() -> None:
    frame = np.full((200, 220, 3), 120, np.uint8)
    landmarks = synthetic_face()
    box = face_box(landmarks, (220, 200))
    face = np.full((64, 64, 3), [130, 110, 120], np.uint8)
    face[40:50, 25:39] = 255  # what is inside stays in contrast
    found = blend_face(frame, face, box, landmarks).astype(int)
    seam = found[box[3] - 18, box[0] + 25 : box[2] - 25]
    assert np.abs(seam - 120).max() <= 3  # it was 10
    assert found.max() > 240


def test_a_face_cut_by_the_frame_is_not_softened_there() -> None:
    frame = np.zeros((120, 220, 3), np.uint8)
    landmarks = synthetic_face(cy=90, radius=50)  # its chin is below the frame
    box = face_box(landmarks, (220, 120))
    assert box[3] == 120
    assert face_mask(landmarks, box)[-1, 55] == 1
    assert blend_face(frame, np.ones((64, 64, 3)), box, landmarks)[-1, 100].min() > 200


def test_errors(frame: np.ndarray) -> None:
    landmarks = synthetic_face()
    box = face_box(landmarks, (220, 200))
    face = np.zeros((64, 64, 3), np.uint8)
    with pytest.raises(ValueError, match=r"box: expected .* within the frame of 220 x 200"):
        blend_face(frame, face, np.array([10, 10, 230, 50]), landmarks)
    with pytest.raises(ValueError, match=r"face: expected \(h, w, 3\)"):
        blend_face(frame, np.zeros((64, 64), np.uint8), box, landmarks)
    with pytest.raises(ValueError, match=r"frame: expected \(H, W, 3\) uint8"):
        blend_face(frame / 255, face, box, landmarks)
    with pytest.raises(ValueError, match=r"landmarks: expected \(131, 2\)"):
        blend_face(frame, face, box, landmarks[:100])
    with pytest.raises(ValueError, match="feather"):
        face_mask(landmarks, box, 0)


def test_real_frames(corpus: Path) -> None:
    from stsa_lightning.face.landmarks import landmark_detector
    from stsa_lightning.media.video import VideoReader

    detector = landmark_detector(static=True)
    for name in ("clips/spk20_01.mp4", "hard/vertical_fullbody_01.mp4"):
        with VideoReader(corpus / name) as reader:
            frame = reader.get([10])[0]
        landmarks = detector(frame)
        assert landmarks is not None
        box = face_box(landmarks, (frame.shape[1], frame.shape[0]))
        x0, y0, x1, y1 = box
        # The face at 128 px and back again: nothing but resolution may change.
        found = blend_face(frame, crop_face(frame, box, 128), box, landmarks).astype(int)
        changed = np.abs(found - frame).max(-1) > 0
        assert not changed[:, :x0].any()
        assert not changed[: (y0 + (y1 - y0) // 8)].any()
        assert np.abs(found - frame)[y0:y1, x0:x1].mean() < 3
    detector.close()
