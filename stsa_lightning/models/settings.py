"""Settings of both networks that differ from a preset's, as a training says them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, TypeVar

from torch import nn

from stsa_lightning.models.description import expected_value
from stsa_lightning.models.synthesis import Paths
from stsa_lightning.utils.errors import UserError
from stsa_lightning.utils.own import description, imported, is_own

Network = TypeVar("Network", bound=nn.Module)
Settings = TypeVar("Settings", bound="NetworkSettings")

SIZES = ("audio_dim", "face_size", "num_references")  # arguments of the networks that a training says by itself


@dataclass(kw_only=True)  # not frozen: Lightning copies hyperparameters field by field
class NetworkSettings:
    """What a training says of a network; None leaves a setting as the preset has it.

    Attributes:
        network: class path of a subclass of one's own in the place of the package's network; it is given the preset.
        options: its further arguments.
    """

    network: str | None = None
    options: dict[str, Any] = field(default_factory=dict)

    def build(self, base: type[Network], preset: Mapping[str, Any], option: str) -> Network:
        """The network, with a preset's arguments where these settings, which are called `option`, say nothing.

        Raises:
            UserError: a value or an option that the network does not take.
        """
        own = {name: value for name, value in asdict(self).items() if value is not None}
        kind = imported(own.pop("network"), base, f"{option}.network") if self.network else base
        options = own.pop("options")
        if options and not self.network:
            raise UserError(f"{option}.options: expected {option}.network, the class that takes them, got none")
        for name, value in own.items():
            if expected := expected_value(base, name, value):
                raise UserError(f"{option}.{name}: expected {expected}, got {value!r}")
        arguments = {**preset, **own, **options}
        try:
            network = kind(**arguments)
        except (TypeError, ValueError) as error:
            raise UserError(f"{option}: {kind.__name__} cannot be made with these settings: {error}") from error
        if self.network:
            network.settings = arguments  # type: ignore[assignment]
        return network


@dataclass(kw_only=True)
class GuidanceSettings(NetworkSettings):
    """Settings of the guidance network that differ from the preset's, see `Guidance`.

    Attributes:
        width: size of every embedding.
        base: channels of the first heatmap convolution.
        layers: of the transformer.
        heads: of the transformer.
        feedforward: width of the transformer's hidden layer.
        dropout: of the transformer.
        audio_dropout: share of the audio features that are missing in training.
        add_masked: add the masked heatmap to the predicted one.
        heatmap_sigma: width in pixels of the lines of heatmaps rendered from the predicted keypoints; 0: as decoded.
    """

    width: int | None = None
    base: int | None = None
    layers: int | None = None
    heads: int | None = None
    feedforward: int | None = None
    dropout: float | None = None
    audio_dropout: float | None = None
    add_masked: bool | None = None
    heatmap_sigma: float | None = None


@dataclass(kw_only=True)
class SynthesisSettings(NetworkSettings):
    """Settings of the synthesis network that differ from the preset's, see `Synthesis`.

    Attributes:
        width: channels at full size.
        audio_width: size of the audio code, of the alignment code and of AdaIN's hidden layer.
        spade_hidden: channels inside SPADE.
        align_kernels: the two large kernels of the alignment encoder.
        stem_kernel: kernel of the first convolutions and of the last.
        flow_kernel: kernel of the flow and confidence convolutions.
        residuals: residual blocks of the reference encoder at each scale.
        on_warped: correct the warped reference instead of painting from nothing.
        align_references: warp references onto each frame's pose first.
        paths: which paths the face is made of.
        base_reduction: how many times smaller the warped reference is that `on_warped` corrects.
        blend: lay what is painted over the warped reference by a mask, with `on_warped`.
        temporal_dropout: probability that a frame is rendered without the temporal path in training.
    """

    width: int | None = None
    audio_width: int | None = None
    spade_hidden: int | None = None
    align_kernels: tuple[int, int] | None = None
    stem_kernel: int | None = None
    flow_kernel: int | None = None
    residuals: int | None = None
    on_warped: bool | None = None
    align_references: bool | None = None
    paths: Paths | None = None
    base_reduction: int | None = None
    blend: bool | None = None
    temporal_dropout: float | None = None


def settings_of(kind: type[Settings], network: nn.Module) -> Settings:
    """Settings that build `network` again, where the training says its sizes."""
    described = description(network)
    own = {"network": described["class_path"]} if is_own(described) else {}
    arguments = {k: v for k, v in (described["init_args"] if own else described).items() if k not in SIZES}
    options = {name: arguments.pop(name) for name in arguments.keys() - {entry.name for entry in fields(kind)}}
    return kind(**own, options=options, **arguments)


GUIDANCE_PRESET, SYNTHESIS_PRESET = GuidanceSettings(), SynthesisSettings()  # as the preset has them
