"""Functions of batches as CUDA graphs: what a GPU does is asked for once, and then replayed.

A network's thousand small operations take the processor longer to ask for, one by one, than they take the GPU where a
batch is one frame. A replay is one request. Unlike `torch.compile` this needs no compiler on the user's machine, and
recording takes about as long as a few batches.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

Function = Callable[..., Tensor]
Record = Callable[..., tuple[Tensor, Callable[[], None]]]

_WARM_UPS = 3  # runs in which libraries choose their ways of computing, and allocate what they need
_log = logging.getLogger(__name__)


@dataclass
class _Recording:
    """Where a function's inputs must lie, the constants that lie there already, and where its output will lie."""

    given: tuple[Tensor, ...]
    constants: tuple[Tensor, ...]
    last_constants: tuple[Tensor, ...]
    output: Tensor
    replay: Callable[[], None]


def record_graph(function: Function, *inputs: Tensor) -> tuple[Tensor, Callable[[], None]]:
    """Records `function(*inputs)`.

    Returns:
        A tensor, and what computes it anew from whatever lies in `inputs` then.
    """
    here, side = torch.cuda.current_stream(), torch.cuda.Stream()
    side.wait_stream(here)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.stream(side):
        for _ in range(_WARM_UPS):
            function(*inputs)
        # The threads that decode and prepare go on meanwhile.
        with torch.cuda.graph(graph, stream=side, capture_error_mode="thread_local"):
            output = function(*inputs)
    here.wait_stream(side)
    return output, graph.replay


class Recorded:
    """A function of batches, recorded for each size of batch when one first comes, replayed from then on.

    Batches are filled up to the next power of two, so that a few recordings do for all. Where recording fails the
    function is called as it stands, with a warning.

    Args:
        function: of tensors of one length, and after them of `constants`. Each row of its output is made of its own row
            alone, and making it neither waits for the GPU nor reads the processor's memory.
        device: where to compute.
        record: `record_graph`, or what does the same elsewhere.
    """

    def __init__(self, function: Function, device: torch.device, record: Record) -> None:
        self.function, self.device, self.record = function, device, record
        self._recordings: dict[int, _Recording] = {}
        self._failed = False

    def __call__(self, *given: Tensor, constants: tuple[Tensor, ...] = ()) -> Tensor:
        """`function(*given, *constants)`, on the device.

        Args:
            given: (n, ...) each, on any device.
            constants: the same for many batches, on the device; copied only when they are not the last ones. Their
                shapes never change.
        """
        count = len(given[0])
        size = 1 << (count - 1).bit_length()
        if size not in self._recordings and not self._failed:
            self._prepare(size, given, constants)
        if self._failed:
            return self.function(*(tensor.to(self.device) for tensor in given), *constants)
        recording = self._recordings[size]
        for own, new in zip(recording.given, given, strict=True):
            own[:count].copy_(new)
        for own, new, last in zip(recording.constants, constants, recording.last_constants, strict=True):
            if new is not last:
                own.copy_(new)
        recording.last_constants = constants
        recording.replay()
        return recording.output[:count].clone()

    def _prepare(self, size: int, given: tuple[Tensor, ...], constants: tuple[Tensor, ...]) -> None:
        own = tuple(tensor.new_zeros(size, *tensor.shape[1:], device=self.device) for tensor in given)
        own_constants = tuple(tensor.clone() for tensor in constants)
        try:
            output, replay = self.record(self.function, *own, *own_constants)
        except torch.cuda.OutOfMemoryError:
            raise
        except RuntimeError as error:
            _log.warning("CUDA graph not recorded, drawing goes on without: %s", error)
            self._failed = True
        else:
            self._recordings[size] = _Recording(own, own_constants, constants, output, replay)
