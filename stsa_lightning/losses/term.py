"""Loss terms of one's own: named in settings, logged, weighted and balanced like the package's."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, get_args

from torch import Tensor, nn

from stsa_lightning.models.guidance import GuidanceOutput
from stsa_lightning.models.synthesis import SynthesisOutput
from stsa_lightning.utils.errors import UserError, check_at_least, check_choice
from stsa_lightning.utils.own import imported

Place = Literal["heatmap", "warped", "face"]


@dataclass(frozen=True)
class GeneratorStep:
    """What the networks made of one batch.

    Attributes:
        batch: windows, see `data.windows.Batch`.
        guidance: heatmaps and keypoints (B, T, ...), where the phase predicts them.
        synthesis: F frames, where the phase renders them: the centre of each window, or all, B * T.
        target: their true faces (F, 3, S, S).
        frames: of a window that were rendered, 1 or T.
    """

    batch: Mapping[str, Any]
    guidance: GuidanceOutput | None = None
    synthesis: SynthesisOutput | None = None
    target: Tensor | None = None
    frames: int = 1


def chosen_frames(windows: Tensor, every_frame: bool) -> Tensor:
    """Windows (B, T, ...) -> the centre frames (B, ...), or all (B * T, ...)."""
    frames = windows.shape[1]
    return windows.flatten(0, 1) if every_frame else windows[:, frames // 2]


class LossTerm(nn.Module):
    """A term of one's own: a subclass says where it acts and what it costs.

    `place` is what it acts on, and so in which phases it is computed: `heatmap` (`step.guidance`: guidance and end
    to end), `warped` (`step.synthesis.warped` and the paths' maps: from phase warp on) or `face`
    (`step.synthesis.face` alone, so that it can be balanced: synthesis and end to end). Its parameters, if it has
    any, learn with the networks and are in the checkpoint.
    """

    place: ClassVar[Place] = "face"

    def forward(self, step: GeneratorStep) -> Tensor:
        """Scalar, the lower the better."""
        raise NotImplementedError


@dataclass  # not frozen: Lightning copies hyperparameters field by field
class TermSettings:
    """A term of one's own as settings say it, under its name.

    Attributes:
        loss: class path of a `LossTerm`.
        weight: as those of the package's terms; 0 leaves it out.
        options: its arguments.
    """

    loss: str
    weight: float = 1.0
    options: dict[str, Any] = field(default_factory=dict)


def own_terms(settings: Mapping[str, TermSettings], taken: Collection[str]) -> dict[str, LossTerm]:
    """The terms that have a weight; `taken`: names of the package's own.

    Raises:
        UserError: a name that is taken or can be no name, a weight below 0, a class that is no term.
    """
    terms: dict[str, LossTerm] = {}
    for name, said in settings.items():
        option = f"model.losses.terms.{name}"
        if name in taken or not name.isidentifier() or hasattr(nn.ModuleDict, name):
            raise UserError(f"{option}: expected a name of letters, digits and _ that is not taken, got {name!r}")
        check_at_least(f"{option}.weight", said.weight, 0)
        if said.weight:
            kind = imported(said.loss, LossTerm, f"{option}.loss")
            check_choice(f"{option}: {said.loss}.place", kind.place, get_args(Place))
            terms[name] = kind(**said.options)
    return terms
