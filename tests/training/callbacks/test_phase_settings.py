"""Phases as settings say them: order, length, repetition."""

from __future__ import annotations

import pytest

from stsa_lightning.training.phases import PhaseSettings, chosen_phases, epochs_without_picture, phase_specs
from stsa_lightning.utils.errors import UserError

SMALL = {
    "synthesis": PhaseSettings(4, lr=0.1),
    "guidance_slower": PhaseSettings(1, "guidance", lr=0.01, freeze=("guidance.audio_encoder",)),
    "end_to_end": PhaseSettings(3, "before", warmup=5),
    "warp": PhaseSettings(0),
    "guidance": PhaseSettings(2),
}


def test_phases_come_in_the_method_s_order_those_of_one_name_in_the_file_s():
    specs = phase_specs(chosen_phases(SMALL))
    assert [(spec.name, spec.epochs, spec.lr) for spec in specs] == [
        ("guidance", 1, 0.01),
        ("guidance", 2, None),
        ("synthesis", 4, 0.1),
        ("synthesis", 3, 0.1),
    ]
    assert epochs_without_picture(chosen_phases(SMALL)) == 3


def test_a_length_is_shared_out_in_proportion():
    assert [phase.epochs for phase in chosen_phases(SMALL, 20).values()] == [2, 4, 8, 6]
    with pytest.raises(UserError, match="at least one for each of the 4 phases, got 3"):
        chosen_phases(SMALL, 3)


def test_settings_that_make_no_run_are_named():
    with pytest.raises(UserError, match=r"phases\.warp\.epochs must be 0 \(left out\) or more, got -1"):
        chosen_phases({"warp": PhaseSettings(-1)})
    with pytest.raises(UserError, match=r"phases\.end_to_end\.name: there is no phase before it"):
        phase_specs({"end_to_end": PhaseSettings(1, "before")})
    with pytest.raises(UserError, match="got 'singing'"):
        phase_specs(chosen_phases({"singing": PhaseSettings(1)}))
