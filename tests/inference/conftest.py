"""Fixtures of the inference tests: what a GPU does, on machines without one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from stsa_lightning.inference.cuda_graphs import Function, Record


@pytest.fixture(autouse=True)
def _seed() -> Iterator[None]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


@pytest.fixture
def recorded_plainly() -> Record:
    """A graph's behaviour: replaying changes the answer, in its place, by what lies in its inputs' places then."""

    def record(function: Function, *inputs: Tensor) -> tuple[Tensor, Callable[[], None]]:
        answer = function(*inputs)

        def replay() -> None:
            answer.copy_(function(*inputs))

        return answer, replay

    return record


class _NothingFromElsewhere(TorchDispatchMode):
    """Fails where the processor's memory is read, for which a GPU would have to wait."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        answer = func(*args, **(kwargs or {}))
        tensors = [t for t in tree_leaves((args, kwargs, answer)) if isinstance(t, Tensor)]
        assert {t.device.type for t in tensors} <= {"cuda"}, f"{func}: {[(t.device, t.shape) for t in tensors]}"
        return answer


class PretendGPU:
    """Tensors that know their shapes and that they are on a GPU, and nothing else: reading their values fails."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(torch.cuda, "_lazy_init", lambda: None)
        self.mode = FakeTensorMode()

    def tensor(self, like: Tensor) -> Tensor:
        if isinstance(like, FakeTensor):
            return like
        return FakeTensor(self.mode, like.detach().to("meta"), torch.device("cuda:0"))

    def move(self, network: torch.nn.Module) -> None:
        for module in network.modules():
            for name, parameter in module._parameters.items():
                if parameter is not None:
                    module._parameters[name] = torch.nn.Parameter(self.tensor(parameter), requires_grad=False)
            for name, buffer in module._buffers.items():
                if buffer is not None:
                    module._buffers[name] = self.tensor(buffer)

    def run(self, function: Callable[..., Any], *given: Tensor) -> Any:
        """`function(*given)`; an error where something of it waits for the GPU."""
        there = [self.tensor(t) for t in given]
        with self.mode, torch.no_grad(), _NothingFromElsewhere():
            return function(*there)


@pytest.fixture
def pretend_gpu(monkeypatch: pytest.MonkeyPatch) -> PretendGPU:
    gpu, rows = PretendGPU(monkeypatch), torch.zeros(3, 4)
    try:
        gpu.run(lambda rows: rows + rows[:2].sum(0), rows)
    except RuntimeError as error:  # PyTorch 2.6
        pytest.skip(f"PyTorch {torch.__version__} asks the driver for tensors without values: {str(error)[:90]}")
    return gpu
