from __future__ import annotations

import math
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from stsa_lightning.losses.cil import CILLoss
from stsa_lightning.losses.mutual_information import MINE
from stsa_lightning.models.adaat import AdaAT, blend_neighbours
from stsa_lightning.models.convert_released import convert_cil, convert_synthesis
from stsa_lightning.models.layers import sample
from stsa_lightning.models.presets import SYNTHESIS
from stsa_lightning.models.synthesis import Synthesis, SynthesisOutput, mask_lower_half
from stsa_lightning.models.temporal_path import deformation, resize_deformation, weighted_mean


def inputs(batch: int = 2, references: int = 3, size: int = 64, dim: int = 80) -> dict[str, Tensor]:
    return {
        "masked": mask_lower_half(torch.rand(batch, 3, size, size)),
        "heatmap": torch.rand(batch, 1, size, size),
        "audio": torch.randn(batch, dim, 10),
        "images": torch.rand(batch, references, 3, size, size),
        "heatmaps": torch.rand(batch, references, 1, size, size),
    }


def recorded_inputs(seeded: ModuleType) -> dict[str, Tensor]:
    return {
        "masked": mask_lower_half(seeded.seeded_input("frame", (2, 1, 3, 128, 128))[:, 0]),
        "heatmap": seeded.seeded_input("driving_heatmap", (2, 1, 1, 128, 128))[:, 0],
        "audio": seeded.seeded_input("frame_audio", (2, 1, 768, 10), "normal")[:, 0],
        "images": seeded.seeded_input("reference_image", (2, 5, 3, 128, 128)),
        "heatmaps": seeded.seeded_input("reference_image_heatmap", (2, 5, 1, 128, 128)),
    }


@torch.no_grad()
def test_reproduces_the_released_network(parity: Path, seeded: ModuleType) -> None:
    record = np.load(parity / "synthesis.npz")
    network = Synthesis(**SYNTHESIS["released"]).eval()
    state = seeded.seeded_state("synthesis_state.json")
    network.load_state_dict(convert_synthesis(state, bgr=False))
    output = network(**recorded_inputs(seeded))
    cil = CILLoss(network.channels, MINE(128)).eval()
    cil.load_state_dict(convert_cil(state))
    spatial, temporal = cil.embed(output.spatial), cil.embed(output.temporal)
    answers = {
        "audio_feature": output.audio,
        "spatial_32": output.spatial[2][:1],
        "temporal_32": output.temporal[2][:1],
        "fused_32": output.fused[2][:1],
        "spatial_pooled": torch.stack(spatial, dim=1),
        "temporal_pooled": torch.stack(temporal, dim=1),
        "warped_reference": output.warped,
        "face": output.face,
    }
    for name in record:
        np.testing.assert_allclose(answers[name], record[name], atol=1e-4, rtol=0, err_msg=name)


def test_released_size() -> None:
    with torch.device("meta"):
        network = Synthesis()
    # The released 41.6 M have an unused encoder (97,536), MINE (49,537), CIL's heads and every heatmap channel thrice.
    tripled = sum(
        (3 * channels - channels) * kernel**2 * outputs * times
        for channels, kernel, outputs, times in [(1, 7, 32, 3), (5, 7, 32, 1), (1, 3, 256, 6)]
    )
    heads = sum(p.numel() for p in CILLoss(network.channels, MINE(128)).heads.parameters())
    assert sum(p.numel() for p in network.parameters()) == 41_586_052 - 97_536 - 49_537 - heads - tripled
    assert network.settings == {**SYNTHESIS["released"], "align_references": False}


@pytest.mark.parametrize("size", [64, 128, 256])
def test_any_face_size(size: int) -> None:
    network = Synthesis(**{**SYNTHESIS["tiny"], "face_size": size})
    output = network(**inputs(size=size))
    assert output.face.shape == output.warped.shape == (2, 3, size, size)
    assert output.flow.shape == (2, 3, 2, size, size)
    assert output.confidence.shape == (2, 3, 1, size, size)
    for maps in (output.spatial, output.temporal, output.fused):
        assert [m.shape[1:] for m in maps] == [(6, size, size), (24, size // 2, size // 2), (48, size // 4, size // 4)]


def test_everything_learns(tiny_synthesis: Synthesis) -> None:
    tiny_synthesis.train()
    output = tiny_synthesis(**inputs())
    (output.face.mean() + output.warped.mean()).backward()
    idle = [name for name, p in tiny_synthesis.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    assert idle == []


def test_tiny_is_small(tiny_synthesis: Synthesis) -> None:
    assert sum(p.numel() for p in tiny_synthesis.parameters()) < 1.5e6


def pictures(output: SynthesisOutput) -> list[Tensor]:
    return [output.face, output.warped, *output.fused]


@torch.no_grad()
def test_references_encoded_once_serve_every_frame(tiny_synthesis: Synthesis) -> None:
    frames, one = inputs(batch=4), inputs(batch=1)
    references = tiny_synthesis.encode_references(one["images"], one["heatmaps"])
    driving = [frames[name] for name in ("masked", "heatmap", "audio")]
    at_once = pictures(tiny_synthesis.render(*driving, references.expand(4)))
    for i in range(4):
        single = tiny_synthesis(*(x[i : i + 1] for x in driving), one["images"], one["heatmaps"])
        for ours, theirs in zip(at_once, pictures(single), strict=True):
            torch.testing.assert_close(ours[i : i + 1], theirs, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_references_repeat_for_the_frames_of_a_window(tiny_synthesis: Synthesis) -> None:
    frames, samples = inputs(batch=6), inputs(batch=2)
    driving = [frames[name] for name in ("masked", "heatmap", "audio")]
    references = tiny_synthesis.encode_references(samples["images"], samples["heatmaps"]).repeat_interleave(3)
    rendered = tiny_synthesis.render(*driving, references)
    repeated = [samples[name].repeat_interleave(3, dim=0) for name in ("images", "heatmaps")]
    for ours, theirs in zip(pictures(rendered), pictures(tiny_synthesis(*driving, *repeated)), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)


# The warped reference, corrected.
RESIDUAL = {"on_warped": True, "base_reduction": 1, "blend": False}


def test_painting_starts_from_the_warped_reference_on_demand(tiny_synthesis: Synthesis) -> None:
    given = inputs()
    with torch.no_grad():
        output = Synthesis(**{**tiny_synthesis.settings, **RESIDUAL}).eval()(**given)
        plain = Synthesis(**{**tiny_synthesis.settings, "on_warped": False, "blend": False}).eval()(**given)
    inside = (..., slice(32, -4), slice(4, -4))  # the flow may draw in black at the rim
    assert (output.face - output.warped)[inside].abs().mean() < 0.02
    torch.testing.assert_close(output.face[..., :32, :], given["masked"][..., :32, :], atol=0.05, rtol=0)
    assert (plain.face - plain.warped)[inside].abs().mean() > 0.05


def test_a_coarse_base_keeps_the_detail_of_the_warped_reference_out_of_the_picture(tiny_synthesis: Synthesis) -> None:
    given = inputs()
    network = Synthesis(**{**tiny_synthesis.settings, **RESIDUAL, "base_reduction": 8}).eval()
    torch.nn.init.zeros_(network.inpainting.last.weight)  # nothing is painted: the base alone
    with torch.no_grad():
        output = network(**given)
    low = torch.nn.functional.avg_pool2d(output.warped, 8)
    expected = torch.nn.functional.interpolate(low, (64, 64), mode="bilinear").clamp(0.02, 0.98)
    torch.testing.assert_close(output.face[..., 32:, :], expected[..., 32:, :], atol=1e-5, rtol=0)
    torch.testing.assert_close(output.face[..., :32, :], given["masked"][..., :32, :].clamp(0.02, 0.98))
    with pytest.raises(ValueError, match="base_reduction must divide face_size"):
        Synthesis(**{**tiny_synthesis.settings, "base_reduction": 7})


def test_blend_lays_the_painted_face_over_the_warped_reference_by_its_mask(tiny_synthesis: Synthesis) -> None:
    given = inputs()
    network = Synthesis(**{**tiny_synthesis.settings, "on_warped": True, "base_reduction": 8, "blend": True}).eval()
    assert network.inpainting.mask is not None
    torch.nn.init.zeros_(network.inpainting.mask.weight)
    lower = (..., slice(32, None), slice(None))
    for share, bias in {0.0: -50.0, 0.25: -math.log(3), 1.0: 50.0}.items():
        torch.nn.init.constant_(network.inpainting.mask.bias, bias)
        with torch.no_grad():
            output = network(**given)
        expected = (1 - share) * output.warped + share * output.painted
        torch.testing.assert_close(output.face[lower], expected[lower], atol=1e-5, rtol=0)
    assert (output.painted - output.warped)[lower].abs().mean() > 0.02
    with pytest.raises(ValueError, match=r"blend .* needs on_warped"):
        Synthesis(**{**tiny_synthesis.settings, "on_warped": False, "blend": True})


def test_temporal_dropout_renders_some_frames_of_a_training_step_by_the_spatial_path(tiny_synthesis: Synthesis) -> None:
    given = inputs()

    def faces(**settings: Any) -> Tensor:
        network = Synthesis(**{**tiny_synthesis.settings, "on_warped": True, **settings})
        network.load_state_dict(tiny_synthesis.state_dict())
        network.eval().training = "temporal_dropout" in settings  # its batch norms stay in eval mode
        torch.manual_seed(0)
        with torch.no_grad():
            return network(**given).face

    whole, spatial = faces(), faces(paths="spatial")
    torch.manual_seed(0)
    kept = torch.rand(len(whole), 1, 1, 1) >= 0.5
    assert kept.any()
    assert not kept.all()
    torch.testing.assert_close(faces(temporal_dropout=0.5), torch.where(kept, whole, spatial))


def test_gradient_reaches_the_driving_heatmap(tiny_synthesis: Synthesis) -> None:
    batch = inputs()
    batch["heatmap"].requires_grad_()
    tiny_synthesis(**batch).face.mean().backward()
    assert batch["heatmap"].grad is not None
    assert batch["heatmap"].grad.abs().sum() > 0


def volume_sampling(layer: AdaAT, maps: Tensor, code: Tensor) -> Tensor:
    """The released AdaAT: one volume per sample, its depth the channel."""
    batch, channels, height, width = maps.shape
    common = torch.relu(layer.common(code))
    scale, angle = 2 * torch.sigmoid(layer.scale(common)), torch.pi * torch.tanh(layer.angle(common))
    shift = torch.tanh(layer.translation(common)).view(batch, channels, 2)
    rotation = torch.stack([angle.cos(), -angle.sin(), angle.sin(), angle.cos()], -1).view(batch, channels, 2, 2)
    z, y, x = (torch.linspace(-1, 1, n) for n in (channels, height, width))
    plane = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1)
    places = torch.einsum("bcij,hwj->bchwi", rotation, plane) * scale[..., None, None, None] + shift[:, :, None, None]
    depth = z.view(1, channels, 1, 1, 1).expand(batch, channels, height, width, 1)
    grid = torch.cat([places, depth], dim=-1)
    return F.grid_sample(maps.unsqueeze(1), grid, align_corners=False).squeeze(1)


@pytest.mark.parametrize("channels", [2, 5, 32])
def test_adaat_equals_sampling_a_volume(channels: int) -> None:
    layer, maps, code = AdaAT(7, channels), torch.randn(3, channels, 9, 12), 4 * torch.randn(3, 7)
    torch.testing.assert_close(layer(maps, code), volume_sampling(layer, maps, code), atol=2e-4, rtol=0)


def test_blend_of_neighbours_keeps_the_middle_and_halves_the_ends() -> None:
    blended = blend_neighbours(torch.ones(1, 5, 1, 1)).flatten()
    torch.testing.assert_close(blended, torch.tensor([0.5, 1, 1, 1, 0.5]))


def test_no_flow_samples_at_the_identity_grid_and_flow_is_in_pixels() -> None:
    image = torch.rand(1, 3, 32, 32)
    still = sample(image, deformation(torch.zeros(1, 2, 32, 32)))
    aligned = F.affine_grid(torch.eye(2, 3)[None], [1, 3, 32, 32], align_corners=True)
    torch.testing.assert_close(still, F.grid_sample(image, aligned, align_corners=False), atol=1e-5, rtol=0)
    flow = torch.zeros(1, 2, 32, 32)
    flow[:, 0], flow[:, 1] = 3, -2
    moved = deformation(flow)
    torch.testing.assert_close(moved[0, 5, 7], deformation(torch.zeros_like(flow))[0, 3, 10])


def test_flow_under_autocast_is_not_rounded_to_eighths_of_a_pixel(tiny_synthesis: Synthesis) -> None:
    with torch.autocast("cpu", torch.bfloat16):
        flow = tiny_synthesis(**inputs()).flow
    assert ((flow.bfloat16().float() - flow).abs() > 0).float().mean() > 0.9


def test_resized_deformation_keeps_its_corners_near() -> None:
    grid = deformation(torch.zeros(1, 2, 32, 32))
    small = resize_deformation(grid, 8)
    assert small.shape == (1, 8, 8, 2)
    torch.testing.assert_close(small.mean((1, 2)), torch.zeros(1, 2), atol=1e-6, rtol=0)
    assert resize_deformation(grid, 32) is grid


def test_weighted_mean_follows_confidence() -> None:
    maps = torch.stack([torch.zeros(1, 4, 8, 8), torch.ones(1, 4, 8, 8)], dim=1)
    confidence = torch.zeros(1, 2, 1, 16, 16)
    confidence[:, 0, :, :, :8], confidence[:, 1, :, :, 8:] = 0.9, 0.3
    mean = weighted_mean(maps, confidence)
    torch.testing.assert_close(mean[..., :4], torch.zeros(1, 4, 8, 4))
    torch.testing.assert_close(mean[..., 4:], torch.full((1, 4, 8, 4), 0.3 / (0.3 + 1e-5)))


def test_masking_blacks_the_lower_half_and_leaves_its_input() -> None:
    faces = torch.ones(2, 3, 8, 8)
    masked = mask_lower_half(faces)
    assert masked[..., :4, :].eq(1).all()
    assert masked[..., 4:, :].eq(0).all()
    assert faces.eq(1).all()


def test_wrong_inputs_are_named(tiny_synthesis: Synthesis) -> None:
    batch = inputs()
    with pytest.raises(ValueError, match=r"images has shape .* expected \(any, 3, 3, 64, 64\)"):
        tiny_synthesis(**{**batch, "images": batch["images"][:, :2]})
    with pytest.raises(ValueError, match="audio has shape"):
        tiny_synthesis(**{**batch, "audio": batch["audio"][:, :13]})
    references = tiny_synthesis.encode_references(batch["images"][:1], batch["heatmaps"][:1])
    with pytest.raises(ValueError, match=r"references\.images has shape"):
        tiny_synthesis.render(batch["masked"], batch["heatmap"], batch["audio"], references)


@torch.no_grad()
def test_bfloat16(tiny_synthesis: Synthesis) -> None:
    batch = inputs()
    exact = tiny_synthesis(**batch)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = tiny_synthesis(**batch)
    assert rough.flow.dtype == rough.confidence.dtype == rough.warped.dtype == torch.float32
    torch.testing.assert_close(rough.face.float(), exact.face, atol=0.05, rtol=0)
    torch.testing.assert_close(rough.warped, exact.warped, atol=0.05, rtol=0)


@pytest.mark.parametrize(("paths", "off"), [("spatial", "temporal"), ("temporal", "spatial")])
def test_an_ablated_path_neither_shapes_the_face_nor_learns_from_it(paths: str, off: str) -> None:
    torch.manual_seed(0)
    network = Synthesis(**{**SYNTHESIS["tiny"], "paths": paths}).eval()
    torch.nn.init.normal_(network.inpainting.last.weight, std=0.1)
    given = inputs()
    face = network(**given).face
    face.square().mean().backward()
    assert all(
        not parameter.grad.any() for parameter in getattr(network, off).parameters() if parameter.grad is not None
    )
    assert any(
        parameter.grad is not None and parameter.grad.any() for parameter in getattr(network, paths).parameters()
    )
    with torch.no_grad():
        for parameter in getattr(network, off).parameters():
            parameter.normal_()
        torch.testing.assert_close(network(**given).face, face)


def test_unknown_paths() -> None:
    with pytest.raises(ValueError, match="paths must be one of both, spatial, temporal, got 'none'"):
        Synthesis(**{**SYNTHESIS["tiny"], "paths": "none"})
