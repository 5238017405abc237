"""STSA as a LightningModule: networks + losses + optimisers, nothing else.

One step reads like the paper: predict the heatmaps (stage 1), redraw the face under them (stage 2), sum the weighted
losses. Which of it runs is the *phase*:

============  ==========================================  =====================================
phase         what drives the picture                     what learns
============  ==========================================  =====================================
guidance      nothing is drawn                            guidance network
warp          true heatmaps                               synthesis network, warp terms alone
synthesis     true heatmaps                               synthesis network, all its terms
end_to_end    predicted heatmaps (section 3 of the paper) both networks, all terms
============  ==========================================  =====================================
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.core.optimizer import LightningOptimizer, do_nothing_closure
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor
from torch.nn import functional as F

from stsa_lightning.audio import FEATURE_DIMS, FeatureKind
from stsa_lightning.data.datamodule import STSADataModule
from stsa_lightning.data.windows import Batch
from stsa_lightning.errors import UserError
from stsa_lightning.losses.adversarial import feature_matching, lsgan_discriminator, lsgan_generator
from stsa_lightning.losses.heatmap import SemanticLoss, TemporalLoss
from stsa_lightning.losses.mutual_information import Estimator, consistency, estimator
from stsa_lightning.losses.perceptual import PerceptualLoss
from stsa_lightning.metrics.image import mouth_region
from stsa_lightning.nets.checkpoint import averaged_weights, load_networks
from stsa_lightning.nets.discriminators import PatchDiscriminator, TemporalDiscriminator
from stsa_lightning.nets.guidance import Guidance, GuidanceOutput
from stsa_lightning.nets.presets import GUIDANCE, SYNTHESIS
from stsa_lightning.nets.synthesis import Synthesis, SynthesisOutput, mask_lower_half

Phase = Literal["guidance", "warp", "synthesis", "end_to_end"]
PHASES: tuple[Phase, ...] = get_args(Phase)


@dataclass  # not frozen: Lightning copies hyperparameters field by field
class LossWeights:
    """The weight of every term; 0 builds and computes nothing for it.

    The paper's weights are not public. Picture terms follow IP_LAP (CVPR 2023), the closest public recipe; the rest is
    ours.

    Attributes:
        heatmap: squared error of the lip and jaw heatmaps (L_semantic).
        keypoints: L1 of the 57 keypoints (L_semantic).
        keypoint_velocity: L1 of the keypoints' frame-to-frame motion (L_temporal).
        heatmap_velocity: the same on heatmaps (L_temporal).
        warp: VGG perceptual distance of the warped reference to the true face.
        warp_pixel: L1 of the warped reference to the true face.
        perceptual: VGG perceptual + style distance of the generated face.
        pixel: L1 of the generated face.
        adversarial: least-squares GAN on single faces.
        feature_matching: L1 of the discriminator's features.
        temporal_adversarial: least-squares GAN on windows of mouths; above 0, all T frames of a window are drawn.
        information: mutual information between the spatial and the temporal path (CIL); maximised.
    """

    heatmap: float = 1.0
    keypoints: float = 1.0
    keypoint_velocity: float = 1.0
    heatmap_velocity: float = 0.0
    warp: float = 2.5
    warp_pixel: float = 0.0
    perceptual: float = 4.0
    pixel: float = 0.0
    adversarial: float = 0.25
    feature_matching: float = 2.5
    temporal_adversarial: float = 0.0
    information: float = 0.1

    def __post_init__(self) -> None:
        for field in fields(self):
            if not getattr(self, field.name) >= 0:
                raise UserError(f"weights.{field.name} must be 0 or more, got {getattr(self, field.name)}")


RELEASED_RECIPE = LossWeights()


class STSA(LightningModule):
    """Spatial-Temporal Semantic Alignment: guidance + synthesis, trained phase by phase.

    Optimisation is manual (two optimisers: generator side, discriminators); ``global_step`` counts batches. Dropout
    draws from a generator seeded by (seed, step, rank), so that a resumed run repeats an uninterrupted one.

    Args:
        size: preset of both networks, ``released`` or ``tiny``.
        guidance: settings of :class:`Guidance` that differ from the preset.
        synthesis: settings of :class:`Synthesis` that differ from the preset.
        features: kind of audio features.
        face_size: S, pixels.
        references: N, reference frames per window.
        window: T, frames per window.
        sigma: width of the heatmaps' ridges, pixels; for whoever uses the networks later.
        weights: weight of each loss term.
        foreground_weight: weight of a heatmap's ridges against its empty part.
        perceptual_net: torchvision VGG of the perceptual losses.
        information: estimator of mutual information.
        temperature: of InfoNCE.
        lr: Adam's learning rate for the generator side (a phase may set its own).
        discriminator: settings of :class:`PatchDiscriminator`.
        discriminator_lr: Adam's learning rate for the discriminators.
        betas: Adam's betas for the generator side.
        discriminator_betas: Adam's betas for the discriminators.
        gradient_clip: largest gradient norm of each optimiser's parameters; None does not clip.
        phase: see the table above; the callback PhaseSchedule moves it during a run.
        init_from: checkpoint (``.ckpt`` or ``.safetensors``) whose networks this one starts from, such as the end of an
            earlier phase; its settings must match.
        seed: of dropout.
    """

    def __init__(
        self,
        size: Literal["released", "tiny"] = "released",
        guidance: dict[str, Any] | None = None,
        synthesis: dict[str, Any] | None = None,
        features: FeatureKind = "logmel",
        face_size: int = 128,
        references: int = 5,
        window: int = 5,
        sigma: float = 1.0,
        weights: LossWeights = RELEASED_RECIPE,
        foreground_weight: float = 1.0,
        perceptual_net: str = "vgg19",
        information: Estimator = "infonce",
        temperature: float = 0.07,
        lr: float = 1e-4,
        discriminator: dict[str, Any] | None = None,
        discriminator_lr: float = 1e-4,
        betas: tuple[float, float] = (0.9, 0.999),
        discriminator_betas: tuple[float, float] = (0.5, 0.999),
        gradient_clip: float | None = None,
        phase: Phase = "end_to_end",
        init_from: str | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if isinstance(weights, Mapping):  # as a checkpoint stores them
            weights = LossWeights(**weights)
        self.save_hyperparameters()
        self.hparams["weights"] = asdict(weights)
        self.automatic_optimization = False
        self.weights = weights

        shared = {"audio_dim": FEATURE_DIMS[features], "face_size": face_size}
        self.guidance = Guidance(**{**GUIDANCE[size], **shared, **(guidance or {})})
        self.synthesis = Synthesis(**{**SYNTHESIS[size], **shared, "references": references, **(synthesis or {})})
        self._build_losses(foreground_weight, perceptual_net, information, temperature, discriminator or {})
        self.set_phase(phase)
        if init_from is not None:
            self.load_generator(init_from)

    def _build_losses(
        self,
        foreground_weight: float,
        net: str,
        information: Estimator,
        temperature: float,
        discriminator: dict[str, Any],
    ) -> None:
        weights = self.weights
        self.semantic_loss = SemanticLoss(foreground_weight)
        self.temporal_loss = TemporalLoss()
        self.perceptual_loss = PerceptualLoss(net) if weights.perceptual or weights.warp else None
        self.information = None
        if weights.information:
            options = {"temperature": temperature} if information == "infonce" else {}
            self.information = estimator(information, self.synthesis.align_width, **options)
        judged = weights.adversarial or weights.feature_matching
        self.discriminator = PatchDiscriminator(**discriminator) if judged else None
        self.temporal_discriminator = TemporalDiscriminator() if weights.temporal_adversarial else None

    # ---- phases and weights

    def set_phase(self, phase: Phase) -> None:
        """Freeze and free the networks for ``phase``."""
        if phase not in PHASES:
            raise UserError(f"phase must be one of {', '.join(PHASES)}, got {phase!r}")
        self.phase: Phase = phase
        self.guidance.requires_grad_(phase in ("guidance", "end_to_end"))
        self.synthesis.requires_grad_(phase != "guidance")

    def load_generator(self, path: str | Path) -> None:
        """Take both networks' weights, averaged ones where there are such, from a checkpoint of the same settings."""
        guidance, synthesis, _ = load_networks(path)
        for mine, theirs in ((self.guidance, guidance), (self.synthesis, synthesis)):
            if plain(mine.settings) != plain(theirs.settings):
                differ = {
                    key: (theirs.settings.get(key), value)
                    for key, value in mine.settings.items()
                    if plain(theirs.settings.get(key)) != plain(value)
                }
                raise UserError(
                    f"{path}: its {type(mine).__name__.lower()} network has other settings than this run's "
                    f"(name: there, here): {differ}. Give the run the same ones"
                )
            mine.load_state_dict(theirs.state_dict())

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """What :func:`load_networks` needs to rebuild the networks without this class."""
        meta = {name: self.hparams[name] for name in ("features", "window", "sigma")}
        data = getattr(self.trainer, "datamodule", None)
        if isinstance(data, STSADataModule):
            meta["validation_speakers"] = sorted(set(data.splits["val"]["speaker"]))  # an evaluation measures these
        checkpoint["networks"] = {
            "guidance": self.guidance.settings,
            "synthesis": self.synthesis.settings,
            "meta": meta,
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Whoever does not go on training gets the averaged weights, as dubbing does."""
        if self._trainer is None or self.trainer.state.fn != TrainerFn.FITTING:
            checkpoint["state_dict"] |= averaged_weights(checkpoint)

    # ---- forward

    def predict_heatmaps(self, batch: Batch) -> GuidanceOutput:
        """Stage 1 on a batch of windows."""
        return self.guidance(batch["audio"], batch["masked_heatmaps"], batch["reference_heatmaps"])

    def synthesise(self, batch: Batch, heatmaps: Tensor, every_frame: bool = False) -> tuple[SynthesisOutput, Tensor]:
        """Stage 2 under ``heatmaps`` (B, T, 1, S, S): the window's centre, or all its frames.

        Returns:
            The output for F = B (centre) or B * T frames, and the true faces (F, 3, S, S).
        """
        frames = batch["faces"].shape[1]
        chosen = slice(None) if every_frame else slice(frames // 2, frames // 2 + 1)
        target, driving, audio = (x[:, chosen].flatten(0, 1) for x in (batch["faces"], heatmaps, batch["audio"]))
        references = self.synthesis.encode_references(batch["references"], batch["reference_heatmaps"])
        if every_frame:
            references = references.repeat_interleave(frames)
        return self.synthesis.render(mask_lower_half(target), driving, audio, references), target

    def forward(self, batch: Batch, every_frame: bool = False) -> tuple[GuidanceOutput, SynthesisOutput, Tensor]:
        """What dubbing does: predicted heatmaps drive the picture."""
        prediction = self.predict_heatmaps(batch)
        return prediction, *self.synthesise(batch, prediction.heatmap, every_frame)

    # ---- losses

    def guidance_losses(self, prediction: GuidanceOutput, batch: Batch) -> dict[str, Tensor]:
        """L_semantic and L_temporal, unweighted."""
        pairs = (
            *(prediction.lip, prediction.jaw, prediction.keypoints),
            *(batch["lip_heatmaps"], batch["jaw_heatmaps"], batch["keypoints"]),
        )
        terms = self.semantic_loss(*pairs) | self.temporal_loss(*pairs)
        terms["heatmap"] = terms.pop("lip_heatmap") + terms.pop("jaw_heatmap")
        return {name: value for name, value in terms.items() if getattr(self.weights, name)}

    def picture_losses(self, output: SynthesisOutput, target: Tensor, frames: int) -> dict[str, Tensor]:
        """Terms of stage 2, unweighted: of the warped reference, CIL, and (past phase ``warp``) of the face."""
        with_face = self.phase != "warp"
        losses = {}
        if self.weights.warp_pixel:
            losses["warp_pixel"] = F.l1_loss(output.warped, target)
        if self.weights.pixel and with_face:
            losses["pixel"] = F.l1_loss(output.face, target)
        if self.perceptual_loss is not None:
            with torch.no_grad():
                true_maps = self.perceptual_loss.pyramid(target)
            if self.weights.warp:
                losses["warp"] = self.perceptual_loss(output.warped, true_maps, with_style=False)
            if self.weights.perceptual and with_face:
                losses["perceptual"] = self.perceptual_loss(output.face, true_maps)
        if self.information is not None:
            losses["information"] = -consistency(self.information, *self.synthesis.align(output))
        return losses | (self.judged_losses(output.face, target, frames) if with_face else {})

    def judged_losses(self, face: Tensor, target: Tensor, frames: int) -> dict[str, Tensor]:
        """What the discriminators say of generated faces (F, 3, S, S), unweighted."""
        losses = {}
        if self.discriminator is not None:
            fake = self.discriminator(face)
            losses["adversarial"] = lsgan_generator(fake)
            if self.weights.feature_matching:
                with torch.no_grad():
                    real = self.discriminator(target)
                losses["feature_matching"] = feature_matching(real, fake)
        if self.temporal_discriminator is not None:
            losses["temporal_adversarial"] = lsgan_generator(self.temporal_discriminator(mouths(face, frames)))
        return losses

    def discriminator_losses(self, fake: Tensor, real: Tensor, frames: int) -> dict[str, Tensor]:
        """Least-squares terms of the discriminators on detached faces (F, 3, S, S)."""
        losses = {}
        if self.discriminator is not None:
            losses["discriminator"] = lsgan_discriminator(self.discriminator(real), self.discriminator(fake))
        if self.temporal_discriminator is not None:
            judge = self.temporal_discriminator
            losses["temporal_discriminator"] = lsgan_discriminator(
                judge(mouths(real, frames)), judge(mouths(fake, frames))
            )
        return losses

    # ---- steps

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Make dropout a function of (seed, step, rank)."""
        torch.manual_seed((self.hparams["seed"] * 1_000_003 + self.global_step) * 4096 + self.global_rank)

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        """One step of the generator side, then one of the discriminators."""
        generator, judges = self._optimizers()
        losses: dict[str, Tensor] = {}
        heatmaps = batch["heatmaps"]
        if self.phase in ("guidance", "end_to_end"):
            prediction = self.predict_heatmaps(batch)
            losses |= self.guidance_losses(prediction, batch)
            heatmaps = prediction.heatmap
        if self.phase not in ("synthesis", "end_to_end"):
            judges = None
        if self.phase != "guidance":
            every_frame = judges is not None and self.temporal_discriminator is not None
            frames = heatmaps.shape[1] if every_frame else 1
            output, target = self.synthesise(batch, heatmaps, every_frame)
            self._judges_require_grad(False)
            losses |= self.picture_losses(output, target, frames)
            self._judges_require_grad(True)
        total = torch.stack([getattr(self.weights, name) * value for name, value in losses.items()]).sum()
        self._step(generator, total)
        if judges is not None:
            judge_losses = self.discriminator_losses(output.face.detach(), target, frames)
            # Lightning counts every optimiser's step; only the generator's is to count.
            judges._on_before_step = judges._on_after_step = do_nothing_closure
            self._step(judges, torch.stack(list(judge_losses.values())).sum())
            losses |= judge_losses
        self._log("train", {**losses, "loss": total}, len(batch["frame"]))

    def validation_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """Draw as dubbing does (predicted heatmaps), whatever the phase; callbacks measure and show what comes back."""
        prediction, output, target = self(batch)
        self._log("val", self.guidance_losses(prediction, batch), len(batch["frame"]))
        self._log("val", {"pixel": F.l1_loss(output.face, target)}, len(batch["frame"]))
        centre = batch["faces"].shape[1] // 2
        return {
            "reference": batch["references"][:, 0],
            "masked": mask_lower_half(target),
            "heatmap": prediction.heatmap[:, centre],
            "warped": output.warped,
            "generated": output.face,
            "true": target,
        }

    test_step = validation_step

    def predict_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Generated faces of every window's centre, (B, 3, S, S)."""
        return self(batch)[1].face

    def _log(self, stage: str, values: Mapping[str, Tensor], batch_size: int) -> None:
        named = {f"{stage}/{name}": value.detach() for name, value in values.items()}
        self.log_dict(named, batch_size=batch_size, sync_dist=stage != "train")

    # ---- optimisers

    def _judges_require_grad(self, value: bool) -> None:
        for judge in (self.discriminator, self.temporal_discriminator):
            if judge is not None:
                judge.requires_grad_(value)

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        """Adam for guidance + synthesis + CIL, and one for the discriminators where a weight calls for them."""
        judges = [j for j in (self.discriminator, self.temporal_discriminator) if j is not None]
        makers = [m for m in (self.guidance, self.synthesis, self.information) if m is not None]
        hparams = self.hparams
        betas = tuple(hparams["betas"])
        # Hundreds of small tensors: one call for all of them.
        generator = torch.optim.Adam(parameters(makers), lr=hparams["lr"], betas=betas, foreach=True)
        optimisers: list[torch.optim.Optimizer] = [generator]
        if judges:
            betas = tuple(hparams["discriminator_betas"])
            optimisers.append(
                torch.optim.Adam(parameters(judges), lr=hparams["discriminator_lr"], betas=betas, foreach=True)
            )
        return optimisers

    def _optimizers(self) -> tuple[LightningOptimizer, LightningOptimizer | None]:
        optimisers = self.optimizers()
        if isinstance(optimisers, list):
            return optimisers[0], optimisers[1]
        return optimisers, None

    def _step(self, optimiser: LightningOptimizer, loss: Tensor) -> None:
        optimiser.zero_grad()
        self.manual_backward(loss)
        optimiser.step()

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Clip here: under 16-bit precision the gradients are unscaled only now."""
        if self.hparams["gradient_clip"] is not None:
            self.clip_gradients(optimizer, self.hparams["gradient_clip"], "norm")


def plain(settings: Any) -> Any:
    """Settings as JSON gives them back: lists for tuples."""
    return json.loads(json.dumps(settings))


def parameters(modules: Sequence[torch.nn.Module]) -> list[torch.nn.Parameter]:
    """All parameters of several modules, frozen ones too (a later phase may free them)."""
    return [parameter for module in modules for parameter in module.parameters()]


def mouths(faces: Tensor, frames: int) -> Tensor:
    """Lower halves of faces (B * T, 3, S, S) as windows (B, T, 3, S / 2, S), T = ``frames``."""
    return mouth_region(faces).unflatten(0, (-1, frames))
