from __future__ import annotations

import pytest
import torch
from torch import nn

from stsa_lightning.training.callbacks.ema import GeneratorEMA
from stsa_lightning.utils.errors import UserError


class Pair(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.guidance = nn.BatchNorm1d(2)
        self.synthesis = nn.Linear(2, 2)
        self.discriminator = nn.Linear(2, 1)


def test_the_average_is_the_hand_computed_one():
    module, ema = Pair(), GeneratorEMA(decay=0.15)
    weight = module.synthesis.weight
    ema.on_train_start(None, module)
    start = weight.detach().clone()
    values = [start + 1, start + 3]
    expected = start
    for step, value in enumerate(values, start=1):
        weight.data.copy_(value)
        ema.on_train_batch_end(None, module)
        decay = min(0.15, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * value
    torch.testing.assert_close(ema.average["synthesis.weight"], expected)
    assert not any(name.startswith("discriminator") for name in ema.average)
    assert "guidance.running_mean" in ema.average


def test_validation_sees_the_average_and_training_goes_on_with_the_live_weights():
    module, ema = Pair(), GeneratorEMA(decay=0.5)
    ema.on_train_start(None, module)
    before = module.synthesis.weight.detach().clone()
    module.synthesis.weight.data += 1
    live = module.synthesis.weight.detach().clone()
    ema.on_validation_epoch_start(None, module)
    torch.testing.assert_close(module.synthesis.weight.detach(), before)
    ema.on_validation_epoch_end(None, module)
    torch.testing.assert_close(module.synthesis.weight.detach(), live)


def test_state_survives(tmp_path):
    module, ema = Pair(), GeneratorEMA(decay=0.5)
    ema.on_train_start(None, module)
    ema.on_train_batch_end(None, module)
    torch.save(ema.state_dict(), tmp_path / "state")
    again = GeneratorEMA(decay=0.5)
    again.load_state_dict(torch.load(tmp_path / "state", weights_only=True))
    assert again.steps == 1
    torch.testing.assert_close(again.average["synthesis.weight"], ema.average["synthesis.weight"])


def test_bad_decay_is_named():
    with pytest.raises(UserError, match=r"decay must be in \[0, 1\), got 1"):
        GeneratorEMA(1.0)
