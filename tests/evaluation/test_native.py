"""Pictures at the frame's own resolution: what shows there and not at the networks' size."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from stsa_lightning.evaluation.clip_sample import GROUND_TRUTH, ClipSample, Prediction
from stsa_lightning.evaluation.metrics.registry import Options, build
from stsa_lightning.evaluation.protocol import Protocol
from stsa_lightning.evaluation.report.report import Report
from stsa_lightning.evaluation.run import evaluate_checkpoint, evaluate_videos
from stsa_lightning.media.audio import load_audio
from stsa_lightning.media.video import VideoReader, write_video
from stsa_lightning.models.checkpoint import save_networks
from stsa_lightning.models.guidance import Guidance
from stsa_lightning.models.presets import GUIDANCE, SYNTHESIS
from stsa_lightning.models.synthesis import Synthesis

REGIONS = ("mouth", "mouth@native")


def resized(faces: np.ndarray, side: int) -> np.ndarray:
    return np.stack([cv2.resize(face, (side, side), interpolation=cv2.INTER_AREA) for face in faces])


def nowhere(faces: np.ndarray) -> np.ndarray:
    """Landmarks, which no metric here asks for."""
    raise AssertionError("looked for")


@pytest.fixture
def sample() -> ClipSample:
    """Fine noise at 160 px: `sharp` is the truth there, `enlarged` only at 64 px."""
    noise = np.random.default_rng(0).normal(0, 40, (12, 160, 160, 3)).astype(np.float32)
    true = np.stack([np.clip(128 + cv2.GaussianBlur(face, (0, 0), 0.7), 0, 255) for face in noise]).astype(np.uint8)
    small, valid = resized(true, 64), np.ones(12, bool)
    return ClipSample(
        name="c",
        speaker="s",
        task="paired",
        ground_truth=small,
        predictions={"enlarged": small, "sharp": small.copy(), GROUND_TRUTH: small},
        valid=valid,
        scored=valid,
        boxes=np.tile([0, 0, 160, 160], (12, 1)),
        times_s=np.arange(12) / 25,
        references=small[:2],
        native={"sharp": true, GROUND_TRUTH: true},
    )


def test_native_columns_tell_a_soft_face_from_a_sharp_one(sample: ClipSample) -> None:
    suite = build(["psnr", "sharpness", "flow"], Options(REGIONS))
    values = {}
    for method in ("enlarged", "sharp"):
        truth = Prediction(sample, GROUND_TRUTH, nowhere)
        found, reasons = suite.measure(Prediction(sample, method, nowhere, truth))
        assert not reasons
        values[method] = {name: value.value for name, value in found.items()}
        assert values[method]["psnr_mouth"] == np.inf
        assert values[method]["sharpness_mouth"] == pytest.approx(1)
    assert values["sharp"]["psnr_mouth@native"] == np.inf
    assert values["enlarged"]["psnr_mouth@native"] < 30
    assert values["enlarged"]["sharpness_mouth@native"] < 0.5 < values["sharp"]["sharpness_mouth@native"]
    assert values["sharp"]["flow_warped_mouth@native"] == 0 > values["enlarged"]["flow_warped_mouth@native"]


def test_without_native_faces_the_column_says_so(sample: ClipSample) -> None:
    sample.native = {}
    suite = build(["psnr"], Options(REGIONS))
    found, _ = suite.measure(Prediction(sample, "sharp", nowhere))
    assert list(found) == ["psnr_mouth"]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Untrained networks that begin with the warped references as they are."""
    torch.manual_seed(0)
    sizes = {"face_size": 64}
    networks = Guidance(**{**GUIDANCE["tiny"], **sizes}), Synthesis(**{**SYNTHESIS["tiny"], **sizes, "on_warped": True})
    path = tmp_path_factory.mktemp("networks") / "warping.safetensors"
    return save_networks(path, *networks, {"features": "logmel", "num_frames": 5})


@pytest.mark.slow
def test_checkpoint_is_measured_at_the_size_of_the_prepared_faces(
    checkpoint: Path, prepared_sample: Path, tmp_path: Path
) -> None:
    reports: dict[str, Report] = {}
    for resolution in ("network", "auto"):
        protocol = Protocol(
            speakers=("speaker01",),
            references="same-clip",
            tasks=("paired",),
            metrics=("psnr", "sharpness"),
            regions=REGIONS,
            baselines=resolution == "auto",
            resolution=resolution,  # type: ignore[arg-type]
        )
        reports[resolution] = evaluate_checkpoint(checkpoint, prepared_sample, tmp_path / resolution, protocol)
    network, native = (reports[name].row("paired", "STSA") for name in ("network", "auto"))
    assert network.value("psnr_mouth") == native.value("psnr_mouth")
    assert native.value("sharpness_mouth@native") > 1.2 * network.value("sharpness_mouth@native")
    truth = reports["auto"].row("paired", "ground truth")
    assert truth.value("sharpness_mouth@native") == pytest.approx(1)
    baseline = reports["auto"].row("paired", "mean of references")  # enlarged
    assert baseline.value("psnr_mouth@native") < baseline.value("psnr_mouth") + 3


def test_videos_are_measured_at_their_own_resolution(sample_root: Path, tmp_path: Path) -> None:
    source = sorted(sample_root.rglob("*.mp4"))[0]
    with VideoReader(source) as reader:
        frames = reader.get(range(12))
    halved = [cv2.resize(frame, None, fx=0.4, fy=0.4, interpolation=cv2.INTER_AREA) for frame in frames]
    soft = np.stack([cv2.resize(frame, frames.shape[2:0:-1], interpolation=cv2.INTER_CUBIC) for frame in halved])
    write_video(tmp_path / "soft.mp4", soft, 25, load_audio(source), crf=5)
    protocol = Protocol(metrics=("psnr", "sharpness"), regions=REGIONS, crop=48, baselines=False)
    row = evaluate_videos(tmp_path / "soft.mp4", source, tmp_path / "out", protocol).row("paired", "soft")
    assert row.value("sharpness_mouth@native") + 0.15 < row.value("sharpness_mouth")
    assert row.value("psnr_mouth@native") + 1 < row.value("psnr_mouth")
