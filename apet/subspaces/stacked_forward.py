"""Evaluate several points of a subspace in one forward pass, for models so small that the number of operations determines the time.

The touched tensors are stacked, one copy per point, and the forward pass is vectorised over the stack (torch.func.vmap). It returns
values only, because derivatives of nested transforms are not reliable (pytorch issue 196700).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from apet.subspaces.coordinates import Coordinates
from apet.subspaces.resident import plain
from apet.subspaces.scope import all_names

AT_ONCE = 8  # points per forward pass
# The largest stack: it must stay in a CPU's cache. Relative to one point at a time (one thread, 32 sentences), a stacked pass takes .3 of
# the time for mini-t5-130k and .5 for mini-bloom-120k.
MOST_BYTES = 2**24

Logits = Callable[[nn.Module, Any], Tensor]  # (model, batch) -> logits


class StackedForward:
    """A map from (points (P, k), batch) to logits (P, ...). A point is a displacement from the tensors at the time of construction."""

    def __init__(self, model: nn.Module, coordinates: Coordinates, logits: Logits) -> None:
        parameters = all_names(model)
        self.tensors = {name: plain(parameters[name]).detach().clone() for name, _, _ in coordinates.by_tensor}
        self.by_tensor, self.net, self.k = coordinates.by_tensor, _Called(model, logits), coordinates.k

    @torch.no_grad()
    def __call__(self, points: Tensor, batch: Any) -> Tensor:
        stacks = {f"model.{name}": self._stack(name, points[:, where], flat) for name, where, flat in self.by_tensor}
        return vmap(lambda tensors: functional_call(self.net, tensors, (batch,)))(stacks)

    def works(self, batch: Any) -> bool:
        """Return whether the forward pass on `batch` can be vectorised: FNet, for one, writes results of points into a shared tensor."""
        device = next(iter(self.tensors.values())).device
        try:
            self(torch.zeros(2, self.k, device=device), batch)
        except RuntimeError:
            return False
        return True

    def _stack(self, name: str, changes: Tensor, flat: Any) -> Tensor:
        tensor = self.tensors[name]
        stack = tensor.flatten().repeat(len(changes), 1)
        chosen = slice(None) if flat is None else torch.as_tensor(flat, device=changes.device)
        stack[:, chosen] = (stack[:, chosen].to(changes.dtype) + changes).to(tensor.dtype)
        return stack.view(len(changes), *tensor.shape)


def stacked_pass(model: nn.Module, coordinates: Coordinates, logits: Logits, batch: Any) -> StackedForward | None:
    """Return a stacked forward pass, or None if one point at a time is faster or a pass on `batch` cannot be vectorised."""
    if not stacked_is_faster(model, coordinates):
        return None
    stacked = StackedForward(model, coordinates, logits)
    return stacked if stacked.works(batch) else None


def stacked_is_faster(model: nn.Module, coordinates: Coordinates) -> bool:
    """Return whether a stacked pass is faster than one point at a time: it is for small models on a CPU, except BERT."""
    parameters = all_names(model)
    touched = [parameters[name] for name, _, _ in coordinates.by_tensor]
    small = AT_ONCE * sum(plain(p).nbytes for p in touched) <= MOST_BYTES
    return small and touched[0].device.type == "cpu" and getattr(getattr(model, "config", None), "model_type", "") != "bert"


class _Called(nn.Module):
    """A module whose forward pass returns the model's logits, for functional_call."""

    def __init__(self, model: nn.Module, logits: Logits) -> None:
        super().__init__()
        self.model, self.logits = model, logits

    def forward(self, batch: Any) -> Tensor:
        return self.logits(self.model, batch)
