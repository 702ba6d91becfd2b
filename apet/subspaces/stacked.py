"""Several points of a subspace in one forward pass: for models so small that the number of operations is what takes the time.

The touched tensors are stacked, one copy a point, and the forward pass runs over the stack (torch.func.vmap). Only values come out, no
derivatives: nested transforms are not to be trusted with those (pytorch issue 196700).
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

AT_ONCE = 8  # points
# Of the stack: what stays in a CPU's cache. At once over one by one, one thread, 32 sentences: mini-t5-130k .3, mini-bloom-120k .5.
MOST_BYTES = 2**24

Logits = Callable[[nn.Module, Any], Tensor]  # (model, batch) -> logits


class Many:
    """(points (P, k), batch) -> logits (P, ...) of a model, from the values that its tensors held when this was made."""

    def __init__(self, model: nn.Module, coordinates: Coordinates, logits: Logits) -> None:
        parameters = all_names(model)
        self.tensors = {name: plain(parameters[name]).detach().clone() for name, _, _ in coordinates.by_tensor}
        self.by_tensor, self.net = coordinates.by_tensor, _Called(model, logits)

    @torch.no_grad()
    def __call__(self, points: Tensor, batch: Any) -> Tensor:
        stacks = {f"model.{name}": self._stack(name, points[:, where], flat) for name, where, flat in self.by_tensor}
        return vmap(lambda tensors: functional_call(self.net, tensors, (batch,)))(stacks)

    def _stack(self, name: str, changes: Tensor, flat: Any) -> Tensor:
        tensor, places = self.tensors[name], torch.as_tensor(flat, device=changes.device)
        stack = tensor.flatten().repeat(len(changes), 1)
        stack[:, places] = (stack[:, places].to(changes.dtype) + changes).to(tensor.dtype)
        return stack.view(len(changes), *tensor.shape)


def pays(model: nn.Module, coordinates: Coordinates) -> bool:
    """Whether several points at once cost less than one by one: for small models on a CPU, of which BERT's gain nothing."""
    parameters = all_names(model)
    touched = [parameters[name] for name, _, _ in coordinates.by_tensor]
    small = AT_ONCE * sum(plain(p).nbytes for p in touched) <= MOST_BYTES
    return small and touched[0].device.type == "cpu" and getattr(getattr(model, "config", None), "model_type", "") != "bert"


class _Called(nn.Module):
    """A model's logits as a module's forward pass, which is what functional_call can call."""

    def __init__(self, model: nn.Module, logits: Logits) -> None:
        super().__init__()
        self.model, self.logits = model, logits

    def forward(self, batch: Any) -> Tensor:
        return self.logits(self.model, batch)
