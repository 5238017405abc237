from __future__ import annotations

import numpy as np
import pytest
import torch

from stsa_lightning.losses.heatmap import (
    SemanticLoss,
    TemporalLoss,
    heatmap_regression,
    keypoint_l1,
    velocity_l1,
)


def test_heatmap_regression_by_hand():
    pred, target = torch.tensor([0.0, 0.5]), torch.tensor([0.0, 1.0])
    assert heatmap_regression(pred, target).item() == pytest.approx(0.125)
    # weights 1 and 3: (0 + 3 * 0.25) / 4
    assert heatmap_regression(pred, target, 3.0).item() == pytest.approx(0.1875)


@pytest.mark.parametrize("weight", [0.5, 1.0, 20.0])
def test_a_constant_error_costs_the_same_at_any_weight(weight):
    target = torch.rand(2, 5, 1, 16, 16)
    assert heatmap_regression(target + 0.3, target, weight).item() == pytest.approx(0.09, rel=1e-4)
    assert heatmap_regression(target, target, weight) == 0


def test_foreground_weight_favours_a_faint_line_over_an_empty_map():
    target = torch.zeros(1, 1, 1, 32, 32)
    target[..., 16, :] = 1.0
    empty = torch.zeros_like(target)
    noisy = target.clone() + 0.2
    assert heatmap_regression(empty, target) < heatmap_regression(noisy, target)
    assert heatmap_regression(empty, target, 20.0) > heatmap_regression(noisy, target, 20.0)


def test_velocity_by_hand_and_against_numpy():
    true = torch.tensor([[0.0, 1.0, 3.0]]).view(1, 3, 1)
    pred = torch.tensor([[5.0, 5.0, 5.0]]).view(1, 3, 1)
    assert velocity_l1(pred, true).item() == pytest.approx(1.5)
    a, b = torch.rand(2, 5, 2, 57), torch.rand(2, 5, 2, 57)
    expected = np.abs(np.diff(a.double().numpy(), axis=1) - np.diff(b.double().numpy(), axis=1)).mean()
    assert velocity_l1(a, b).item() == pytest.approx(expected, rel=1e-5)


def test_velocity_sees_no_offset_and_a_single_frame_has_none():
    true = torch.rand(2, 5, 2, 57)
    assert velocity_l1(true + 0.25, true).item() == pytest.approx(0, abs=1e-6)
    single = torch.rand(2, 1, 2, 57, requires_grad=True)
    loss = velocity_l1(single, torch.rand(2, 1, 2, 57))
    loss.backward()
    assert loss == 0
    assert single.grad.abs().sum() == 0


def test_semantic_and_temporal_terms():
    true = (torch.rand(2, 5, 1, 16, 16), torch.rand(2, 5, 1, 16, 16), torch.rand(2, 5, 2, 57))
    lip, jaw, keypoints = (tensor + 0.1 for tensor in true)
    semantic = SemanticLoss()(lip, jaw + 0.1, keypoints, *true)
    assert {name: round(value.item(), 4) for name, value in semantic.items()} == {
        "lip_heatmap": 0.01,
        "jaw_heatmap": 0.04,
        "keypoints": 0.1,
    }
    ramp = torch.arange(5.0).view(1, 5, 1, 1)
    temporal = TemporalLoss()(lip + 0.2 * ramp[..., None], jaw, keypoints + 0.3 * ramp, *true)
    assert temporal.keys() == {"keypoint_velocity", "heatmap_velocity"}
    assert temporal["keypoint_velocity"].item() == pytest.approx(0.3, rel=1e-4)
    assert temporal["heatmap_velocity"].item() == pytest.approx(0.1, rel=1e-4)


@pytest.mark.parametrize("loss", [heatmap_regression, keypoint_l1, velocity_l1])
def test_shapes_that_differ_are_refused(loss):
    with pytest.raises(ValueError, match=r"one shape, got \(2, 5, 3\) and \(2, 4, 3\)"):
        loss(torch.rand(2, 5, 3), torch.rand(2, 4, 3))


def test_bad_settings_are_refused():
    with pytest.raises(ValueError, match="foreground_weight"):
        heatmap_regression(torch.rand(3), torch.rand(3), 0.0)
    with pytest.raises(ValueError, match="velocity_l1 expects"):
        velocity_l1(torch.rand(3), torch.rand(3))
