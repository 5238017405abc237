"""What a training says on the terminal."""

from __future__ import annotations

import io
import logging
import sys
from types import SimpleNamespace

import pytest
import torch

from stsa_lightning.cli.training import IDLE_MESSAGES, quiet
from stsa_lightning.training.callbacks.bar import ParameterCounts, PhaseBar


def test_parameters_of_each_part_stand_on_one_line(caplog: pytest.LogCaptureFixture):
    module = torch.nn.ModuleDict({"guidance": torch.nn.Linear(999, 1000), "metric": torch.nn.Identity()})
    with caplog.at_level(logging.INFO):
        ParameterCounts().on_fit_start(SimpleNamespace(), module)  # type: ignore[arg-type]
    assert caplog.messages == ["parameters: guidance 1.00 M"]


def test_messages_do_not_stand_at_the_end_of_a_bar(monkeypatch: pytest.MonkeyPatch):
    shown = io.StringIO()
    monkeypatch.setattr(sys, "stderr", shown)
    logger, handler = logging.getLogger("lightning.pytorch"), logging.StreamHandler(shown)
    monkeypatch.setattr(logger, "handlers", [handler])
    monkeypatch.setattr(sys, "stdout", shown)
    bar, module = PhaseBar(), SimpleNamespace()
    bar.setup(SimpleNamespace(is_global_zero=True), module, "fit")  # type: ignore[arg-type]
    line = bar.init_train_tqdm()
    line.reset(2)
    line.refresh()
    logger.warning("epoch 1: phase warp")
    line.close()
    bar.teardown(SimpleNamespace(), module, "fit")  # type: ignore[arg-type]
    assert "epoch 1: phase warp" in [part.strip() for part in shown.getvalue().replace("\r", "\n").splitlines()]
    assert logger.handlers == [handler]


@pytest.mark.parametrize(("name", "text"), [(name, text) for name, texts in IDLE_MESSAGES.items() for text in texts])
def test_what_nobody_can_act_on_is_not_said(name: str, text: str, caplog: pytest.LogCaptureFixture):
    quiet()
    with caplog.at_level(logging.INFO, logger=name):
        logging.getLogger(name).info(f"{text} and more")
        logging.getLogger(name).info("of use")
    assert caplog.messages == ["of use"]
