from __future__ import annotations

import pytest
import torch

from stsa_lightning.losses.adversarial import feature_matching, lsgan_discriminator, lsgan_generator


def maps(*values: float) -> list[torch.Tensor]:
    return [torch.full((2, 1, 3, 3), value) for value in values]


def test_generator_by_hand():
    # (0.5 - 1)^2 = 0.25 and (3 - 1)^2 = 4
    assert lsgan_generator([maps(9.0, 0.5), maps(9.0, 3.0)]).item() == pytest.approx(2.125)
    assert lsgan_generator([maps(1.0)]) == 0


def test_discriminator_by_hand():
    # scale 1: half of 0.25 + half of 0.04; scale 2: half of 1 + half of 1
    loss = lsgan_discriminator([maps(7.0, 0.5), maps(0.0)], [maps(7.0, 0.2), maps(1.0)])
    assert loss.item() == pytest.approx((0.145 + 1.0) / 2)
    assert lsgan_discriminator([maps(0.5)], [maps(0.5)]).item() == pytest.approx(0.25)


def test_a_scale_counts_once_whatever_its_size():
    small, large = [torch.zeros(1, 1, 2, 2)], [torch.ones(1, 1, 50, 50)]
    assert lsgan_generator([small, large]).item() == pytest.approx(0.5)


def test_feature_matching_by_hand_leaves_the_score_out():
    real, fake = [maps(1.0, 2.0, 100.0), maps(0.0, 5.0)], [maps(2.0, 5.0, -100.0), maps(4.0, 9.0)]
    # scale 1: mean of 1 and 3; scale 2: 4
    assert feature_matching(real, fake).item() == pytest.approx(3.0)
    assert feature_matching(real, real) == 0


def test_feature_matching_gradient_reaches_the_fake_alone():
    real = [[torch.zeros(2, 3, requires_grad=True), torch.zeros(2, 1)]]
    fake = [[torch.ones(2, 3, requires_grad=True), torch.zeros(2, 1)]]
    feature_matching(real, fake).backward()
    assert real[0][0].grad is None
    assert fake[0][0].grad is not None


def test_other_formats_are_refused():
    with pytest.raises(ValueError, match="list over scales"):
        lsgan_generator([torch.zeros(1)])
    with pytest.raises(ValueError, match="1 scales, fake 2"):
        lsgan_discriminator([maps(1.0)], [maps(1.0), maps(1.0)])
    with pytest.raises(ValueError, match="same scales and layers"):
        feature_matching([maps(1.0, 2.0)], [maps(1.0, 2.0, 3.0)])
    with pytest.raises(ValueError, match="below the score"):
        feature_matching([maps(1.0)], [maps(1.0)])
