"""STSA as a LightningModule: networks + losses + optimisers, nothing else.

One step reads like the paper: predict the heatmaps (stage 1), redraw the face under them (stage 2), sum the weighted
losses. Which of it runs is the *phase*:

==============  ==================================  ======================================================
phase           what drives the picture             what learns
==============  ==================================  ======================================================
audio_pretrain  nothing is rendered                 the guidance network's audio encoder, from audio alone
guidance        nothing is rendered                 guidance network
warp            true heatmaps                       synthesis network, warp terms alone
synthesis       true heatmaps                       synthesis network, all its terms
end_to_end      predicted heatmaps                  both networks, all terms
==============  ==================================  ======================================================
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, TypeVar, cast, get_args

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.core.optimizer import LightningOptimizer, do_nothing_closure
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor
from torch.nn import functional as F

from stsa_lightning.data.datamodule import STSADataModule
from stsa_lightning.data.windows import Batch, as_floats
from stsa_lightning.features.base import FeatureKind
from stsa_lightning.inference.fold import compose_for_training
from stsa_lightning.losses.balance import ShareBalancer, balance_of
from stsa_lightning.losses.cil import INFO_NCE, CILSettings
from stsa_lightning.losses.objective import RELEASED_RECIPE, DiscriminatorOutput, LossWeights, Objective, Terms
from stsa_lightning.losses.sync import load_sync_loss
from stsa_lightning.losses.term import GeneratorStep, TermSettings
from stsa_lightning.models.checkpoint import averaged_weights, load_networks
from stsa_lightning.models.discriminators import PATCHES, DiscriminatorSettings
from stsa_lightning.models.guidance import Guidance, GuidanceOutput
from stsa_lightning.models.presets import CIL_WIDTH, GUIDANCE, SYNTHESIS
from stsa_lightning.models.synthesis import Synthesis, SynthesisOutput, mask_lower_half
from stsa_lightning.training.checks import (
    check_agreement,
    check_batch,
    check_features,
    check_optimisers,
    check_parts,
    check_settings,
    check_trainer,
    memory_advice,
    told_settings,
)
from stsa_lightning.training.optim import ADAM, ADVERSARIAL, OptimSettings
from stsa_lightning.utils.errors import UserError
from stsa_lightning.utils.own import built, description, is_own

Phase = Literal["audio_pretrain", "guidance", "warp", "synthesis", "end_to_end"]
PHASES: tuple[Phase, ...] = get_args(Phase)
WITHOUT_PICTURE = ("audio_pretrain", "guidance")
Balance = Literal["weights", "shares"]
Settings = TypeVar("Settings")


@dataclass
class GeneratorOutput:
    """Outputs of the generator step, used by the discriminator step and by gradient logging.

    ``places``: name -> tensors of the generator's output; ``face``, ``target`` (F, 3, S, S), ``real``: None unless the
    phase has the discriminators learn; ``frames``: of a window.
    """

    places: dict[str, tuple[Tensor, ...]] = field(default_factory=dict)
    face: Tensor | None = None
    real: DiscriminatorOutput | None = None
    frames: int = 1


class STSA(LightningModule):
    """Spatial-Temporal Semantic Alignment: guidance + synthesis, trained phase by phase.

    Optimisation is manual (two optimisers: generator side, discriminators); ``global_step`` counts the generator's
    steps. Dropout draws from a generator seeded by (seed, batch, rank), so that a resumed run repeats an uninterrupted
    one.

    Logged of each step: every term's raw value as ``train/TERM``. Every ``balance_every_n_steps`` batches also its
    weight as ``weight/TERM`` and its share of the gradient, ``balance/PLACE/TERM``, where PLACE is what the generator
    puts out: ``face``, ``warped``, ``paths`` (both paths' maps, which CIL acts on) and ``heatmap`` (lip and jaw).

    Args:
        size: preset of both networks, ``released``, ``small`` or ``tiny``.
        guidance: settings of :class:`Guidance` that differ from the preset; or ``class_path`` and ``init_args`` of a
            subclass of one's own, which is given the preset too.
        synthesis: likewise of :class:`Synthesis`.
        features: kind of audio features.
        face_size: S, pixels.
        num_references: N, reference frames per window.
        num_frames: T, frames per window.
        heatmap_sigma: width of the heatmaps' lines, pixels; for whoever uses the networks later.
        weights: weight of each loss term.
        terms: further terms of one's own by name, see :class:`LossTerm`.
        balance: what the weights of the terms on the generated face mean: ``weights`` multiply the terms, ``shares``
            are parts of the gradient at the face, see :class:`ShareBalancer`.
        balance_every_n_steps: batches between measurements, rounded up to when the trainer logs; 0: none.
        foreground_weight: weight of a heatmap's lines against its empty part.
        mouth_weight: weight of the mouth's pixels in ``pixel`` and ``perceptual`` against the others'; 1: equal.
        perceptual_net: torchvision VGG of the perceptual losses.
        perceptual_half: they look at lower halves alone, the part that is made: half the work (ours).
        cil: how mutual information is estimated.
        sync_expert: checkpoint of ``stsa syncnet fit``, of the same audio features, for the term ``sync``.
        discriminator: of single faces; the package's or one's own.
        optim: how the generator side learns.
        discriminator_optim: how the discriminators learn.
        gradient_clip: largest gradient norm of each optimiser's parameters; None does not clip.
        accumulate: batches whose mean gradient makes one step of either optimiser; what an epoch leaves over makes a
            step of its own. Batch norm and InfoNCE still see single batches.
        channels_last: keep images with their channels innermost in memory, as tensor cores read them.
        compile: compile the networks, the VGG and the discriminators with ``torch.compile``; the first steps take
            minutes.
        phase: see the table above; the callback PhaseSchedule moves it during a run.
        init_from: checkpoint (``.ckpt`` or ``.safetensors``) whose networks this one starts from, such as the end of an
            earlier phase; its settings must match.
        seed: of dropout.
    """

    def __init__(
        self,
        size: Literal["released", "small", "tiny"] = "released",
        guidance: dict[str, Any] | None = None,
        synthesis: dict[str, Any] | None = None,
        features: FeatureKind = "logmel",
        face_size: int = 128,
        num_references: int = 5,
        num_frames: int = 5,
        heatmap_sigma: float = 1.0,
        weights: LossWeights = RELEASED_RECIPE,
        terms: dict[str, TermSettings] = {},  # noqa: B006 (a type that settings may lay over; nobody changes it)
        balance: Balance = "weights",
        balance_every_n_steps: int = 100,
        foreground_weight: float = 1.0,
        mouth_weight: float = 1.0,
        perceptual_net: str = "vgg19",
        perceptual_half: bool = False,
        cil: CILSettings = INFO_NCE,
        sync_expert: str | None = None,
        discriminator: DiscriminatorSettings = PATCHES,
        optim: OptimSettings = ADAM,
        discriminator_optim: OptimSettings = ADVERSARIAL,
        gradient_clip: float | None = None,
        accumulate: int = 1,
        channels_last: bool = False,
        compile: bool = False,
        phase: Phase = "end_to_end",
        init_from: str | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        weights, cil = settled(LossWeights, weights), settled(CILSettings, cil)
        discriminator = settled(DiscriminatorSettings, discriminator)
        terms = {name: settled(TermSettings, term) for name, term in terms.items()}
        self.optim = settled(OptimSettings, optim), settled(OptimSettings, discriminator_optim)
        self.save_hyperparameters()
        typed: dict[str, Any] = {"weights": weights, "cil": cil, "discriminator": discriminator}
        typed |= {"optim": self.optim[0], "discriminator_optim": self.optim[1]}
        self.hparams.update({name: asdict(value) for name, value in typed.items()})
        self.hparams["terms"] = {name: asdict(term) for name, term in terms.items()}
        self.automatic_optimization = False
        if accumulate < 1:
            raise UserError(f"accumulate must be 1 batch or more, got {accumulate}")
        if balance not in get_args(Balance):
            raise UserError(f"balance must be one of {', '.join(get_args(Balance))}, got {balance!r}")

        shared = {"audio_dim": check_features(features), "face_size": face_size}
        self.guidance = built(Guidance, {**GUIDANCE[size], **shared}, guidance, "model.guidance")
        own = {**SYNTHESIS[size], **shared, "num_references": num_references}
        self.synthesis = built(Synthesis, own, synthesis, "model.synthesis")
        self.objective = Objective(
            weights,
            self.synthesis.channels,
            CIL_WIDTH[size],
            foreground_weight=foreground_weight,
            mouth_weight=mouth_weight,
            perceptual_net=perceptual_net,
            perceptual_half=perceptual_half,
            cil=cil,
            discriminator=discriminator,
            own=terms,
            sync=load_sync_loss(sync_expert, features, num_frames) if weights.sync else None,
            embedding_width=self.guidance.settings["width"],
        )
        compose_for_training(self.synthesis)
        self.balancer = ShareBalancer(self.objective.face_weights()) if balance == "shares" else None
        if channels_last:
            self.to(memory_format=torch.channels_last)
        self.set_phase(phase)
        if init_from is not None:
            self.load_generator(init_from)

    # ---- phases, checks, weights

    def set_phase(self, phase: Phase, freeze: Sequence[str] = ()) -> None:
        """Freeze and free the networks for ``phase``.

        Args:
            freeze: parts that stay as they are besides, such as ``guidance.audio_encoder``; their batch norms too.
        """
        self.check_phase(phase)
        self.phase: Phase = phase
        self.guidance.requires_grad_(phase in ("guidance", "end_to_end"))
        if phase == "audio_pretrain":
            self.guidance.audio_encoder.requires_grad_(True)
            self.guidance.norm.requires_grad_(True)
        self.synthesis.requires_grad_(phase not in WITHOUT_PICTURE)
        self.frozen = [self.part(name) for name in freeze]
        for part in self.frozen:
            part.requires_grad_(False)

    def check_phase(self, phase: str) -> None:
        """Raise ``UserError`` for a phase that there is not, or that has nothing to learn from."""
        if phase not in PHASES:
            raise UserError(f"phase must be one of {', '.join(PHASES)}, got {phase!r}")
        if phase == "audio_pretrain" and self.objective.lip_aperture_probe is None:
            raise UserError(
                "phase audio_pretrain learns from weights.audio_lip_aperture alone: set it above 0, or leave it out"
            )

    def part(self, name: str) -> torch.nn.Module:
        """A part of either network by its dotted name."""
        try:
            if name.split(".")[0] in ("guidance", "synthesis"):
                return self.get_submodule(name)
        except AttributeError:
            pass
        inner = [
            f"{net}.{child}" for net in ("guidance", "synthesis") for child, _ in getattr(self, net).named_children()
        ]
        raise UserError(f"freeze: expected a part of a network, such as {', '.join(inner)}; got {name!r}")

    def setup(self, stage: str) -> None:
        """Data and networks have to agree; said before anything is computed."""
        if stage == "fit":
            check_trainer(self.trainer.strategy)
        data = getattr(self.trainer, "datamodule", None)
        if isinstance(data, STSADataModule):
            check_agreement(self.hparams, data.hparams)

    def on_fit_start(self) -> None:
        """Compile here, where the networks are on their device."""
        if self.hparams["compile"]:
            compile_networks(self)

    def load_generator(self, path: str | Path) -> None:
        """Take both networks' weights, averaged ones where there are such, from a checkpoint of the same settings."""
        # Classes that this run is told to use are used for the checkpoint, too.
        said = (description(network) for network in (self.guidance, self.synthesis))
        guidance, synthesis, _ = load_networks(path, [told["class_path"] for told in said if is_own(told)])
        for name, mine, theirs in (
            ("guidance", self.guidance, guidance),
            ("synthesis", self.synthesis, synthesis),
        ):
            check_settings(str(path), name, description(theirs), description(mine))
            mine.load_state_dict(theirs.state_dict())

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """What :func:`load_networks` needs to rebuild the networks without this class."""
        meta = {name: self.hparams[name] for name in ("features", "num_frames", "heatmap_sigma")}
        data = getattr(self.trainer, "datamodule", None)
        if isinstance(data, STSADataModule):
            meta["validation_speakers"] = sorted(set(data.splits["val"]["speaker"]))  # an evaluation measures these
        checkpoint["networks"] = {
            "guidance": description(self.guidance),
            "synthesis": description(self.synthesis),
            "meta": meta,
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Whoever does not go on training gets the averaged weights, as dubbing does."""
        for name, network in (("guidance", self.guidance), ("synthesis", self.synthesis)):
            check_settings("the checkpoint", name, checkpoint["networks"][name], description(network))
        theirs = checkpoint.get("hyper_parameters", {})
        told_settings(theirs, self.hparams)
        if self._trainer is not None and self.trainer.state.fn == TrainerFn.FITTING:
            check_optimisers(theirs, self.hparams)
        check_parts(checkpoint["state_dict"], self.state_dict())
        if self._trainer is None or self.trainer.state.fn != TrainerFn.FITTING:
            checkpoint["state_dict"] |= averaged_weights(checkpoint)

    @property
    def validated(self) -> list[str]:
        """What each validation logs of this module, as ``val/NAME``."""
        weighted = [name for name in self.objective.own_weights]
        return ["pixel", *(f.name for f in fields(LossWeights) if self.objective.weight(f.name)), *weighted]

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """Bytes travel to the device, floats are made there; data of one's own may give floats."""
        return as_floats(batch)

    # ---- forward

    def predict_heatmaps(self, batch: Batch) -> GuidanceOutput:
        """Stage 1 on a batch of windows."""
        return self.guidance(batch["audio"], batch["masked_heatmaps"], batch["reference_heatmaps"])

    def synthesise(self, batch: Batch, heatmaps: Tensor, every_frame: bool = False) -> tuple[SynthesisOutput, Tensor]:
        """Stage 2 under ``heatmaps`` (B, T, 1, S, S): the window's centre, or all its frames.

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

    def generator_terms(self, batch: Batch) -> tuple[Terms, GeneratorOutput]:
        """The generator side of one step: its terms, unweighted, and what was generated."""
        terms: Terms = {}
        generated = GeneratorOutput()
        if self.phase == "audio_pretrain":
            embeddings = self.guidance.embed_audio(batch["audio"].flatten(0, 1)).unflatten(0, batch["audio"].shape[:2])
            return self.objective.audio_terms(embeddings, batch), generated
        heatmaps, step = batch["heatmaps"], GeneratorStep(batch)
        if self.phase in ("guidance", "end_to_end"):
            prediction = self.predict_heatmaps(batch)
            step = GeneratorStep(batch, prediction)
            terms |= self.objective.guidance_terms(prediction, batch) | self.objective.own_terms("heatmap", step)
            heatmaps = prediction.heatmap
            generated.places["heatmap"] = (prediction.lip, prediction.jaw)
        if self.phase not in WITHOUT_PICTURE:
            terms |= self._picture_terms(step, heatmaps, generated)
        return terms, generated

    def _picture_terms(self, step: GeneratorStep, heatmaps: Tensor, generated: GeneratorOutput) -> Terms:
        """Stage 2: of the warped reference and CIL, and (past phase ``warp``) of the face."""
        batch = cast(Batch, step.batch)
        objective, with_face = self.objective, self.phase != "warp"
        every_frame = with_face and objective.every_frame
        output, target = self.synthesise(batch, heatmaps, every_frame)
        generated.places |= {"warped": (output.warped,), "paths": (*output.spatial, *output.temporal)}
        activations = objective.target_activations(target)
        mouth = objective.mouth_map(chosen_frames(batch["lip_heatmaps"], every_frame))
        step = GeneratorStep(batch, step.guidance, output, target, heatmaps.shape[1] if every_frame else 1)
        terms = objective.warp_terms(output, target, activations, mouth) | objective.own_terms("warped", step)
        if with_face:
            generated.places["face"] = (output.face,)
            generated.face, generated.frames = output.face, step.frames
            # What the discriminators see in true faces serves feature matching here and their own step after.
            generated.real = objective.discriminate(target, generated.frames)
            self._toggle_discriminators(False)
            terms |= objective.face_terms(
                output.face, target, activations, generated.real, generated.frames, mouth, batch["audio"]
            )
            terms |= objective.own_terms("face", step)
            self._toggle_discriminators(True)
        return terms

    def on_train_start(self) -> None:
        """The settings hold, also for optimisers whose state comes from a checkpoint of others."""
        for optimiser, settings in zip(self.trainer.optimizers, self.optim, strict=False):
            settings.renew(optimiser)

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Make dropout a function of (seed, batch, rank)."""
        if batch_idx == 0:
            check_batch(batch, self.hparams, self.guidance.audio_dim)
        for part in self.frozen:
            part.eval()  # a fit and each validation end with all in training mode
        torch.manual_seed((self.hparams["seed"] * 1_000_003 + self._batch_number(batch_idx)) * 4096 + self.global_rank)

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Terms]:
        """One step of the generator side, then one of the discriminators.

        Returns:
            ``terms``: every term's value, unweighted and detached.
        """
        with memory_advice(len(batch["frame"])):
            generator, discriminators = self._optimizers()
            terms, generated = self.generator_terms(batch)
            total, weights = self._total(terms, generated)
            if self._balance_is_due(batch_idx):
                self.log_dict(balance_of(terms, weights, generated.places))
            self._learn(generator, total, batch_idx)
            terms["loss"] = total
            if discriminators is not None and generated.face is not None and generated.real is not None:
                fake = self.objective.discriminate(generated.face.detach(), generated.frames)
                discriminator_terms = self.objective.discriminator_terms(generated.real, fake)
                # Lightning counts every optimiser's step; only the generator's is to count.
                discriminators._on_before_step = discriminators._on_after_step = do_nothing_closure
                self._learn(discriminators, torch.stack(list(discriminator_terms.values())).sum(), batch_idx)
                terms |= discriminator_terms
        self._log("train", terms, len(batch["frame"]))
        return {"terms": {name: value.detach() for name, value in terms.items()}}

    def _total(self, terms: Terms, generated: GeneratorOutput) -> tuple[Tensor, Mapping[str, Tensor | float]]:
        """The sum that is learnt from, and each term's weight in it."""
        weights: dict[str, Tensor | float] = {name: self.objective.weight(name) for name in terms}
        on_face = {name: terms[name] for name in self.objective.face_weights() if name in terms}
        if self.balancer is None or generated.face is None or not on_face:
            return torch.stack([weights[name] * value for name, value in terms.items()]).sum(), weights
        balanced, coefficients = self.balancer(on_face, generated.face)
        rest = [weights[name] * value for name, value in terms.items() if name not in on_face]
        return torch.stack([balanced, *rest]).sum(), {**weights, **coefficients}

    def validation_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """Draw as dubbing does (predicted heatmaps), whatever the phase; callbacks measure and show what comes back."""
        prediction, output, target = self(batch)
        self._log("val", self.objective.guidance_terms(prediction, batch), len(batch["frame"]))
        self._log("val", {"pixel": F.l1_loss(output.face, target)}, len(batch["frame"]))
        return shown(batch, prediction, output, target)

    test_step = validation_step

    def predict_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """Every window's centre as in validation: ``generated`` and what it was made of, (B, 3 or 1, S, S) each."""
        return shown(batch, *self(batch))

    # ---- logs

    def _log(self, stage: str, values: Mapping[str, Tensor], batch_size: int) -> None:
        named = {f"{stage}/{name}": value.detach() for name, value in values.items()}
        # Lightning divides by the mean of the ranks' numbers of windows, cut to a whole one: so it is whole.
        ranks = 1 if self._trainer is None else self.trainer.world_size
        self.log_dict(named, batch_size=batch_size * ranks, sync_dist=stage != "train")

    def _balance_is_due(self, batch_idx: int) -> bool:
        logs = getattr(self.trainer, "log_every_n_steps", 0) or 1
        every = -(-self.hparams["balance_every_n_steps"] // logs) * logs
        return every > 0 and (self._batch_number(batch_idx) + 1) % every == 0

    # ---- optimisers

    def _toggle_discriminators(self, value: bool) -> None:
        for discriminator in self.objective.discriminators():
            discriminator.requires_grad_(value)

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        """One for guidance, synthesis, CIL and own terms, one for the discriminators where a weight calls for them."""
        # Hundreds of small tensors: one call for all of them. Under 16-mixed, fused ones unscale gradients by
        # themselves, after they would have been clipped.
        fused = self.device.type == "cuda" and self.trainer.precision != "16-mixed"
        kind: dict[str, Any] = {"fused": True} if fused else {"foreach": True}
        generators = parameters([self.guidance, self.synthesis, *self.objective.auxiliary_modules()])
        discriminators = self.objective.discriminators()
        sides = [generators, parameters(discriminators)] if discriminators else [generators]
        return [settings.make(side, kind) for settings, side in zip(self.optim, sides, strict=False)]

    def _optimizers(self) -> tuple[LightningOptimizer, LightningOptimizer | None]:
        optimisers = self.optimizers()
        if isinstance(optimisers, list):
            return optimisers[0], optimisers[1]
        return optimisers, None

    def _batch_number(self, batch_idx: int) -> int:
        """Batches before this one, over all epochs."""
        return int(self.current_epoch * self.trainer.num_training_batches) + batch_idx

    def steps_after(self, batch_idx: int) -> bool:
        """Whether the optimisers step after this batch of the epoch, so that no gathered gradient is left over."""
        done = batch_idx + 1
        return done % self.hparams["accumulate"] == 0 or done == self.trainer.num_training_batches

    def _learn(self, optimiser: LightningOptimizer, loss: Tensor, batch_idx: int) -> None:
        """Gather this batch's part of the mean gradient; with the group's last batch, step."""
        group = self.hparams["accumulate"]
        first = batch_idx - batch_idx % group
        size = min(group, int(self.trainer.num_training_batches) - first)
        if batch_idx == first:
            optimiser.zero_grad()
        self.manual_backward(loss / size if size > 1 else loss)
        if self.steps_after(batch_idx):
            optimiser.step()

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Clip here: under 16-bit precision the gradients are unscaled only now, and in several processes averaged."""
        if self.hparams["gradient_clip"] is not None:
            held = [parameter for group in optimizer.param_groups for parameter in group["params"]]
            torch.nn.utils.clip_grad_norm_(held, self.hparams["gradient_clip"])


def settled(kind: type[Settings], value: Any) -> Settings:
    """Settings as such, also where they come as a checkpoint or plain Python gives them, as names and values."""
    if isinstance(value, Mapping):
        known = [entry.name for entry in fields(kind)]  # type: ignore[arg-type]
        if unknown := value.keys() - set(known):
            raise UserError(f"{kind.__name__}: expected some of {', '.join(known)}, got {', '.join(sorted(unknown))}")
        return kind(**value)
    return value


def parameters(modules: Sequence[torch.nn.Module]) -> list[torch.nn.Parameter]:
    """All parameters of several modules, frozen ones too (a later phase may free them)."""
    return [parameter for module in modules for parameter in module.parameters()]


def chosen_frames(windows: Tensor, every_frame: bool) -> Tensor:
    """Windows (B, T, ...) -> the centre frames (B, ...), or all (B * T, ...)."""
    frames = windows.shape[1]
    return windows.flatten(0, 1) if every_frame else windows[:, frames // 2]


def shown(batch: Batch, prediction: GuidanceOutput, output: SynthesisOutput, target: Tensor) -> dict[str, Tensor]:
    """What callbacks measure and show of drawn windows: pictures (B, 3, S, S), the heatmap (B, 1, S, S)."""
    return {
        "reference": batch["references"][:, 0],
        "masked": mask_lower_half(target),
        "heatmap": chosen_frames(prediction.heatmap, False),
        "warped": output.warped,
        "generated": output.face,
        "true": target,
    }


def compile_networks(module: STSA) -> None:
    """Compile what a training step calls; parameters, their names and checkpoints stay as they are."""
    # Gradients are measured along the graph of the step, which therefore may not give up its buffers early.
    if hasattr(torch._functorch.config, "donated_buffer"):  # not in PyTorch 2.4, which keeps them
        torch._functorch.config.donated_buffer = False
    module.guidance.compile()
    module.synthesis.encode_references = torch.compile(module.synthesis.encode_references)  # type: ignore[method-assign]
    module.synthesis.render = torch.compile(module.synthesis.render)  # type: ignore[method-assign]
    for discriminator in module.objective.discriminators():
        discriminator.compile()
    if module.objective.perceptual is not None:
        module.objective.perceptual.features.compile()
