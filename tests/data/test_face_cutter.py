"""Faces cut out while a video goes by: the same as afterwards, when all is known."""

from __future__ import annotations

import io

import av
import numpy as np
import pytest

from stsa_lightning.data.clip import encode_picture
from stsa_lightning.data.face_cutter import REACH, CutFaces, FaceCutter, SeenFrame
from stsa_lightning.data.measures import brightness, sharpness
from stsa_lightning.data.settings import PrepareSettings
from stsa_lightning.face.topology import MOUTH, positions
from stsa_lightning.face.tracks import FaceTrack
from stsa_lightning.face.upright_box import UprightBox, from_upright, steady_turns, to_upright, upright_box
from stsa_lightning.media.rgb_converter import RGBConverter
from stsa_lightning.media.shown_frame import ShownFrame
from stsa_lightning.utils.stage_times import StageTimes

SETTINGS = PrepareSettings(face_size=48)
SIZE, COUNT, CUT = (160, 120), 70, 40
NOWHERE = np.full((131, 2), np.nan, np.float32)


def head(number: int, x: float) -> np.ndarray:
    """(131, 2) of a head that leans to one side and to the other."""
    points = np.random.default_rng(0).uniform(-15, 15, (131, 2)).astype(np.float32)
    points[positions([33, 263])] = [(-10, -8), (10, -8)]
    points[MOUTH] += np.float32([0, 10]) - points[MOUTH].mean(axis=0)
    degrees = 25 * np.sin(number / 9)
    return from_upright(points + np.float32(SIZE) / 2, degrees, SIZE) + np.float32([x - SIZE[0] / 2, 0])


def people() -> list[tuple[int, int, np.ndarray]]:
    """First frame, the first after the last, and (frames, 131, 2) of each: two of one shot, one of the next."""
    first = np.stack([head(number, 40) for number in range(CUT)])
    first[17:22] = NOWHERE  # covered for a moment
    gone = np.stack([head(number, 120 + 2 * number) for number in range(CUT)])  # out of the frame
    return [(0, CUT, first), (0, CUT, gone), (CUT, COUNT, np.stack([head(n, 100) for n in range(CUT, COUNT)]))]


@pytest.fixture(scope="module")
def frames() -> list[av.VideoFrame]:
    """Noise."""
    made = []
    for number in range(COUNT):
        frame = av.VideoFrame(*SIZE, "yuv420p")
        for plane in frame.planes:
            noise = np.random.default_rng(number).integers(0, 256, plane.buffer_size, np.uint8)
            plane.update(noise.tobytes())
        made.append(frame)
    return made


def cut_out(frames: list[av.VideoFrame], at_once: int, kept: list[int]) -> tuple[CutFaces, list[bytes]]:
    converter, tracks = RGBConverter(None, frames[0]), [FaceTrack() for _ in people()]
    cutter = FaceCutter(SIZE, io.BytesIO(), SETTINGS, StageTimes())
    seen = []
    for number, frame in enumerate(frames):
        faces = []
        for track, (start, stop, landmarks) in zip(tracks, people(), strict=True):
            if start <= number < stop and np.isfinite(landmarks[number - start]).all():
                faces.append((track, landmarks[number - start]))
        seen.append(SeenFrame(ShownFrame(frame, converter), faces, cut=number == CUT))
    for start in range(0, COUNT, at_once):
        cutter.update(seen[start : start + at_once])
    found = cutter.finish(COUNT, [tracks[number] for number in kept])
    return found, list(cutter.pictures(found))


@pytest.mark.parametrize("at_once", [1, 8, COUNT])
@pytest.mark.parametrize("kept", [[0, 2], [1, 2], [2], []])
def test_faces_are_those_cut_out_when_all_is_known(frames: list[av.VideoFrame], at_once: int, kept: list[int]) -> None:
    found, pictures = cut_out(frames, at_once, kept)
    converter, seen = RGBConverter(None, frames[0]), 0
    expected_boxes = np.zeros((COUNT, 4), np.int32)
    for start, stop, landmarks in [people()[number] for number in kept]:
        degrees = steady_turns(landmarks, 25)
        there = found.boxes[start:stop].any(axis=1)
        np.testing.assert_allclose(found.degrees[start:stop][there], degrees[there], atol=1e-5)
        for number, (points, turn) in enumerate(zip(landmarks, degrees.tolist(), strict=True), start):
            try:
                box = upright_box(to_upright(points, turn, SIZE), turn, SIZE, SETTINGS.margin_px)
            except ValueError:
                continue
            expected_boxes[number], seen = box, seen + 1
            face = UprightBox(box, turn).crop(converter(frames[number]), SETTINGS.face_size)
            assert pictures[number] == encode_picture(face)
            np.testing.assert_allclose(found.looks[number], [sharpness(face), brightness(face)])
    np.testing.assert_array_equal(found.boxes, expected_boxes)
    assert [bool(picture) for picture in pictures] == expected_boxes.any(axis=1).tolist()
    if kept == [0, 2]:
        assert seen == COUNT - 5
        assert np.abs(found.degrees).max() > 15


def test_no_more_frames_wait_than_a_turn_depends_on(
    frames: list[av.VideoFrame], monkeypatch: pytest.MonkeyPatch
) -> None:
    cut, encoded = [], encode_picture

    def counting(face: np.ndarray) -> bytes:
        cut.append(len(cut))
        return encoded(face)

    monkeypatch.setattr("stsa_lightning.data.face_cutter.encode_picture", counting)
    cutter, track = FaceCutter(SIZE, io.BytesIO(), SETTINGS, StageTimes()), FaceTrack()
    converter = RGBConverter(None, frames[0])
    for number, frame in enumerate(frames):
        cutter.update([SeenFrame(ShownFrame(frame, converter), [(track, head(number, 80))])])
        assert len(cut) == max(0, number + 1 - REACH)
    cutter.finish(COUNT, [track])
    assert len(cut) == COUNT
