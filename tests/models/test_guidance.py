from __future__ import annotations

from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from stsa_lightning.models.convert_released import convert_guidance
from stsa_lightning.models.guidance import Guidance, HeatmapEncoder, TimeCode
from stsa_lightning.models.presets import GUIDANCE


def inputs(batch: int = 2, frames: int = 5, references: int = 3, size: int = 64, dim: int = 80) -> list[torch.Tensor]:
    shapes = (batch, frames, 1, size, size), (batch, references, 1, size, size)
    return [torch.randn(batch, frames, dim, 10), *(torch.rand(shape) for shape in shapes)]


@torch.no_grad()
def test_reproduces_the_released_network(parity: Path, seeded: ModuleType) -> None:
    record = np.load(parity / "guidance.npz")
    network = Guidance(**GUIDANCE["released"], add_masked=False).eval()
    network.load_state_dict(convert_guidance(seeded.seeded_state("guidance_state.json")))
    output = network(
        seeded.seeded_input("audio", (2, 5, 768, 10), "normal"),
        seeded.seeded_input("masked_heatmap", (2, 5, 1, 128, 128)),
        seeded.seeded_input("reference_heatmap", (2, 5, 1, 128, 128)),
    )
    answers = {"lip_heatmap": output.lip, "jaw_heatmap": output.jaw, "keypoints": output.keypoints}
    for name, answer in answers.items():
        np.testing.assert_allclose(answer.flatten(0, 1), record[name], atol=1e-4, rtol=0, err_msg=name)
    summed = np.minimum(record["heatmap"], 1)
    np.testing.assert_allclose(output.heatmap.flatten(0, 1), summed, atol=1e-4, rtol=0)


def test_released_size() -> None:
    with torch.device("meta"):
        network = Guidance()
    assert sum(p.numel() for p in network.parameters()) == 48_067_896
    assert network.settings == {
        **GUIDANCE["released"],
        "dropout": 0.1,
        "audio_dropout": 0.0,
        "add_masked": True,
        "heatmap_sigma": 0.0,
    }


@pytest.mark.parametrize("size", [64, 128, 256])
def test_any_face_size(size: int) -> None:
    network = Guidance(**{**GUIDANCE["tiny"], "face_size": size})
    output = network(*inputs(batch=1, frames=2, size=size))
    assert output.lip.shape == output.jaw.shape == output.heatmap.shape == (1, 2, 1, size, size)
    assert output.keypoints.shape == (1, 2, 2, 57)
    (output.heatmap.sum() + output.keypoints.sum()).backward()
    assert all(p.grad is not None for p in network.parameters())


def test_tiny_is_small(tiny_guidance: Guidance) -> None:
    assert sum(p.numel() for p in tiny_guidance.parameters()) < 1.5e6


@torch.no_grad()
def test_heatmap_is_the_limited_sum(tiny_guidance: Guidance) -> None:
    audio, masked, references = inputs()
    with_masked = tiny_guidance(audio, masked, references)
    torch.testing.assert_close(with_masked.heatmap, (with_masked.lip + with_masked.jaw + masked).clamp(max=1))
    tiny_guidance.add_masked = False
    without = tiny_guidance(audio, masked, references)
    torch.testing.assert_close(without.heatmap, (without.lip + without.jaw).clamp(max=1))
    assert with_masked.heatmap.max() <= 1
    assert with_masked.lip.min() >= 0


@torch.no_grad()
def test_batch_equals_loop_and_references_are_a_set(tiny_guidance: Guidance) -> None:
    batch = inputs()
    together = tiny_guidance(*batch)
    alone = tiny_guidance(*(x[1:] for x in batch))
    torch.testing.assert_close(together.heatmap[1:], alone.heatmap, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(together.keypoints[1:], alone.keypoints, atol=1e-5, rtol=1e-4)
    audio, masked, references = batch
    shuffled = tiny_guidance(audio, masked, references.flip(1))
    torch.testing.assert_close(together.heatmap, shuffled.heatmap, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_time_code_is_the_sinusoid_and_tells_frames_apart(tiny_guidance: Guidance) -> None:
    table = TimeCode(8).table
    assert table.shape == (512, 8)
    places = np.arange(512)[:, None] / 10_000 ** (np.arange(4) / 4)
    np.testing.assert_allclose(table[:, 0::2], np.sin(places), atol=1e-4)
    np.testing.assert_allclose(table[:, 1::2], np.cos(places), atol=1e-4)
    audio, masked, references = inputs(batch=1)
    same = tiny_guidance(audio[:, :1].expand_as(audio), masked[:, :1].expand_as(masked), references)
    assert not torch.allclose(same.keypoints[:, 0], same.keypoints[:, 4], atol=1e-6)


def test_heatmap_encoder_ends_in_a_code_at_every_size() -> None:
    for size in (64, 128, 256):
        assert HeatmapEncoder(size, 4, 16)(torch.rand(2, 1, size, size)).shape == (2, 16)


def test_wrong_inputs_are_named(tiny_guidance: Guidance) -> None:
    audio, masked, references = inputs()
    with pytest.raises(ValueError, match="audio has shape"):
        tiny_guidance(audio[:, :, :13], masked, references)
    with pytest.raises(ValueError, match="masked_heatmaps has shape"):
        tiny_guidance(audio, masked[:, :3], references)
    with pytest.raises(ValueError, match="reference_heatmaps has shape"):
        tiny_guidance(audio, masked, references[..., :32])
    with pytest.raises(ValueError, match="width must be a multiple"):
        Guidance(**{**GUIDANCE["tiny"], "width": 66})


@torch.no_grad()
def test_bfloat16(tiny_guidance: Guidance) -> None:
    batch = inputs()
    exact = tiny_guidance(*batch)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = tiny_guidance(*batch)
    torch.testing.assert_close(rough.heatmap.float(), exact.heatmap, atol=0.05, rtol=0)


def test_heatmaps_drawn_through_keypoints_are_those_that_drive_the_picture() -> None:
    guidance = Guidance(**{**GUIDANCE["tiny"], "heatmap_sigma": 1.0})
    audio, masked, references = inputs()
    output = guidance(audio, masked, references)
    drawn = guidance.draw(output.keypoints.flatten(0, 1), masked.flatten(0, 1))
    torch.testing.assert_close(drawn, output.heatmap.flatten(0, 1))
    with pytest.raises(ValueError, match="do not draw"):
        Guidance(**GUIDANCE["tiny"]).draw(output.keypoints.flatten(0, 1), masked.flatten(0, 1))


def test_keypoints_under_autocast_tell_a_shut_mouth_from_one_that_is_ajar(tiny_guidance: Guidance) -> None:
    """In bfloat16 a place beyond the middle of the box is a multiple of 1/256 or 1/128: half a pixel of 128, or one."""
    with torch.autocast("cpu", torch.bfloat16):
        keypoints = tiny_guidance(*inputs()).keypoints
    assert keypoints.dtype == torch.float32
    assert ((512 * keypoints) % 1 > 0).float().mean() > 0.9


def test_audio_dropout_hides_whole_features_in_training_alone() -> None:
    torch.manual_seed(0)
    guidance = Guidance(**{**GUIDANCE["tiny"], "audio_dropout": 0.5})
    seen: list[torch.Tensor] = []
    guidance.audio_encoder[0].register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    windows = torch.rand(6, 80, 10) + 0.1
    guidance.train().embed_audio(windows)
    guidance.eval().embed_audio(windows)
    hidden = seen[0] == 0
    assert torch.equal(hidden.all(-1), hidden.any(-1))  # the whole window of a feature, or nothing of it
    assert 0.4 < hidden.float().mean() < 0.6
    torch.testing.assert_close(seen[0][~hidden], 2 * windows[~hidden])
    assert torch.equal(seen[1], windows)
