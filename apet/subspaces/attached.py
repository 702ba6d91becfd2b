"""A model whose k tuned entries are a function of z.

The values are stored in the model's own tensors (resident weights), so the forward pass is the same as the frozen model's. After each
step the k entries are rewritten from z. z is fp32, so low-precision weights do not round small steps away.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from apet.subspaces.resident import Resident
from apet.subspaces.scope import all_names
from apet.subspaces.written_values import WrittenValues


@dataclass(frozen=True)
class _Part:
    """A tensor with tuned entries: the weight, its resident replacement, its modules (several if it is tied) and the pretrained values."""

    weight: nn.Parameter
    resident: Resident
    owners: list[tuple[nn.Module, str]]
    original: Tensor  # (n,)

    @torch.no_grad()
    def write(self, change: Tensor) -> None:
        """Set the entries to original + `change` (n,), in one pass if the whole tensor is tuned."""
        values, weight = self.original.to(change.dtype), self.weight
        if len(values) == weight.numel() and change.dtype == weight.dtype and weight.is_contiguous():
            torch.add(values, change, out=weight.view(-1))
        else:
            self._put((values + change).to(weight.dtype))

    @torch.no_grad()
    def restore(self) -> None:
        """Restore the pretrained values."""
        self._put(self.original)

    def _put(self, values: Tensor) -> None:
        if self.resident.flat is None:
            self.weight.copy_(values.view(self.weight.shape))
        else:
            self.weight.put_(self.resident.pattern.flat, values)


class Attached:
    """A model whose k entries are a function of z. `z` (k,), fp32, is the trainable parameter. Call `write` after each change of z.

    `by_tensor` holds (name, slice of z, ascending int64 positions in the flattened tensor or None for all) of each touched tensor.
    A `with` statement detaches the model at its end.
    """

    def __init__(self, model: nn.Module, by_tensor: Sequence[tuple[str, slice, np.ndarray | None]], k: int, kernel: str | None):
        parameters = all_names(model)
        if any(isinstance(p, Resident) for p in parameters.values()):
            raise RuntimeError("coordinates are already attached to this model: detach them first")
        self._flags = [(p, p.requires_grad) for p in model.parameters()]
        model.requires_grad_(False)
        owners = owners_by_parameter(model)
        self._parts = [self._part(i, parameters[name], flat, owners, kernel) for i, (name, _, flat) in enumerate(by_tensor)]
        self._sizes = [part.resident.pattern.k for part in self._parts]
        first = self._parts[0].weight
        self.z = nn.Parameter(torch.zeros(k, dtype=torch.promote_types(first.dtype, torch.float32), device=first.device))
        for part in self._parts:
            for module, name in part.owners:
                module._parameters[name] = part.resident  # pyright: ignore[reportArgumentType] (nn.Module accepts any tensor)
        self._written = WrittenValues()
        self.write()

    def _part(self, i: int, weight: nn.Parameter, flat: np.ndarray | None, owners: _Owners, kernel: str | None) -> _Part:
        resident = Resident.of(weight, None if flat is None else torch.as_tensor(flat), lambda: self._bound[i], kernel)
        values = weight.detach()
        original = values.reshape(-1).clone() if flat is None else values.take(resident.pattern.flat)
        return _Part(weight, resident, owners[id(weight)], original)

    def bind(self, z: Tensor) -> None:
        """Make the next forward passes of the model functions of z: (k,), or (B, k) with equal rows, one per example.

        If the tensors already hold these values, they are not rewritten: a graph that is kept for several products stays valid.
        """
        self._bind(z)
        values = (z[0] if z.dim() == 2 else z).detach()
        if not self._written.holds(values):
            self._write(values)

    def write(self) -> None:
        """Set the k entries to pretrained value + z."""
        self._bind(self.z)
        self._write(self.z.detach())

    def _bind(self, z: Tensor) -> None:
        with torch.enable_grad():
            self._bound = z.split(self._sizes, dim=-1)  # one split: the gradient of a separate slice would be as long as z

    def _write(self, values: Tensor) -> None:
        self._written.forget()  # until all tensors are written
        for part, change in zip(self._parts, values.split(self._sizes), strict=True):
            part.write(change)
        self._written.note(values)

    def __enter__(self) -> Attached:
        return self

    def __exit__(self, *_: object) -> None:
        self.detach()

    def detach(self) -> None:
        """Restore the model bitwise: values, parameters and requires_grad flags."""
        for part in self._parts:
            part.restore()
            for module, name in part.owners:
                module._parameters[name] = part.weight
        for parameter, flag in self._flags:
            parameter.requires_grad_(flag)


_Owners = dict[int, list[tuple[nn.Module, str]]]


def owners_by_parameter(model: nn.Module) -> _Owners:
    """Return {id of a parameter: [(module, attribute name), ...]}, with every module that holds the parameter."""
    owners: _Owners = defaultdict(list)
    for module in model.modules():
        for name, parameter in module._parameters.items():
            owners[id(parameter)].append((module, name))
    return owners
