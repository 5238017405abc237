"""Perceptual and style losses on a frozen VGG (Johnson et al. 2016; Gatys et al. 2016)."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stsa_lightning.models.layers import HoldsFrozen
from stsa_lightning.utils.safe_load import load_entries
from stsa_lightning.utils.weights import KNOWN, weights_path

LAYERS = ("relu1_1", "relu2_1", "relu3_1", "relu4_1", "relu5_1")
DETAIL = "relu3_1"  # 24 pixels across; what is larger is seen in smaller pictures as well, at a third of the work
# Convolutions in each of the five blocks, and their width (Simonyan & Zisserman 2015, table 1).
BLOCKS = {"vgg11": (1, 1, 2, 2, 2), "vgg13": (2, 2, 2, 2, 2), "vgg16": (2, 2, 3, 3, 3), "vgg19": (2, 2, 4, 4, 4)}
WIDTHS = (64, 128, 256, 512, 512)
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

Maps = Mapping[str, Tensor]


def _build(net: str, last: str) -> tuple[nn.Sequential, dict[str, int]]:
    """The convolutional part up to layer `last`, numbered as torchvision numbers it; and the place of each relu."""
    plain, batch_norm = net.removesuffix("_bn"), net.endswith("_bn")
    modules: list[nn.Module] = []
    places: dict[str, int] = {}
    channels = 3
    for block, (count, width) in enumerate(zip(BLOCKS[plain], WIDTHS, strict=True), start=1):
        for index in range(1, count + 1):
            modules.append(nn.Conv2d(channels, width, 3, padding=1))
            if batch_norm:
                modules.append(nn.BatchNorm2d(width))
            places[f"relu{block}_{index}"] = len(modules)
            modules.append(nn.ReLU())
            channels = width
            if f"relu{block}_{index}" == last:
                return nn.Sequential(*modules), places
        modules.append(nn.MaxPool2d(2))
    raise ValueError(f"{net} has no layer {last!r}: it has {', '.join(places)}")


def _resolve(net: str, weights: str | Path | None) -> Path:
    if weights is None or str(weights) in KNOWN:
        return weights_path(net if weights is None else str(weights))
    path = Path(weights)
    return weights_path(net, path) if path.is_dir() else path


def _batch(images: Tensor) -> Tensor:
    if images.dim() < 4 or images.shape[-3] != 3:
        raise ValueError(f"images must be (N, ..., 3, H, W), got {tuple(images.shape)}")
    return images.flatten(0, -4)


class VGGFeatures(HoldsFrozen):
    """Feature maps of a frozen VGG.

    Args:
        net: `vgg11`, `vgg13`, `vgg16`, `vgg19`, or one of them with `_bn`.
        weights: state dict of torchvision's network, whole or `features.*` alone, as a file, as a folder to look
            in, or as a name of `utils.weights.KNOWN`; None: by the name of `net`.
        layers: `relu<block>_<index>`, any order; nothing beyond the deepest is built.

    Raises:
        ValueError: unknown net or layer, or a file that does not fit.
        WeightsError: no weights here and none to be fetched.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, net: str = "vgg19", weights: str | Path | None = None, layers: Sequence[str] = LAYERS) -> None:
        super().__init__()
        if net.removesuffix("_bn") not in BLOCKS:
            raise ValueError(f"net must be one of {', '.join(BLOCKS)}, with or without _bn, got {net!r}")
        if not layers or any(not re.fullmatch(r"relu[1-5]_[1-4]", layer) for layer in layers):
            raise ValueError(f'layers must be names like "relu3_1", at least one, got {list(layers)}')
        self.net, self.layers = net, tuple(layers)
        network, places = _build(net, max(layers))
        unknown = [layer for layer in layers if layer not in places]
        if unknown:
            raise ValueError(f"{net} has no layer {unknown[0]!r}: up to there it has {', '.join(places)}")
        load_entries(network, _resolve(net, weights), "features.")
        self._hold(network)
        self._names = {place: layer for layer, place in places.items() if layer in self.layers}
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(IMAGENET_STD).view(3, 1, 1), persistent=False)

    def forward(self, images: Tensor, last: str | None = None) -> dict[str, Tensor]:
        """RGB (N, ..., 3, H, W) in [0, 1] -> layer name -> (N, C, h, w), leading dimensions joined to N.

        Layers after `last` are left out.
        """
        x = (_batch(images) - self.mean) / self.std
        maps: dict[str, Tensor] = {}
        for place, layer in enumerate(self._frozen[0]):
            x = layer(x)
            if place in self._names:
                maps[self._names[place]] = x
                if self._names[place] == last:
                    break
        return maps


def perceptual(
    pred: Maps, target: Maps, weights: Mapping[str, float] | None = None, region: Tensor | None = None
) -> Tensor:
    """Sum over layers of the mean absolute difference of feature maps; `weights` by layer, 1 where none is named.

    `region`: weights of pixels (N, 1, H, W), averaged down to each map; None: all equal.
    """
    if region is None:
        return _over_layers(pred, target, weights, lambda a: a)
    _check_layers(pred, target)
    weights, terms = weights or {}, []
    for name, features in pred.items():
        weight = F.interpolate(region, features.shape[-2:], mode="area")
        error = ((features - target[name]).abs() * weight).sum() / (weight.sum() * features.shape[1])
        terms.append(weights.get(name, 1.0) * error)
    return torch.stack(terms).sum()


def style(pred: Maps, target: Maps, weights: Mapping[str, float] | None = None) -> Tensor:
    """The same on Gram matrices: which features go together, wherever they are."""
    return _over_layers(pred, target, weights, gram)


def gram(features: Tensor) -> Tensor:
    """(N, C, h, w) -> (N, C, C), inner products of channels over C * h * w."""
    n, c, h, w = features.shape
    # Scaled first and in float32: the sums of half-precision maps overflow.
    flat = features.float().reshape(n, c, h * w) / (c * h * w) ** 0.5
    with torch.autocast(features.device.type, enabled=False):
        return flat @ flat.mT


def _check_layers(pred: Maps, target: Maps) -> None:
    if pred.keys() != target.keys() or not pred:
        raise ValueError(f"pred and target need the same layers, got {sorted(pred)} and {sorted(target)}")


def _over_layers(pred: Maps, target: Maps, weights: Mapping[str, float] | None, view) -> Tensor:
    _check_layers(pred, target)
    weights = weights or {}
    return torch.stack([weights.get(k, 1.0) * F.l1_loss(view(pred[k]), view(target[k])) for k in pred]).sum()


class PerceptualLoss(nn.Module):
    """Perceptual loss summed over a pyramid of scales, with the style loss on the first of them.

    Args:
        net, weights, layers: see `VGGFeatures`.
        scales: full size, half, quarter, ...
        layer_weights: by layer name; 1 where none is named.
        style_weight: of the Gram term, on the full size only (250: IP_LAP's recipe).
    """

    def __init__(
        self,
        net: str = "vgg19",
        weights: str | Path | None = None,
        scales: int = 2,
        layers: Sequence[str] = LAYERS,
        layer_weights: Mapping[str, float] | None = None,
        style_weight: float = 250.0,
    ) -> None:
        super().__init__()
        if scales < 1:
            raise ValueError(f"scales must be at least 1, got {scales}")
        unknown = set(layer_weights or {}) - set(layers)
        if unknown:
            raise ValueError(f"layer_weights names {sorted(unknown)}, which are not among layers {list(layers)}")
        self.features = VGGFeatures(net, weights, layers)
        self.scales, self.layer_weights, self.style_weight = scales, dict(layer_weights or {}), style_weight

    def pyramid(self, images: Tensor) -> list[dict[str, Tensor]]:
        """Feature maps of RGB (N, ..., 3, H, W) in [0, 1] at each scale."""
        images = _batch(images)
        maps = [self.features(images)]
        for _ in range(1, self.scales):
            images = F.avg_pool2d(images, 2)
            maps.append(self.features(images))
        return maps

    def forward(
        self, pred: Tensor, target: Tensor | Sequence[Maps], with_style: bool = True, region: Tensor | None = None
    ) -> Tensor:
        """Scalar loss of RGB (N, ..., 3, H, W) in [0, 1].

        `target` is the true picture, or its `pyramid` where several predictions share it. No gradient reaches
        it. `region` (N, 1, H, W), leading dimensions joined to N, weighs the pixels of the perceptual part; the style
        part has no places.
        """
        if isinstance(target, Tensor):
            if pred.shape != target.shape:
                shapes = f"{tuple(pred.shape)} and {tuple(target.shape)}"
                raise ValueError(f"pred and target must have one shape, got {shapes}")
            with torch.no_grad():
                target = self.pyramid(target)
        predicted = self.pyramid(pred)
        terms = [perceptual(a, b, self.layer_weights, region) for a, b in zip(predicted, target, strict=True)]
        if with_style and self.style_weight:
            terms.append(self.style_weight * style(predicted[0], target[0], self.layer_weights))
        return torch.stack(terms).sum()

    def of_detail(self, pred: Tensor, target: Tensor) -> Tensor:
        """The perceptual part of RGB (N, ..., 3, H, W) in [0, 1] up to `DETAIL`, at their own size alone."""
        with torch.no_grad():
            true = self.features(target, DETAIL)
        return perceptual(self.features(pred, DETAIL), true, self.layer_weights)
