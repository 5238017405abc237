from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from stsa_lightning.metrics.stability import (
    FlowWarpedError,
    Jitter,
    SilenceLeak,
    acceleration_energy,
    flow_warped_error,
    landmark_jitter,
    lip_aperture_range,
    silence_leak,
)


@pytest.fixture(scope="module")
def motion() -> torch.Tensor:
    """Landmarks of 40 frames in smooth motion, pixels."""
    time = torch.linspace(0, 3, 40).view(40, 1, 1)
    place = 100 * torch.rand(1, 5, 2, generator=torch.Generator().manual_seed(0))
    return place + 8 * torch.sin(2 * time + place)


@pytest.fixture(scope="module")
def clip() -> torch.Tensor:
    """A textured picture that moves by (1.5, 0.75) pixels a frame, 6 frames."""
    coarse = torch.rand(1, 3, 24, 24, generator=torch.Generator().manual_seed(1))
    texture = F.interpolate(coarse, (140, 140), mode="bicubic").clamp(0, 1)[0].permute(1, 2, 0).numpy()
    moves = [np.float32([[1, 0, 1.5 * t - 30], [0, 1, 0.75 * t - 30]]) for t in range(6)]
    frames = np.stack([cv2.warpAffine(texture, move, (80, 80), flags=cv2.INTER_CUBIC) for move in moves])
    return torch.from_numpy(frames).permute(0, 3, 1, 2).clamp(0, 1)


def test_energy_by_hand():
    landmarks = torch.tensor([[0.0, 0.0], [1.0, 0.0], [4.0, 4.0], [0.0, 0.0]]).view(4, 1, 2)
    # Differences (1, 0), (3, 4), (-4, -4); theirs (2, 4), (-7, -8).
    assert acceleration_energy(landmarks).tolist() == [20.0, 113.0]
    steady = torch.arange(6.0).view(6, 1, 1).expand(6, 3, 2)
    assert acceleration_energy(steady).abs().max() == 0


def test_jitter_is_one_for_the_truth_and_grows_with_noise(motion):
    noise = torch.randn(motion.shape, generator=torch.Generator().manual_seed(2))
    assert landmark_jitter(motion, motion) == 1
    values = [landmark_jitter(motion + sigma * noise, motion).item() for sigma in (0.0, 0.2, 0.5, 1.0, 2.0)]
    assert values == sorted(values)
    # White noise of variance s^2 has a second difference of variance 6 s^2 on each axis.
    added = (values[3] - 1) * acceleration_energy(motion).mean().item()
    assert added == pytest.approx(12, rel=0.3)
    smooth = motion.clone()
    smooth[1:-1] = (motion[:-2] + motion[1:-1] + motion[2:]) / 3
    assert landmark_jitter(smooth[1:-1], motion[1:-1]) < 1
    assert landmark_jitter(motion + 9, motion).item() == pytest.approx(1, rel=1e-4)


def test_lost_frames_leave_the_same_accelerations_out_on_both_sides(motion):
    pred, true = 1.1 * motion, motion.clone()
    pred[7], true[20, 3] = torch.nan, torch.nan
    assert landmark_jitter(pred, true).item() == pytest.approx(1.21, rel=1e-4)
    metric = Jitter()
    metric.update(pred, true)
    assert (metric.measured, metric.unmeasured) == (38 - 6, 6)
    assert Jitter([0, 1])(pred, true).item() == pytest.approx(1.21, rel=1e-4)
    assert landmark_jitter(torch.full_like(true, torch.nan), true).isnan()
    assert landmark_jitter(true[:2], true[:2]).isnan()


def test_jitter_of_clips_is_the_ratio_of_the_sums(motion):
    other = motion.flip(0) * 2
    metric = Jitter()
    metric.update(2 * motion, motion)
    metric.update(other, other)
    a, b = acceleration_energy(motion).sum(), acceleration_energy(other).sum()
    assert metric.compute().item() == pytest.approx(((4 * a + b) / (a + b)).item(), rel=1e-4)


def test_the_truth_has_no_flow_warped_error_and_flicker_has(clip):
    assert flow_warped_error(clip, clip).tolist() == [0.0] * 5
    values = []
    for strength in (0.02, 0.05, 0.1):
        flicker = torch.tensor([1.0, -1.0] * 3).view(6, 1, 1, 1) * strength
        values.append(flow_warped_error((0.8 * clip + 0.1 + flicker).clamp(0, 1), clip).mean().item())
    assert values == sorted(values)
    # Every pixel changes by twice the strength from one frame to the next, but for the truth's own small error.
    assert values[2] == pytest.approx(0.2, rel=0.05)


def test_motion_other_than_the_truths_is_seen(clip):
    still = clip[:1].expand_as(clip)
    assert (flow_warped_error(still, clip) > 0.01).all()
    # The true motion with other colours is as steady as the truth.
    assert flow_warped_error(1 - clip, clip).abs().max() < 1e-3


def test_occlusions_are_left_out():
    rng = np.random.default_rng(0)
    ground = cv2.resize(rng.random((16, 16, 3), dtype=np.float32), (96, 96), interpolation=cv2.INTER_CUBIC).clip(0, 1)
    frames = []
    for t in range(4):
        frame = ground.copy()
        frame[30:60, 20 + 6 * t : 50 + 6 * t] = 0.2 + 0.6 * ground[10:40, 60:90]
        frames.append(frame)
    true = torch.from_numpy(np.stack(frames)).permute(0, 3, 1, 2)
    spoiled = true.clone()
    for t in range(4):  # what the moving square uncovers or covers next
        spoiled[t, :, 30:60, 20 + 6 * t - 3 : 20 + 6 * t] = torch.tensor([1.0, 0, 1])[t % 3]
    everywhere = (spoiled[1:] - spoiled[:-1]).abs().mean().item() - (true[1:] - true[:-1]).abs().mean().item()
    assert flow_warped_error(spoiled, true).mean().item() < everywhere


def test_flow_warped_error_of_clips_is_the_mean_over_pairs(clip):
    flicker = (clip + 0.1 * torch.tensor([0.0, 1, 0, 1, 0, 1]).view(6, 1, 1, 1)).clamp(0, 1)
    metric = FlowWarpedError()
    metric.update(flicker, clip)
    metric.update(clip[:3], clip[:3])
    expected = flow_warped_error(flicker, clip).sum() / 7
    assert metric.compute().item() == pytest.approx(expected.item(), rel=1e-5)
    assert metric.count == 7
    assert flow_warped_error(clip[:1], clip[:1]).shape == (0,)
    assert FlowWarpedError()(clip[:1], clip[:1]).isnan()


def test_silence_leak_by_hand():
    speech = torch.linspace(0, 10, 101)
    assert lip_aperture_range(speech).item() == pytest.approx(9)
    assert silence_leak(0.1 * speech + 4, speech).item() == pytest.approx(0.1)
    assert silence_leak(torch.full((20,), 3.0), speech) == 0
    assert silence_leak(speech, speech) == 1
    gaps = torch.cat([speech, torch.full((9,), torch.nan)])
    assert silence_leak(gaps, speech) == 1
    assert silence_leak(torch.full((3,), torch.nan), speech).isnan()
    assert silence_leak(speech, torch.ones(5)).isnan()
    # One frame that went wrong does not decide.
    spike = torch.full((101,), 3.0)
    spike[50] = 40
    assert silence_leak(spike, speech) == 0


def test_silence_leak_of_clips_is_their_mean():
    speech = torch.linspace(0, 10, 101)
    metric = SilenceLeak()
    metric.update(0.2 * speech, speech)
    metric.update(0.4 * speech[:60], speech)
    metric.update(torch.full((3,), torch.nan), speech)
    expected = (0.2 + 0.4 * lip_aperture_range(speech[:60]) / lip_aperture_range(speech)) / 2
    assert metric.compute().item() == pytest.approx(expected.item(), rel=1e-5)
    assert (metric.count, metric.unmeasured) == (2, 1)


def test_bad_input_is_refused(motion, clip):
    with pytest.raises(ValueError, match="one shape"):
        landmark_jitter(motion[:5], motion)
    with pytest.raises(ValueError, match=r"\(F, L, 2\)"):
        acceleration_energy(motion[0])
    with pytest.raises(ValueError, match="RGB"):
        flow_warped_error(clip, clip[:3])
    with pytest.raises(ValueError, match=r"lip_aperture must be \(F,\)"):
        silence_leak(torch.zeros(3, 2), torch.zeros(3))
