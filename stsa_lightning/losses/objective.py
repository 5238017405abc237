"""All loss terms of one training step, by name and unweighted, with the discriminators.

Terms of the guidance network come from its heatmaps and keypoints, terms of the picture from the generated face, the
warped reference and the codes of both paths. Which apply is the phase's business (see `training.module`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stsa_lightning.face.box import mouth_region
from stsa_lightning.losses.adversarial import Features, feature_matching, lsgan_discriminator, lsgan_generator
from stsa_lightning.losses.cil import INFO_NCE, CILLoss, CILSettings
from stsa_lightning.losses.heatmap import SemanticLoss, TemporalLoss
from stsa_lightning.losses.lip_aperture import LipApertureProbe, lip_aperture_loss
from stsa_lightning.losses.native_resolution import native_faces
from stsa_lightning.losses.perceptual import PerceptualLoss
from stsa_lightning.losses.sync import SyncLoss
from stsa_lightning.losses.term import GeneratorStep, Place, TermSettings, chosen_frames, own_terms
from stsa_lightning.models.discriminators import PATCHES, DiscriminatorSettings, TemporalDiscriminator
from stsa_lightning.models.guidance import GuidanceOutput
from stsa_lightning.models.synthesis import SynthesisOutput
from stsa_lightning.utils.errors import check_at_least, check_choice
from stsa_lightning.utils.settings import settled

Terms = dict[str, Tensor]

# What reaches the networks through the generated face alone: a gradient-share balancer acts on these.
FACE_TERMS = ("pixel", "perceptual", "adversarial", "feature_matching", "temporal_adversarial", "sync")


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
        lip_aperture: how far the keypoints' lips are open and wide, in units of the clip's (ours).
        audio_lip_aperture: the same, read off the audio embeddings alone by a linear probe (ours).
        warp: VGG perceptual distance of the warped reference to the true face.
        warp_pixel: L1 of the warped reference to the true face.
        perceptual: VGG perceptual + style distance of the generated face.
        pixel: L1 of the generated face.
        painted: L1 of the painted face, before `synthesis.blend` lays it over the warped reference (ours): without a
            term of its own it would be taught only where it is already seen.
        adversarial: least-squares GAN on single faces.
        feature_matching: L1 of the discriminator's features.
        temporal_adversarial: least-squares GAN on windows of mouths; above 0, all T frames of a window are rendered.
        sync: distance by a frozen lip-sync expert on windows of mouths; above 0, all T frames are rendered.
        native_warp: L1 of the warped reference at the frames' own resolution, see `data.native_size` (ours).
        native_perceptual: VGG perceptual distance of the generated face there (ours).
    """

    heatmap: float = 1.0
    keypoints: float = 1.0
    keypoint_velocity: float = 1.0
    heatmap_velocity: float = 1.0
    lip_aperture: float = 0.0
    audio_lip_aperture: float = 0.0
    warp: float = 2.5
    warp_pixel: float = 0.0
    perceptual: float = 4.0
    pixel: float = 0.0
    painted: float = 0.0
    adversarial: float = 0.25
    feature_matching: float = 2.5
    temporal_adversarial: float = 0.0
    sync: float = 0.0
    native_warp: float = 0.0
    native_perceptual: float = 0.0

    @property
    def native(self) -> bool:
        """Whether a term needs faces at the frames' own resolution."""
        return self.native_warp > 0 or self.native_perceptual > 0

    def __post_init__(self) -> None:
        for name, weight in vars(self).items():
            check_at_least(f"losses.weights.{name}", weight, 0)


Balance = Literal["weights", "shares"]


@dataclass  # not frozen: Lightning copies hyperparameters field by field
class LossSettings:
    """The loss terms as settings say them; CIL has its own, `CILSettings`.

    Attributes:
        weights: weight of each term.
        terms: further terms of one's own by name, see `LossTerm`.
        foreground_weight: weight of a heatmap's lines against its empty part.
        closure_weight: weight of frames whose lips are shut in `lip_aperture`, against all others (ours).
        mouth_weight: weight of the mouth's pixels in `pixel`, `warp_pixel` and `perceptual` against those far from it;
            1: all equal, see `mouth_map`.
        perceptual_net: torchvision VGG of the perceptual losses.
        perceptual_half: computed on lower halves alone, the part that is generated: half the work (ours).
        sync_expert: checkpoint of `stsa syncnet fit`, of the same audio features, for the term `sync`.
        balance: what the weights of the terms on the generated face mean: `weights` multiply the terms, `shares` are
            parts of the gradient at the face, see `ShareBalancer`.
        balance_every_n_steps: batches between measurements of the gradients, rounded up to when the trainer logs; 0:
            none.
    """

    weights: LossWeights = field(default_factory=LossWeights)
    terms: dict[str, TermSettings] = field(default_factory=dict)
    foreground_weight: float = 1.0
    closure_weight: float = 1.0
    mouth_weight: float = 1.0
    perceptual_net: str = "vgg19"
    perceptual_half: bool = False
    sync_expert: str | None = None
    balance: Balance = "weights"
    balance_every_n_steps: int = 100

    def __post_init__(self) -> None:
        self.weights = settled(LossWeights, self.weights)
        self.terms = {name: settled(TermSettings, term) for name, term in self.terms.items()}
        for name in ("closure_weight", "mouth_weight"):
            check_at_least(f"losses.{name}", getattr(self, name), 1)
        for name in ("foreground_weight", "balance_every_n_steps"):
            check_at_least(f"losses.{name}", getattr(self, name), 0)
        check_choice("losses.balance", self.balance, get_args(Balance))


RELEASED_RECIPE = LossSettings()


@dataclass
class DiscriminatorOutput:
    """Activations of the discriminators for F faces: `face` of each, `motion` of the windows that they form; None: no
    such discriminator."""

    face: Features | None
    motion: Features | None


class Objective(nn.Module):
    """The terms that have a weight, and what they need: estimator of mutual information, VGG, discriminators.

    Args:
        losses: which terms there are; weighting itself is the caller's.
        channels: of the paths' maps, scale by scale, which CIL compares.
        cil_width: size of the embeddings that it compares.
        embedding_width: size of the guidance network's embeddings, which the term `audio_lip_aperture` reads.
    """

    def __init__(
        self,
        losses: LossSettings,
        channels: Sequence[int],
        cil: CILSettings = INFO_NCE,
        cil_width: int = 128,
        discriminator: DiscriminatorSettings = PATCHES,
        sync: SyncLoss | None = None,
        embedding_width: int = 512,
    ) -> None:
        super().__init__()
        weights = losses.weights
        by_vgg = weights.perceptual or weights.warp or weights.native_perceptual
        self.weights, self.mouth_weight, self.closure_weight = weights, losses.mouth_weight, losses.closure_weight
        self.semantic = SemanticLoss(losses.foreground_weight)
        self.temporal = TemporalLoss()
        self.perceptual = PerceptualLoss(losses.perceptual_net) if by_vgg else None
        self.perceptual_half = losses.perceptual_half
        made = cil.make(cil_width, len(channels))
        self.cil = CILLoss(channels, made, cil.detach_temporal) if cil.weight else None
        self.cil_settings = cil
        single = weights.adversarial or weights.feature_matching
        self.discriminator = discriminator.make() if single else None
        self.temporal_discriminator = TemporalDiscriminator() if weights.temporal_adversarial else None
        self.sync = sync
        self.lip_aperture_probe = LipApertureProbe(embedding_width) if weights.audio_lip_aperture else None
        self.term_weights: dict[str, float] = {**asdict(weights), "cil": cil.weight}
        taken = self.term_weights.keys() | {"loss", "discriminator", "temporal_discriminator"}
        self.own = nn.ModuleDict(own_terms(losses.terms, taken))
        self.term_weights |= {name: losses.terms[name].weight for name in self.own}

    @property
    def every_frame(self) -> bool:
        """Whether a term needs the motion of a window, all of whose frames must then be rendered."""
        return self.temporal_discriminator is not None or self.sync is not None

    def face_weights(self) -> dict[str, float]:
        """Weights of the terms that reach the networks through the generated face alone, those above 0."""
        own = [name for name, term in self.own.items() if term.place == "face"]
        return {name: weight for name in (*FACE_TERMS, *own) if (weight := self.term_weights[name])}

    def own_terms(self, place: Place, step: GeneratorStep) -> Terms:
        return {name: term(step) for name, term in self.own.items() if term.place == place}

    # ---- stage 1

    def guidance_terms(self, prediction: GuidanceOutput, batch: Mapping[str, Any]) -> Terms:
        """L_semantic, L_temporal and what the mouth does with the sound."""
        pairs = (
            *(prediction.lip, prediction.jaw, prediction.keypoints),
            *(batch["lip_heatmaps"], batch["jaw_heatmaps"], batch["keypoints"]),
        )
        terms = self.semantic(*pairs) | self.temporal(*pairs)
        terms["heatmap"] = terms.pop("lip_heatmap") + terms.pop("jaw_heatmap")
        if self.weights.lip_aperture:
            units = batch["lip_aperture"], batch["lip_aperture_spread"]
            lips = prediction.keypoints, batch["keypoints"]
            terms["lip_aperture"] = lip_aperture_loss(*lips, *units, self.closure_weight)
        terms |= self.audio_terms(prediction.audio_embeddings, batch)
        return {name: value for name, value in terms.items() if self.term_weights[name]}

    def audio_terms(self, embeddings: Tensor, batch: Mapping[str, Any]) -> Terms:
        """What the audio embeddings (B, T, C) alone say of the lips."""
        if self.lip_aperture_probe is None:
            return {}
        return {"audio_lip_aperture": self.lip_aperture_probe(embeddings, batch["lip_aperture"])}

    # ---- stage 2

    def warp_terms(self, output: SynthesisOutput, target: Tensor, activations: Any, mouth: Tensor | None) -> Terms:
        """Terms of the warped reference.

        Args:
            output: of F frames.
            target: true faces (F, 3, S, S).
            activations: their VGG activations, see `target_activations`.
            mouth: weights of pixels (F, 1, S, S), see `mouth_map`; None: all equal.
        """
        terms = {}
        if self.weights.warp_pixel:
            terms["warp_pixel"] = weighted_l1(output.warped, target, mouth)
        if self.perceptual is not None and self.weights.warp:
            terms["warp"] = self.perceptual(self._looked_at(output.warped), activations, with_style=False)
        return terms

    def painted_terms(self, output: SynthesisOutput, target: Tensor, mouth: Tensor | None) -> Terms:
        """The term of the painted face alone; arguments as those of `warp_terms`."""
        return {"painted": weighted_l1(output.painted, target, mouth)} if self.weights.painted else {}

    def cil_terms(self, output: SynthesisOutput, lip_heatmaps: Tensor, clips: Sequence[str]) -> Terms:
        """What both paths' feature maps of F frames have in common, equally many of each clip in turn.

        `lip_heatmaps` are true ones, (F, 1, S, S) in [0, 1].
        """
        if self.cil is None:
            return {}
        region = mouth_map(lip_heatmaps, 2) - 1 if self.cil_settings.region == "mouth" else None
        groups = None
        if self.cil_settings.negatives == "clip":
            numbers = torch.tensor([clips.index(clip) for clip in clips], device=lip_heatmaps.device)
            groups = numbers.repeat_interleave(len(lip_heatmaps) // len(clips))
        return {"cil": self.cil(output.spatial, output.temporal, region, groups)}

    def face_terms(
        self,
        face: Tensor,
        target: Tensor,
        activations: Any,
        real: DiscriminatorOutput,
        frames: int,
        mouth: Tensor | None,
        audio: Tensor,
    ) -> Terms:
        """Terms of generated faces (F, 3, S, S) that windows of `frames` form.

        Args:
            target, activations, mouth: see `warp_terms`.
            real: what the discriminators make of `target`.
            audio: of the windows, (B, T, D, 10).
        """
        terms = {}
        if self.weights.pixel:
            terms["pixel"] = weighted_l1(face, target, mouth)
        if self.perceptual is not None and self.weights.perceptual:
            region = None if mouth is None else self._looked_at(mouth)
            terms["perceptual"] = self.perceptual(self._looked_at(face), activations, region=region)
        fake = self.discriminate(face, frames)
        if fake.face is not None and real.face is not None:
            if self.weights.adversarial:
                terms["adversarial"] = lsgan_generator(fake.face)
            if self.weights.feature_matching:
                terms["feature_matching"] = feature_matching(real.face, fake.face)
        if fake.motion is not None:
            terms["temporal_adversarial"] = lsgan_generator(fake.motion)
        if self.sync is not None:
            terms["sync"] = self.sync(face.unflatten(0, (-1, frames)), audio)
        return terms

    def native_terms(self, step: GeneratorStep, aligned: bool, with_face: bool) -> Terms:
        """Terms of the lower halves of faces at the frames' own resolution.

        Args:
            step: of F frames; its batch holds `native_faces` and `native_references`.
            aligned: of networks with `align_references`.
            with_face: the faces themselves are trained, too.
        """
        if not self.weights.native or step.synthesis is None:
            return {}
        every_frame = step.frames > 1
        references = step.batch["native_references"].repeat_interleave(step.frames, 0)
        theta = chosen_frames(step.batch["theta"], every_frame) if aligned else None
        made = native_faces(step.synthesis, references, theta)
        true = mouth_region(chosen_frames(step.batch["native_faces"], every_frame))
        warped, face = map(mouth_region, made)
        terms = {}
        if self.weights.native_warp:
            terms["native_warp"] = F.l1_loss(warped, true)
        if self.perceptual is not None and self.weights.native_perceptual and with_face:
            terms["native_perceptual"] = self.perceptual.of_detail(face, true)
        return terms

    @torch.no_grad()
    def target_activations(self, target: Tensor) -> Any:
        """VGG activations of true faces, which all perceptual terms share; None where there are none."""
        if self.perceptual is None or not (self.weights.perceptual or self.weights.warp):
            return None
        return self.perceptual.pyramid(self._looked_at(target))

    def _looked_at(self, maps: Tensor) -> Tensor:
        """What of (F, C, S, S) the perceptual losses see."""
        return mouth_region(maps) if self.perceptual_half else maps

    def mouth_map(self, lip_heatmaps: Tensor) -> Tensor | None:
        """Weights of pixels for lip heatmaps (F, 1, S, S); None where all weigh the same."""
        return None if self.mouth_weight == 1 else mouth_map(lip_heatmaps, self.mouth_weight)

    # ---- discriminators

    def discriminators(self) -> list[nn.Module]:
        return [part for part in (self.discriminator, self.temporal_discriminator) if part is not None]

    def auxiliary_modules(self) -> list[nn.Module]:
        """What learns with the generator: CIL's heads and estimator, the lip aperture probe, own terms."""
        return [part for part in (self.cil, self.lip_aperture_probe, *self.own.values()) if part is not None]

    def discriminate(self, faces: Tensor, frames: int) -> DiscriminatorOutput:
        """Activations of the discriminators for faces (F, 3, S, S) that windows of `frames` form."""
        face = None if self.discriminator is None else self.discriminator(faces)
        motion = None if self.temporal_discriminator is None else self.temporal_discriminator(mouths(faces, frames))
        return DiscriminatorOutput(face, motion)

    def discriminator_terms(self, real: DiscriminatorOutput, fake: DiscriminatorOutput) -> Terms:
        """Least-squares terms of the discriminators; `fake` of detached faces."""
        terms = {}
        if real.face is not None and fake.face is not None:
            terms["discriminator"] = lsgan_discriminator(real.face, fake.face)
        if real.motion is not None and fake.motion is not None:
            terms["temporal_discriminator"] = lsgan_discriminator(real.motion, fake.motion)
        return terms


def mouths(faces: Tensor, frames: int) -> Tensor:
    """Lower halves of faces (B * T, 3, S, S) as windows (B, T, 3, S / 2, S), T = `frames`."""
    return mouth_region(faces).unflatten(0, (-1, frames))


def mouth_map(lip_heatmaps: Tensor, weight: float) -> Tensor:
    """Weights of pixels, (F, 1, S, S): `weight` on and between the lips, falling to 1 within an eighth of S of them.

    `lip_heatmaps` are true ones, (F, 1, S, S) in [0, 1].
    """
    reach = lip_heatmaps.shape[-1] // 8
    # The largest value around fills the mouth, and the mean of that has a soft edge.
    filled = F.max_pool2d(lip_heatmaps, reach + 1, 1, reach // 2)
    soft = F.avg_pool2d(filled, reach + 1, 1, reach // 2, count_include_pad=False)
    return 1 + (weight - 1) * soft.clamp(0, 1)


def weighted_l1(pred: Tensor, target: Tensor, weight: Tensor | None) -> Tensor:
    """Mean absolute difference of (F, C, H, W) under weights (F, 1, H, W); a constant error e costs e under any."""
    if weight is None:
        return F.l1_loss(pred, target)
    return ((pred - target).abs() * weight).sum() / (weight.sum() * pred.shape[1])
