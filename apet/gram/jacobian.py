"""The Gram matrix K = J J' of label-word logit differences over every parameter in scope, without storing J.

One forward pass an example and one backward pass an output (n (C - 1) in all) give the thin factors of every weight's gradients, from
which their inner products follow (`apet.gram.factors`, as in ghost clipping, Li et al. 2021, arXiv 2110.05679): the backward pass stops
short of the weights themselves. Tensors that are used otherwise than in linear layers and tables have their gradients from autograd. As
many tensors are worked on in one pass over the examples as memory allows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from apet.gram.factors import Factors, Recorded
from apet.machine import free_memory
from apet.scoring import Item, Scorer
from apet.subspaces import ParameterSpace, all_names, only_trainable
from apet.tasks import Example

SHARE = 0.25  # of the free memory, for factors and gradients


def gram_matrix(
    model: nn.Module,
    space: ParameterSpace,
    scorer: Scorer,
    examples: Sequence[Example],
    report: Callable[[int, int], None] = lambda done, total: None,
    memory: float | None = None,
) -> tuple[Tensor, float]:
    """(K, the live share of entries): K (m, m) float64 on the CPU, m = n (C - 1), rows example-major; d_c = logit_c - logit_0
    differentiated in `space`. An entry is live where a factor, or gradient, of some output is not zero. What is kept of a pass over the
    examples takes about `memory` bytes, by default a quarter of what is free."""
    parameters = all_names(model)
    tensors = [parameters[name] for name in space.names]
    items, dense = scorer.encode(examples), set[int]()
    memory = SHARE * free_memory(tensors[0].device) if memory is None else memory
    with only_trainable(model, tensors):
        while True:
            try:
                gram, live = Passes(model, scorer, items, dense).gram(tensors, memory, report)
                return gram.cpu(), live / space.size
            except _UsedOtherwise as otherwise:
                dense |= otherwise.ids


class _UsedOtherwise(Exception):
    """Tensors whose gradients cannot be had from factors, by id."""

    def __init__(self, ids: set[int]):
        super().__init__()
        self.ids = ids


class Passes:
    """Passes over the examples; the tensors with the ids `dense` have their gradients from autograd."""

    def __init__(self, model: nn.Module, scorer: Scorer, items: Sequence[Item], dense: set[int]):
        self.model, self.scorer, self.items = model, scorer, items
        self.dense, self.classes = dense, scorer.task.classes
        self.rows = len(items) * (self.classes - 1)

    def gram(self, tensors: Sequence[Tensor], memory: float, report: Callable[[int, int], None]) -> tuple[Tensor, int]:
        """(K (m, m), how many entries are live), the tensors taken in groups."""
        gram, live = torch.zeros(self.rows, self.rows, dtype=torch.float64, device=tensors[0].device), 0
        groups = self._groups(tensors, memory)
        for number, group in enumerate(groups):
            factors, gradients = self.of(group, lambda done, at=number: report(at * self.rows + done, len(groups) * self.rows))
            gram += (gradients @ gradients.T).double()
            live += int((gradients != 0).any(0).sum())
            while factors:  # freed one by one
                factor = factors.pop()
                gram += factor.gram()
                live += factor.live()
        return gram, live

    def of(self, group: Sequence[Tensor], report: Callable[[int], None]) -> tuple[list[Factors], Tensor]:
        """Return the factors of the group's weights, and the gradients of its other tensors (m, their scalars)."""
        dense = [t for t in group if self._is_dense(t)]
        factors = {id(t): Factors((t.shape[0], t.shape[1]), self.rows) for t in group if not self._is_dense(t)}
        first = group[0]
        gradients = torch.empty(self.rows, sum(t.numel() for t in dense), device=first.device, dtype=_at_least_float32(first))
        for i, item in enumerate(self.items):
            self._example(item, i * (self.classes - 1), group, dense, factors, gradients)
            report((i + 1) * (self.classes - 1))
        return list(factors.values()), gradients

    def _example(
        self, item: Item, row: int, group: Sequence[Tensor], dense: list[Tensor], factors: dict[int, Factors], gradients: Tensor
    ) -> None:
        """Alone: a batch would be differentiated whole for each of its rows."""
        with Recorded(factors.keys()) as recorded:
            logits = self.scorer.logits(self.model, self.scorer.collate([item]))[0]
        inputs = [*(use.output for use in recorded.uses), *group]
        for number, difference in enumerate(logits[1:] - logits[0], row):
            derivatives = torch.autograd.grad(difference, inputs, retain_graph=True, allow_unused=True)
            of_uses, of_tensors = derivatives[: len(recorded.uses)], derivatives[len(recorded.uses) :]
            otherwise = {id(t) for t, g in zip(group, of_tensors, strict=True) if g is not None and id(t) in factors}
            if otherwise:
                raise _UsedOtherwise(otherwise)
            for use, gradient in zip(recorded.uses, of_uses, strict=True):
                if gradient is not None:
                    factors[use.weight].add(number, *use.pair(gradient))
            if dense:
                of_tensor = {id(t): g for t, g in zip(group, of_tensors, strict=True)}
                dense_gradients = [torch.zeros_like(t) if of_tensor[id(t)] is None else of_tensor[id(t)] for t in dense]
                torch.cat([g.flatten() for g in dense_gradients], out=gradients[number])

    def _is_dense(self, tensor: Tensor) -> bool:
        return tensor.dim() != 2 or id(tensor) in self.dense

    def _groups(self, tensors: Sequence[Tensor], memory: float) -> list[list[Tensor]]:
        """Consecutive tensors whose factors or gradients take at most `memory` bytes; a tensor that takes more is alone."""
        sizes = self._sizes(tensors)
        groups: list[list[Tensor]] = []
        room = 0.0
        for tensor in tensors:
            if not groups or sizes[id(tensor)] > room:
                groups.append([])
                room = memory
            groups[-1].append(tensor)
            room -= sizes[id(tensor)]
        return groups

    def _sizes(self, tensors: Sequence[Tensor]) -> dict[int, float]:
        """Bytes of each tensor's factors or gradients over all examples, as if all were as long as the longest."""
        longest = max(self.items, key=self.scorer.length)
        factors = {id(t): Factors((t.shape[0], t.shape[1]), self.rows) for t in tensors if not self._is_dense(t)}
        if factors:
            self._example(longest, 0, [t for t in tensors if id(t) in factors], [], factors, torch.empty(0))
        bytes_of = {key: len(self.items) * factor.bytes() for key, factor in factors.items()}
        return bytes_of | {id(t): float(self.rows * t.numel() * t.element_size()) for t in tensors if self._is_dense(t)}


def _at_least_float32(tensor: Tensor) -> torch.dtype:
    return torch.promote_types(tensor.dtype, torch.float32)
