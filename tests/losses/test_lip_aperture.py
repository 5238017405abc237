"""Lip aperture: measured at the right points, in the clip's units; what does not move as far costs."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from stsa_lightning.face.heatmaps import inner_lip_aperture, outer_lip_aperture
from stsa_lightning.face.heatmaps import lip_measures as of_landmarks
from stsa_lightning.face.topology import KEYPOINT_POSITIONS, positions
from stsa_lightning.losses.lip_aperture import LipApertureProbe, concordance, lip_aperture_loss, lip_measures


def faces(count: int = 20) -> np.ndarray:
    return np.random.default_rng(0).uniform(0, 1, (count, 131, 2)).astype(np.float32)


def keypoints(landmarks: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(landmarks[:, KEYPOINT_POSITIONS].transpose(0, 2, 1).copy())


def test_it_is_measured_at_the_lips_edges_and_corners() -> None:
    landmarks = faces()
    corners = landmarks[:, positions([61, 291])]
    width = np.linalg.norm(corners[:, 0] - corners[:, 1], axis=-1)
    expected = np.stack([outer_lip_aperture(landmarks), inner_lip_aperture(landmarks), width], axis=-1)
    np.testing.assert_allclose(of_landmarks(landmarks), expected, rtol=1e-6)
    np.testing.assert_allclose(lip_measures(keypoints(landmarks)), expected, rtol=1e-4)


def test_a_closed_mouth_has_a_gradient() -> None:
    shut = torch.zeros(1, 2, 57, requires_grad=True)
    lip_measures(shut).sum().backward()
    assert shut.grad is not None
    assert torch.isfinite(shut.grad).all()


def test_concordance_is_lins() -> None:
    """Against the definition by moments, with numpy; a smaller motion and an offset lower it, correlation does not."""
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(2, 500, 1))
    y = 0.6 * x + 0.8 * y + 0.3
    lin = 2 * np.cov(x.T, y.T, ddof=0)[0, 1] / (x.var() + y.var() + (x.mean() - y.mean()) ** 2)
    assert concordance(torch.from_numpy(y), torch.from_numpy(x)).item() == pytest.approx(lin)
    same = torch.from_numpy(x)
    assert concordance(same, same).item() == pytest.approx(1)
    assert concordance(0.3 * same, same).item() < 0.6
    assert concordance(same + 2, same).item() < 0.4


def test_the_truth_costs_nothing_and_a_still_mouth_does() -> None:
    true = keypoints(faces()).unflatten(0, (4, 5))
    values = lip_measures(true)
    spread = values.flatten(0, 1).std(0, correction=0).expand(4, 3)
    standard = (values - values.mean((0, 1))) / spread[:, None]
    assert lip_aperture_loss(true, true, standard, spread).item() == pytest.approx(0, abs=1e-6)
    still = true.mean((0, 1)).expand_as(true).clone().requires_grad_()
    loss = lip_aperture_loss(still, true, standard, spread)
    assert loss.item() > 0.5
    loss.backward()
    assert still.grad is not None
    assert still.grad.abs().sum() > 0


def test_closures_weigh_what_they_are_told_to() -> None:
    """The same error on a shut mouth and on an open one, against the weighted mean over both by hand."""
    true = torch.zeros(1, 2, 2, 57)
    upper, lower = (KEYPOINT_POSITIONS.tolist().index(place) for place in positions([13, 14]).tolist())
    true[0, 1, 1, lower] = 0.3  # the second mouth is open
    spread, standard = torch.full((1, 3), 0.1), torch.tensor([[[0.0, -1.0, 0.0], [0.0, 1.0, 0.0]]])

    def loss(frame: int, weight: float) -> float:
        pred = true.clone()
        pred[0, frame, 1, upper] -= 0.2
        return lip_aperture_loss(pred, true, standard, spread, weight).item()

    shut, is_open = ([loss(frame, weight) for weight in (1.0, 3.0)] for frame in (0, 1))
    error = 2 - 0.5  # smooth L1 of two spreads
    assert shut[1] - shut[0] == pytest.approx(error * (3 / 4 - 1 / 2) / 3, abs=1e-3)
    assert is_open[1] - is_open[0] == pytest.approx(error * (1 / 4 - 1 / 2) / 3, abs=1e-3)


def test_the_probe_learns_what_the_embeddings_hold() -> None:
    torch.manual_seed(0)
    tokens = torch.randn(8, 5, 16)
    standard = tokens[..., :3] - tokens[..., 3:6]
    probe = LipApertureProbe(16)
    optimiser = torch.optim.Adam(probe.parameters(), lr=0.05)
    first = probe(tokens, standard).item()
    for _ in range(150):
        optimiser.zero_grad()
        loss = probe(tokens, standard)
        loss.backward()
        optimiser.step()
    assert loss.item() < 0.05 * first
