from __future__ import annotations

import numpy as np
import pytest
import torch

from stsa_lightning.metrics.landmarks import (
    LandmarkDistance,
    inter_ocular_distance,
    lip_aperture_amplitude,
    lip_aperture_correlation,
    lmd,
    velocity,
    vico,
)

POINTS = [1, 3, 4]


@pytest.fixture
def clip() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Landmarks of 7 frames, predicted and true, and the distance of the eyes, pixels."""
    generator = torch.Generator().manual_seed(0)
    true = 128 * torch.rand(7, 6, 2, generator=generator)
    return true + 3 * torch.randn(7, 6, 2, generator=generator), true, 30 + 20 * torch.rand(7, generator=generator)


def test_by_hand():
    true = torch.zeros(1, 3, 2)
    pred = torch.tensor([[[3.0, 4.0], [0.0, 1.0], [100.0, 100.0]]])
    assert lmd(pred, true, [0, 1]).tolist() == [3.0]
    assert vico(pred, true, [0, 1]).tolist() == [2.0]
    assert lmd(pred, true, [0, 1], torch.tensor([30.0])).item() == pytest.approx(0.1)
    assert lmd(pred, true)[0].item() == pytest.approx((5 + 1 + 2**0.5 * 100) / 3)


def test_against_numpy(clip):
    pred, true, eyes = clip
    difference = (pred.double() - true.double()).numpy()[:, POINTS]
    euclid = np.sqrt((difference**2).sum(-1)).mean(-1)
    np.testing.assert_allclose(lmd(pred, true, POINTS), euclid, rtol=1e-5)
    np.testing.assert_allclose(vico(pred, true, torch.tensor(POINTS)), np.abs(difference).mean((-2, -1)), rtol=1e-5)
    np.testing.assert_allclose(lmd(pred, true, POINTS, eyes), euclid / eyes.numpy(), rtol=1e-5)
    motion = np.diff(difference, axis=0)
    expected = np.sqrt((motion**2).sum(-1)).mean(-1)
    np.testing.assert_allclose(lmd(velocity(pred), velocity(true), POINTS), expected, rtol=1e-4)


def test_motion_sees_no_offset_and_distance_scales(clip):
    pred, true, eyes = clip
    assert lmd(velocity(true + 9), velocity(true)).max() < 1e-4
    torch.testing.assert_close(lmd(2 * pred, 2 * true, POINTS, 2 * eyes), lmd(pred, true, POINTS, eyes))
    assert lmd(true, true).max() == 0


def test_inter_ocular_distance_joins_the_centres_of_the_eyes():
    landmarks = torch.tensor([[[0.0, 0.0], [2.0, 0.0], [11.0, 1.0], [11.0, -1.0]]])
    assert inter_ocular_distance(landmarks, [0, 1], [2, 3]).tolist() == [10.0]


def test_metric_is_the_mean_over_frames_of_all_batches(clip):
    pred, true, eyes = clip
    metric = LandmarkDistance(POINTS)
    metric.update(pred[:2], true[:2], eyes[:2])
    metric.update(pred[2:], true[2:], eyes[2:])
    result = metric.compute()
    assert result["pixels"].item() == pytest.approx(lmd(pred, true, POINTS).mean().item(), rel=1e-5)
    assert result["normalised"].item() == pytest.approx(lmd(pred, true, POINTS, eyes).mean().item(), rel=1e-5)
    assert (result["measured"], result["unmeasured"]) == (7, 0)
    l1 = LandmarkDistance(POINTS, norm="l1")
    assert l1(pred, true)["pixels"].item() == pytest.approx(vico(pred, true, POINTS).mean().item(), rel=1e-5)


def test_frames_that_could_not_be_measured_are_counted(clip):
    pred, true, eyes = clip
    pred, true = pred.clone(), true.clone()
    pred[2], true[5, 3] = torch.nan, torch.nan
    kept = [0, 1, 3, 4, 6]
    still, moving = LandmarkDistance(POINTS), LandmarkDistance(POINTS, motion=True)
    for metric in (still, moving):
        metric.update(pred, true, eyes)
    result = still.compute()
    assert result["pixels"].item() == pytest.approx(lmd(pred[kept], true[kept], POINTS).mean().item(), rel=1e-5)
    assert (result["measured"], result["unmeasured"]) == (5, 2)
    moved = moving.compute()
    steps = lmd(velocity(pred), velocity(true), POINTS)[[0, 3]]
    assert moved["pixels"].item() == pytest.approx(steps.mean().item(), rel=1e-4)
    assert (moved["measured"], moved["unmeasured"]) == (2, 4)


def test_no_eyes_no_normalised_value_and_no_frames_no_value(clip):
    pred, true, _ = clip
    metric = LandmarkDistance()
    metric.update(pred, true)
    assert metric.compute()["pixels"].isfinite()
    assert metric.compute()["normalised"].isnan()
    empty = LandmarkDistance()
    empty.update(torch.full((3, 6, 2), torch.nan), true[:3])
    assert empty.compute()["pixels"].isnan()
    assert empty.compute()["unmeasured"] == 3


def test_opening_correlation_against_numpy():
    generator = torch.Generator().manual_seed(0)
    a = torch.rand(50, generator=generator)
    b = 0.5 * a + torch.rand(50, generator=generator)
    assert lip_aperture_correlation(a, b).item() == pytest.approx(np.corrcoef(a, b)[0, 1], rel=1e-5)
    assert lip_aperture_correlation(a, 3 * a + 1).item() == pytest.approx(1, abs=1e-6)
    assert lip_aperture_correlation(a, -a).item() == pytest.approx(-1, abs=1e-6)
    assert lip_aperture_correlation(a, torch.ones(50)).isnan()
    gaps = a.clone()
    gaps[::7] = torch.nan
    kept = gaps.isfinite()
    assert lip_aperture_correlation(gaps, b).item() == pytest.approx(np.corrcoef(a[kept], b[kept])[0, 1], rel=1e-5)
    assert lip_aperture_correlation(torch.full((3,), torch.nan), torch.rand(3)).isnan()


def test_bad_input_is_refused(clip):
    pred, true, eyes = clip
    with pytest.raises(ValueError, match="one shape"):
        lmd(pred, true[:3])
    with pytest.raises(ValueError, match=r"\(\.\.\., L, 2\)"):
        lmd(torch.zeros(3, 4, 3), torch.zeros(3, 4, 3))
    with pytest.raises(ValueError, match="velocity expects"):
        velocity(torch.zeros(3, 2))
    with pytest.raises(ValueError, match=r"must be \(7,\)"):
        LandmarkDistance().update(pred, true, eyes[:2])
    with pytest.raises(ValueError, match="norm"):
        LandmarkDistance(norm="linf")
    with pytest.raises(ValueError, match="apertures"):
        lip_aperture_correlation(torch.zeros(3), torch.zeros(4))


def test_lip_aperture_amplitude_is_the_ratio_of_the_deviations_of_what_both_have():
    generator = np.random.default_rng(0)
    found, true = (torch.from_numpy(generator.normal(size=50)) for _ in range(2))
    assert lip_aperture_amplitude(found, true).item() == pytest.approx(found.numpy().std() / true.numpy().std())
    found[:5] = torch.nan
    expected = found[5:].numpy().std() / true[5:].numpy().std()
    assert lip_aperture_amplitude(found, true).item() == pytest.approx(expected)
    assert not lip_aperture_amplitude(found, torch.ones(50)).isfinite()
    assert not lip_aperture_amplitude(torch.full((3,), torch.nan), torch.rand(3)).isfinite()
