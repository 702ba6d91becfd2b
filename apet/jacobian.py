"""The Gram matrix K = J J' of label-word logit differences over every parameter in scope, without storing J.

One backward pass an output (n (C - 1) in all) per group of tensors; a group is as large as memory allows, so small
models need one pass and the largest a few. The same passes say which entries the outputs do not depend on at all.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from apet.scope import all_names, only_trainable
from apet.scoring import Scorer
from apet.space import ParameterSpace
from apet.tasks import Example

GROUP_BYTES = 2**29


def gram_matrix(
    model: nn.Module,
    space: ParameterSpace,
    scorer: Scorer,
    examples: Sequence[Example],
    report: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[Tensor, float]:
    """(K, the live share of entries): K (m, m) float64, m = n (C - 1), rows example-major; d_c = logit_c - logit_0 differentiated in
    `space`. An entry is live where any output depends on it."""
    parameters = all_names(model)
    m = len(examples) * (scorer.task.classes - 1)
    groups = _groups(space, GROUP_BYTES // (4 * m))
    gram, live = torch.zeros(m, m, dtype=torch.float64), 0
    for number, names in enumerate(groups):
        tensors = [parameters[name] for name in names]
        with only_trainable(model, tensors):
            rows = _jacobian(model, tensors, scorer, examples,
                             lambda done, total, at=number: report(at * total + done, len(groups) * total))  # fmt: skip
        gram += (rows @ rows.T).double().cpu()
        live += int((rows != 0).any(0).sum())
    return gram, live / space.size


def _groups(space: ParameterSpace, budget: int) -> list[list[str]]:
    """Consecutive tensors of at most `budget` scalars together (a single larger tensor is a group of its own)."""
    groups: list[list[str]] = []
    room = 0
    for (name, _), size in zip(space.tensors, space.sizes, strict=True):
        if not groups or size > room:
            groups.append([])
            room = budget
        groups[-1].append(name)
        room -= int(size)
    return groups


def _jacobian(model: nn.Module, tensors: Sequence[Tensor], scorer: Scorer, examples: Sequence[Example], report: Callable) -> Tensor:
    """J (m, D of `tensors`), one example at a time: batching would differentiate the whole batch for each row."""
    rows = torch.empty(len(examples) * (scorer.task.classes - 1), sum(t.numel() for t in tensors), device=tensors[0].device)
    at = 0
    for batch in scorer.batches(examples, 1):
        logits = scorer.logits(model, batch)[0]
        for difference in logits[1:] - logits[0]:
            gradients = torch.autograd.grad(difference, tensors, retain_graph=True, allow_unused=True, materialize_grads=True)
            torch.cat([g.flatten() for g in gradients], out=rows[at])
            at += 1
        report(at, len(rows))
    return rows
