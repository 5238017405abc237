"""PyTorch's 8-bit operators are not promised: gone or answering otherwise, networks run exactly, and it is said."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from stsa_lightning.inference import int8


@pytest.fixture(autouse=True)
def asked_anew(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(torch.cpu, "_is_vnni_supported", lambda: True, raising=False)
    int8.int8_is_fast.cache_clear()
    yield
    int8.int8_is_fast.cache_clear()


class Convolution(torch.nn.Module):
    """Stands for an 8-bit convolution: a float one, scaled."""

    factor = 1.0

    def __init__(self, layer: torch.nn.Conv2d) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.factor * self.layer(x)


class Doubled(Convolution):
    factor = 2.0


def test_int8_is_fast_where_the_output_is_near(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture):
    monkeypatch.setattr(int8, "Int8Conv2d", Convolution)
    assert int8.int8_is_fast()
    assert not caplog.records


def test_int8_is_fast_of_other_outputs_is_false_and_logged(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    monkeypatch.setattr(int8, "Int8Conv2d", Doubled)
    assert not int8.int8_is_fast()
    assert "off by 100 %; exact ones run" in caplog.text


@pytest.mark.parametrize("error", [AttributeError, RuntimeError, TypeError])
def test_int8_is_fast_without_the_operator_is_false_and_said(
    error: type[Exception], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    def gone(layer: torch.nn.Conv2d) -> torch.nn.Module:
        raise error("no qconv_prepack")

    monkeypatch.setattr(int8, "Int8Conv2d", gone)
    assert not int8.int8_is_fast()
    assert "no qconv_prepack" in caplog.text


def test_int8_is_fast_draws_no_random_numbers():
    before = torch.get_rng_state()
    int8.int8_is_fast()
    assert torch.equal(torch.get_rng_state(), before)
