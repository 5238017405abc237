"""Weights: of the mouth's pixels, and of frames whose lips are shut."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from stsa_lightning.losses.cil import CILSettings
from stsa_lightning.losses.objective import LossSettings, LossWeights, Objective, mouth_map, weighted_l1
from stsa_lightning.models.guidance import GuidanceOutput
from stsa_lightning.utils.errors import UserError

NO_CIL = CILSettings(weight=0.0)
NONE = dict.fromkeys(LossWeights.__dataclass_fields__, 0.0)


def lips() -> torch.Tensor:
    """A ring of lips around row 48 of 64, the mouth open between."""
    maps = torch.zeros(1, 1, 64, 64)
    maps[..., 45, 24:40] = maps[..., 51, 24:40] = 1
    return maps


def test_the_mouth_weighs_more_and_its_inside_too():
    weights = mouth_map(lips(), 5.0)
    assert weights.shape == (1, 1, 64, 64)
    assert weights[0, 0, 45, 32] == weights[0, 0, 48, 32] == 5
    assert (weights[0, 0, :20] == 1).all()
    assert weights.min() == 1
    assert weights.max() == 5


def test_a_constant_error_costs_the_same_under_any_weights():
    target = torch.rand(1, 3, 64, 64)
    pred = target + 0.25
    assert weighted_l1(pred, target, None).item() == pytest.approx(0.25)
    assert weighted_l1(pred, target, mouth_map(lips(), 9.0)).item() == pytest.approx(0.25)


def test_an_error_at_the_mouth_costs_more_than_elsewhere():
    objective = Objective(LossSettings(LossWeights(**{**NONE, "pixel": 1.0}), mouth_weight=4.0), (4, 8, 8), NO_CIL)
    target, weights = torch.zeros(1, 3, 64, 64), objective.mouth_map(lips())
    at_mouth, elsewhere = target.clone(), target.clone()
    at_mouth[..., 47:50, 30:34] = elsewhere[..., 2:5, 30:34] = 1
    costs = [weighted_l1(pred, target, weights).item() for pred in (at_mouth, elsewhere)]
    assert costs[0] / costs[1] == pytest.approx(4.0)


@pytest.mark.parametrize("frames", [1, 3], ids=["centres", "every frame"])
def test_cil_compares_frames_of_one_clip_by_their_mouths(frames: int):
    torch.manual_seed(0)
    clips, cil = ["a", "b", "a", "b"], CILSettings(negatives="clip", region="mouth")
    objective = Objective(LossSettings(LossWeights(**NONE)), (4, 8, 8), cil).eval()
    count = frames * len(clips)
    paths = [[torch.randn(count, c, s, s) for c, s in zip((4, 8, 8), (64, 32, 16), strict=True)] for _ in range(2)]
    output = SimpleNamespace(spatial=paths[0], temporal=paths[1])
    found = objective.cil_terms(output, lips().expand(count, -1, -1, -1), clips)["cil"]
    of_clip = torch.tensor([clip == "a" for clip in clips for _ in range(frames)])
    mouth = mouth_map(lips(), 2) - 1
    parts = [
        objective.cil(*([m[rows] for m in path] for path in paths), mouth.expand(int(rows.sum()), -1, -1, -1))
        for rows in (of_clip, ~of_clip)
    ]
    assert found.item() == pytest.approx(sum(part.item() for part in parts) / 2, abs=1e-5)


def test_the_weight_of_closures_arrives():
    """A shut mouth predicted open, beside one that is open: the more the first weighs, the more the term."""
    size, true = (1, 2, 1, 8, 8), torch.zeros(1, 2, 2, 57)
    true[0, 1] = torch.rand(2, 57, generator=torch.Generator().manual_seed(0))
    maps = torch.zeros(size)
    prediction = GuidanceOutput(maps, maps, torch.stack([true[:, 1], true[:, 1]], 1), maps, torch.zeros(1, 2, 4))
    batch = {"lip_heatmaps": maps, "jaw_heatmaps": maps, "keypoints": true}
    batch |= {"lip_aperture": torch.randn(1, 2, 3), "lip_aperture_spread": torch.full((1, 3), 0.1)}
    weights = LossWeights(**{**NONE, "lip_aperture": 1.0})
    terms = [
        Objective(LossSettings(weights, closure_weight=weight), (4, 8, 8), NO_CIL).guidance_terms(prediction, batch)
        for weight in (1.0, 6.0)
    ]
    assert terms[1]["lip_aperture"] > 1.2 * terms[0]["lip_aperture"] > 0


def test_one_is_off_and_less_is_named():
    assert Objective(LossSettings(LossWeights(**NONE)), (4, 8, 8), NO_CIL).mouth_map(lips()) is None
    for name in ("closure_weight", "mouth_weight"):
        with pytest.raises(UserError, match=f"{name} must be 1"):
            LossSettings(LossWeights(**NONE), **{name: 0.5})


def test_perceptual_terms_may_act_on_lower_halves_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[tuple[int, ...]] = []

    class Net(torch.nn.Module):
        def pyramid(self, images: torch.Tensor) -> torch.Tensor:
            return images

        def forward(self, images: torch.Tensor, true: torch.Tensor, **options: torch.Tensor) -> torch.Tensor:
            looked.append(tuple(images.shape[-2:]))
            assert options["region"].shape[-2:] == images.shape[-2:]
            return (images - true).abs().mean()

    monkeypatch.setattr("stsa_lightning.losses.objective.PerceptualLoss", lambda _: Net())
    weights = LossWeights(warp=0.0, adversarial=0.0, feature_matching=0.0)
    terms = Objective(LossSettings(weights, mouth_weight=4.0, perceptual_half=True), (4, 8, 8), NO_CIL)
    true, face = torch.rand(2, 3, 64, 64), torch.rand(2, 3, 64, 64)
    mouth = torch.ones(2, 1, 64, 64)
    real = terms.discriminate(true, 1)
    found = terms.face_terms(face, true, terms.target_activations(true), real, 1, mouth, torch.zeros(2, 1, 80, 10))
    assert looked == [(32, 64)]
    torch.testing.assert_close(found["perceptual"], (face - true)[:, :, 32:].abs().mean())
