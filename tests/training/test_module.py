"""The LightningModule: what each phase computes and trains, without a trainer where that can be seen."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from stsa_lightning.losses.balance import gradient_norms
from stsa_lightning.losses.objective import LossWeights, mouths
from stsa_lightning.models.checkpoint import load_networks, save_networks
from stsa_lightning.models.synthesis import mask_lower_half, warp_references
from stsa_lightning.training.module import STSA
from stsa_lightning.training.phases import PHASES
from stsa_lightning.utils.errors import UserError

SIZES: dict[str, Any] = {"preset": "tiny", "face_size": 64, "num_references": 2, "num_frames": 3}
SMALL = {**SIZES, "cil": {"weight": 0.0}}
NO_VGG = {"warp": 0.0, "perceptual": 0.0}
PLAIN = LossWeights(**NO_VGG, warp_pixel=1.0, pixel=1.0, adversarial=0.0, feature_matching=0.0)


def batch(size: int = 2, frames: int = 3, references: int = 2, face: int = 64) -> dict[str, Any]:
    def uniform(*shape: int) -> Tensor:
        return torch.rand(shape, generator=generator)

    generator = torch.Generator().manual_seed(0)
    maps = (size, frames, 1, face, face)
    return {
        "faces": uniform(size, frames, 3, face, face),
        **{f"{kind}heatmaps": uniform(*maps) for kind in ("", "masked_", "lip_", "jaw_")},
        "keypoints": uniform(size, frames, 2, 57),
        "audio": uniform(size, frames, 80, 10),
        "references": uniform(size, references, 3, face, face),
        "reference_heatmaps": uniform(size, references, 1, face, face),
        "frame": torch.arange(size),
        "clip": ["a"] * size,
    }


def test_a_zero_weight_builds_nothing():
    module = STSA(**SMALL, losses={"weights": PLAIN})
    assert module.objective.perceptual is None
    assert module.objective.cil is None
    assert module.objective.discriminator is None
    assert module.objective.temporal_discriminator is None
    assert len(module.configure_optimizers()) == 1


def test_discriminators_and_cil_are_built_on_demand():
    weights = LossWeights(**NO_VGG, temporal_adversarial=0.1)
    module = STSA(**SIZES, losses={"weights": weights}, discriminator={"width": 8})
    generator, discriminators = module.configure_optimizers()
    assert discriminators.defaults["betas"] == (0.5, 0.999)
    count = sum(p.numel() for m in module.objective.discriminators() for p in m.parameters())
    assert sum(p.numel() for p in discriminators.param_groups[0]["params"]) == count
    learning = module.guidance, module.synthesis, module.objective.cil
    own = sum(p.numel() for m in learning for p in m.parameters())
    assert sum(p.numel() for p in generator.param_groups[0]["params"]) == own


@pytest.mark.parametrize("phase", PHASES)
def test_a_phase_frees_its_networks_alone(phase):
    module = STSA(**SMALL, losses={"weights": replace(PLAIN, audio_lip_aperture=1.0)})
    module.set_phase(phase)
    guidance = {name.split(".")[0] for name, p in module.guidance.named_parameters() if p.requires_grad}
    synthesis = any(p.requires_grad for p in module.synthesis.parameters())
    whole = {name for name, _ in module.guidance.named_children()}
    audio = {"audio_encoder", "norm"}
    assert guidance == {"audio_pretrain": audio, "guidance": whole, "end_to_end": whole}.get(phase, set())
    assert synthesis == (phase not in ("audio_pretrain", "guidance"))


def test_phase_audio_pretrain_learns_from_audio_alone():
    module = STSA(**SMALL, losses={"weights": replace(PLAIN, audio_lip_aperture=1.0)})
    module.set_phase("audio_pretrain")
    sound = {"audio": batch()["audio"], "lip_aperture": torch.randn(2, 3, 3)}  # no picture, no contour is asked for
    generated = module.generate(sound)
    assert generated.terms.keys() == {"audio_lip_aperture"}
    assert generated.face is None
    generated.terms["audio_lip_aperture"].backward()
    assert all(p.grad is not None for p in module.guidance.audio_encoder.parameters())
    assert all(p.grad is None for p in module.guidance.fusion.parameters())
    with pytest.raises(UserError, match=r"weights\.audio_lip_aperture alone: set it above 0"):
        STSA(**SMALL, losses={"weights": PLAIN}).set_phase("audio_pretrain")


def test_end_to_end_the_picture_reaches_the_guidance_network():
    module = STSA(**SMALL, losses={"weights": PLAIN})
    example = batch()
    prediction = module.predict_heatmaps(example)
    output, target = module.synthesise(example, prediction.heatmap)
    (output.face - target).abs().mean().backward()
    assert sum(float(p.grad.abs().sum()) for p in module.guidance.parameters() if p.grad is not None) > 0


def test_losses_are_those_of_the_definitions():
    module = STSA(**SMALL, losses={"weights": PLAIN}).eval()
    example = batch()
    with torch.no_grad():
        prediction = module.predict_heatmaps(example)
        output, target = module.synthesise(example, prediction.heatmap)
        losses = module.generate(example).terms
    lip = (prediction.lip - example["lip_heatmaps"]).square().mean()
    jaw = (prediction.jaw - example["jaw_heatmaps"]).square().mean()
    torch.testing.assert_close(losses["heatmap"], lip + jaw)
    torch.testing.assert_close(losses["keypoints"], (prediction.keypoints - example["keypoints"]).abs().mean())
    torch.testing.assert_close(target, example["faces"][:, 1])
    torch.testing.assert_close(losses["pixel"], (output.face - target).abs().mean())
    torch.testing.assert_close(losses["warp_pixel"], (output.warped - target).abs().mean())
    assert set(losses) == {"heatmap", "keypoints", "keypoint_velocity", "heatmap_velocity", "pixel", "warp_pixel"}


def test_the_warp_phase_leaves_the_face_and_cil_alone():
    module = STSA(**SIZES, losses={"weights": PLAIN})
    module.set_phase("warp")
    generated = module.generate(batch())
    assert set(generated.terms) == {"warp_pixel"}
    assert generated.face is None


def test_every_term_of_a_step_shows_its_gradient_at_the_predicted_heatmaps():
    module = STSA(**SIZES, losses={"weights": PLAIN})
    generated = module.generate(batch())
    heatmaps, terms = generated.places["heatmap"], generated.terms
    assert set(terms) == {"heatmap", "keypoints", "keypoint_velocity", "heatmap_velocity", "pixel", "warp_pixel", "cil"}
    norms = gradient_norms(terms, heatmaps)
    assert set(norms) == set(terms)
    assert all(norm > 0 for norm in norms.values())
    # The heatmap term is a mean of squares: 2 (prediction - target) / number of pixels.
    example = batch()
    errors = [maps - example[f"{kind}_heatmaps"] for kind, maps in zip(("lip", "jaw"), heatmaps, strict=True)]
    expected = torch.stack([2 * error.norm() / error.numel() for error in errors]).norm()
    torch.testing.assert_close(norms["heatmap"], expected.detach())


def test_cil_with_a_gradient_share_has_that_share_at_the_paths():
    module = STSA(**SIZES, losses={"weights": PLAIN}, cil={"gradient_share": 0.05})
    module.set_phase("synthesis")
    generated = module.generate(batch())
    total, weights = module.total_loss(generated)
    values = {name: weights[name] * value for name, value in generated.terms.items()}
    torch.testing.assert_close(total, torch.stack(list(values.values())).sum())
    others = torch.stack([value for name, value in values.items() if name != "cil"]).sum()
    norms = gradient_norms({"cil": values["cil"], "others": others}, generated.places["paths"])
    assert (norms["cil"] / (norms["cil"] + norms["others"])).item() == pytest.approx(0.05, rel=1e-4)
    assert "cil_share.ratio" in module.state_dict()


def test_aligned_references_follow_each_frame():
    module = STSA(**SMALL, losses={"weights": PLAIN}, synthesis={"align_references": True}).eval()
    example = batch()
    with pytest.raises(KeyError, match="theta"):
        module.synthesise(example, example["heatmaps"])
    example["theta"] = torch.eye(2, 3) + 0.1 * torch.randn(2, 3, 2, 2, 3)
    plain = STSA(**SMALL, losses={"weights": PLAIN}).synthesis.eval()
    plain.load_state_dict(module.synthesis.state_dict())
    with torch.no_grad():
        every, _ = module.synthesise(example, example["heatmaps"], every_frame=True)
        for frame in range(6):
            window, place = divmod(frame, 3)
            moved = warp_references(
                example["references"][window : window + 1],
                example["reference_heatmaps"][window : window + 1],
                example["theta"][window : window + 1, place],
            )
            masked = mask_lower_half(example["faces"][window : window + 1, place])
            heatmap, audio = (example[name][window : window + 1, place] for name in ("heatmaps", "audio"))
            expected = plain(masked, heatmap, audio, *moved).face[0]
            torch.testing.assert_close(every.face[frame], expected, atol=1e-5, rtol=0)


def test_every_frame_of_a_window_can_be_rendered():
    module = STSA(**SMALL, losses={"weights": PLAIN}).eval()
    example = batch()
    with torch.no_grad():
        centre, _ = module.synthesise(example, example["heatmaps"])
        every, target = module.synthesise(example, example["heatmaps"], every_frame=True)
    assert every.face.shape == (6, 3, 64, 64)
    torch.testing.assert_close(target.unflatten(0, (2, 3)), example["faces"])
    torch.testing.assert_close(every.face.unflatten(0, (2, 3))[:, 1], centre.face, atol=1e-5, rtol=1e-4)
    assert mouths(every.face, 3).shape == (2, 3, 3, 32, 64)


def test_the_upper_half_alone_is_seen():
    module = STSA(**SMALL, losses={"weights": PLAIN}).eval()
    example = batch()
    changed = {**example, "faces": example["faces"].clone()}
    changed["faces"][..., 32:, :] = 0.5
    with torch.no_grad():
        torch.testing.assert_close(module(example)[1].face, module(changed)[1].face)


def test_networks_start_from_an_export(tmp_path: Path):
    source = STSA(**SMALL, losses={"weights": PLAIN})
    save_networks(
        tmp_path / "a.safetensors", source.guidance, source.synthesis, {"features": "logmel", "num_frames": 3}
    )
    module = STSA(**SMALL, losses={"weights": PLAIN}, init_from=str(tmp_path / "a.safetensors"))
    assert "init_from" not in module.hparams  # whoever loads a checkpoint of it does not need that file
    torch.testing.assert_close(module.synthesis.state_dict(), source.synthesis.state_dict())
    with pytest.raises(UserError, match="num_references"):
        STSA(**{**SMALL, "num_references": 4}, losses={"weights": PLAIN}, init_from=str(tmp_path / "a.safetensors"))


def test_bad_settings_are_named():
    with pytest.raises(UserError, match=r"weights\.pixel must be 0 or more, got -1"):
        LossWeights(pixel=-1)
    with pytest.raises(
        UserError, match="phase must be one of audio_pretrain, guidance, warp, synthesis, end_to_end, got 'two'"
    ):
        STSA(**SMALL, losses={"weights": PLAIN}).set_phase("two")  # type: ignore[arg-type]


def test_a_file_that_is_no_checkpoint_is_named(tmp_path: Path):
    path = tmp_path / "x.ckpt"
    path.write_bytes(b"nothing")
    with pytest.raises(UserError, match=r"x\.ckpt"):
        load_networks(path)
