from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from stsa_lightning.losses.objective import LossWeights
from stsa_lightning.training.callbacks.phases import PhaseSchedule
from stsa_lightning.training.module import STSA
from stsa_lightning.training.optim import OptimizerSettings, OptimSettings
from stsa_lightning.training.phases import PhaseSpec
from stsa_lightning.utils.errors import UserError

NOTHING = LossWeights(**dict.fromkeys(LossWeights.__dataclass_fields__, 0.0))
RUN = [PhaseSpec("guidance", 2), PhaseSpec("warp", 1), PhaseSpec("end_to_end", 1, lr=1e-5, discriminator_lr=2e-5)]


@pytest.fixture(scope="module")
def module() -> STSA:
    optim = OptimSettings(1e-3, discriminator=OptimizerSettings(1e-4))
    return STSA("tiny", face_size=64, losses={"weights": NOTHING}, cil={"weight": 0.0}, optim=optim)


def test_phases_follow_each_other_and_the_last_one_stays():
    names = [PhaseSchedule(RUN).phase_at(epoch).name for epoch in range(6)]
    assert names == ["guidance", "guidance", "warp", "end_to_end", "end_to_end", "end_to_end"]
    assert [PhaseSchedule(RUN).place_at(epoch)[1] for epoch in range(6)] == [0, 0, 2, 3, 3, 3]


def test_each_phase_has_its_rates(module: STSA):
    schedule = PhaseSchedule(RUN)
    assert schedule.rates_at(module, 0, 0) == [1e-3, 1e-4]
    assert schedule.rates_at(module, 3, 0) == [1e-5, 2e-5]


def test_rates_warm_up_in_a_straight_line(module: STSA):
    schedule = PhaseSchedule([PhaseSpec("synthesis", 1, lr=0.4, warmup=4)])
    assert [schedule.rates_at(module, 0, done)[0] for done in range(6)] == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.4, 0.4])


def test_parts_can_be_frozen_besides(module: STSA):
    module.set_phase("end_to_end", ["guidance.audio_encoder", "synthesis.temporal"])
    free = {name for name, parameter in module.named_parameters() if parameter.requires_grad}
    assert not any(name.startswith(("guidance.audio_encoder", "synthesis.temporal")) for name in free)
    assert any(name.startswith("synthesis.spatial") for name in free)
    module.set_phase("end_to_end")
    assert all(parameter.requires_grad for parameter in module.parameters())


def check(phases: list[PhaseSpec], module: STSA, **trainer: Any) -> None:
    PhaseSchedule(phases).on_fit_start(SimpleNamespace(**{"fast_dev_run": False, **trainer}), module)  # type: ignore[arg-type]


def test_a_schedule_that_does_not_fit_the_run_is_refused_before_the_first_step(module: STSA):
    with pytest.raises(UserError, match=r"guidance 2 \+ warp 1 \+ end_to_end 1 = 4 epochs do not fit .*max_epochs 3"):
        check(RUN, module, max_epochs=3)
    check(RUN, module, max_epochs=4)
    check(RUN, module, max_epochs=9)
    check(RUN, module, max_epochs=-1)
    check(RUN, module, max_epochs=1, fast_dev_run=2)


def test_mouths_on_other_poses_are_for_guidance_alone(module: STSA):
    def data(epochs: int) -> SimpleNamespace:
        return SimpleNamespace(hparams={"swap_mouth_epochs": epochs})

    with pytest.raises(UserError, match=r"swap_mouth_epochs: expected at most 2, .* got 3"):
        check(RUN, module, max_epochs=4, datamodule=data(3))
    check(RUN, module, max_epochs=4, datamodule=data(2))


def test_a_phase_without_anything_to_learn_from_is_refused_before_the_first_step(module: STSA):
    with pytest.raises(UserError, match=r"weights\.audio_lip_aperture"):
        check([PhaseSpec("guidance", 1), PhaseSpec("audio_pretrain", 1)], module, max_epochs=2)


def test_an_unknown_part_is_named_before_the_first_step(module: STSA):
    with pytest.raises(UserError, match=r"guidance\.audio_encoder.*got 'guidance\.ears'"):
        check([PhaseSpec("guidance", 1, freeze=("guidance.ears",))], module, max_epochs=1)
    with pytest.raises(UserError, match="got 'objective'"):
        module.part("objective")


def test_bad_phases_are_named():
    with pytest.raises(UserError, match="at least one"):
        PhaseSchedule([])
    with pytest.raises(UserError, match="guidance must last at least 1 epoch, got 0"):
        PhaseSpec("guidance", 0)
    with pytest.raises(UserError, match="got 'stage1'"):
        PhaseSpec("stage1", 3)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="warmup of warp must be 0 or more, got -1"):
        PhaseSpec("warp", 3, warmup=-1)
