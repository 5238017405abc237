"""How strongly each loss term pulls at what the networks generate, and weights that mean shares of that pull.

A term's value says little about its effect: what reaches the networks is its gradient at their output. The balancer
follows the idea of EnCodec's (Defossez et al. 2022, section 3.4): scale each term's gradient at the output by a running
mean of its norm, so that a weight is a share of the whole.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from stsa_lightning.utils.errors import UserError


def gradient_norms(terms: Mapping[str, Tensor], outputs: Sequence[Tensor]) -> dict[str, Tensor]:
    """Norm of each term's gradient at `outputs`, taken together; a term that does not reach them is left out.

    The graph stays as it is, no parameter's gradient changes.

    Args:
        terms: scalars, weighted as they enter the sum.
        outputs: tensors of one graph, such as generated faces (F, 3, S, S); what frozen parts alone made has no
            gradient, and is left out.
    """
    norms = {}
    for name, term in terms.items():
        gradients = _gradients(term, outputs)
        if gradients:
            norms[name] = torch.stack([gradient.float().norm() for gradient in gradients]).norm()
    return norms


def _gradients(term: Tensor, outputs: Sequence[Tensor]) -> list[Tensor]:
    reached = [output for output in outputs if output.requires_grad]
    if not term.requires_grad or not reached:
        return []
    found = torch.autograd.grad(term, reached, retain_graph=True, allow_unused=True)
    return [gradient for gradient in found if gradient is not None]


def shares(norms: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Norms as parts of their sum; all 0 where nothing pulls."""
    if not norms:
        return {}
    total = torch.stack(list(norms.values())).sum().clamp(min=torch.finfo(torch.float32).tiny)
    return {name: norm / total for name, norm in norms.items()}


def balance_of(
    terms: Mapping[str, Tensor], weights: Mapping[str, Tensor | float], places: Mapping[str, Sequence[Tensor]]
) -> dict[str, Tensor]:
    """What the logs say of the balance: `weight/TERM`, and `balance/PLACE/TERM`, shares that add up to 1.

    `terms` are unweighted scalars, `places` tensors of the generator's output by name, see `gradient_norms`.
    """
    values = {f"weight/{name}": torch.as_tensor(weights[name], dtype=torch.float32) for name in terms}
    weighted = {name: weights[name] * value for name, value in terms.items()}
    for place, outputs in places.items():
        parts = shares(gradient_norms(weighted, outputs))
        values |= {f"balance/{place}/{name}": part for name, part in parts.items()}
    return values


class ShareBalancer(nn.Module):
    """Weights as shares of the gradient at one output that all terms go through.

    With w the weights, n the running means of the norms of the terms' unweighted gradients g at the output, the output
    receives `sum_i c_i g_i`, `c_i = (w_i / sum w) * (sum_j w_j n_j) / n_i`: each term's pull is its share of the
    pull that plain weights would have. (EnCodec fixes the total instead; here it stays comparable with terms that do
    not go through this output, which keep plain weights.) Norms are averaged over ranks and are part of the checkpoint.

    Args:
        weights: of each term that may come; all positive.
        decay: of the running mean, for each step.
    """

    norms: Tensor

    def __init__(self, weights: Mapping[str, float], decay: float = 0.99) -> None:
        super().__init__()
        if not 0 <= decay < 1:
            raise UserError(f"decay must be in [0, 1), got {decay}")
        if not weights or any(weight <= 0 for weight in weights.values()):
            raise UserError(f"a balance of shares needs at least one term, all of positive weight; got {dict(weights)}")
        self.weights, self.decay = dict(weights), decay
        self.register_buffer("norms", torch.zeros(len(weights)))  # 0: not seen yet

    def forward(self, terms: Mapping[str, Tensor], output: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Scalar terms that reach the networks through `output` alone -> (sum, coefficients c).

        The sum's value is that of `sum_i c_i term_i`, and so is its gradient. The backward pass through the terms is
        made here, once for each; that of the sum begins at `output`.
        """
        unknown = terms.keys() - self.weights.keys()
        if unknown or not terms:
            raise ValueError(f"terms must be some of {list(self.weights)}, got {list(terms)}")
        found = {name: torch.autograd.grad(term, output, retain_graph=True)[0] for name, term in terms.items()}
        coefficients = self._coefficients({name: gradient.float().norm() for name, gradient in found.items()})
        pull = torch.stack([coefficients[name] * gradient.float() for name, gradient in found.items()]).sum(0)
        value = torch.stack([coefficients[name] * term.detach().float() for name, term in terms.items()]).sum()
        carrier = (output.float() * pull).sum()
        return value + carrier - carrier.detach(), coefficients

    @torch.no_grad()
    def _coefficients(self, seen: Mapping[str, Tensor]) -> dict[str, Tensor]:
        names = list(self.weights)
        places = [names.index(name) for name in seen]
        now = torch.stack(list(seen.values()))
        mean = _running_mean(self.norms[places], _over_ranks(now), self.decay)
        self.norms[places] = mean
        weights = torch.tensor([self.weights[name] for name in seen], device=mean.device)
        tiny = torch.finfo(torch.float32).tiny  # a term without any gradient stays without
        coefficients = weights / weights.sum() * (weights * mean).sum() / mean.clamp(min=tiny)
        return dict(zip(seen, coefficients.where(mean > 0, 0.0), strict=True))


class GradientShare(nn.Module):
    """The weight under which one term has a fixed share of the gradient at some outputs.

    With g its gradient at the outputs and r that of all other terms, both as norms, the weight is
    `share / (1 - share) * r / g`. The ratio is measured now and then, averaged over ranks and in time, and is part of
    the checkpoint.

    Args:
        share: between 0 and 1.
        every: steps between measurements, each of which costs a backward pass as far as the outputs.
        decay: of the running mean, for each measurement.
    """

    ratio: Tensor

    def __init__(self, share: float, every: int = 10, decay: float = 0.8) -> None:
        super().__init__()
        if not 0 < share < 1:
            raise UserError(f"share must be between 0 and 1, got {share}")
        self.share, self.every, self.decay = share, every, decay
        self.register_buffer("ratio", torch.zeros(()))  # 0: not seen yet

    def forward(self, term: Tensor, others: Tensor, outputs: Sequence[Tensor], step: int) -> Tensor:
        """The weight of a scalar `term` beside the weighted sum of all `others`, at `outputs` of one graph."""
        if step % self.every == 0:
            self._measure(term, others, outputs)
        return self.share / (1 - self.share) * self.ratio

    def _measure(self, term: Tensor, others: Tensor, outputs: Sequence[Tensor]) -> None:
        norms = gradient_norms({"term": term, "others": others}, outputs)
        zero = torch.zeros((), device=term.device)
        found = torch.stack([norms.get(name, zero).detach() for name in ("others", "term")])
        found = _over_ranks(found)
        if found[1] > 0:  # a term without any gradient says nothing
            self.ratio = _running_mean(self.ratio, found[0] / found[1], self.decay)


def _over_ranks(values: Tensor) -> Tensor:
    """Mean over the ranks of the process group, where there is one."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.all_reduce(values)
        return values / torch.distributed.get_world_size()
    return values


def _running_mean(before: Tensor, now: Tensor, decay: float) -> Tensor:
    """`before` with `now` mixed in; 0: not seen yet."""
    return torch.where(before > 0, decay * before + (1 - decay) * now, now)
