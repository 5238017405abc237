"""Heatmaps drawn through keypoints: those of the data, but for rounding, and with a gradient."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from stsa_lightning.data.clip import Clip
from stsa_lightning.face.heatmaps import draw_all_kinds
from stsa_lightning.face.topology import KEYPOINT_POSITIONS
from stsa_lightning.models.guidance import Guidance
from stsa_lightning.models.heatmap_renderer import HeatmapRenderer
from stsa_lightning.models.presets import GUIDANCE


@pytest.fixture(scope="module")
def landmarks(prepared_sample) -> np.ndarray:
    clips = sorted((prepared_sample / "clips").rglob("*.safetensors"))
    return np.concatenate([Clip.open(path).face_landmarks_of(np.arange(0, 40, 8)) for path in clips])


def _keypoints(landmarks: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(landmarks[:, KEYPOINT_POSITIONS].transpose(0, 2, 1).copy())


@pytest.mark.parametrize("size", [64, 128])
def test_they_are_the_heatmaps_that_landmarks_are_drawn_as(landmarks, size) -> None:
    lip, jaw = HeatmapRenderer(size, 1.0)(_keypoints(landmarks))
    drawn = draw_all_kinds(landmarks, size)
    for mine, theirs in ((lip, drawn["lip"]), (jaw, drawn["jaw"])):
        assert mine.shape == (len(landmarks), 1, size, size)
        mine = mine[:, 0].numpy()
        # Theirs go through whole pixels, rounded down: the line is up to a pixel beside mine.
        assert np.corrcoef(mine.ravel(), theirs.ravel())[0, 1] > 0.95
        assert abs(mine.mean() / theirs.mean() - 1) < 0.1
        for axis in (1, 2):
            places = np.arange(size).reshape((-1, 1) if axis == 1 else (1, -1))
            centres = [(m * places).sum((1, 2)) / m.sum((1, 2)) for m in (mine, theirs)]
            np.testing.assert_allclose(centres[0], centres[1], atol=1.0)


def test_keypoints_follow_a_picture_that_is_wanted(landmarks) -> None:
    render, target = HeatmapRenderer(64, 2.0), _keypoints(landmarks[:1])
    moved = (target + 0.02).requires_grad_()
    wanted = torch.cat(render(target))
    optimiser = torch.optim.Adam([moved], lr=1e-3)
    losses = []
    for _ in range(60):
        loss = (torch.cat(render(moved)) - wanted).square().sum()
        losses.append(loss.item())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert losses[-1] < 0.1 * losses[0]  # points may still lie elsewhere along the contours


def test_lines_without_length_are_nothing() -> None:
    points = torch.full((1, 2, 57), 0.5, requires_grad=True)
    lip, jaw = HeatmapRenderer(64, 1.0)(points)
    (lip.sum() + jaw.sum()).backward()
    assert lip.max() < 1e-3
    assert torch.isfinite(points.grad).all()


def test_guidance_drives_the_picture_with_them() -> None:
    torch.manual_seed(0)
    blurred = Guidance(**GUIDANCE["tiny"]).eval()
    drawn = Guidance(**GUIDANCE["tiny"], heatmap_sigma=1.0).eval()
    drawn.load_state_dict(blurred.state_dict())  # no weights of their own
    given = torch.randn(1, 5, 80, 10), torch.rand(1, 5, 1, 64, 64), torch.rand(1, 3, 1, 64, 64)
    with torch.no_grad():
        a, b = blurred(*given), drawn(*given)
        lip, jaw = drawn.heatmap_renderer(b.keypoints.flatten(0, 1))
        torch.testing.assert_close(b.keypoints, a.keypoints)
        torch.testing.assert_close(b.lip, a.lip)
        expected = (lip + jaw + given[1].flatten(0, 1)).clamp(max=1)
    torch.testing.assert_close(b.heatmap.flatten(0, 1), expected)
