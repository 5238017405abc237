"""Faces at the frames' own resolution within training: what `face.native_resolution` makes of them, with gradients."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from stsa_lightning.face.native_resolution import AGREE_LEVELS, AGREE_SIGMA, smoothing_sigma
from stsa_lightning.models.synthesis import SynthesisOutput
from stsa_lightning.models.temporal_path import deformation


def native_faces(output: SynthesisOutput, references: Tensor, theta: Tensor | None) -> tuple[Tensor, Tensor]:
    """Generated faces at their references' resolution, with the references' own detail.

    Args:
        output: of F frames at S x S.
        references: (F, N, 3, H, H) in [0, 1], the same that `output` was made from, H above S.
        theta: (F, N, 2, 3) of networks with `align_references`; None: of others.

    Returns:
        The warped references and the faces, (F, 3, H, H) each.
    """
    side, size = output.face.shape[-1], references.shape[-1]
    with torch.autocast(references.device.type, enabled=False):
        face = output.face.float()
        warped = _warped_mean(output.flow, output.confidence.float(), references.float(), theta)
        own = face - F.interpolate(warped, (side, side), mode="area")
        apart = _smoothed((255 * own).abs().amax(1, keepdim=True), AGREE_SIGMA)
        agrees = _enlarged(torch.exp(-(apart / AGREE_LEVELS).square()), size)
        sharp = warped + _enlarged(_smoothed(own, smoothing_sigma(size / side)), size)
        return warped, torch.lerp(F.interpolate(face, (size, size), mode="bicubic"), sharp, agrees).clamp(0, 1)


def _warped_mean(flow: Tensor, confidence: Tensor, references: Tensor, theta: Tensor | None) -> Tensor:
    """The references' mean by confidence, (F, 3, H, H): places composed first, so that each is read once."""
    size, shape = references.shape[-1], references.shape[:2]
    still = torch.eye(2, 3, device=flow.device).expand(*shape, 2, 3)
    places = deformation(flow.flatten(0, 1)).permute(0, 3, 1, 2)
    # Places are linear in themselves: only what the network adds to them has to be enlarged.
    moved = _enlarged(places - _centres(flow.shape[-1], flow), size) + _centres(size, flow)
    turned = (still if theta is None else theta.float()).flatten(0, 1)
    grid = torch.einsum("fij,fjhw->fhwi", turned[..., :2], moved) + turned[:, None, None, :, 2]
    read = F.grid_sample(references.flatten(0, 1), grid, "bicubic", padding_mode="border", align_corners=False)
    shares = confidence / confidence.sum(1, keepdim=True).clamp(min=1e-6)
    return (read.unflatten(0, shape) * _enlarged(shares.flatten(0, 1), size).unflatten(0, shape)).sum(1)


def _centres(size: int, like: Tensor) -> Tensor:
    """(2, `size`, `size`): where pixels lie, x then y, from -1 to 1 at the picture's edges."""
    line = (2 * torch.arange(size, device=like.device, dtype=torch.float32) + 1) / size - 1
    return torch.stack(torch.meshgrid(line, line, indexing="xy"))


def _enlarged(maps: Tensor, size: int) -> Tensor:
    return F.interpolate(maps, (size, size), mode="bilinear")


def _smoothed(maps: Tensor, sigma: float) -> Tensor:
    """(F, C, S, S) under a Gaussian of `sigma` pixels, mirrored at the edges."""
    reach = max(1, round(4 * sigma))
    weights = torch.exp(-torch.arange(-reach, reach + 1, device=maps.device).square() / (2 * sigma**2))
    weights = (weights / weights.sum()).to(maps.dtype)
    planes = F.pad(maps, (reach,) * 4, mode="reflect").flatten(0, 1)[:, None]
    smooth = F.conv2d(F.conv2d(planes, weights[None, None, None]), weights[None, None, :, None])
    return smooth[:, 0].unflatten(0, maps.shape[:2])
