from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.special import log_softmax
from torch import nn

from stsa_lightning.losses.mutual_information import MINE, InfoNCE, info_nce


def correlated(count: int, dim: int, rho: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Gaussian pairs of mutual information -dim / 2 * log(1 - rho^2)."""
    x = torch.randn(count, dim)
    return x, rho * x + math.sqrt(1 - rho**2) * torch.randn(count, dim)


def rho_for(nats: float, dim: int) -> float:
    return math.sqrt(1 - math.exp(-2 * nats / dim))


def train_and_estimate(model: nn.Module, dim: int, nats: float, steps: int) -> float:
    rho = rho_for(nats, dim)
    optimiser = torch.optim.Adam(model.parameters(), 2e-3)
    for _ in range(steps):
        optimiser.zero_grad()
        (-model(*correlated(256, dim, rho))).backward()
        optimiser.step()
    model.eval()
    with torch.no_grad():
        return torch.stack([model(*correlated(256, dim, rho)) for _ in range(200)]).mean().item()


@pytest.mark.parametrize("dim", [1, 4])
def test_info_nce_finds_one_nat(dim):
    torch.manual_seed(0)
    assert train_and_estimate(InfoNCE(dim, critic="mlp"), dim, 1.0, 300) == pytest.approx(1.0, rel=0.1)


@pytest.mark.parametrize("momentum", [None, 0.05])
def test_mine_finds_one_nat(momentum):
    torch.manual_seed(0)
    assert train_and_estimate(MINE(2, momentum=momentum), 2, 1.0, 500) == pytest.approx(1.0, rel=0.1)


@pytest.mark.parametrize("model", [lambda: InfoNCE(2, critic="mlp"), lambda: MINE(2)])
def test_independent_codes_share_nothing(model):
    torch.manual_seed(0)
    assert abs(train_and_estimate(model(), 2, 0.0, 150)) < 0.05


def test_info_nce_against_scipy():
    scores = torch.randn(7, 7)
    rows = np.diag(log_softmax(scores.double().numpy(), axis=1)).mean()
    columns = np.diag(log_softmax(scores.double().numpy(), axis=0)).mean()
    assert info_nce(scores).item() == pytest.approx(math.log(7) + (rows + columns) / 2, abs=1e-5)


def test_info_nce_bounds_and_symmetry():
    scores = 50 * torch.randn(9, 9)
    assert info_nce(scores) <= math.log(9) + 1e-6
    assert info_nce(scores).item() == pytest.approx(info_nce(scores.T).item(), abs=1e-4)
    assert info_nce(torch.zeros(9, 9)).item() == pytest.approx(0, abs=1e-6)
    assert info_nce(100 * torch.eye(9)).item() == pytest.approx(math.log(9), abs=1e-5)
    assert info_nce(torch.zeros(1, 1)).item() == 0


def test_cosine_critic_knows_direction_alone():
    torch.manual_seed(0)
    x, y = torch.randn(6, 8), torch.randn(6, 8)
    model = InfoNCE(8)
    assert model(x, y).item() == pytest.approx(model(3 * x, y / 7).item(), abs=1e-5)
    assert model(x, x) > model(x, y)
    assert not list(model.parameters())


def test_info_nce_pulls_pairs_together():
    torch.manual_seed(0)
    x, y = torch.randn(16, 8), torch.randn(16, 8, requires_grad=True)
    model, before = InfoNCE(8), None
    optimiser = torch.optim.Adam([y], 0.05)
    for _ in range(100):
        value = model(x, y)
        before = value.item() if before is None else before
        optimiser.zero_grad()
        (-value).backward()
        optimiser.step()
    assert before < 1.5
    assert value.item() > 0.98 * math.log(16)


def test_mine_is_the_donsker_varadhan_bound():
    model, x, y = MINE(3), torch.randn(2, 3), torch.randn(2, 3)
    with torch.no_grad():  # two pairs: the only roll swaps them
        joint = model.statistic(x, y).mean()
        expected = joint - model.statistic(x, y[[1, 0]]).exp().mean().log()
        assert model(x, y).item() == pytest.approx(expected.item(), abs=1e-6)


def test_mine_correction_changes_the_gradient_alone():
    torch.manual_seed(0)
    x, y = torch.randn(8, 2), torch.randn(8, 2)
    plain, corrected = MINE(2), MINE(2, momentum=0.5)
    corrected.load_state_dict(plain.state_dict())
    gradients = []
    corrected.log_average.fill_(1.0)
    for model in (plain, corrected):
        torch.manual_seed(1)
        value = model(x, y)
        value.backward()
        gradients.append((value.item(), model.fc1.weight.grad))
    assert gradients[0][0] == pytest.approx(gradients[1][0], abs=1e-6)
    assert not torch.allclose(gradients[0][1], gradients[1][1])


def test_mine_has_the_released_names_and_shapes():
    shapes = {name: tuple(tensor.shape) for name, tensor in MINE(128, momentum=0.1).state_dict().items()}
    assert shapes == {
        "fc1.weight": (128, 256),
        "fc1.bias": (128,),
        "fc2.weight": (128, 128),
        "fc2.bias": (128,),
        "fc3.weight": (1, 128),
        "fc3.bias": (1,),
    }


def test_half_precision_scores_do_not_round_the_softmax():
    torch.manual_seed(0)
    x, y = torch.randn(32, 16), torch.randn(32, 16)
    exact = InfoNCE(16)(x, y)
    with torch.autocast("cpu", torch.bfloat16):
        assert InfoNCE(16)(x, y).item() == pytest.approx(exact.item(), abs=1e-5)


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="square"):
        info_nce(torch.zeros(3, 4))
    with pytest.raises(ValueError, match=r"\(B, 8\)"):
        InfoNCE(8)(torch.zeros(3, 8), torch.zeros(4, 8))
    with pytest.raises(ValueError, match="at least 2 pairs"):
        MINE(8)(torch.zeros(1, 8), torch.zeros(1, 8))
    with pytest.raises(ValueError, match="temperature"):
        InfoNCE(8, temperature=0)
    with pytest.raises(ValueError, match="critic"):
        InfoNCE(8, critic="dot")
    with pytest.raises(ValueError, match="momentum"):
        MINE(8, momentum=1.0)
