"""Coordinates: the subspace of k single entries of the model's tensors, which APET tunes.

z holds the displacements of the chosen entries from their pretrained values, ordered by the entries' global indices. A tensor whose
entries are all chosen needs no index, so the subspace of all parameters takes no memory.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from apet.subspaces.attached import Attached
from apet.subspaces.scope import kind_label, layer_label
from apet.subspaces.space import ParameterSpace


class TensorEntries(NamedTuple):
    """The chosen entries of one tensor: their slice of z (`where`) and their positions in the flattened tensor (`flat`)."""

    name: str
    where: slice
    flat: np.ndarray | None  # int64 (n,), ascending; None: the whole tensor


class Coordinates:
    """The linear map z (k,) -> perturbation of the parameters, and its adjoint.

    `index` (k,) holds distinct global indices of `space`, in any order (None: all of them). z_j belongs to the j-th smallest index.
    """

    def __init__(self, space: ParameterSpace, index: np.ndarray | None = None):
        self._set(space, dict.fromkeys(space.names) if index is None else _by_tensor(space, np.sort(index)))

    @classmethod
    def of_tensors(cls, space: ParameterSpace, flats: Mapping[str, np.ndarray | None]) -> Coordinates:
        """Return the subspace of the entries `flats` {tensor: ascending positions in the flattened tensor, int64 (n,); None: all}."""
        coordinates = cls.__new__(cls)
        coordinates._set(space, flats)
        return coordinates

    def _set(self, space: ParameterSpace, flats: Mapping[str, np.ndarray | None]) -> None:
        self.space, self.by_tensor, self.k = space, list[TensorEntries](), 0
        for name, size in zip(space.names, space.sizes, strict=True):
            if name in flats:
                flat = flats[name]
                count = int(size) if flat is None else len(flat)
                if count:
                    self.by_tensor.append(TensorEntries(name, slice(self.k, self.k + count), None if count == size else flat))
                    self.k += count

    @property
    def index(self) -> np.ndarray:
        """Global indices of the entries, ascending: int64 (k,), computed at each access."""
        return np.concatenate([self._index(part) for part in self.by_tensor] or [np.zeros(0, np.int64)])

    def _index(self, part: TensorEntries) -> np.ndarray:
        i = self.space.number[part.name]
        return int(self.space.offsets[i]) + (np.arange(self.space.sizes[i]) if part.flat is None else part.flat)

    @property
    def digest(self) -> str:
        """The `digest` of `index` (sha256)."""
        return digest(self._index(part) for part in self.by_tensor)

    @property
    def flats(self) -> dict[str, np.ndarray | None]:
        """Ascending positions in each flattened tensor: {tensor: int64 (n,); None: all}."""
        return {name: flat for name, _, flat in self.by_tensor}

    def within(self, space: ParameterSpace) -> Coordinates:
        """Return the same entries as a subspace of `space`, which must contain all tensors of this subspace."""
        return Coordinates.of_tensors(space, self.flats)

    def union(self, others: Sequence[Coordinates]) -> Coordinates:
        """Return the subspace of all entries of this subspace and of `others`, which must belong to the same space."""
        flats = self.flats
        for other in others:
            for name, _, flat in other.by_tensor:
                merged = flats.get(name, np.zeros(0, np.int64))
                flats[name] = None if merged is None or flat is None else np.union1d(merged, flat)
        return Coordinates.of_tensors(self.space, flats)

    def positions_of(self, part: Coordinates) -> slice | Tensor:
        """Return the positions in z of the entries of `part`: int64 (part.k,), or a full slice if `part` has all k entries.

        `part` must be a subspace of this subspace.
        """
        if part.k == self.k:
            return slice(None)
        inside = {name: (where.start, flat) for name, where, flat in self.by_tensor}
        positions = [np.zeros(0, np.int64)]
        for name, where, flat in part.by_tensor:
            start, whole = inside[name]
            flat = np.arange(where.stop - where.start) if flat is None else flat
            positions.append(start + (flat if whole is None else np.searchsorted(whole, flat)))
        return torch.as_tensor(np.concatenate(positions))

    def groups(self, by: str) -> tuple[Tensor, list[str]]:
        """Return (labels int64 (k,), names of the groups): z_j belongs to the group names[labels[j]].

        `by` is layer, kind (of tensor), tensor, or filter (a row of a matrix; a vector is one filter). The names are ordered by the first
        coordinate of each group.
        """
        names: dict[str, int] = {}
        labels = torch.empty(self.k, dtype=torch.int64)
        roles, shapes = dict(zip(self.space.names, self.space.roles, strict=True)), dict(self.space.tensors)
        for name, where, flat in self.by_tensor:
            if by == "filter" and len(shapes[name]) > 1:
                size, width = where.stop - where.start, shapes[name][-1]
                rows, members = np.unique((np.arange(size) if flat is None else flat) // width, return_inverse=True)
                first = len(names)
                names |= {f"{name} {row}": first + i for i, row in enumerate(rows)}
                labels[where] = torch.as_tensor(members) + first
            else:
                label = {"layer": layer_label(name), "kind": kind_label(roles[name])}.get(by, name)
                labels[where] = names.setdefault(label, len(names))
        return labels, list(names)

    def histogram(self) -> dict[str, dict[str, int]]:
        """Return the number of entries in each layer and in each kind of tensor of the space."""
        counts = {part.name: part.where.stop - part.where.start for part in self.by_tensor}
        return self.space.histogram(counts)

    def lift(self, z: Tensor) -> dict[str, Tensor]:
        """Return the dense perturbation of each touched tensor for z (k,): {tensor: its shape}."""
        shapes = dict(self.space.tensors)
        lifted = {}
        for name, where, flat in self.by_tensor:
            if flat is None:
                lifted[name] = z[where].clone().view(shapes[name])
            else:
                zeros = torch.zeros(shapes[name], dtype=z.dtype, device=z.device).flatten()
                lifted[name] = zeros.index_copy(0, torch.as_tensor(flat, device=z.device), z[where]).view(shapes[name])
        return lifted

    def pull(self, tensors: dict[str, Tensor]) -> Tensor:
        """Compute the adjoint of `lift`: the chosen entries of `tensors` (by name), as one vector (k,)."""
        flattened = ((tensors[name].flatten(), flat) for name, _, flat in self.by_tensor)
        return torch.cat([values if flat is None else values[torch.as_tensor(flat)] for values, flat in flattened])

    def attach(self, model: nn.Module, kernel: str | None = None) -> Attached:
        """Freeze `model` and make the k entries tunable. `kernel` overrides the choice by cost (see `apet.subspaces.sparsity_pattern`)."""
        return Attached(model, self.by_tensor, self.k, kernel)


def _by_tensor(space: ParameterSpace, index: np.ndarray) -> dict[str, np.ndarray | None]:
    return {name: flat for name, _, flat in space.locate(index)}


def digest(parts: Iterable[np.ndarray]) -> str:
    """Return the sha256 of ascending int64 positions, given in parts. It shows whether a rule still yields the entries that were tuned."""
    whole = hashlib.sha256()
    for index in parts:
        whole.update(np.ascontiguousarray(index, dtype="<i8").tobytes())
    return whole.hexdigest()
