"""The pull of each term, against gradients computed by hand."""

from __future__ import annotations

import pytest
import torch

from stsa_lightning.losses.balance import GradientShare, ShareBalancer, balance_of, gradient_norms, shares
from stsa_lightning.utils.errors import UserError


def picture() -> torch.Tensor:
    return torch.tensor([[1.0, 2.0], [3.0, 4.0]], requires_grad=True)


def test_norms_are_those_of_the_hand_computed_gradients():
    x, other = picture(), torch.ones(3, requires_grad=True)
    terms = {"sum": x.sum(), "half_square": 0.5 * x.square().sum(), "elsewhere": other.sum()}
    norms = gradient_norms(terms, [x])
    assert set(norms) == {"sum", "half_square"}
    assert norms["sum"].item() == pytest.approx(2.0)  # four ones
    assert norms["half_square"].item() == pytest.approx(30**0.5)  # 1, 2, 3, 4
    assert x.grad is None
    # Two tensors count as one: sqrt(4 + 3).
    assert gradient_norms({"both": x.sum() + other.sum()}, [x, other])["both"].item() == pytest.approx(7**0.5)


def test_norms_leave_out_what_frozen_parts_made():
    learnt, frozen = torch.tensor([3.0, 4.0], requires_grad=True), torch.ones(2)
    terms = {"both": (learnt * learnt * frozen).sum() / 2, "frozen": frozen.sum()}
    assert gradient_norms(terms, [frozen, learnt]).keys() == {"both"}
    assert gradient_norms(terms, [frozen, learnt])["both"] == 5
    assert gradient_norms(terms, [frozen]) == {}


def test_shares_add_up_and_nothing_has_none():
    parts = shares({"a": torch.tensor(3.0), "b": torch.tensor(1.0)})
    assert (parts["a"].item(), parts["b"].item()) == (0.75, 0.25)
    assert shares({"a": torch.tensor(0.0)})["a"].item() == 0
    assert shares({}) == {}


def test_logs_name_place_and_term():
    x = picture()
    logs = balance_of({"a": x.sum(), "b": x.square().sum()}, {"a": 3.0, "b": 0.0}, {"face": (x,)})
    assert {name: value.item() for name, value in logs.items()} == {
        "weight/a": 3.0,
        "weight/b": 0.0,
        "balance/face/a": 1.0,
        "balance/face/b": 0.0,
    }


def test_weights_are_shares_of_the_pull():
    """Norms 2 and sqrt(30); shares 3/4 and 1/4 of 3 * 2 + 1 * sqrt(30)."""
    x = picture()
    balancer = ShareBalancer({"sum": 3.0, "half_square": 1.0}, decay=0.5)
    total, coefficients = balancer({"sum": x.sum(), "half_square": 0.5 * x.square().sum()}, x)
    whole = 3 * 2 + 30**0.5
    by_hand = {"sum": 0.75 * whole / 2, "half_square": 0.25 * whole / 30**0.5}
    for name, value in by_hand.items():
        assert coefficients[name].item() == pytest.approx(value, rel=1e-6)
    assert total.item() == pytest.approx(by_hand["sum"] * 10 + by_hand["half_square"] * 15, rel=1e-6)
    total.backward()
    expected = by_hand["sum"] * torch.ones(2, 2) + by_hand["half_square"] * x.detach()
    torch.testing.assert_close(x.grad, expected)


def test_the_running_mean_decides_and_survives():
    balancer = ShareBalancer({"sum": 1.0, "twice": 1.0}, decay=0.75)
    for scale in (1.0, 5.0):
        x = picture()
        balancer({"sum": x.sum(), "twice": scale * 2 * x.sum()}, x)
    torch.testing.assert_close(balancer.norms, torch.tensor([2.0, 0.75 * 4 + 0.25 * 20]))
    again = ShareBalancer({"sum": 1.0, "twice": 1.0})
    again.load_state_dict(balancer.state_dict())
    torch.testing.assert_close(again.norms, balancer.norms)


def test_a_term_without_gradient_takes_none_and_gives_no_nan():
    x = picture()
    balancer = ShareBalancer({"flat": 1.0, "sum": 1.0})
    total, _ = balancer({"flat": 0.0 * x.sum(), "sum": x.sum()}, x)
    total.backward()
    torch.testing.assert_close(x.grad, torch.full((2, 2), 0.5))


def test_bad_settings_are_named():
    with pytest.raises(UserError, match="at least one term"):
        ShareBalancer({})
    with pytest.raises(UserError, match="of positive weight"):
        ShareBalancer({"a": 0.0})
    with pytest.raises(UserError, match=r"decay must be in \[0, 1\), got 1"):
        ShareBalancer({"a": 1.0}, decay=1)
    with pytest.raises(ValueError, match="terms must be some of"):
        ShareBalancer({"a": 1.0})({"b": picture().sum()}, picture())


def test_gradient_share_gives_one_term_its_part_at_any_scale():
    share = GradientShare(0.1, every=1)
    for factor in (1.0, 1e3):
        x = picture()
        term, others = factor * x.sum(), 0.5 * x.square().sum()  # norms 2 factor and sqrt(30)
        share.ratio.zero_()
        weight = share(term, others, [x], 0)
        pull = weight * 2 * factor
        assert (pull / (pull + 30**0.5)).item() == pytest.approx(0.1)
    assert x.grad is None


def test_gradient_share_measures_now_and_then_and_averages():
    share, x = GradientShare(0.5, every=2, decay=0.8), picture()
    norms = [share(x.sum(), others * x.sum(), [x], step).item() for step, others in enumerate((4.0, 100.0, 9.0))]
    assert norms == pytest.approx([4.0, 4.0, 0.8 * 4 + 0.2 * 9])
    # Nothing pulls at the outputs: the weight stays.
    assert share(torch.ones((), requires_grad=True), x.sum(), [x], 4).item() == pytest.approx(5.0)
    with pytest.raises(UserError, match="share must be between 0 and 1, got 1"):
        GradientShare(1)
