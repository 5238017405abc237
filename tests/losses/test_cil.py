"""CIL against its definition, written out."""

import pytest
import torch

from stsa_lightning.losses.cil import CILLoss
from stsa_lightning.losses.mutual_information import MINE, InfoNCE

CHANNELS = (4, 8, 16)


def maps() -> list[torch.Tensor]:
    return [torch.randn(6, c, s, s) for c, s in zip(CHANNELS, (16, 8, 4), strict=True)]


def test_cil_loss_is_the_mean_over_scales_of_the_estimate_of_pooled_projections():
    torch.manual_seed(0)
    cil, spatial, temporal = CILLoss(CHANNELS, InfoNCE(12, temperature=0.3)).eval(), maps(), maps()
    expected = []
    for head, s, t in zip(cil.heads, spatial, temporal, strict=True):
        # In eval mode a new batch norm divides by sqrt(1 + eps); projections are linear, so pooling may come first.
        weight, bias = head.conv.weight[:, :, 0, 0], head.conv.bias
        x, y = ((m.mean((2, 3)) @ weight.T + bias) / (1 + 1e-5) ** 0.5 for m in (s, t))
        scores = torch.nn.functional.cosine_similarity(x[:, None], y[None], dim=-1) / 0.3
        both = [torch.diagonal(scores.softmax(dim)).log().mean() for dim in (0, 1)]
        expected.append(torch.log(torch.tensor(6.0)) + (both[0] + both[1]) / 2)
    assert cil(spatial, temporal).item() == pytest.approx(-sum(expected).item() / 3, abs=1e-4)


def test_cil_loss_rewards_paths_that_agree():
    torch.manual_seed(0)
    cil, spatial = CILLoss(CHANNELS, InfoNCE(12)), maps()
    assert cil(spatial, spatial) < cil(spatial, maps()) - 1


def test_cil_loss_reaches_both_paths_heads_and_estimator():
    spatial, temporal = ([m.requires_grad_() for m in maps()] for _ in range(2))
    cil = CILLoss(CHANNELS, MINE(12))
    cil(spatial, temporal).backward()
    assert all(tensor.grad is not None for tensor in [*spatial, *temporal, *cil.parameters()])


def test_cil_loss_with_detached_temporal_path_teaches_the_spatial_path_alone():
    spatial, temporal = ([m.requires_grad_() for m in maps()] for _ in range(2))
    cil = CILLoss(CHANNELS, InfoNCE(12), detach_temporal=True)
    cil(spatial, temporal).backward()
    assert all(tensor.grad is not None for tensor in [*spatial, *cil.parameters()])
    assert all(tensor.grad is None for tensor in temporal)


def test_cil_loss_within_clips_is_the_mean_over_the_clips_of_the_estimate_of_each():
    torch.manual_seed(0)
    cil, spatial, temporal = CILLoss(CHANNELS, InfoNCE(12, temperature=0.3)).eval(), maps(), maps()
    groups = torch.tensor([1, 0, 1, 0, 0, 1])
    parts = [cil(*([m[groups == clip] for m in path] for path in (spatial, temporal))).item() for clip in (0, 1)]
    assert cil(spatial, temporal, groups=groups).item() == pytest.approx(sum(parts) / 2, abs=1e-5)


def test_cil_loss_of_a_region_does_not_see_the_rest_of_the_maps():
    torch.manual_seed(0)
    cil, spatial, temporal, region = CILLoss(CHANNELS, InfoNCE(12)).eval(), maps(), maps(), torch.zeros(6, 1, 16, 16)
    region[:, :, 8:12, 4:12] = 1
    elsewhere = [m.clone() for m in spatial]
    for m in elsewhere:
        m[:, :, : m.shape[2] // 2] += 1
    inside = [m.clone() for m in spatial]
    for m in inside:
        m[:, :, m.shape[2] // 2] += 1
    seen = cil(spatial, temporal, region).item()
    assert cil(elsewhere, temporal, region).item() == pytest.approx(seen, abs=1e-4)
    assert abs(cil(inside, temporal, region).item() - seen) > 0.01


def test_cil_loss_by_mine_keeps_an_average_for_each_scale():
    torch.manual_seed(0)
    cil, spatial, temporal = CILLoss(CHANNELS, MINE(12, momentum=0.1, scales=3)), maps(), maps()
    torch.manual_seed(1)
    cil(spatial, temporal)
    torch.manual_seed(1)
    for scale, (x, y) in enumerate(zip(cil.embed(spatial), cil.embed(temporal), strict=True)):
        marginal = cil.estimator.statistic(x, y.roll(int(torch.randint(1, 6, ())), dims=0))
        assert cil.estimator.log_average[scale].item() == pytest.approx(marginal.exp().mean().log().item(), abs=1e-5)


def test_cil_loss_with_paths_of_other_scales_is_refused():
    with pytest.raises(ValueError, match="shorter"):
        CILLoss(CHANNELS, InfoNCE(12))(maps(), maps()[:2])
