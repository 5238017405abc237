from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from stsa_lightning.face.orientation import Orientation, UprightingDetector

SHAPE = (90, 120, 3)  # height, width


class Pictures:
    """A detector of faces and of landmarks that sees a head whose crown is marked by a bright corner."""

    def __init__(self, sure: float = 0.95, aside: float = 0.8, over: float = 0.7) -> None:
        self.sureness, self.looked = {0: sure, 1: aside, 3: aside, 2: over}, 0
        self.closed = 0

    def _quarters(self, frame: np.ndarray) -> int | None:
        corners = [frame[0, 0, 0], frame[0, -1, 0], frame[-1, -1, 0], frame[-1, 0, 0]]
        return corners.index(255) if 255 in corners else None

    def __call__(self, frame: np.ndarray) -> SimpleNamespace:
        self.looked += 1
        quarters = self._quarters(frame)
        return SimpleNamespace(scores=np.array([] if quarters is None else [self.sureness[quarters]]))

    def all_faces(self, frame: np.ndarray) -> list[np.ndarray]:
        y, x = np.argwhere(frame[..., 0] == 99)[0] if (frame[..., 0] == 99).any() else (0, 0)
        seen = self._quarters(frame) is not None
        return [np.tile(np.float32([x + 0.5, y + 0.5]), (131, 1))] * seen

    def forget(self) -> None:
        pass

    def close(self) -> None:
        self.closed += 1


def picture(quarters: int, face: bool = True) -> np.ndarray:
    """Turned clockwise by so many quarters; what the detector finds is at x 70, y 20 of the upright picture."""
    frame = np.zeros(SHAPE, np.uint8)
    frame[0, 0] = 255 if face else 0
    frame[20, 70] = 99
    return np.ascontiguousarray(np.rot90(frame, -quarters))


@pytest.mark.parametrize("quarters", [0, 1, 2, 3])
def test_faces_are_found_whichever_way_up_they_are(quarters: int) -> None:
    pictures, frame = Pictures(), picture(quarters)
    orientation = Orientation(pictures)  # type: ignore[arg-type]
    assert orientation.look(frame) == 1
    assert (orientation.quarters, orientation.sure) == (quarters, True)
    (landmarks,) = orientation.faces(frame, pictures)  # type: ignore[arg-type]
    x, y = landmarks[0]
    assert frame[int(y), int(x), 0] == 99


def test_a_clear_face_is_searched_every_way_once() -> None:
    pictures = Pictures()
    orientation = Orientation(pictures)  # type: ignore[arg-type]
    assert [orientation.look(picture(0)) for _ in range(3)] == [1, 1, 1]
    assert pictures.looked == 4 + 1 + 1


def test_a_face_that_is_clear_upside_down_but_clearer_another_way_is_turned() -> None:
    orientation = Orientation(Pictures(sure=0.96, aside=0.8, over=0.9))  # type: ignore[arg-type]
    orientation.look(picture(2))
    assert orientation.quarters == 2


def test_a_face_that_is_clear_no_way_stays_as_it_is() -> None:
    orientation = Orientation(Pictures(sure=0.69, aside=0.6, over=0.5))  # type: ignore[arg-type]
    orientation.look(picture(2))
    assert orientation.quarters == 0


def test_a_video_without_faces_is_searched_once_in_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    pictures = Pictures()
    monkeypatch.setattr("stsa_lightning.face.orientation.FaceDetector", lambda: pictures)
    detector = UprightingDetector(pictures, every=25)  # type: ignore[arg-type]
    assert all(detector(picture(0, face=False)) is None for _ in range(50))
    assert pictures.looked == 2 * 4
    for _ in range(30):  # found at the next look, and followed from there without another
        found = detector(picture(2))
    assert found is not None
    assert pictures.looked == 3 * 4
    detector.close()
    assert pictures.closed == 1
