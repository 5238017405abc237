from __future__ import annotations

import logging
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from stsa_lightning.inference.cuda_graphs import Function, Record, Recorded, record_graph

CPU = torch.device("cpu")


def shifted(x: Tensor, y: Tensor, shift: Tensor) -> Tensor:
    return x + 2 * y.flatten(1).sum(1, keepdim=True) + shift


def test_batches_of_any_length_are_what_the_function_says(recorded_plainly: Record) -> None:
    sizes: list[int] = []

    def record(function: Function, *inputs: Tensor) -> tuple[Tensor, Callable[[], None]]:
        sizes.append(len(inputs[0]))
        return recorded_plainly(function, *inputs)

    recorded, kept = Recorded(shifted, CPU, record), (torch.tensor([[3.0]]),)
    batches = [(torch.randn(n, 1), torch.randn(n, 2, 2)) for n in (3, 4, 1, 5, 2, 8, 3)]
    answers = [recorded(*batch, constants=kept) for batch in batches]
    for batch, answer in zip(batches, answers, strict=True):  # the first ones too, after later replays
        torch.testing.assert_close(answer, shifted(*batch, *kept), rtol=0, atol=0)
    assert sizes == [4, 1, 8, 2]


def test_what_is_kept_may_change(recorded_plainly: Record) -> None:
    recorded = Recorded(shifted, CPU, recorded_plainly)
    x, y = torch.randn(2, 1), torch.randn(2, 2)
    shifts = [(torch.tensor([[float(i)]]),) for i in range(3)]
    for kept in (shifts[0], shifts[1], shifts[1], shifts[0], shifts[2]):
        torch.testing.assert_close(recorded(x, y, constants=kept), shifted(x, y, *kept), rtol=0, atol=0)


def test_without_a_recording_the_function_is_called(caplog: pytest.LogCaptureFixture) -> None:
    tries: list[int] = []

    def fails(function: Function, *inputs: Tensor) -> tuple[Tensor, Callable[[], None]]:
        tries.append(len(inputs[0]))
        raise RuntimeError("operation not permitted when stream is capturing")

    recorded = Recorded(shifted, CPU, fails)
    x, y, kept = torch.randn(3, 1), torch.randn(3, 2), (torch.zeros(1, 1),)
    with caplog.at_level(logging.WARNING):
        for part in (3, 2, 1):
            torch.testing.assert_close(recorded(x[:part], y[:part], constants=kept), shifted(x[:part], y[:part], *kept))
    assert tries == [4]
    assert caplog.text.count("not permitted when stream is capturing") == 1


def test_memory_that_runs_out_is_reported() -> None:
    """The function would not have it either."""

    def full(function: Function, *inputs: Tensor) -> tuple[Tensor, Callable[[], None]]:
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(torch.cuda.OutOfMemoryError):
        Recorded(shifted, CPU, full)(torch.zeros(1, 1), torch.zeros(1, 2), constants=(torch.zeros(1, 1),))


@pytest.mark.gpu
def test_a_graph_on_a_gpu() -> None:
    cuda = torch.device("cuda")
    recorded = Recorded(shifted, cuda, record_graph)
    for n, shift in ((3, 1.0), (4, 2.0), (1, 3.0), (3, 4.0)):
        x, y, kept = torch.randn(n, 1), torch.randn(n, 2, 2), (torch.full((1, 1), shift, device=cuda),)
        answer = recorded(x, y, constants=kept)
        assert answer.device.type == "cuda"
        torch.testing.assert_close(answer.cpu(), shifted(x, y, torch.tensor([[shift]])))
    assert not recorded._failed
