"""Faces rendered at the frame's own resolution, by an engine that copies its first reference and says so."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from stsa_lightning.cli import main
from stsa_lightning.dubbing import Dubber, DubError, DubReport
from stsa_lightning.dubbing.shot_references import NativeReferences
from stsa_lightning.inference.engine import Calibrate, Guided, Rendered
from stsa_lightning.inference.frame_inputs import ChosenReferences, FrameInputs, ReferenceInputs
from stsa_lightning.media.audio import write_wav
from stsa_lightning.media.video import VideoReader, write_video
from tests.dubbing.test_dubber import SIZE, EchoGuidance, GreenSynthesis, Steps, landmarks_of
from tests.face.test_native_resolution import psnr_db, still

FRAMES = 8


class Copying:
    """Renders the first reference where it is; without `flow`, what it says of it has no meaning."""

    def __init__(self, flow: bool = True) -> None:
        self.flow = flow

    def encode(self, references: ReferenceInputs) -> ReferenceInputs:
        return references

    def guide(self, frames: FrameInputs, references: ReferenceInputs, calibrate: Calibrate | None = None) -> Guided:
        return Guided(frames.masked_heatmaps[:, 0], torch.zeros(len(frames), 2, 57))

    def render(
        self, frames: FrameInputs, guided: Guided, chosen: ChosenReferences, references: ReferenceInputs
    ) -> Rendered:
        count = len(frames)
        faces = references.images[0, :1].expand(count, -1, -1, -1).clone()
        flow = torch.from_numpy(still() if self.flow else np.full((2, SIZE, SIZE), np.nan, np.float32))
        confidence = torch.zeros(count, 3, 1, SIZE, SIZE)
        confidence[:, 0] = 1
        return Rendered(faces, flow.expand(count, 3, -1, -1, -1), confidence)


class SameFace:
    """The same face in each frame, `times` as large as that of the other tests."""

    def __init__(self, times: float) -> None:
        self.landmarks = landmarks_of(0) * np.float32(times)

    def __call__(self, frame: np.ndarray) -> np.ndarray:
        return self.landmarks.copy()


class Dubs:
    """Dubs a still video of skin-like noise, 160 x 120 pixels times `times`."""

    def __init__(self, folder: Path, times: float) -> None:
        size = round(120 * times), round(160 * times)
        noise = np.random.default_rng(0).normal(0, 60, (*size, 3)).astype(np.float32)
        picture = np.clip(120 + cv2.GaussianBlur(noise, (0, 0), 0.8), 0, 255).astype(np.uint8)
        self.detector, self.folder = SameFace(times), folder
        write_video(folder / "a.mp4", picture[None].repeat(FRAMES, 0), 25)
        write_wav(folder / "a.wav", np.full(FRAMES * 640, 0.1, np.float32), 16_000)

    def dubber(self, engine: Any = None, **options: Any) -> Dubber:
        networks: Any = EchoGuidance(), GreenSynthesis()
        fixed: Any = {"steady": False, "check": False, "detail": False, "detector": self.detector}
        return Dubber(*networks, Steps(), engine=engine or Copying(), **(fixed | options))

    def frames(self, engine: Any = None, **options: Any) -> np.ndarray:
        return np.stack(list(self.dubber(engine, **options).frames(self.folder / "a.mp4", self.folder / "a.wav")))

    def report(self, **options: Any) -> DubReport:
        files = self.folder / "a.mp4", self.folder / "a.wav", self.folder / "out.mp4"
        return self.dubber(**options).dub(*files, progress=False)

    def mouth(self, frames: np.ndarray) -> np.ndarray:
        """Where nothing but the generated face shows."""
        (x0, y0), (x1, y1) = self.detector.landmarks.min(axis=0), self.detector.landmarks.max(axis=0)
        rows, columns = (y0 + (y1 - y0) * np.array([0.7, 0.82]), x0 + (x1 - x0) * np.array([0.4, 0.6]))
        return frames[:, int(rows[0]) : int(rows[1]), int(columns[0]) : int(columns[1])]

    def true(self) -> np.ndarray:
        with VideoReader(self.folder / "a.mp4") as reader:
            return reader.get(range(FRAMES))


@pytest.mark.parametrize("block", [1, 3, 32])
def test_large_face_shows_its_references_own_detail(tmp_path: Path, block: int) -> None:
    dubs = Dubs(tmp_path, times=3)
    true, enlarged, native = (
        dubs.mouth(frames) for frames in (dubs.true(), dubs.frames(resolution="network"), dubs.frames(block=block))
    )
    assert psnr_db(enlarged, true) < 28
    assert psnr_db(native, true) > 38


def test_networks_size_takes_nothing_of_the_references(tmp_path: Path) -> None:
    dubs = Dubs(tmp_path, times=3)
    expected = dubs.frames(resolution="network")
    for resolution in ("network", SIZE):
        np.testing.assert_array_equal(dubs.frames(Copying(flow=False), resolution=resolution), expected)
    assert (dubs.frames() != expected).any()


def test_face_no_larger_than_the_networks_is_rendered_as_they_made_it(tmp_path: Path) -> None:
    dubs = Dubs(tmp_path, times=0.5)
    np.testing.assert_array_equal(dubs.frames(resolution="auto"), dubs.frames(resolution="network"))


def test_restorer_gets_the_networks_face_and_its_own_is_shown(tmp_path: Path) -> None:
    dubs, seen = Dubs(tmp_path, times=3), list[tuple[int, ...]]()

    def restore(face: np.ndarray) -> np.ndarray:
        seen.append(face.shape)
        return np.full((128, 128, 3), 90, np.uint8)

    found = dubs.frames(restore=restore)
    assert set(seen) == {(SIZE, SIZE, 3)}
    assert dubs.mouth(found).std() < 3


def test_face_above_the_largest_side_is_rendered_at_it_and_said_so(tmp_path: Path) -> None:
    dubs = Dubs(tmp_path, times=3)
    assert not any("rendered at" in warning for warning in dubs.report().warnings)
    (warning,) = (w for w in dubs.report(resolution=100).warnings if "rendered at" in w)
    assert "are rendered at 100 (--resolution 2" in warning
    capped, native = (dubs.mouth(dubs.frames(resolution=side)) for side in (100, "auto"))
    true, enlarged = dubs.mouth(dubs.true()), dubs.mouth(dubs.frames(resolution="network"))
    assert psnr_db(enlarged, true) + 0.5 < psnr_db(capped, true) < psnr_db(native, true) - 3


@pytest.mark.parametrize("resolution", ["sharp", SIZE - 1, 0, -5])
def test_resolution_that_is_none_is_named(tmp_path: Path, resolution: Any) -> None:
    with pytest.raises(DubError, match=f"resolution: expected auto, network or {SIZE} or more pixels.*got"):
        Dubs(tmp_path, times=1).dubber(resolution=resolution)


def test_resolution_below_the_bundled_networks_is_an_error_of_the_command_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Dubs(tmp_path, times=1)
    files = [str(tmp_path / name) for name in ("a.mp4", "a.wav")]
    with pytest.raises(SystemExit):
        main(["dub", *files, "-o", str(tmp_path / "out.mp4"), "--resolution", "64"])
    assert "128 or more pixels" in capsys.readouterr().err


def test_native_references_come_back_as_they_were() -> None:
    faces = [np.random.default_rng(k).integers(0, 255, (20 + k, 30, 3)).astype(np.uint8) for k in range(6)]
    references = NativeReferences()
    for face in faces:
        references.append(face)
    for k in (0, 5, 3, 3, 0, 1, 2, 4):
        np.testing.assert_array_equal(references.read(k), faces[k])
