from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from torch import nn
from torch.nn import functional as F

from stsa_lightning.losses.perceptual import (
    BLOCKS,
    IMAGENET_MEAN,
    IMAGENET_STD,
    LAYERS,
    PerceptualLoss,
    VGGFeatures,
    gram,
    perceptual,
    style,
)
from stsa_lightning.utils.weights import WeightsError

SMALL = ("relu1_1", "relu2_1")


@pytest.fixture(scope="module")
def small_vgg(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seeded weights of the first two blocks, the features alone."""
    generator = torch.Generator().manual_seed(0)
    shapes = {"features.0": (64, 3), "features.2": (64, 64), "features.5": (128, 64)}
    state = {}
    for name, (out, inside) in shapes.items():
        state[f"{name}.weight"] = torch.randn(out, inside, 3, 3, generator=generator) / (9 * inside) ** 0.5
        state[f"{name}.bias"] = 0.1 * torch.randn(out, generator=generator)
    path = tmp_path_factory.mktemp("vgg") / "vgg.pth"
    torch.save(state, path)
    return path


@pytest.fixture(scope="module")
def loss(small_vgg: Path) -> PerceptualLoss:
    return PerceptualLoss("vgg19", small_vgg, layers=SMALL)


def torchvision_layout(net: str) -> list[type]:
    with torch.device("meta"):
        return [type(module) for module in getattr(torchvision.models, net)().features]


@pytest.mark.parametrize("net", [*BLOCKS, "vgg16_bn"])
def test_numbering_is_torchvisions(net):
    from stsa_lightning.losses.perceptual import _build

    last = f"relu5_{BLOCKS[net.removesuffix('_bn')][-1]}"
    with torch.device("meta"):
        network, places = _build(net, last)
    assert [type(module) for module in network] == torchvision_layout(net)[: len(network)]
    assert places["relu1_1"] == (2 if net.endswith("_bn") else 1)


def test_maps_equal_torchvisions(small_vgg):
    state = torch.load(small_vgg, weights_only=True)
    with torch.device("meta"):
        reference = torchvision.models.vgg19().features[:7]
    reference = reference.to_empty(device="cpu")
    reference.load_state_dict({key.removeprefix("features."): value for key, value in state.items()})
    images = torch.rand(2, 3, 24, 24)
    x = torchvision.transforms.functional.normalize(images, IMAGENET_MEAN, IMAGENET_STD)
    maps = VGGFeatures("vgg19", small_vgg, SMALL)(images)
    torch.testing.assert_close(maps["relu1_1"], reference[:2](x))
    torch.testing.assert_close(maps["relu2_1"], reference(x))
    assert maps.keys() == set(SMALL)


def test_a_whole_file_gives_the_same_as_its_features(small_vgg, tmp_path):
    state = torch.load(small_vgg, weights_only=True)
    torch.save(
        state | {"features.7.weight": torch.zeros(128, 128, 3, 3), "classifier.0.bias": torch.zeros(5)}, tmp_path / "f"
    )
    images = torch.rand(1, 3, 16, 16)
    a, b = VGGFeatures("vgg19", small_vgg, SMALL)(images), VGGFeatures("vgg19", tmp_path / "f", SMALL)(images)
    assert torch.equal(a["relu2_1"], b["relu2_1"])


def test_the_network_is_frozen_and_in_no_state(loss):
    parent = nn.Module()
    parent.loss, parent.own = copy.deepcopy(loss), nn.Linear(2, 2)
    parent.train()
    assert parent.state_dict().keys() == {"own.weight", "own.bias"}
    assert len(list(parent.parameters())) == 2
    frozen = parent.loss.features._frozen[0]
    assert not frozen.training
    assert not any(parameter.requires_grad for parameter in frozen.parameters())
    assert frozen is not loss.features._frozen[0]


def test_the_network_moves_with_its_parent(loss):
    parent = nn.Sequential(copy.deepcopy(loss)).double()
    assert parent[0].features._frozen[0][0].weight.dtype == torch.float64
    assert parent[0].features.mean.dtype == torch.float64
    assert parent.to("meta")[0].features._frozen[0][0].weight.device.type == "meta"
    assert loss.features._frozen[0][0].weight.device.type == "cpu"


def test_perceptual_and_style_by_hand():
    a = {"relu1_1": torch.tensor([1.0, 2.0, 3.0, 4.0]).view(1, 2, 1, 2)}
    b = {"relu1_1": torch.tensor([0.0, 0.0, 0.0, 8.0]).view(1, 2, 1, 2)}
    assert perceptual(a, b).item() == pytest.approx((1 + 2 + 3 + 4) / 4)
    assert perceptual(a, b, {"relu1_1": 0.5}).item() == pytest.approx(1.25)
    assert gram(a["relu1_1"])[0].tolist() == pytest.approx(np.array([[5.0, 11.0], [11.0, 25.0]]) / 4, rel=1e-6)
    # Gram matrices [[5, 11], [11, 25]] / 4 and [[0, 0], [0, 64]] / 4
    assert style(a, b).item() == pytest.approx((5 + 11 + 11 + 39) / 16)


def test_style_forgets_places(loss):
    maps = loss.features(torch.rand(1, 3, 16, 16))
    turned = {name: value.flip(-1) for name, value in maps.items()}
    assert style(maps, turned).item() == pytest.approx(0, abs=1e-6)
    assert perceptual(maps, turned) > 0.01


def test_the_loss_is_the_sum_of_its_terms(loss):
    pred, target = torch.rand(2, 3, 32, 32), torch.rand(2, 3, 32, 32)
    full = [loss.features(x) for x in (pred, target)]
    half = [loss.features(F.interpolate(x, scale_factor=0.5, mode="bilinear")) for x in (pred, target)]
    content = (perceptual(*full) + perceptual(*half)).item()
    assert loss(pred, target, with_style=False).item() == pytest.approx(content, rel=1e-5)
    assert loss(pred, target).item() == pytest.approx(content + 250 * style(*full).item(), rel=1e-5)
    assert loss(pred, pred) == 0


def test_a_shared_pyramid_and_a_window_of_frames_change_nothing(loss):
    pred, target = torch.rand(2, 3, 3, 32, 32), torch.rand(2, 3, 3, 32, 32)
    expected = loss(pred, target).item()
    assert loss(pred, loss.pyramid(target)).item() == pytest.approx(expected, rel=1e-6)
    frames = [loss(a[None], b[None]).item() for a, b in zip(pred.flatten(0, 1), target.flatten(0, 1), strict=True)]
    assert np.mean(frames) == pytest.approx(expected, rel=1e-5)


def test_gradient_reaches_the_prediction_alone(loss):
    pred, target = torch.rand(1, 3, 32, 32, requires_grad=True), torch.rand(1, 3, 32, 32, requires_grad=True)
    loss(pred, target).backward()
    assert pred.grad.abs().sum() > 0
    assert target.grad is None


def test_more_blur_costs_more_with_real_weights(weights_dir, corpus):
    import cv2

    clip = cv2.VideoCapture(str(next(corpus.rglob("*.mp4"))))
    frame = cv2.cvtColor(clip.read()[1], cv2.COLOR_BGR2RGB)
    frame = cv2.resize(frame, (128, 128), interpolation=cv2.INTER_AREA)
    target = torch.from_numpy(frame).permute(2, 0, 1)[None] / 255
    criterion = PerceptualLoss("vgg16", weights_dir)
    losses = []
    with torch.no_grad():
        for sigma in (0.5, 1.0, 2.0, 4.0):
            blurred = torchvision.transforms.functional.gaussian_blur(target, 25, sigma)
            losses.append((criterion(blurred, target, with_style=False).item(), criterion(blurred, target).item()))
    assert losses == sorted(losses)
    assert sorted(total for _, total in losses) == [total for _, total in losses]
    assert losses[0][0] > 0


def test_bad_settings_are_refused(small_vgg, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="net must be one of"):
        VGGFeatures("resnet18", small_vgg)
    with pytest.raises(ValueError, match="no layer 'relu2_3'"):
        VGGFeatures("vgg19", small_vgg, ["relu2_3"])
    with pytest.raises(ValueError, match="no layer 'relu1_3'"):
        VGGFeatures("vgg19", small_vgg, ["relu1_3", "relu2_1"])
    with pytest.raises(ValueError, match="names like"):
        VGGFeatures("vgg19", small_vgg, ["conv1"])
    with pytest.raises(ValueError, match=r"lacks .* first features\.7\.weight"):
        VGGFeatures("vgg19", small_vgg, LAYERS)
    torch.save(
        {"features.0.weight": torch.zeros(64, 3, 5, 5), "features.0.bias": torch.zeros(64)}, tmp_path / "other.pth"
    )
    with pytest.raises(ValueError, match="another network"):
        VGGFeatures("vgg19", tmp_path / "other.pth", ["relu1_1"])
    with pytest.raises(ValueError, match="layer_weights"):
        PerceptualLoss("vgg19", small_vgg, layers=SMALL, layer_weights={"relu5_1": 2.0})
    with pytest.raises(ValueError, match=r"\(N, \.\.\., 3, H, W\)"):
        VGGFeatures("vgg19", small_vgg, SMALL)(torch.rand(2, 1, 16, 16))
    with pytest.raises(FileNotFoundError):
        VGGFeatures("vgg19", tmp_path / "absent.pth")


def test_known_names_go_through_the_registry(small_vgg, tmp_path, monkeypatch):
    (tmp_path / "vgg19-dcbb9e9d.pth").write_bytes(small_vgg.read_bytes())
    monkeypatch.setenv("STSA_WEIGHTS", str(tmp_path))
    for weights in (None, "vgg19", tmp_path):
        assert VGGFeatures("vgg19", weights, SMALL).layers == SMALL
    with pytest.raises(WeightsError, match="no weights are known by the name 'vgg13'"):
        VGGFeatures("vgg13")


def test_detail_is_compared_in_the_first_layers_at_one_size(small_vgg: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("stsa_lightning.losses.perceptual.DETAIL", "relu1_1")
    loss = PerceptualLoss("vgg19", small_vgg, layers=SMALL)
    a, b = torch.rand(2, 3, 32, 32), torch.rand(2, 3, 32, 32)
    first = PerceptualLoss("vgg19", small_vgg, scales=1, layers=SMALL[:1], style_weight=0)
    torch.testing.assert_close(loss.of_detail(a, b), first(a, b))
    assert loss.features(a, "relu1_1").keys() == {"relu1_1"}
