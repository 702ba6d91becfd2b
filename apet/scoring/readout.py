"""Compute the output head only for the label words at one position per text, instead of for the whole vocabulary at all positions.

A classifier with label words needs C logits per text. A language model computes B x T x V logits for a batch, which for a small model
take most of the forward pass's time and memory.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from apet.subspaces import Rows, rows_of


def output_head(model: Any) -> nn.Linear | None:
    """Return the model's output head if it is an unwrapped linear layer, else None."""
    base = getattr(model, "get_base_model", lambda: model)()
    head = getattr(base, "get_output_embeddings", lambda: None)()
    return head if type(head) is nn.Linear and "forward" not in vars(head) else None


@contextmanager
def restricted(head: nn.Linear | None, rows: Rows | None, select: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Restrict `head`, within the block, to the positions that `select` picks and to `rows` of its weight (None: all rows).

    `select` maps hidden states (B, T, d) to (B, T', d), so the head's output has shape (B, T', C). If `head` is None, nothing changes.
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


def forward_arguments(model: nn.Module) -> set[str]:
    """Return the names that the model's forward pass accepts."""
    base = getattr(model, "get_base_model", lambda: model)()  # the forward pass of a peft wrapper accepts any argument
    return set(inspect.signature(base.forward).parameters)
