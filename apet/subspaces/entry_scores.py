"""Scores of single entries (magnitude, gradient, Fisher information), for placements that rank entries by score."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from apet.errors import lookup
from apet.scoring import Scorer
from apet.subspaces.placement import Scores
from apet.subspaces.placement_names import SCORE_NAMES
from apet.subspaces.scope import all_names, only_trainable
from apet.subspaces.space import ParameterSpace
from apet.tasks import Example

SCORED_ORDERS = SCORE_NAMES


def score_entries(kind: str, model: nn.Module, space: ParameterSpace, scorer: Scorer, examples: Sequence[Example]) -> Scores:
    """Return {tensor: scores of its entries, fp32} for all tensors of `space`. The model is not changed.

    `kind` is one of

    - magnitude: |w|
    - gradient: |g|, with g the gradient of the mean loss
    - fisher: the diagonal of the empirical Fisher matrix, which is the mean over examples of the squared gradient of the example's loss

    Raises UsageError for an unknown kind.
    """
    lookup(dict.fromkeys(SCORED_ORDERS), kind, "score")
    parameters = all_names(model)
    tensors = [parameters[name] for name in space.names]
    if kind == "magnitude":
        by_tensor = [p.detach().abs().float() for p in tensors]
    elif kind == "gradient":
        by_tensor = [total.abs() / len(examples) for total in _sum(_gradients(model, tensors, scorer, examples, 32))]
    else:
        squares = ([g.square() for g in gradients] for gradients in _gradients(model, tensors, scorer, examples, 1))
        by_tensor = [total / len(examples) for total in _sum(squares)]
    return {name: values.cpu().numpy() for name, values in zip(space.names, by_tensor, strict=True)}


def _gradients(model: nn.Module, tensors: list, scorer: Scorer, examples: Sequence[Example], size: int) -> Iterator[list[Tensor]]:
    """Yield the gradients of the summed loss for each batch of at most `size` examples."""
    with only_trainable(model, tensors):
        for batch in scorer.batches(examples, size):
            loss_sum, _ = scorer.loss(model, batch)
            gradients = torch.autograd.grad(loss_sum, tensors, allow_unused=True, materialize_grads=True)
            yield [g.float() for g in gradients]


def _sum(parts: Iterator[list[Tensor]]) -> list[Tensor]:
    totals: list[Tensor] = []
    for tensors in parts:
        totals = [a + b for a, b in zip(totals, tensors, strict=True)] if totals else tensors
    return totals
