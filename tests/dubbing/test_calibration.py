"""Dubbing and evaluation put predicted lips where the person's are, whatever the networks think of them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from stsa_lightning.data.clip import Clip
from stsa_lightning.data.index import clip_path, load_index
from stsa_lightning.dubbing import Dubber
from stsa_lightning.evaluation.generate import Networks
from stsa_lightning.face.heatmaps import draw_heatmaps
from stsa_lightning.inference.engine import Guided, Rendered
from stsa_lightning.inference.frame_inputs import FrameInputs
from stsa_lightning.models.checkpoint import save_networks
from stsa_lightning.models.guidance import Guidance
from stsa_lightning.models.presets import GUIDANCE, SYNTHESIS
from stsa_lightning.models.synthesis import Synthesis

META = {"features": "logmel", "num_frames": 5, "heatmap_sigma": 1.0}


def untrained(heatmap_sigma: float = 1.0, align_references: bool = True) -> tuple[Guidance, Synthesis]:
    """Networks that put everybody's lips in the same wrong place."""
    torch.manual_seed(0)
    guidance = Guidance(**{**GUIDANCE["tiny"], "heatmap_sigma": heatmap_sigma})
    with torch.no_grad():
        for points in (guidance.lip_keypoints, guidance.jaw_keypoints):
            points.weight.mul_(0.1)
            points.bias.fill_(0.5)
    return guidance, Synthesis(**{**SYNTHESIS["tiny"], "align_references": align_references})


@pytest.fixture
def clip(prepared_sample: Path) -> Clip:
    return Clip.open(clip_path(prepared_sample, load_index(prepared_sample)["clip"].iloc[0]))


def test_a_dub_draws_lips_where_the_person_has_them(sample_root: Path, clip: Clip, tmp_path: Path) -> None:
    path, video = tmp_path / "untrained.safetensors", sorted(sample_root.rglob("*.mp4"))[0]
    save_networks(path, *untrained(), META)
    frames = np.flatnonzero(clip.valid)
    true = draw_heatmaps(clip.face_landmarks_of(frames), "lip", 64)
    share = {}
    for calibrate in (False, True):
        drawn: dict[int, np.ndarray] = {}
        dubber = Dubber.from_checkpoint(path, calibrate=calibrate, check=False)
        dubber.dub(video, video, tmp_path / "out.mp4", False, lambda i, heatmap, _, to=drawn: to.update({i: heatmap}))
        lips = np.stack([drawn[i] for i in frames])
        share[calibrate] = float((lips * true).sum() / np.square(true).sum())
    assert share[False] < 0.3
    assert share[True] > 0.6


def test_evaluation_is_calibrated_by_other_frames_than_those_generated(clip: Clip) -> None:
    networks, frames = Networks(*untrained(), META, torch.device("cpu")), np.flatnonzero(clip.valid)
    pool = networks.encode(clip, networks.reference_frames(clip, "same-clip"))
    assert pool.calibration is not None
    speech = clip.features("logmel")
    near = pool.excluded(clip, frames[:4])
    assert near.any()
    assert not near.all(axis=1).any()
    driving = list[Guided]()
    render = networks.engine.render

    def watched(inputs: FrameInputs, guided: Guided, *given: Any) -> Rendered:
        driving.append(guided)
        return render(inputs, guided, *given)

    networks.engine.render = watched  # type: ignore[method-assign]
    for one in (replace(pool, calibration=None), pool):
        networks.generate(clip, frames[:4], speech, one)
    predicted, calibrated = (guided.keypoints.numpy() for guided in driving)
    expected = pool.calibration(predicted, clip.face_landmarks_of(frames[:4]), ~near)
    np.testing.assert_allclose(calibrated, expected, atol=1e-6)
    assert np.abs(expected - pool.calibration(predicted, clip.face_landmarks_of(frames[:4]))).max() > 1e-4


@pytest.mark.parametrize(("heatmap_sigma", "align_references"), [(0.0, True), (1.0, False)])
def test_networks_that_draw_no_keypoints_or_have_fixed_references_are_left_as_they_are(
    clip: Clip, heatmap_sigma: float, align_references: bool
) -> None:
    networks = Networks(*untrained(heatmap_sigma, align_references), META, torch.device("cpu"))
    assert networks.encode(clip, networks.reference_frames(clip, "same-clip")).calibration is None


def test_the_first_frame_alone_calibrates_nothing(clip: Clip) -> None:
    networks = Networks(*untrained(), META, torch.device("cpu"))
    chosen = networks.reference_frames(clip, "first-frame")
    assert networks.encode(clip, chosen, pose_matched=False).calibration is None
