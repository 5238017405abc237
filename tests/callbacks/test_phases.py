from __future__ import annotations

import pytest

from stsa_lightning.callbacks.phases import PhaseSchedule, PhaseSpec
from stsa_lightning.errors import UserError


def test_phases_follow_each_other_and_the_last_one_stays():
    schedule = PhaseSchedule([PhaseSpec("guidance", 2), PhaseSpec("warp", 1), PhaseSpec("end_to_end", 1, lr=1e-5)])
    names = [schedule.phase_at(epoch).name for epoch in range(6)]
    assert names == ["guidance", "guidance", "warp", "end_to_end", "end_to_end", "end_to_end"]


def test_bad_phases_are_named():
    with pytest.raises(UserError, match="at least one"):
        PhaseSchedule([])
    with pytest.raises(UserError, match="guidance must last at least 1 epoch, got 0"):
        PhaseSpec("guidance", 0)
    with pytest.raises(UserError, match="got 'stage1'"):
        PhaseSpec("stage1", 3)  # type: ignore[arg-type]
