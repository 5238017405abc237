"""The straight per-frame form: what the published inference does, literally, with our networks' weights.

Each frame alone: guidance for a window of five frames with one kept; references encoded anew; every SPADE modulation
by its two convolutions after each other, once per reference; AdaAT in a volume; and, as published, the loss network
run on what came out. Plain contiguous float32. Nothing here is slower than PyTorch makes it: it is the yardstick, and
an independent reference that the engine is tested against.
"""

from __future__ import annotations

import copy
from typing import TypeVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stsa_lightning.losses.perceptual import BLOCKS, WIDTHS
from stsa_lightning.models.adaat import AdaAT
from stsa_lightning.models.guidance import Guidance
from stsa_lightning.models.synthesis import Synthesis
from stsa_lightning.models.temporal_path import TemporalPath, Warped, deformation, resize_deformation

Network = TypeVar("Network", bound=nn.Module)
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.LayerNorm)


class StraightAdaAT(nn.Module):
    """One volume per frame, whose depth is the channel, sampled in three dimensions."""

    def __init__(self, layer: AdaAT) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, maps: Tensor, code: Tensor) -> Tensor:
        batch, channels, height, width = maps.shape
        plane = self.layer.grid(code, height, width)  # (B, C, h, w, 2)
        depth = (
            torch.linspace(-1, 1, channels, device=maps.device)
            .view(1, channels, 1, 1, 1)
            .expand(batch, channels, height, width, 1)
        )
        return F.grid_sample(maps.unsqueeze(1), torch.cat([plane, depth], dim=-1), align_corners=False).squeeze(1)


class StraightTemporalPath(nn.Module):
    """The frame's conditions repeated for each reference; every reference's maps sampled at the flow, then averaged."""

    def __init__(self, path: TemporalPath) -> None:
        super().__init__()
        self.path = path

    def encode(self, images: Tensor, heatmaps: Tensor) -> tuple[Tensor, ...]:
        return self.path.encode(images, heatmaps)

    def forward(self, images: Tensor, maps: tuple[Tensor, ...], heatmap: Tensor, audio: Tensor) -> Warped:
        batch = images.shape[:2]
        each = (condition.repeat_interleave(batch[1], dim=0) for condition in (heatmap, audio))
        flow, confidence = self.path.estimate(maps[1].flatten(0, 1), *each)
        grid, warped = deformation(flow), []
        for m in (*maps, images):
            size = m.shape[-1]
            moved = F.grid_sample(m.flatten(0, 1), resize_deformation(grid, size), align_corners=False)
            weight = F.interpolate(confidence, (size, size)).unflatten(0, batch)
            warped.append((moved.unflatten(0, batch) * weight).sum(1) / (weight.sum(1) + 1e-5))
        return Warped(tuple(warped[:3]), warped[3], flow.unflatten(0, batch), confidence.unflatten(0, batch))


_STRAIGHT: dict[type[nn.Module], type[nn.Module]] = {
    AdaAT: StraightAdaAT,
    TemporalPath: StraightTemporalPath,
}


def straighten(module: nn.Module) -> nn.Module:
    """Replace, in place, what has a quicker equal by its definition."""
    for name, child in module.named_children():
        straighten(child)
        if type(child) in _STRAIGHT:
            setattr(module, name, _STRAIGHT[type(child)](child))
    return module


class LossNetwork(nn.Module):
    """VGG19 up to relu5_1 on a picture at two scales; its weights decide no time, so they are random."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = 3
        for block, (count, width) in enumerate(zip(BLOCKS["vgg19"], WIDTHS, strict=True)):
            layers += [nn.MaxPool2d(2)] if block else []
            for _ in range(count if block < 4 else 1):
                layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU()]
                channels = width
        self.layers = nn.Sequential(*layers)

    def forward(self, images: Tensor) -> list[Tensor]:
        return [self.layers(images), self.layers(F.avg_pool2d(images, 2))]


def seeded(network: Network, seed: int = 0) -> Network:
    """Random weights under which signals keep their size from layer to layer, as trained ones do; changed in place."""
    generator = torch.Generator().manual_seed(seed)
    norms = {id(p) for m in network.modules() if isinstance(m, NORMS) for p in m.parameters()}
    for name, value in [*network.named_parameters(), *network.named_buffers()]:
        if name.endswith("running_var") or (id(value) in norms and name.endswith("weight")):
            value.data.uniform_(0.5, 1.5, generator=generator)
        elif name.endswith(("running_mean", "bias")):
            value.data.normal_(0, 0.1, generator=generator)
        elif isinstance(value, nn.Parameter):
            value.data.normal_(0, value[0].numel() ** -0.5, generator=generator)
    return network.eval()


class StraightForm:
    """One frame after the other, from the same weights as the networks given (which stay as they are).

    Args:
        guidance, synthesis: the networks.
        device: where to compute.
    """

    def __init__(self, guidance: Guidance, synthesis: Synthesis, device: str | torch.device = "cpu") -> None:
        self.device = torch.device(device)
        self.guidance = copy.deepcopy(guidance).float().to(self.device).eval()
        self.synthesis = cast(Synthesis, straighten(copy.deepcopy(synthesis).float().to(self.device).eval()))
        self.loss_network = LossNetwork().to(self.device).eval()

    @torch.inference_mode()
    def frame(
        self,
        masked_face: Tensor,
        masked_heatmaps: Tensor,
        audio: Tensor,
        images: Tensor,
        heatmaps: Tensor,
        theta: Tensor | None = None,
        *,
        loss_network: bool = False,
    ) -> Tensor:
        """One frame.

        Args:
            masked_face: (1, 3, S, S), lower half 0.
            masked_heatmaps: (1, T, 1, S, S) masked_face heatmaps of its window.
            audio: (1, T, D, 10).
            images, heatmaps: (1, N, 3, S, S) and (1, N, 1, S, S) of the references.
            theta: (1, N, 2, 3) where they are read, for networks trained so.
            loss_network: also run VGG19 on the face and on its truth, as the published inference does.

        Returns:
            (1, 3, S, S) in [0, 1], on the processor.
        """
        masked_face, masked_heatmaps, audio, images, heatmaps = (
            tensor.to(self.device) for tensor in (masked_face, masked_heatmaps, audio, images, heatmaps)
        )
        theta = None if theta is None else theta.to(self.device)
        centre = audio.shape[1] // 2
        heatmap = self.guidance(audio, masked_heatmaps, heatmaps).heatmap[:, centre]
        output = self.synthesis(masked_face, heatmap, audio[:, centre], images, heatmaps, theta)
        if loss_network:
            for picture in (output.face, masked_face):
                self.loss_network(picture)
        return output.face.cpu()
