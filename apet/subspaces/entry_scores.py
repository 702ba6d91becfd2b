"""Scores of single entries, for placements that prefer some: magnitude, gradient, Fisher information."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from apet.errors import lookup
from apet.scoring import Scorer, cross_entropy
from apet.subspaces.placement import Scores
from apet.subspaces.placement_names import SCORE_NAMES
from apet.subspaces.scope import all_names, only_trainable
from apet.subspaces.space import ParameterSpace
from apet.tasks import Example

KINDS = SCORE_NAMES


def scores(kind: str, model: nn.Module, space: ParameterSpace, scorer: Scorer, examples: Sequence[Example]) -> Scores:
    """A score of every entry in `space`, by tensor, fp32; the model is left as it was. Raises UsageError for another kind.

    magnitude: |w|; gradient: |g| of the mean loss; fisher: the diagonal of the empirical Fisher matrix, the mean over
    examples of the squared gradient of each one's loss.
    """
    lookup(dict.fromkeys(KINDS), kind, "score")
    parameters = all_names(model)
    tensors = [parameters[name] for name in space.names]
    if kind == "magnitude":
        found = [p.detach().abs().float() for p in tensors]
    elif kind == "gradient":
        found = [total.abs() / len(examples) for total in _sum(_gradients(model, tensors, scorer, examples, 32))]
    else:
        squares = ([g.square() for g in each] for each in _gradients(model, tensors, scorer, examples, 1))
        found = [total / len(examples) for total in _sum(squares)]
    return {name: values.cpu().numpy() for name, values in zip(space.names, found, strict=True)}


def _gradients(model: nn.Module, tensors: list, scorer: Scorer, examples: Sequence[Example], size: int) -> Iterator[list[Tensor]]:
    """Of the summed loss of each batch of `size`."""
    with only_trainable(model, tensors):
        for batch in scorer.batches(examples, size):
            loss_sum, _ = cross_entropy(scorer.logits(model, batch), batch)
            gradients = torch.autograd.grad(loss_sum, tensors, allow_unused=True, materialize_grads=True)
            yield [g.float() for g in gradients]


def _sum(each: Iterator[list[Tensor]]) -> list[Tensor]:
    totals: list[Tensor] = []
    for tensors in each:
        totals = [a + b for a, b in zip(totals, tensors, strict=True)] if totals else tensors
    return totals
