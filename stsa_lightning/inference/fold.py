"""The networks as inference wants them: the same functions, with all that needs no input computed beforehand.

Batch norms are folded into convolutions, SPADE's kernels are composed once, maps are channels-last, and what references
alone decide goes further than training lets it. A network prepared so is for evaluation alone.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from stsa_lightning.models.adaat import AdaAT, blend_neighbours
from stsa_lightning.models.layers import ConvBlock, PreActivationResidual, UpBlock
from stsa_lightning.models.modulation import SPADE, AdaIN, AdaINBlock, ModulatedBlock, Modulation, SPADEBlock
from stsa_lightning.models.spatial_path import SpatialPath
from stsa_lightning.models.temporal_path import TemporalPath, Warped, deformation, resize_deformation

Network = TypeVar("Network", bound=nn.Module)

_CACHE_BYTES = 2**20  # of one map, beyond which two at a time leave the cache of a core
_VECTOR = 16  # numbers that a processor computes at once
_EPS = 1e-5  # of PyTorch's norms


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
    if isinstance(module, ConvBlock) and module.activation is torch.relu:
        module.activation = torch.relu_  # of a convolution's output, which nobody else has
    if isinstance(module, ConvBlock | UpBlock):
        module.conv, module.norm = _folded(module.conv, module.norm), nn.Identity()
    elif isinstance(module, PreActivationResidual):
        module.conv1, module.norm2 = _folded(module.conv1, module.norm2), nn.Identity()  # type: ignore[assignment]
    return module


def _folded(convolution: nn.Module, norm: nn.Module) -> Any:
    """One convolution that does the batch norm's work too."""
    return fuse_conv_bn_eval(convolution, norm, transpose=isinstance(convolution, nn.ConvTranspose2d))  # type: ignore[arg-type, type-var]


def modulate(x: Tensor, gain: Tensor, offset: Tensor) -> Tensor:
    """`models.modulation.modulate` in whatever order the memory of x has; always a new tensor."""
    if x.is_contiguous():
        normalised = F.instance_norm(x)
    elif _is_narrow(x):
        return _modulate_narrow(x, gain, offset)
    elif gain.shape[0] == gain.shape[2] == gain.shape[3] == 1:
        return F.group_norm(x, x.shape[1], gain.flatten(), offset.flatten())
    else:  # channels last, which an instance norm would undo; groups of one channel are the same thing
        normalised = F.group_norm(x, x.shape[1])
    normalised = normalised.unflatten(0, (gain.shape[0], -1))  # (B, n, C, H, W)
    return torch.addcmul(offset.unsqueeze(1), normalised, gain.unsqueeze(1)).flatten(0, 1)


def _is_narrow(x: Tensor) -> bool:
    """Channels-last maps on a processor with fewer channels than it computes at once: PyTorch then takes them singly.

    Norms of 4 channels took 6 times as long as of 16 with as many numbers, in bfloat16 12 times.
    """
    _, channels, height, width = x.shape
    last = x.is_contiguous(memory_format=torch.channels_last)
    return x.device.type == "cpu" and channels < _VECTOR and last and height * width % _VECTOR == 0


def _modulate_narrow(x: Tensor, gain: Tensor, offset: Tensor) -> Tensor:
    """The same with the channels of 16 pixels side by side, as memory has them."""
    count, channels = x.shape[:2]
    pixels = x.permute(0, 2, 3, 1)
    rows = pixels.reshape(count, -1, _VECTOR * channels)
    mean, scale = _mean_and_scale(rows, channels)  # (B * n, C)
    if gain.shape[2] == gain.shape[3] == 1:
        share = (gain.shape[0], -1, channels)
        scale = scale.view(share) * gain.flatten(1)[:, None]
        shift = offset.flatten(1)[:, None] - mean.view(share) * scale
        return _scaled(rows, scale.flatten(0, 1), shift.flatten(0, 1)).view_as(pixels).permute(0, 3, 1, 2)
    normalised = _scaled(rows, scale, -mean * scale).view(gain.shape[0], -1, *rows.shape[1:])
    # Made contiguous where they are halves of one map, which costs less than reading the halves does.
    shape = (gain.shape[0], 1, *rows.shape[1:])
    gain, offset = (m.permute(0, 2, 3, 1).reshape(shape) for m in (gain, offset))
    return torch.addcmul(offset, normalised, gain).view_as(pixels).permute(0, 3, 1, 2)


def _mean_and_scale(rows: Tensor, channels: int) -> tuple[Tensor, Tensor]:
    """Of rows (B, P, 16 * C) the mean and one over the deviation of each channel: (B, C) each, float32 or wider."""
    wide = torch.promote_types(rows.dtype, torch.float32)
    sums = (part.sum(1, dtype=wide).unflatten(1, (-1, channels)).sum(1) for part in (rows, rows.square()))
    mean, square = (total / (rows[0].numel() // channels) for total in sums)
    return mean, (square - mean.square()).clamp(min=0).add(_EPS).rsqrt()


def _scaled(rows: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """Rows (B, P, 16 * C) times `scale` plus `shift`, (B, C) each."""
    scale, shift = (t.to(rows.dtype).repeat(1, _VECTOR)[:, None] for t in (scale, shift))
    return torch.addcmul(shift, rows, scale)


# Where a convolution of a convolution feels the rim: the place of the lines there, the line of the later kernel that
# then lies outside, the line of the earlier kernel that still reaches inside; first, the map as a whole.
_LINES = (
    (slice(None), slice(None), slice(None)),
    (slice(0, 1), slice(0, 1), slice(2, 3)),
    (slice(-1, None), slice(2, 3), slice(0, 1)),
)


@dataclass
class ComposedPart:
    """A convolution that makes, or corrects, the part of a map at `place`: `kernel`, `bias`, `padding`."""

    place: tuple[slice, slice]
    kernel: Tensor
    bias: Tensor
    padding: tuple[int, int]


def compose(shared: nn.Conv2d, weight: Tensor, bias: Tensor) -> list[ComposedPart]:
    """The parts whose sum is the 3 x 3 convolution (`weight`, `bias`) of the 3 x 3 convolution `shared`.

    First one 5 x 5 convolution of the whole map. It takes `shared` to go on for one pixel outside of the map, where
    the two steps have zeros: four 1 x 5 convolutions take that away along the sides, four 1 x 1 give back the corners,
    which were taken away twice.
    """
    parts = []
    for row, later_row, earlier_row in _LINES:
        for column, later_column, earlier_column in _LINES:
            later = weight[:, :, later_row, later_column]
            earlier = shared.weight[:, :, earlier_row, earlier_column]
            # kernel[o, i] = sum over h of the full convolution of later[o, h] with earlier[h, i].
            kernel = F.conv_transpose2d(earlier.transpose(0, 1), later.transpose(0, 1)).transpose(0, 1)
            constant = later.sum((2, 3)) @ shared.get_parameter("bias")
            inside = (row == slice(None), column == slice(None))
            if inside[0] != inside[1]:
                kernel, constant = -kernel, -constant
            constant = constant + bias if all(inside) else constant
            parts.append(ComposedPart((row, column), kernel, constant, (2 * inside[0], 2 * inside[1])))
    return parts


def both_kernels(layer: SPADE) -> tuple[Tensor, Tensor]:
    """Weight and bias of SPADE's second step: for the gain, then for the offset."""
    bias = torch.cat([layer.gamma.get_parameter("bias") + 1, layer.beta.get_parameter("bias")])
    return torch.cat([layer.gamma.weight, layer.beta.weight]), bias


def saved_by_composing(layer: SPADE) -> int:
    """Multiplications per pixel that composing a SPADE's convolutions saves; negative where it costs some."""
    condition, hidden, channels = layer.shared.in_channels, layer.shared.out_channels, layer.gamma.out_channels
    return 9 * hidden * (condition + 2 * channels) - 25 * condition * 2 * channels


class ComposedSPADE(SPADE):
    """`SPADE` for training, its convolutions composed into one in each step: the same function and gradients.

    Both being linear, they equal one 5 x 5 convolution except on the outermost pixels, where the inner zero padding
    shows. With a narrow condition (a heatmap) that costs a fraction. Parameters and their names are the layer's own.
    """

    def __init__(self, layer: SPADE) -> None:
        nn.Module.__init__(self)
        self.shared, self.gamma, self.beta = layer.shared, layer.gamma, layer.beta

    def modulation(self, condition: Tensor) -> Modulation:
        whole, *rim = compose(self.shared, *both_kernels(self))
        maps = F.conv2d(condition, whole.kernel, whole.bias, padding=2)
        for part in rim:
            row, column = part.place
            maps[..., row, column] += F.conv2d(
                condition[..., row, column], part.kernel, part.bias, padding=part.padding
            )
        gain, offset = maps.chunk(2, dim=1)
        return gain, offset


def compose_for_training(network: Network) -> Network:
    """Replace, in place, each `SPADE` by its composed form where that saves much; the state dict stays."""
    for module in list(network.modules()):
        for name, child in module.named_children():
            # Below that, making the kernels anew for each batch outweighs what is saved.
            if type(child) is SPADE and saved_by_composing(child) > 20_000:
                setattr(module, name, ComposedSPADE(child))
    return network


class PreparedSPADE(nn.Module):
    """`SPADE` with its kernels made: two in steps, or their composition and its rim."""

    def __init__(self, layer: SPADE) -> None:
        super().__init__()
        weight, bias = both_kernels(layer)
        if saved_by_composing(layer) > 2_000:  # the kernels cost nothing here, the rim's small convolutions do
            parts = compose(layer.shared, weight, bias)
            self.places = [part.place for part in parts]
            self.steps = nn.ModuleList(_convolution(part.kernel, part.bias, part.padding) for part in parts)
        else:
            self.places = []
            self.steps = nn.ModuleList([layer.shared, _convolution(weight, bias, (1, 1))])

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        return modulate(x, *self.modulation(condition))

    def modulation(self, condition: Tensor) -> Modulation:
        """Gain and offset, each (B, C, H, W), from (B, K, H, W)."""
        maps = self.steps[0](condition)
        if not self.places:
            maps = self.steps[1](maps)
        for (row, column), step in zip(self.places[1:], self.steps[1:], strict=False):
            maps[..., row, column] += step(condition[..., row, column])
        gain, offset = maps.chunk(2, dim=1)
        return gain, offset


class PreparedAdaIN(nn.Module):
    """`AdaIN` in whatever order the memory of its input has."""

    def __init__(self, layer: AdaIN) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor, code: Tensor) -> Tensor:
        return modulate(x, *self.modulation(code))

    def modulation(self, code: Tensor) -> Modulation:
        """Gain and offset, each (B, C, 1, 1), from (B, K)."""
        return self.layer.modulation(code)


class PreparedBlock(nn.Module):
    """`ModulatedBlock` that activates in place."""

    def __init__(self, block: ModulatedBlock) -> None:
        super().__init__()
        self.norm1, self.conv1, self.norm2, self.conv2 = block.norm1, block.conv1, block.norm2, block.conv2

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        return self.modulated(x, *self.modulations(condition))

    def modulations(self, condition: Tensor) -> tuple[Modulation, Modulation]:
        """Those of both norms."""
        return self.norm1.modulation(condition), self.norm2.modulation(condition)

    def modulated(self, x: Tensor, first: Modulation, second: Modulation) -> Tensor:
        """The block where its modulations are known."""
        x = self.conv1(F.leaky_relu_(modulate(x, *first), 0.2))
        return self.conv2(F.leaky_relu_(modulate(x, *second), 0.2))


def _convolution(weight: Tensor, bias: Tensor, padding: tuple[int, int]) -> nn.Conv2d:
    outputs, inputs, height, width = weight.shape
    layer = nn.Conv2d(inputs, outputs, (height, width), padding=padding)
    layer.weight, layer.bias = nn.Parameter(weight.detach()), nn.Parameter(bias.detach())
    return layer.requires_grad_(False)


class PreparedSpatialPath(nn.Module):
    """`SpatialPath` whose references carry their share of AdaAT and of the alignment encoder's first layer."""

    def __init__(self, path: SpatialPath) -> None:
        super().__init__()
        self.path = path
        first, *tail = path.alignment
        self.tail = nn.Sequential(*tail)
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
        alignment = self.tail(torch.relu(content + self.heatmap(self.path.heatmap_encoder(heatmap)))).mean((2, 3))
        code = torch.cat([audio, alignment], dim=1)
        transforms = cast(Iterable[AdaAT], self.path.transforms)
        moved = (transform.move(m, code) for m, transform in zip(maps, transforms, strict=True))
        pairs = zip(self.path.post_blocks, moved, strict=True)
        layout: Any = {"dtype": content.dtype, "memory_format": torch.channels_last}
        return tuple(post_block(m.to(**layout)) for post_block, m in pairs)


class PreparedTemporalPath(nn.Module):
    """`TemporalPath` of frames that share their references: warping and averaging are one weighted sum."""

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
        estimate = self._estimator(heatmap, audio)
        if batch[0] == 1 and features[0].nbytes > _CACHE_BYTES:
            estimates = [estimate(reference) for reference in features.split(1)]
            flow, confidence = (torch.cat(part) for part in zip(*estimates, strict=True))
        else:
            flow, confidence = estimate(maps[1].flatten(0, 1))
        grid = deformation(flow)
        first, *rest = (warp_mean(m[0], resize_deformation(grid, m.shape[-1]), confidence) for m in maps)
        first, image = first.split([first.shape[1] - 3, 3], dim=1)
        return Warped((first, *rest), image, flow.unflatten(0, batch), confidence.unflatten(0, batch))

    def _estimator(self, heatmap: Tensor, audio: Tensor) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
        """`TemporalPath.estimate` under one condition, whose part is computed once for however many references."""
        path, half = self.path, F.interpolate(heatmap, scale_factor=0.5)
        blocks = (path.spade1, half), (path.adain1, audio), (path.spade2, half), (path.adain2, audio)
        steps = [(cast(PreparedBlock, block), condition) for block, condition in blocks]
        known = [(block, block.modulations(condition)) for block, condition in steps]
        spade3 = cast(PreparedBlock, path.spade3)
        last = spade3.modulations(heatmap)

        def estimate(x: Tensor) -> tuple[Tensor, Tensor]:
            for block, modulations in known:
                x = block.modulated(x, *modulations)
            x = spade3.modulated(F.pixel_shuffle(x, 2), *last)
            return path.flow(x), path.confidence(x)

        return estimate


def warp_mean(maps: Tensor, grid: Tensor, confidence: Tensor) -> Tensor:
    """Mean of warped references, as `models.temporal_path.weighted_mean` of sampled ones has it.

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
    ComposedSPADE: PreparedSPADE,
    AdaIN: PreparedAdaIN,
    SPADEBlock: PreparedBlock,
    AdaINBlock: PreparedBlock,
    SpatialPath: PreparedSpatialPath,
}
