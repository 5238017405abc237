"""Estimators of the mutual information of two embeddings, in nats, for Consistent Information Learning.

InfoNCE (van den Oord et al. 2018) tells each pair apart from every other pair of the batch; MINE (Belghazi et al.
2018) is the Donsker-Varadhan bound with a learnt statistic, the estimator of the released code. Both are lower
bounds.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Critic = Literal["cosine", "mlp"]
Estimator = Literal["infonce", "mine"]


def info_nce(scores: Tensor, groups: Tensor | None = None) -> Tensor:
    """Lower bound of the mutual information from a critic's scores, both directions averaged.

    `log N + mean_i log softmax(scores)_ii` over rows and over columns. It never exceeds log N: a batch of N cannot
    show more.

    Args:
        scores: (N, N), entry (i, j) the critic's score of x_i with y_j; pairs that belong together on the diagonal.
        groups: (N,), equal where two rows are of one group: each pair is told apart from the others of its group
            alone, and N above is the group's size. The bound is then that of what they share beside the group.

    Returns:
        Scalar, nats, at most log N.
    """
    if scores.dim() != 2 or scores.shape[0] != scores.shape[1] or not len(scores):
        raise ValueError(f"scores must be a square (N, N) matrix, got {tuple(scores.shape)}")
    scores = scores.float()
    chance = scores.new_tensor(math.log(len(scores)))
    if groups is not None:
        together = groups[:, None] == groups
        scores, chance = scores.masked_fill(~together, -torch.inf), together.sum(1).log().mean()
    rows = scores.log_softmax(dim=1).diagonal().mean()
    columns = scores.log_softmax(dim=0).diagonal().mean()
    return chance + 0.5 * (rows + columns)


def _check_pair(x: Tensor, y: Tensor, dim: int) -> None:
    if x.shape != y.shape or x.dim() != 2 or x.shape[1] != dim:
        raise ValueError(f"x and y must both be (B, {dim}), got {tuple(x.shape)} and {tuple(y.shape)}")


class _AllGather(torch.autograd.Function):
    """Rows of every rank, one rank after another; backward, each rank gets the sum of all ranks' gradients of its own.

    PyTorch's own, in `torch.distributed.nn.functional`, is deprecated.
    """

    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        parts = [torch.empty_like(rows) for _ in range(torch.distributed.get_world_size())]
        torch.distributed.all_gather(parts, rows)
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        total = gradient.clone(memory_format=torch.contiguous_format)
        torch.distributed.all_reduce(total)
        return total.chunk(torch.distributed.get_world_size())[torch.distributed.get_rank()]


def _gather(code: Tensor) -> Tensor:
    """Every rank's rows, (W * B, C), with gradients back to the rank each row came from.

    The backward pass sums over ranks and DDP then averages over them, so the gradient is that of one process with the
    whole batch. All ranks need the same B.
    """
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return code
    if torch.distributed.get_world_size() == 1:
        return code
    return _AllGather.apply(code.contiguous())


class InfoNCE(nn.Module):
    """InfoNCE between two codes, with the pairs of all ranks as negatives.

    Args:
        dim: size C of either code.
        temperature: divides the cosine; the `mlp` critic learns its own scale and ignores it.
        critic: `cosine`, nothing learnt, shapes the codes themselves; `mlp`, the inner product of a learnt
            embedding of each code, able to reach the true mutual information of fixed codes. Its cost grows with N,
            not with N^2 as a critic on joined pairs would.
        gather: in training, take negatives from all ranks of the process group, where there is one.
    """

    def __init__(
        self, dim: int, temperature: float = 0.07, critic: Critic = "cosine", gather: bool = True, hidden: int = 128
    ) -> None:
        super().__init__()
        if temperature <= 0:
            raise ValueError(f"temperature must be positive, got {temperature}")
        if critic not in ("cosine", "mlp"):
            raise ValueError(f'critic must be "cosine" or "mlp", got {critic!r}')
        self.dim, self.temperature, self.critic, self.gather = dim, temperature, critic, gather
        if critic == "mlp":
            self.embed_x, self.embed_y = _embedding(dim, hidden), _embedding(dim, hidden)

    def scores(self, x: Tensor, y: Tensor, gather: bool = True) -> Tensor:
        """(N, N) scores of all pairs; N = W * B over W ranks, B without `gather`."""
        if self.critic == "mlp":
            x, y = self.embed_x(x), self.embed_y(y)
        else:
            x, y = F.normalize(x.float(), dim=1), F.normalize(y.float(), dim=1)
        if gather and self.gather and self.training:  # a validation's batches may differ in size over ranks
            x, y = _gather(x), _gather(y)
        with torch.autocast(x.device.type, enabled=False):  # half precision would round away what the softmax compares
            scores = x.float() @ y.float().T
        return scores if self.critic == "mlp" else scores / self.temperature

    def forward(self, x: Tensor, y: Tensor, scale: int = 0, groups: Tensor | None = None) -> Tensor:
        """Two (B, C) codes, row i of one belonging to row i of the other -> scalar, nats, at most log N.

        Args:
            scale: is there for `MINE`, which keeps an average for each.
            groups: (B,), see `info_nce`; negatives are then those of this rank.
        """
        _check_pair(x, y, self.dim)
        return info_nce(self.scores(x, y, gather=groups is None), groups)


def _embedding(dim: int, hidden: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(dim, hidden), nn.ELU(), nn.Linear(hidden, hidden), nn.ELU(), nn.Linear(hidden, hidden // 4)
    )


class MINE(nn.Module):
    """Donsker-Varadhan bound: `E_joint[T] - log E_marginal[exp T]` with T an MLP on the joined codes.

    T is 2C-128-128-1 with ELU; parameter names are those of the released `mine.*`. Samples of the product of
    marginals are the batch's own y, rolled by a random step, so that no row meets its partner.

    Args:
        dim: size C of either code.
        momentum: rate of the moving average of E[exp T] that replaces the batch's own in the gradient (the paper's
            correction of its bias on small batches; the value stays the plain bound); None: plain gradient, which
            cannot run away.
        scales: how many kinds of pairs it is asked about in turn; each has a moving average of its own.
    """

    log_average: Tensor

    def __init__(self, dim: int, hidden: int = 128, momentum: float | None = None, scales: int = 1) -> None:
        super().__init__()
        if momentum is not None and not 0 < momentum < 1:
            raise ValueError(f"momentum must be in (0, 1) or None, got {momentum}")
        self.dim, self.momentum = dim, momentum
        self.fc1 = nn.Linear(2 * dim, hidden)
        self.fc2 = nn.Linear(hidden, hidden)
        self.fc3 = nn.Linear(hidden, 1)
        # Not persistent: the released state has no such entry, and the average is found again within some steps.
        self.register_buffer("log_average", torch.full((scales,), float("-inf")), persistent=False)

    def statistic(self, x: Tensor, y: Tensor) -> Tensor:
        """T(x, y): two (B, C) -> (B,)."""
        return self.fc3(F.elu(self.fc2(F.elu(self.fc1(torch.cat([x, y], dim=1)))))).squeeze(1).float()

    def forward(self, x: Tensor, y: Tensor, scale: int = 0) -> Tensor:
        """Two (B, C) codes of a scale, row i of one belonging to row i of the other, B >= 2 -> scalar, nats."""
        _check_pair(x, y, self.dim)
        if len(x) < 2:
            raise ValueError("MINE needs at least 2 pairs in a batch: with one there are no unpaired samples")
        step = int(torch.randint(1, len(x), ()))
        marginal = self.statistic(x, y.roll(step, dims=0))
        log_mean = marginal.logsumexp(0) - math.log(len(x))
        if self.training and self.momentum is not None:
            log_mean = self._corrected(log_mean, self.momentum, scale)
        return self.statistic(x, y).mean() - log_mean

    def _corrected(self, log_mean: Tensor, momentum: float, scale: int) -> Tensor:
        """The same value with the gradient of `E[exp T] / moving average`."""
        average = self.log_average[scale]
        with torch.no_grad():
            mixed = torch.logaddexp(average + math.log1p(-momentum), log_mean + math.log(momentum))
            average.copy_(torch.where(average.isinf(), log_mean, mixed))  # -inf: nothing seen yet
        ratio = (log_mean - average).exp()
        return log_mean.detach() + ratio - ratio.detach()
