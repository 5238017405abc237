"""The phases of a training: what learns in each, how long it lasts, at which rates.

| phase            | what drives the picture | what learns                                                |
|------------------|-------------------------|------------------------------------------------------------|
| `audio_pretrain` | nothing is rendered     | the guidance network's audio encoder, from audio alone     |
| `guidance`       | nothing is rendered     | guidance network                                           |
| `warp`           | true heatmaps           | synthesis network, warp terms alone, without CIL           |
| `synthesis`      | true heatmaps           | synthesis network, all its terms                           |
| `end_to_end`     | predicted heatmaps      | both networks, all terms                                   |
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from itertools import takewhile
from typing import Literal, cast, get_args

from torch import nn

from stsa_lightning.losses.objective import Objective
from stsa_lightning.models.guidance import Guidance
from stsa_lightning.models.synthesis import Synthesis
from stsa_lightning.training.optim import SCHEDULES, Schedule
from stsa_lightning.utils.errors import UserError, check_at_least, check_choice

Phase = Literal["audio_pretrain", "guidance", "warp", "synthesis", "end_to_end"]
PHASES: tuple[Phase, ...] = get_args(Phase)
WITHOUT_PICTURE = ("audio_pretrain", "guidance")

# Options that a phase's own settings override.
OVERRIDDEN = {
    "model.optim.lr": "lr",
    "model.optim.discriminator.lr": "discriminator_lr",
    "model.optim.schedule": "schedule",
    "model.optim.discriminator.schedule": "schedule",
}


@dataclass(frozen=True)
class PhaseSpec:
    """One phase of a run.

    Attributes:
        name: what drives the picture and what learns, see `stsa_lightning.training.module`.
        epochs: its length.
        lr: learning rate of the generator side; None keeps the module's own.
        discriminator_lr: learning rate of the discriminators; None keeps the module's own.
        warmup: batches over which both rates rise from nearly 0 in a straight line.
        schedule: how they go on within the phase; None keeps the module's own, see `OptimizerSettings`.
        freeze: parts of the networks that do not learn in it though the phase would have them, such as
            `guidance.audio_encoder`; their batch norms stand still as well.
    """

    name: Phase
    epochs: int
    lr: float | None = None
    discriminator_lr: float | None = None
    warmup: int = 0
    schedule: Schedule | None = None
    freeze: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_choice("phases: name", self.name, PHASES)
        if self.epochs < 1:
            raise UserError(f"phases: {self.name} must last at least 1 epoch, got {self.epochs}")
        for option in ("lr", "discriminator_lr", "warmup"):
            value = getattr(self, option)
            if value is not None:
                check_at_least(f"phases: {option} of {self.name}", value, 0)
        if self.schedule is not None:
            check_choice(f"phases: schedule of {self.name}", self.schedule, SCHEDULES)


@dataclass(frozen=True)
class PhaseSettings:
    """A phase as settings say it, under a label of its own: `phases.LABEL.epochs` and so on.

    They follow each other as in `PHASES`, those of one name in the order of their labels in the file.

    Attributes:
        epochs: its length; 0 leaves it out.
        name: which phase it is; None: its label, so that a phase can come twice, with other rates; `before`: the one
            before it goes on, as it is.
        lr, discriminator_lr, warmup, schedule, freeze: see `PhaseSpec`.
    """

    epochs: int = 0
    name: Phase | Literal["before"] | None = None
    lr: float | None = None
    discriminator_lr: float | None = None
    warmup: int = 0
    schedule: Schedule | None = None
    freeze: tuple[str, ...] = ()


def phase_specs(phases: Mapping[str, PhaseSettings]) -> list[PhaseSpec]:
    """What a schedule is made of.

    Raises:
        UserError: there is no such phase, or none before the first.
    """
    specs: list[PhaseSpec] = []
    for label, settings in phases.items():
        given = {field.name: getattr(settings, field.name) for field in fields(settings)}
        if settings.name != "before":
            specs.append(PhaseSpec(**{**given, "name": settings.name or cast(Phase, label)}))
        elif specs:
            specs.append(replace(specs[-1], epochs=settings.epochs, warmup=0))
        else:
            raise UserError(f"phases.{label}.name: there is no phase before it, got 'before'")
    return specs


def chosen_phases(phases: Mapping[str, PhaseSettings], epochs: int | None = None) -> dict[str, PhaseSettings]:
    """The phases that have a length; in their proportions, with `epochs` in all, where that is given.

    Raises:
        UserError: a length below 0; fewer epochs than phases.
    """
    for label, settings in phases.items():
        if settings.epochs < 0:
            raise UserError(f"phases.{label}.epochs must be 0 (left out) or more, got {settings.epochs}")
    chosen = {label: settings for label, settings in sorted(phases.items(), key=_place) if settings.epochs}
    if epochs is None or not chosen:
        return chosen
    lengths = scaled([settings.epochs for settings in chosen.values()], epochs)
    return {
        label: replace(settings, epochs=length)
        for (label, settings), length in zip(chosen.items(), lengths, strict=True)
    }


def _place(labelled: tuple[str, PhaseSettings]) -> int:
    """Of a phase in the order of a run; names that there are not are refused when the schedule is made."""
    label, settings = labelled
    name = label if settings.name in (None, "before") else settings.name
    return PHASES.index(cast(Phase, name)) if name in PHASES else len(PHASES)


def scaled(lengths: Sequence[int], total: int) -> list[int]:
    """Lengths in the same proportions with another sum, each at least 1.

    Raises:
        UserError: a sum smaller than their number.
    """
    if total < len(lengths):
        raise UserError(f"epochs: expected at least one for each of the {len(lengths)} phases, got {total}")
    shares = [length * total / sum(lengths) for length in lengths]
    whole = [max(1, int(share)) for share in shares]
    while sum(whole) != total:
        step = 1 if sum(whole) < total else -1
        movable = [i for i, part in enumerate(whole) if part + step >= 1]
        whole[max(movable, key=lambda i: step * (shares[i] - whole[i]))] += step  # the one furthest from its share
    return whole


def check_options(words: Sequence[str], phases: Mapping[str, PhaseSettings]) -> None:
    """Raises `UserError` for options of a command line that would have no effect, as every phase says the same."""
    specs = phase_specs(phases)
    for option, name in OVERRIDDEN.items():
        given = any(word.partition("=")[0] == f"--{option}" for word in words)
        if given and specs and all(getattr(spec, name) is not None for spec in specs):
            raise UserError(
                f"--{option}: has no effect, as every phase sets its own {name}; change --phases.LABEL.{name}, or set "
                "it to null there"
            )


def epochs_without_picture(phases: Mapping[str, PhaseSettings]) -> int:
    """Epochs at the beginning of a run in which nothing is rendered."""
    return sum(spec.epochs for spec in takewhile(lambda spec: spec.name in WITHOUT_PICTURE, phase_specs(phases)))


class Phased(nn.Module):
    """A module whose networks learn phase by phase."""

    guidance: Guidance
    synthesis: Synthesis
    objective: Objective

    def set_phase(self, phase: Phase, freeze: Sequence[str] = ()) -> None:
        """Freeze and free the networks for `phase`; parts to `freeze` stay as they are besides, batch norms too."""
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
        """Raise `UserError` for a phase that there is not, or that has nothing to learn from."""
        check_choice("phase", phase, PHASES)
        if phase == "audio_pretrain" and self.objective.lip_aperture_probe is None:
            raise UserError(
                "phase audio_pretrain learns from weights.audio_lip_aperture alone: set it above 0, or leave it out"
            )

    def part(self, name: str) -> nn.Module:
        try:
            if name.split(".")[0] in ("guidance", "synthesis"):
                return self.get_submodule(name)
        except AttributeError:
            pass
        inner = [
            f"{net}.{child}" for net in ("guidance", "synthesis") for child, _ in getattr(self, net).named_children()
        ]
        raise UserError(f"freeze: expected a part of a network, such as {', '.join(inner)}; got {name!r}")
