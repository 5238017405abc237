"""Several processes with two optimisers: gradients are averaged where an optimiser steps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from lightning.pytorch.strategies import DDPStrategy, StrategyRegistry
from torch import Tensor, nn
from torch.optim import Optimizer

BUCKET_BYTES = 64 << 20  # as large as the links like, small enough that the first is under way while the next is packed


class AlternatingDDP(DDPStrategy):
    """Data parallelism for optimisers that take turns: the gradients of the one that steps are averaged, no others.

    DistributedDataParallel expects each backward pass to reach every parameter. With a generator and discriminators
    that take turns it has to look for those that were not reached (`find_unused_parameters`), and sends their zeros:
    all parameters travel twice in a step, those that the phase leaves alone too. Here each optimiser's own gradients
    travel once, at its step, and accumulated batches send nothing in between. In return they do not travel while the
    backward pass still runs. `benchmarks/train_step.py --processes 2` measures both.

    Buffers, such as a batch norm's statistics, are rank 0's after every step, as there: validation on any rank measures
    the networks that rank 0 saves.

    All ranks have to give gradients to the same parameters, as the phases of a run do. In settings it is
    `strategy: ddp_alternating`.
    """

    def configure_ddp(self) -> None:
        """No wrapper; all ranks begin with rank 0's parameters and buffers."""
        assert self.model is not None
        broadcast([*self.model.parameters(), *self.model.buffers()])

    def training_step(self, *args: Any, **kwargs: Any) -> Any:
        """The module's own; then all ranks have rank 0's buffers."""
        output = super().training_step(*args, **kwargs)
        assert self.model is not None
        broadcast(list(self.model.buffers()))
        return output

    def optimizer_step(self, optimizer: Optimizer, closure: Callable[[], Any], model: Any = None, **kwargs: Any) -> Any:
        """Average this optimiser's gradients over ranks, then step."""
        average_gradients([p for group in optimizer.param_groups for p in group["params"] if p.grad is not None])
        return super().optimizer_step(optimizer, closure, model, **kwargs)


StrategyRegistry.register("ddp_alternating", AlternatingDDP, description=AlternatingDDP.__doc__)


@torch.no_grad()
def broadcast(tensors: list[Tensor]) -> None:
    """Replace each tensor by rank 0's."""
    if torch.distributed.get_world_size() == 1:
        return
    for bucket in _buckets(sorted(tensors, key=lambda tensor: str(tensor.dtype))):
        flat = _packed(bucket)
        torch.distributed.broadcast(flat, src=0)
        _unpack(flat, bucket)


@torch.no_grad()
def average_gradients(parameters: list[nn.Parameter]) -> None:
    """Replace each parameter's gradient by its mean over all ranks."""
    world = torch.distributed.get_world_size()
    if world == 1:
        return
    pending = []
    for bucket in _buckets([p.grad for p in parameters if p.grad is not None]):
        flat = _packed(bucket)
        pending.append((bucket, flat, torch.distributed.all_reduce(flat, async_op=True)))
    for bucket, flat, work in pending:
        assert work is not None
        work.wait()
        flat /= world
        _unpack(flat, bucket)


def _packed(bucket: list[Tensor]) -> Tensor:
    return torch.cat([tensor.flatten() for tensor in bucket])


def _unpack(flat: Tensor, bucket: list[Tensor]) -> None:
    parts = flat.split([tensor.numel() for tensor in bucket])
    torch._foreach_copy_(bucket, [part.view(t.shape) for part, t in zip(parts, bucket, strict=True)])


def _buckets(tensors: list[Tensor]) -> list[list[Tensor]]:
    """Tensors in order, in lists of one type of at most `BUCKET_BYTES` (or one tensor)."""
    buckets: list[list[Tensor]] = []
    size = 0
    for tensor in tensors:
        bytes_ = tensor.numel() * tensor.element_size()
        if not buckets or size + bytes_ > BUCKET_BYTES or buckets[-1][0].dtype != tensor.dtype:
            buckets.append([])
            size = 0
        buckets[-1].append(tensor)
        size += bytes_
    return buckets
