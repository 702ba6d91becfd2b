"""Coordinates: the subspace of k single entries of the model's tensors, which is APET.

z holds the displacements of the chosen entries from their pretrained values, in fp32. Attached, the values live in
the model's own tensors (resident weights): the forward pass is the frozen model's, and after a step the k entries
are rewritten from z, so low-precision weights do not swallow small steps.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from apet.subspaces.resident import Resident
from apet.subspaces.scope import all_names
from apet.subspaces.space import ParameterSpace
from apet.subspaces.written_values import Written


class Coordinates:
    """The linear map z (k,) -> perturbation of the parameters, and its adjoint.

    `index` are distinct global integers of `space`; z_j belongs to the j-th smallest, whatever their order.
    """

    def __init__(self, space: ParameterSpace, index: np.ndarray):
        self.space, self.index, self.k = space, np.sort(index), len(index)
        self.by_tensor = space.locate(self.index)  # (name, slice of z, flat entries)

    def lift(self, z: Tensor) -> dict[str, Tensor]:
        """z (k,) -> dense perturbation of each touched tensor."""
        shapes = dict(self.space.tensors)
        lifted = {}
        for name, where, flat in self.by_tensor:
            zeros = torch.zeros(shapes[name], dtype=z.dtype, device=z.device).flatten()
            lifted[name] = zeros.index_copy(0, torch.as_tensor(flat, device=z.device), z[where]).view(shapes[name])
        return lifted

    def pull(self, tensors: dict[str, Tensor]) -> Tensor:
        """The adjoint of `lift`: entries of `tensors` (by name) at the chosen places, as one vector (k,)."""
        return torch.cat([tensors[name].flatten()[torch.as_tensor(flat)] for name, _, flat in self.by_tensor])

    def attach(self, model: nn.Module, kernel: str | None = None) -> Attached:
        """Freeze `model` and make the k entries tunable; `kernel` overrides the choice by size (see `apet.subspaces.kernels`)."""
        return Attached(model, self.by_tensor, self.k, kernel)


@dataclass(frozen=True)
class _Part:
    """A touched tensor: its weight and what stands for it, where it hangs (several places when tied), what it held."""

    weight: nn.Parameter
    resident: Resident
    slots: list[tuple[nn.Module, str]]
    original: Tensor  # (n,)

    @torch.no_grad()
    def write(self, change: Tensor) -> None:
        """Rewrite the entries as original + change, (n,); in one pass if the whole tensor is tuned."""
        values, weight = self.original.to(change.dtype), self.weight
        if len(values) == weight.numel() and change.dtype == weight.dtype and weight.is_contiguous():
            torch.add(values, change, out=weight.view(-1))
        else:
            weight.put_(self.resident.entries.flat, (values + change).to(weight.dtype))


class Attached:
    """A model whose k entries are a function of z. `z` (k,) fp32 is the trainable; after changing it call `write`.

    Used in a `with` statement, it is detached at the end.
    """

    def __init__(self, model: nn.Module, located: list[tuple[str, slice, np.ndarray]], k: int, kernel: str | None):
        parameters = all_names(model)
        if any(isinstance(p, Resident) for p in parameters.values()):
            raise RuntimeError("coordinates are attached to this model already: detach them first")
        self._flags = [(p, p.requires_grad) for p in model.parameters()]
        model.requires_grad_(False)
        slots = where(model)
        self._parts = [self._part(i, parameters[name], flat, slots, kernel) for i, (name, _, flat) in enumerate(located)]
        self._sizes = [part.resident.entries.k for part in self._parts]
        first = self._parts[0].weight
        self.z = nn.Parameter(torch.zeros(k, dtype=torch.promote_types(first.dtype, torch.float32), device=first.device))
        for part in self._parts:
            for module, name in part.slots:
                module._parameters[name] = part.resident  # pyright: ignore[reportArgumentType] (nn.Module asks for no more)
        self._written = Written()
        self.write()

    def _part(self, i: int, weight: nn.Parameter, flat: np.ndarray, slots: _Slots, kernel: str | None) -> _Part:
        resident = Resident.of(weight, torch.as_tensor(flat), lambda: self._bound[i], kernel)
        return _Part(weight, resident, slots[id(weight)], weight.detach().take(resident.entries.flat))

    def bind(self, z: Tensor) -> None:
        """Make the model's next forward passes functions of z: (k,), or (B, k) with equal rows, one an example.

        Tensors that hold these values already are left alone, so that a graph kept for several products stays valid.
        """
        self._bind(z)
        values = (z[0] if z.dim() == 2 else z).detach()
        if not self._written.holds(values):
            self._write(values)

    def write(self) -> None:
        """Rewrite the k entries as pretrained value + z."""
        self._bind(self.z)
        self._write(self.z.detach())

    def _bind(self, z: Tensor) -> None:
        with torch.enable_grad():
            self._bound = z.split(self._sizes, dim=-1)  # once for all tensors: a slice's gradient is as long as z

    def _write(self, values: Tensor) -> None:
        self._written.forget()  # until all are written
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
            _restore(part)
            for module, name in part.slots:
                module._parameters[name] = part.weight
        for parameter, flag in self._flags:
            parameter.requires_grad_(flag)


@torch.no_grad()
def _restore(part: _Part) -> None:
    part.weight.put_(part.resident.entries.flat, part.original)


_Slots = dict[int, list[tuple[nn.Module, str]]]


def where(model: nn.Module) -> _Slots:
    """Where each parameter hangs in the model, by identity."""
    found: _Slots = defaultdict(list)
    for module in model.modules():
        for name, parameter in module._parameters.items():
            found[id(parameter)].append((module, name))
    return found
