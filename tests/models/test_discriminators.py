from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from stsa_lightning.models.discriminators import PatchDiscriminator, TemporalDiscriminator


def test_each_scale_returns_its_features_and_a_score() -> None:
    answers = PatchDiscriminator()(torch.rand(2, 3, 64, 64))
    assert [len(features) for features in answers] == [5, 5]
    assert [f.shape[1] for f in answers[0]] == [64, 128, 256, 512, 1]
    assert answers[0][-1].shape[-1] > answers[1][-1].shape[-1]


@torch.no_grad()
def test_the_second_scale_scores_the_half_size_image() -> None:
    network, images = PatchDiscriminator(width=8), torch.rand(2, 3, 64, 64)
    small = F.avg_pool2d(images, 3, 2, 1, count_include_pad=False)
    for layer, feature in zip(network.scales[1], network(images)[1], strict=True):
        small = layer(small)
        torch.testing.assert_close(small, feature)


def test_number_of_scales_and_layers() -> None:
    answers = PatchDiscriminator(width=4, layers=2, scales=3)(torch.rand(1, 3, 64, 64))
    assert [[f.shape[1] for f in features] for features in answers] == [[4, 8, 16, 1]] * 3


@pytest.mark.parametrize("frames", [1, 5])
def test_temporal_scores_keep_time(frames: int) -> None:
    (features,) = TemporalDiscriminator(width=8)(torch.rand(2, frames, 3, 32, 64))
    assert [f.shape[:3] for f in features] == [(2, 8, frames), (2, 16, frames), (2, 32, frames), (2, 1, frames)]


def test_temporal_score_sees_the_neighbouring_frames() -> None:
    windows = torch.rand(1, 5, 3, 32, 32, requires_grad=True)
    (features,) = TemporalDiscriminator(width=4)(windows)
    features[0][:, :, 0].sum().backward()
    assert windows.grad is not None
    seen = windows.grad.abs().sum((0, 2, 3, 4)) > 0
    assert seen.tolist() == [True, True, False, False, False]


def test_a_still_window_and_a_moving_one_score_differently() -> None:
    network = TemporalDiscriminator(width=4)
    moving = torch.rand(1, 5, 3, 32, 32)
    still = moving[:, 2:3].expand_as(moving)
    assert not torch.allclose(network(moving)[0][-1], network(still)[0][-1], atol=1e-4)
