"""The Gram matrix K = J J' of label-word logit differences over every parameter in scope, without storing J.

One forward pass per example and one backward pass per output, n (C - 1) in total, yield thin factors of the gradients of every weight. The
inner products of the gradients are computed from the factors (`apet.gram.factors`), as in ghost clipping (Li et al. 2021, arXiv
2110.05679). The backward pass does not compute the gradients of these weights. Tensors with other uses than in linear layers and tables
get their gradients from autograd. Each pass over the examples processes as many tensors as fit into memory.
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

SHARE = 0.25  # share of the free memory for factors and gradients


def gram_matrix(
    model: nn.Module,
    space: ParameterSpace,
    scorer: Scorer,
    examples: Sequence[Example],
    report: Callable[[int, int], None] = lambda done, total: None,
    memory: float | None = None,
) -> tuple[Tensor, float]:
    """Return (K, share of active entries in `space`), with K (m, m) float64 on the CPU, m = n (C - 1), rows example-major.

    K holds the inner products of the gradients of d_c = logit_c - logit_0 in `space`. An entry is active if a factor or gradient of some
    output is not zero. Factors and gradients take about `memory` bytes, by default a quarter of the free memory. `report(done, total)`
    is called after each example, with numbers of outputs.
    """
    parameters = all_names(model)
    tensors = [parameters[name] for name in space.names]
    items, dense = scorer.encode(examples), set[int]()
    memory = SHARE * free_memory(tensors[0].device) if memory is None else memory
    with only_trainable(model, tensors):
        while True:
            try:
                gram, active = Passes(model, scorer, items, dense).gram(tensors, memory, report)
                return gram.cpu(), active / space.size
            except _NotFactored as failure:
                dense |= failure.ids


class _NotFactored(Exception):
    """The gradients of the tensors with these ids do not follow from factors."""

    def __init__(self, ids: set[int]):
        super().__init__()
        self.ids = ids


class Passes:
    """Passes over the examples. The tensors with the ids `dense` get their gradients from autograd."""

    def __init__(self, model: nn.Module, scorer: Scorer, items: Sequence[Item], dense: set[int]):
        self.model, self.scorer, self.items = model, scorer, items
        self.dense, self.rank = dense, scorer.task.rank
        self.rows = len(items) * self.rank

    def gram(self, tensors: Sequence[Tensor], memory: float, report: Callable[[int, int], None]) -> tuple[Tensor, int]:
        """Compute (K (m, m), number of active entries), with one pass over the examples for each group of tensors."""
        gram, active = torch.zeros(self.rows, self.rows, dtype=torch.float64, device=tensors[0].device), 0
        groups = self._groups(tensors, memory)
        for number, group in enumerate(groups):
            factors, gradients = self.of(group, lambda done, at=number: report(at * self.rows + done, len(groups) * self.rows))
            gram += (gradients @ gradients.T).double()
            active += int((gradients != 0).any(0).sum())
            while factors:  # each one is freed after its use
                factor = factors.pop()
                gram += factor.gram()
                active += factor.active()
        return gram, active

    def of(self, group: Sequence[Tensor], report: Callable[[int], None]) -> tuple[list[Factors], Tensor]:
        """Return the factors of the group's weights, and the gradients of its other tensors (m, number of their scalars)."""
        dense = [t for t in group if self._is_dense(t)]
        factors = {id(t): Factors((t.shape[0], t.shape[1]), self.rows) for t in group if not self._is_dense(t)}
        first = group[0]
        gradients = torch.empty(self.rows, sum(t.numel() for t in dense), device=first.device, dtype=_at_least_float32(first))
        for i, item in enumerate(self.items):
            self._example(item, i * self.rank, group, dense, factors, gradients)
            report((i + 1) * self.rank)
        return list(factors.values()), gradients

    def _example(
        self, item: Item, row: int, group: Sequence[Tensor], dense: list[Tensor], factors: dict[int, Factors], gradients: Tensor
    ) -> None:
        """Add the factors and gradients of one example, whose outputs begin at `row`.

        Examples are not batched, because each backward pass would differentiate the whole batch.
        """
        with Recorded(factors.keys()) as recorded:
            logits = self.scorer.logits(self.model, self.scorer.collate([item]))[0]
        inputs = [*(use.output for use in recorded.uses), *group]
        for number, difference in enumerate(logits[1:] - logits[0], row):
            derivatives = torch.autograd.grad(difference, inputs, retain_graph=True, allow_unused=True)
            of_uses, of_tensors = derivatives[: len(recorded.uses)], derivatives[len(recorded.uses) :]
            not_factored = {id(t) for t, g in zip(group, of_tensors, strict=True) if g is not None and id(t) in factors}
            if not_factored:
                raise _NotFactored(not_factored)
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
        """Split `tensors` into consecutive groups whose factors or gradients take at most `memory` bytes.

        A tensor that takes more is a group by itself.
        """
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
        """Return an upper bound on the bytes of each tensor's factors or gradients: all examples count as the longest one."""
        longest = max(self.items, key=self.scorer.length)
        factors = {id(t): Factors((t.shape[0], t.shape[1]), self.rows) for t in tensors if not self._is_dense(t)}
        if factors:
            self._example(longest, 0, [t for t in tensors if id(t) in factors], [], factors, torch.empty(0))
        bytes_of = {key: len(self.items) * factor.bytes() for key, factor in factors.items()}
        return bytes_of | {id(t): float(self.rows * t.numel() * t.element_size()) for t in tensors if self._is_dense(t)}


def _at_least_float32(tensor: Tensor) -> torch.dtype:
    return torch.promote_types(tensor.dtype, torch.float32)
