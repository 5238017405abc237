"""STSA as a LightningModule: networks + losses + optimisers, nothing else.

One step reads like the paper: predict the heatmaps (stage 1), render the face under them (stage 2), sum the weighted
losses. Which of it runs is the phase, see `training.phases`; how generator and discriminators take turns,
`training.adversarial`.
"""

from __future__ import annotations

import os
from dataclasses import asdict, replace
from typing import Any, Literal, cast

import torch
from torch import Tensor
from torch.nn import functional as F

from stsa_lightning.data.datamodule import STSADataModule
from stsa_lightning.data.windows import Batch, as_floats
from stsa_lightning.features.base import FeatureKind
from stsa_lightning.inference.fold import compose_for_training
from stsa_lightning.losses.balance import GradientShare, ShareBalancer
from stsa_lightning.losses.cil import INFO_NCE, CILSettings
from stsa_lightning.losses.objective import RELEASED_RECIPE, LossSettings, Objective, Terms
from stsa_lightning.losses.sync import load_sync_loss
from stsa_lightning.losses.term import GeneratorStep, chosen_frames
from stsa_lightning.models.discriminators import PATCHES, DiscriminatorSettings
from stsa_lightning.models.guidance import Guidance, GuidanceOutput
from stsa_lightning.models.presets import CIL_WIDTH, GUIDANCE, SYNTHESIS
from stsa_lightning.models.settings import GUIDANCE_PRESET, SYNTHESIS_PRESET, GuidanceSettings, SynthesisSettings
from stsa_lightning.models.synthesis import Synthesis, SynthesisOutput, mask_lower_half
from stsa_lightning.training.adversarial import Adversarial, GeneratorOutput
from stsa_lightning.training.checkpoints import Checkpointed, load_generator
from stsa_lightning.training.checks import check_agreement, check_batch, check_features, check_trainer, memory_advice
from stsa_lightning.training.compilation import AS_PYTORCH, SpeedSettings, compile_networks
from stsa_lightning.training.optim import ADAM, OptimSettings
from stsa_lightning.training.outputs import shown
from stsa_lightning.training.phases import WITHOUT_PICTURE, Phased
from stsa_lightning.utils.settings import settled


class STSA(Adversarial, Phased, Checkpointed):
    """Spatial-Temporal Semantic Alignment: guidance + synthesis, trained phase by phase.

    It trains end to end until `set_phase` says otherwise, which the callback PhaseSchedule calls during a run. Dropout
    draws from a generator seeded by (the run's seed, batch, rank), so that a resumed run repeats an uninterrupted one;
    the seed is that of Lightning's `seed_everything` when the module was made, 0 without one.

    Logged of each step: every term's raw value as `train/TERM`. Every `losses.balance_every_n_steps` batches also its
    weight as `weight/TERM` and its share of the gradient, `balance/PLACE/TERM`, where PLACE is what the generator puts
    out: `face`, `warped`, `flow`, `paths` (both paths' feature maps, which CIL acts on) and `heatmap` (lip and jaw).

    Args:
        preset: sizes of both networks, `released`, `small` or `tiny`.
        guidance: settings of the guidance network that differ from the preset, or a network of one's own.
        synthesis: likewise of the synthesis network.
        features: kind of audio features.
        face_size: S, pixels.
        num_references: N, reference frames per window.
        num_frames: T, frames per window.
        heatmap_sigma: width of the heatmaps' lines, pixels; stored in checkpoints for dubbing.
        losses: the loss terms, their weights and what they need.
        cil: weight of Consistent Information Learning, and how it estimates mutual information.
        discriminator: of single faces; the package's or one's own.
        optim: how generator side and discriminators learn.
        speed: what makes a step faster.
        init_from: checkpoint (`.ckpt` or `.safetensors`) whose networks this one starts from, such as the end of an
            earlier phase; its settings must match. Checkpoints of this module do not name it again.
    """

    def __init__(
        self,
        preset: Literal["released", "small", "tiny"] = "released",
        guidance: GuidanceSettings = GUIDANCE_PRESET,
        synthesis: SynthesisSettings = SYNTHESIS_PRESET,
        features: FeatureKind = "logmel",
        face_size: int = 128,
        num_references: int = 5,
        num_frames: int = 5,
        heatmap_sigma: float = 1.0,
        losses: LossSettings = RELEASED_RECIPE,
        cil: CILSettings = INFO_NCE,
        discriminator: DiscriminatorSettings = PATCHES,
        optim: OptimSettings = ADAM,
        speed: SpeedSettings = AS_PYTORCH,
        init_from: str | None = None,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.losses, self.optim = settled(LossSettings, losses), settled(OptimSettings, optim)
        cil, discriminator = settled(CILSettings, cil), settled(DiscriminatorSettings, discriminator)
        guidance, synthesis = settled(GuidanceSettings, guidance), settled(SynthesisSettings, synthesis)
        self.speed = settled(SpeedSettings, speed)
        self.seed = int(os.environ.get("PL_GLOBAL_SEED", 0))
        typed: dict[str, Any] = {"guidance": guidance, "synthesis": synthesis, "losses": self.losses, "cil": cil}
        typed |= {"discriminator": discriminator, "optim": self.optim, "speed": self.speed}
        # Weights that were read once are in the checkpoint; who loads it need not have that file.
        self.save_hyperparameters(ignore=["init_from"])
        self.hparams.update({name: asdict(settings) for name, settings in typed.items()})

        shared = {"audio_dim": check_features(features), "face_size": face_size}
        self.guidance = guidance.build(Guidance, {**GUIDANCE[preset], **shared}, "model.guidance")
        shared["num_references"] = num_references
        self.synthesis = synthesis.build(Synthesis, {**SYNTHESIS[preset], **shared}, "model.synthesis")
        self.objective = Objective(
            self.losses,
            self.synthesis.channels,
            cil,
            CIL_WIDTH[preset],
            discriminator,
            sync=load_sync_loss(self.losses.sync_expert, features, num_frames) if self.losses.weights.sync else None,
            embedding_width=self.guidance.settings["width"],
        )
        compose_for_training(self.synthesis)
        self.balancer = ShareBalancer(self.objective.face_weights()) if self.losses.balance == "shares" else None
        self.cil_share = GradientShare(cil.gradient_share) if cil.gradient_share else None
        if self.speed.channels_last:
            self.to(memory_format=torch.channels_last)
        self.set_phase("end_to_end")
        if init_from is not None:
            load_generator(init_from, self.guidance, self.synthesis)

    # ---- checks

    def setup(self, stage: str) -> None:
        """Data and networks have to agree; said before anything is computed."""
        if stage == "fit":
            check_trainer(self.trainer.strategy)
        data = getattr(self.trainer, "datamodule", None)
        if isinstance(data, STSADataModule):
            check_agreement(self.hparams, data.hparams)

    def on_fit_start(self) -> None:
        """Compile here, where the networks are on their device."""
        if self.speed.compile:
            compile_networks(self.guidance, self.synthesis, self.objective)

    @property
    def validated(self) -> list[str]:
        """What each validation logs of this module, as `val/NAME`."""
        return ["pixel", *(name for name, weight in self.objective.term_weights.items() if weight)]

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """Bytes travel to the device, floats are made there; data of one's own may give floats."""
        return as_floats(batch)

    # ---- forward

    def predict_heatmaps(self, batch: Batch) -> GuidanceOutput:
        """Stage 1 on a batch of windows."""
        return self.guidance(batch["audio"], batch["masked_heatmaps"], batch["reference_heatmaps"])

    def synthesise(self, batch: Batch, heatmaps: Tensor, every_frame: bool = False) -> tuple[SynthesisOutput, Tensor]:
        """Stage 2 under `heatmaps` (B, T, 1, S, S): the window's centre, or all its frames.

        Returns:
            The output for F = B (centre) or B * T frames, and the true faces (F, 3, S, S).
        """
        target, driving, audio = (chosen_frames(x, every_frame) for x in (batch["faces"], heatmaps, batch["audio"]))
        seen = batch["references"], batch["reference_heatmaps"]
        if self.synthesis.align_references:
            if every_frame:
                seen = seen[0].repeat_interleave(heatmaps.shape[1], 0), seen[1].repeat_interleave(heatmaps.shape[1], 0)
            references = self.synthesis.encode_references(*seen, chosen_frames(batch["theta"], every_frame))
        else:
            references = self.synthesis.encode_references(*seen)
            if every_frame:
                references = references.repeat_interleave(heatmaps.shape[1])
        return self.synthesis.render(mask_lower_half(target), driving, audio, references), target

    def forward(self, batch: Batch, every_frame: bool = False) -> tuple[GuidanceOutput, SynthesisOutput, Tensor]:
        """What dubbing does: predicted heatmaps drive the picture."""
        prediction = self.predict_heatmaps(batch)
        return prediction, *self.synthesise(batch, prediction.heatmap, every_frame)

    # ---- steps

    def generate(self, batch: Batch) -> GeneratorOutput:
        """The generator side of one step, as far as the phase goes."""
        if self.phase == "audio_pretrain":
            embeddings = self.guidance.embed_audio(batch["audio"].flatten(0, 1)).unflatten(0, batch["audio"].shape[:2])
            return GeneratorOutput(self.objective.audio_terms(embeddings, batch))
        generated, heatmaps, step = GeneratorOutput({}), batch["heatmaps"], GeneratorStep(batch)
        if self.phase in ("guidance", "end_to_end"):
            prediction = self.predict_heatmaps(batch)
            step, heatmaps = GeneratorStep(batch, prediction), prediction.heatmap
            terms = self.objective.guidance_terms(prediction, batch) | self.objective.own_terms("heatmap", step)
            generated = GeneratorOutput(terms, {"heatmap": (prediction.lip, prediction.jaw)})
        if self.phase in WITHOUT_PICTURE:
            return generated
        picture = self._generate_picture(step, heatmaps)
        return replace(picture, terms=generated.terms | picture.terms, places=generated.places | picture.places)

    def _generate_picture(self, step: GeneratorStep, heatmaps: Tensor) -> GeneratorOutput:
        """Stage 2: the warped reference, and (past phase `warp`) CIL and the face."""
        batch = cast(Batch, step.batch)
        objective, with_face = self.objective, self.phase != "warp"
        every_frame = with_face and objective.every_frame
        output, target = self.synthesise(batch, heatmaps, every_frame)
        places = {"warped": (output.warped,), "flow": (output.flow,), "paths": (*output.spatial, *output.temporal)}
        lips = chosen_frames(batch["lip_heatmaps"], every_frame)
        activations, mouth = objective.target_activations(target), objective.mouth_map(lips)
        frames = heatmaps.shape[1] if every_frame else 1
        step = replace(step, synthesis=output, target=target, frames=frames)
        terms = objective.warp_terms(output, target, activations, mouth) | objective.own_terms("warped", step)
        terms |= objective.native_terms(step, self.synthesis.align_references, with_face)
        if not with_face:
            return GeneratorOutput(terms, places)
        # What the discriminators make of true faces serves feature matching here and their own step after.
        real = objective.discriminate(target, frames)
        terms |= objective.cil_terms(output, lips, batch["clip"]) | objective.painted_terms(output, target, mouth)
        with self.frozen_discriminators():
            terms |= objective.face_terms(output.face, target, activations, real, frames, mouth, batch["audio"])
            terms |= objective.own_terms("face", step)
        return GeneratorOutput(terms, {**places, "face": (output.face,)}, output.face, real, frames)

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Make dropout a function of (seed, batch, rank)."""
        if batch_idx == 0:
            check_batch(batch, self.hparams, self.guidance.audio_dim)
        for part in self.frozen:
            part.eval()  # a fit and each validation end with all in training mode
        torch.manual_seed((self.seed * 1_000_003 + self.batch_number(batch_idx)) * 4096 + self.global_rank)

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Terms]:
        """One step of the generator side, then one of the discriminators.

        Returns:
            `terms`: every term's value, unweighted and detached.
        """
        with memory_advice(len(batch["frame"])):
            generated = self.generate(batch)
            loss = self.generator_step(generated, batch_idx)
            terms = generated.terms | {"loss": loss} | self.discriminator_step(generated, batch_idx)
        self.log_terms("train", terms, len(batch["frame"]))
        return {"terms": {name: value.detach() for name, value in terms.items()}}

    def validation_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """Render as dubbing does (predicted heatmaps), whatever the phase; callbacks measure and show the outputs."""
        prediction, output, target = self(batch)
        self.log_terms("val", self.objective.guidance_terms(prediction, batch), len(batch["frame"]))
        self.log_terms("val", {"pixel": F.l1_loss(output.face, target)}, len(batch["frame"]))
        return shown(batch, prediction, output, target)

    test_step = validation_step

    def predict_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """Every window's centre as in validation: `generated` and what it was made of, (B, 3 or 1, S, S) each."""
        return shown(batch, *self(batch))
