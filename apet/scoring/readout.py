"""The output head at a few words and one place of each text, in place of the whole vocabulary everywhere.

A classifier in words reads C numbers of a text. A language model computes B x T x V of them, which for a small model is most of
the forward pass and of its memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from apet.subspaces import Rows, rows_of


def output_head(model: Any) -> nn.Linear | None:
    """Return the model's output head where it is a linear layer that nothing wraps."""
    base = getattr(model, "get_base_model", lambda: model)()
    head = getattr(base, "get_output_embeddings", lambda: None)()
    return head if type(head) is nn.Linear and "forward" not in vars(head) else None


@contextmanager
def restricted(head: nn.Linear | None, rows: Rows | None, select: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """While it lasts, `head` reads only the positions that `select` picks, and has only these `rows` (None: all).

    `select` maps hidden states (B, T, d) to (B, T', d), so that the head's output is (B, T', C). None in place of a head does nothing.
    """
    if head is None:
        yield
        return

    def forward(input: Tensor) -> Tensor:
        if rows is None:
            return F.linear(select(input), head.weight, head.bias)
        return F.linear(select(input), rows_of(head.weight, rows), None if head.bias is None else rows_of(head.bias, rows))

    head.forward = forward
    try:
        yield
    finally:
        del head.forward
