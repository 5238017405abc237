from __future__ import annotations

import numpy as np
import pytest
import torch

from stsa_lightning.data.augment import augment_colour, hue_rotation


def test_strength_zero_changes_nothing():
    images = torch.rand(2, 3, 8, 8)
    torch.testing.assert_close(augment_colour(images, 0.0, np.random.default_rng(0)), images)


def test_a_third_of_the_circle_exchanges_the_channels():
    # x -> y -> z -> x: the rotation about the grey axis that keeps the cube of colours in place.
    np.testing.assert_allclose(hue_rotation(2 * np.pi / 3), np.roll(np.eye(3), 1, axis=0), atol=1e-12)
    np.testing.assert_allclose(hue_rotation(1.0) @ np.ones(3), np.ones(3))


@pytest.mark.parametrize("seed", range(5))
def test_all_pictures_change_alike_and_stay_in_range(seed: int):
    picture = torch.rand(3, 8, 8)
    out = augment_colour(torch.stack([picture, picture]), 1.0, np.random.default_rng(seed))
    assert torch.equal(out[0], out[1])
    assert not torch.allclose(out[0], picture, atol=0.01)
    assert 0 <= out.min() <= out.max() <= 1
    again = augment_colour(torch.stack([picture, picture]), 1.0, np.random.default_rng(seed))
    assert torch.equal(out, again)
