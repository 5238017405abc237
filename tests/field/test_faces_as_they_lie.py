"""Heads that lie, mouths out of the picture, mouths behind masks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

from benchmarks.covers import COVERS
from benchmarks.covers import covered as cover
from stsa_lightning.dubbing import Dubber, Faces
from stsa_lightning.dubbing.face_selection import FaceSelector
from stsa_lightning.dubbing.face_track import OCCLUDED, OUT_OF_FRAME, REASONS
from stsa_lightning.face.landmarks import landmark_detector
from stsa_lightning.face.topology import CONTENT_POSITIONS, MOUTH
from stsa_lightning.face.upright_box import roll_degrees
from stsa_lightning.media.audio import load_audio, write_wav
from stsa_lightning.media.video import VideoReader, write_video
from stsa_lightning.models import BUNDLED

FRAMES, FPS = 6, 25.0
Change = Callable[[np.ndarray], np.ndarray]


@pytest.fixture(scope="session")
def source(sample_root: Path) -> Path:
    return sorted(sample_root.rglob("*.mp4"))[0]


@pytest.fixture(scope="session")
def upright(source: Path) -> np.ndarray:
    """(FRAMES, 256, 256, 3) of the rendered sample."""
    with VideoReader(source) as reader:
        return reader.get(range(FRAMES))


@pytest.fixture(scope="session")
def landmarks(upright: np.ndarray) -> np.ndarray:
    detector = landmark_detector(static=True)
    found = detector(upright[0])
    detector.close()
    assert found is not None
    return found


def found_in(frames: np.ndarray) -> Faces:
    height, width = frames.shape[1:3]
    with FaceSelector("largest") as selector:
        for frame in frames:
            selector.update(np.ascontiguousarray(frame))
        return selector.finish(np.arange(len(frames)) / FPS, FPS, (width, height), None, steady=True)


def tilted(frames: np.ndarray, degrees: float) -> np.ndarray:
    """Clockwise as one sees it, on a canvas that holds the whole picture."""
    side = 2 * int(np.ceil(np.hypot(*frames.shape[1:3]) / 2))
    height, width = frames.shape[1:3]
    matrix = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), -degrees, 1)
    matrix[:, 2] += (side - width) / 2, (side - height) / 2
    return np.stack([cv2.warpAffine(frame, matrix, (side, side), flags=cv2.INTER_CUBIC) for frame in frames])


@pytest.mark.parametrize("degrees", [18, 45, -75, 120, 180])
def test_heads_however_they_lie_are_found_and_turned(upright: np.ndarray, degrees: int) -> None:
    faces = found_in(tilted(upright, degrees))
    assert not faces.why.any()
    assert np.abs((faces.degrees - degrees + 180) % 360 - 180).max() < 10
    assert np.abs(roll_degrees(faces.landmarks)).max() < 5


def test_upright_heads_are_not_turned(upright: np.ndarray) -> None:
    faces = found_in(tilted(upright, 5))
    assert not faces.degrees.any()
    assert not faces.why.any()


@pytest.fixture(scope="session")
def dubbed(source: Path, upright: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable]:
    """Frames of a dub, and what it reports of them."""
    folder = tmp_path_factory.mktemp("lying")
    write_wav(folder / "speech.wav", load_audio(source)[: FRAMES * 640], 16_000)
    dubber = Dubber.from_checkpoint(BUNDLED)

    def dub(frames: np.ndarray) -> tuple[np.ndarray, dict[str, int]]:
        write_video(folder / "in.mp4", frames, 25, crf=4)
        report = dubber.dub(folder / "in.mp4", folder / "speech.wav", folder / "out.mp4", progress=False)
        with VideoReader(folder / "out.mp4") as reader:
            return reader.get(range(len(reader))), report.passed

    return dub


def test_a_head_upside_down_is_dubbed_as_an_upright_one_is(
    dubbed: Callable, upright: np.ndarray, landmarks: np.ndarray
) -> None:
    straight, passed = dubbed(upright)
    assert not passed
    turned, passed = dubbed(upright[:, ::-1, ::-1])
    assert not passed
    x0, y0 = landmarks[MOUTH].min(axis=0).astype(int) - 6
    x1, y1 = landmarks[MOUTH].max(axis=0).astype(int) + 6
    back = turned[:, ::-1, ::-1]
    apart = np.square(straight[:, y0:y1, x0:x1].astype(float) - back[:, y0:y1, x0:x1]).mean()
    assert 10 * np.log10(255**2 / apart) > 28


@pytest.mark.parametrize("edge", ["bottom", "left"])
def test_mouths_beyond_the_edge_pass_through(upright: np.ndarray, landmarks: np.ndarray, edge: str) -> None:
    x, y = landmarks[CONTENT_POSITIONS].mean(axis=0).astype(int)
    frames = upright[:, : y - y % 2] if edge == "bottom" else upright[:, :, x - x % 2 :]
    faces = found_in(frames)
    assert {REASONS[i] for i in faces.why} <= {"out of frame", "no face"}
    assert not faces.weight.any()


def test_a_chin_just_beyond_the_edge_is_rendered(upright: np.ndarray, landmarks: np.ndarray) -> None:
    chin = int(landmarks[:, 1].max() - 0.03 * np.ptp(landmarks, axis=0).max())
    assert OUT_OF_FRAME not in found_in(upright[:, : chin - chin % 2]).why


def covered(frames: np.ndarray, landmarks: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
    """A mask from the middle of the nose to the chin."""
    middle = landmarks[:, 1].min() + 0.55 * np.ptp(landmarks[:, 1])
    hull = cv2.convexHull(np.round(landmarks[landmarks[:, 1] > middle]).astype(np.int32))
    shape = np.zeros(frames.shape[1:3], np.float32)
    cv2.fillConvexPoly(shape, hull, (1.0,))
    shape = cv2.GaussianBlur(shape, (0, 0), 1.5)[..., None]
    return np.rint(frames * (1 - shape) + np.float32(colour) * shape).astype(np.uint8)


@pytest.mark.parametrize("colour", [(225, 225, 225), (120, 170, 215), (25, 25, 28), (200, 150, 130)])
def test_a_mask_worn_throughout_is_taken_for_covered(
    upright: np.ndarray, landmarks: np.ndarray, colour: tuple[int, int, int]
) -> None:
    faces = found_in(covered(upright, landmarks, colour))
    assert {REASONS[i] for i in faces.why} <= {"occluded", "no face"}
    assert OCCLUDED in faces.why


def test_a_microphone_before_the_mouth_throughout_is_taken_for_covered(
    upright: np.ndarray, landmarks: np.ndarray
) -> None:
    middle, size = landmarks[MOUTH].mean(axis=0), np.ptp(landmarks[:, 0])
    frames = upright.copy()
    for frame in frames:
        cv2.circle(frame, np.round(middle).astype(int).tolist(), int(0.24 * size), (45, 45, 48), -1, cv2.LINE_AA)
    faces = found_in(frames)
    assert {REASONS[i] for i in faces.why} <= {"occluded", "no face"}
    assert OCCLUDED in faces.why


@pytest.fixture(scope="session")
def turned(corpus: Path) -> tuple[np.ndarray, list[np.ndarray]]:
    """Frames of a real person in three-quarter view, and landmarks of each."""
    with VideoReader(corpus / "clips" / "spk48_01.mp4") as reader:
        frames = reader.get(range(18))
    detector = landmark_detector()
    found = [detector(frame) for frame in frames]
    detector.close()
    assert all(points is not None for points in found)
    return frames, found  # type: ignore[return-value]


def test_a_real_head_turned_aside_is_rendered(turned: tuple[np.ndarray, list[np.ndarray]]) -> None:
    assert not found_in(turned[0]).why.any()


# Limits that `docs/dub.md` names: cups of the colour of the skin, and some dark red ones.
LIMITS = {"skin-coloured cup", "tilted skin-coloured cup", "tilted dark red cup"}


@pytest.mark.parametrize("kind", [k for k in COVERS if k not in LIMITS])
def test_a_real_mouth_turned_aside_behind_anything_is_taken_for_covered(
    turned: tuple[np.ndarray, list[np.ndarray]], kind: str
) -> None:
    faces = found_in(np.stack([cover(frame, points, kind) for frame, points in zip(*turned, strict=True)]))
    assert {REASONS[i] for i in faces.why} <= {"occluded", "no face"}
    assert OCCLUDED in faces.why


# With the lowest versions that are allowed one drawn cover falls to the other side of a threshold. Which package does
# it is not known (not OpenCV, ONNX Runtime or scikit-image); NumPy 1 stands for them.
AT_A_THRESHOLD = pytest.mark.xfail(np.__version__ < "2", reason="a drawn half of a mouth counts as seen", strict=False)


@pytest.mark.parametrize(
    "kind",
    [
        pytest.param(k, marks=AT_A_THRESHOLD if k == "microphone on the left" else [])
        for k in COVERS
        if k not in {"microphone", "skin-coloured scarf"}
    ],
)
def test_a_mouth_behind_anything_is_taken_for_covered(upright: np.ndarray, landmarks: np.ndarray, kind: str) -> None:
    faces = found_in(np.stack([cover(frame, landmarks, kind) for frame in upright]))
    assert {REASONS[i] for i in faces.why} <= {"occluded", "no face"}
    assert OCCLUDED in faces.why


@pytest.mark.parametrize(
    "change",
    [lambda f: f // 3, lambda f: f.mean(axis=3, keepdims=True).repeat(3, 3).astype(np.uint8)],
    ids=["dark", "black and white"],
)
def test_dark_and_grey_faces_are_not_taken_for_covered(upright: np.ndarray, change: Change) -> None:
    assert not found_in(change(upright)).why.any()
