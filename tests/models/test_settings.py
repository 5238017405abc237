"""Settings of the networks beside a preset."""

from __future__ import annotations

import inspect
from dataclasses import fields

import pytest
import torch

from stsa_lightning.models.guidance import Guidance
from stsa_lightning.models.presets import GUIDANCE, SYNTHESIS
from stsa_lightning.models.settings import SIZES, GuidanceSettings, NetworkSettings, SynthesisSettings, settings_of
from stsa_lightning.models.synthesis import Synthesis
from stsa_lightning.utils.errors import UserError

OF = {Guidance: GuidanceSettings, Synthesis: SynthesisSettings}


@pytest.mark.parametrize("network", OF)
def test_settings_are_the_arguments_of_their_network(network: type[torch.nn.Module]) -> None:
    arguments = set(inspect.signature(network).parameters) - set(SIZES)
    assert {entry.name for entry in fields(OF[network])} == arguments | {"network", "options"}


def test_settings_lie_over_the_preset_and_come_back_from_the_network() -> None:
    said = SynthesisSettings(width=4, align_kernels=(3, 3), paths="spatial")
    network = said.build(Synthesis, SYNTHESIS["tiny"], "model.synthesis")
    own = {"width": 4, "align_kernels": (3, 3), "paths": "spatial"}
    assert network.settings == {**Synthesis(**SYNTHESIS["tiny"]).settings, **own}
    again = settings_of(SynthesisSettings, network).build(Synthesis, {}, "model.synthesis")
    assert again.settings == {**network.settings, "audio_dim": 768, "face_size": 128, "num_references": 5}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (GuidanceSettings(width=-3), r"model\.guidance\.width: expected a whole number from 1 to 8192, got -3"),
        (GuidanceSettings(width="wide"), r"model\.guidance\.width: expected a whole number .*, got 'wide'"),  # type: ignore[arg-type]
        (GuidanceSettings(add_masked=1), r"model\.guidance\.add_masked: expected true or false, got 1"),  # type: ignore[arg-type]
        (GuidanceSettings(width=30), r"model\.guidance: Guidance cannot be made .*width must be a multiple of 4"),
        (GuidanceSettings(options={"a": 1}), r"model\.guidance\.options: expected model\.guidance\.network, the class"),
        (GuidanceSettings(network="torch.nn.Linear"), r"model\.guidance\.network: expected the path of a Guidance"),
    ],
)
def test_a_setting_that_will_not_do_is_named(settings: NetworkSettings, message: str) -> None:
    with pytest.raises(UserError, match=message):
        settings.build(Guidance, GUIDANCE["tiny"], "model.guidance")


def test_kernels_are_two_numbers() -> None:
    with pytest.raises(UserError, match=r"align_kernels: expected 2 numbers, got \(3, 3, 3\)"):
        SynthesisSettings(align_kernels=(3, 3, 3)).build(Synthesis, SYNTHESIS["tiny"], "s")  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"align_kernels: expected 2 times a whole number from 1 to 63, got \(3, 99\)"):
        SynthesisSettings(align_kernels=(3, 99)).build(Synthesis, SYNTHESIS["tiny"], "s")
