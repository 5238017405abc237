"""The networks as inference wants them: the same functions, with all that needs no input computed beforehand.

Batch norms are folded into convolutions, SPADE's kernels are composed once, maps are channels-last, and what references
alone decide goes further than training lets it. A network prepared so is for evaluation alone.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from stsa_lightning.nets.layers import SPADE, ConvBlock, Modulation, PreActivationResidual, UpBlock, compose
from stsa_lightning.nets.spatial import AdaAT, SpatialPath, blend_neighbours
from stsa_lightning.nets.temporal import TemporalPath, Warped, deformation, resize_deformation

Network = TypeVar("Network", bound=nn.Module)

_CACHE_BYTES = 2**20  # of one map, beyond which two at a time leave the cache of a core


def for_inference(network: Network, *, shared: bool = False) -> Network:
    """A channels-last copy of a network, in eval mode, that computes the same with less.

    The copy has other parameters: it is not for training or saving.

    Args:
        shared: also arrange the temporal path for batches in which all frames have the same references, as a processor
            likes it: large maps one after the other, as its caches hold them.
    """
    replaced = _PREPARED | ({TemporalPath: PreparedTemporalPath} if shared else {})
    prepared = _prepare(copy.deepcopy(network).eval().requires_grad_(False), replaced)
    return prepared.to(memory_format=torch.channels_last)


def _prepare(module: Network, replaced: Mapping[type[nn.Module], Callable[..., nn.Module]]) -> Network:
    for name, child in module.named_children():
        _prepare(child, replaced)
        if type(child) in replaced:
            setattr(module, name, replaced[type(child)](child))
    if isinstance(module, ConvBlock | UpBlock):
        module.conv, module.norm = _folded(module.conv, module.norm), nn.Identity()
    elif isinstance(module, PreActivationResidual):
        module.conv1, module.norm2 = _folded(module.conv1, module.norm2), nn.Identity()  # type: ignore[assignment]
    return module


def in_bfloat16(network: Network) -> Network:
    """A copy of a network that computes in bfloat16, but for where AdaAT reads its maps: 8 bits are a quarter pixel."""
    rounded = copy.deepcopy(network).bfloat16()
    for module, exact in zip(rounded.modules(), network.modules(), strict=True):
        if isinstance(module, AdaAT):
            module.float().load_state_dict(exact.state_dict())
    return rounded


def _folded(convolution: nn.Module, norm: nn.Module) -> Any:
    """One convolution that does the batch norm's work too."""
    return fuse_conv_bn_eval(convolution, norm, transpose=isinstance(convolution, nn.ConvTranspose2d))  # type: ignore[arg-type, type-var]


class PreparedSPADE(nn.Module):
    """:class:`SPADE` with its kernels made: two in steps, or their composition and its rim."""

    def __init__(self, layer: SPADE) -> None:
        super().__init__()
        weight, bias = layer.kernel()
        if layer.compose or layer.saved > 2_000:  # the kernels cost nothing here, the rim's small convolutions do
            parts = compose(layer.shared, weight, bias)
            self.places = [part.place for part in parts]
            self.steps = nn.ModuleList(_convolution(part.kernel, part.bias, part.padding) for part in parts)
        else:
            self.places = []
            self.steps = nn.ModuleList([layer.shared, _convolution(weight, bias, (1, 1))])

    def modulation(self, condition: Tensor) -> Modulation:
        """Gain and offset, each (B, C, H, W), from (B, K, H, W)."""
        maps = self.steps[0](condition)
        if not self.places:
            maps = self.steps[1](maps)
        for (row, column), step in zip(self.places[1:], self.steps[1:], strict=False):
            maps[..., row, column] += step(condition[..., row, column])
        gain, offset = maps.chunk(2, dim=1)
        return gain, offset


def _convolution(weight: Tensor, bias: Tensor, padding: tuple[int, int]) -> nn.Conv2d:
    outputs, inputs, height, width = weight.shape
    layer = nn.Conv2d(inputs, outputs, (height, width), padding=padding)
    layer.weight, layer.bias = nn.Parameter(weight.detach()), nn.Parameter(bias.detach())
    return layer.requires_grad_(False)


class PreparedSpatialPath(nn.Module):
    """:class:`SpatialPath` whose references carry their share of AdaAT and of the alignment encoder's first layer."""

    def __init__(self, path: SpatialPath) -> None:
        super().__init__()
        self.path = path
        first, *rest = path.alignment
        self.rest = nn.Sequential(*rest)
        convolution = cast(nn.Conv2d, first.conv)
        own = cast(nn.Conv2d, cast(ConvBlock, path.heatmap_encoder[-1]).conv).out_channels
        content, heatmap = convolution.weight.split([convolution.in_channels - own, own], dim=1)
        bias = convolution.get_parameter("bias")
        self.content = _convolution(content, bias, (1, 1))
        self.heatmap = _convolution(heatmap, torch.zeros_like(bias), (1, 1))

    def encode(self, images: Tensor, heatmaps: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:
        maps, content = self.path.encode(images, heatmaps)
        # Each channel is sampled alone: as planes.
        return tuple(blend_neighbours(m).contiguous() for m in maps), self.content(content)

    def forward(self, maps: tuple[Tensor, ...], content: Tensor, heatmap: Tensor, audio: Tensor) -> tuple[Tensor, ...]:
        alignment = self.rest(torch.relu(content + self.heatmap(self.path.heatmap_encoder(heatmap)))).mean((2, 3))
        code = torch.cat([audio, alignment], dim=1)
        transforms = cast(Iterable[AdaAT], self.path.transforms)
        moved = (transform.move(m, code) for m, transform in zip(maps, transforms, strict=True))
        pairs = zip(self.path.after, moved, strict=True)
        layout: Any = {"dtype": content.dtype, "memory_format": torch.channels_last}
        return tuple(after(m.to(**layout)) for after, m in pairs)


class PreparedTemporalPath(nn.Module):
    """:class:`TemporalPath` of frames that share their references: warping and averaging are one weighted sum."""

    def __init__(self, path: TemporalPath) -> None:
        super().__init__()
        self.path = path

    def encode(self, images: Tensor, heatmaps: Tensor) -> tuple[Tensor, ...]:
        first, *rest = self.path.encode(images, heatmaps)
        both = torch.cat([first, images], dim=2)[0].contiguous(memory_format=torch.channels_last)
        return both[None], *rest  # warped alike

    def forward(self, images: Tensor, maps: tuple[Tensor, ...], heatmap: Tensor, audio: Tensor) -> Warped:
        """Frames of one batch, whose references are those of the first."""
        batch, features = images.shape[:2], maps[1][0]
        estimate = self.path.estimator(heatmap, audio)
        if batch[0] == 1 and features[0].nbytes > _CACHE_BYTES:
            answers = [estimate(reference) for reference in features.split(1)]
            flow, confidence = (torch.cat(part) for part in zip(*answers, strict=True))
        else:
            flow, confidence = estimate(maps[1].flatten(0, 1))
        grid = deformation(flow)
        first, *rest = (warp_mean(m[0], resize_deformation(grid, m.shape[-1]), confidence) for m in maps)
        first, image = first.split([first.shape[1] - 3, 3], dim=1)
        return Warped((first, *rest), image, flow.unflatten(0, batch), confidence.unflatten(0, batch))


def warp_mean(maps: Tensor, grid: Tensor, confidence: Tensor) -> Tensor:
    """Mean of warped references, as :func:`~stsa_lightning.nets.temporal.weighted_mean` of sampled ones has it.

    Every pixel of the result is a weighted sum of 4 pixels of each of N maps, all channels alike: one gather of rows.

    Args:
        maps: (N, C, s, s), channels-last for speed.
        grid: (B * N, s, s, 2), where each is read for each of B frames, in [-1, 1].
        confidence: (B * N, 1, S, S).

    Returns:
        (B, C, s, s), channels-last.
    """
    count, channels, size, _ = maps.shape
    weight = F.interpolate(confidence, (size, size)).squeeze(1).unflatten(0, (-1, count))  # (B, N, s, s)
    weight = weight / (weight.sum(1, keepdim=True) + 1e-5)
    place = ((grid + 1) * (size / 2) - 0.5).clamp(-2, size)  # beyond the rim all is black
    low = place.floor()
    share, low = (place - low).unflatten(0, (-1, count)), low.int().unflatten(0, (-1, count))  # (B, N, s, s, 2)
    sides = torch.stack([low, low + 1], dim=-1)  # (B, N, s, s, 2 axes, 2 sides)
    inside = (sides >= 0) & (sides < size)
    shares = torch.stack([1 - share, share], dim=-1) * inside
    x, y = sides.clamp(0, size - 1).unbind(-2)
    share_x, share_y = shares.unbind(-2)
    start = torch.arange(count, dtype=torch.int32, device=maps.device).view(count, 1, 1, 1, 1) * size**2
    rows = start + y[..., :, None] * size + x[..., None, :]  # (B, N, s, s, 2, 2)
    weights = (weight[..., None] * share_y)[..., :, None] * share_x[..., None, :]
    bags = [t.movedim(1, 3).reshape(-1, 4 * count) for t in (rows, weights)]
    table = maps.permute(0, 2, 3, 1).reshape(-1, channels)
    pixels = F.embedding_bag(bags[0], table, mode="sum", per_sample_weights=bags[1])
    return pixels.view(-1, size, size, channels).permute(0, 3, 1, 2)


_PREPARED: dict[type[nn.Module], Callable[..., nn.Module]] = {
    SPADE: PreparedSPADE,
    SpatialPath: PreparedSpatialPath,
}
