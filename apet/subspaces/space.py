"""ParameterSpace: one global integer index for every tunable scalar of a model.

The space lists the (name, shape) pairs in scope, sorted by name. A tied tensor is listed once. Entry j of tensor i has the index
`offsets[i] + j`. A sha256 of the list (`fingerprint`) is stored with everything that refers to such indices.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from torch import nn

from apet.errors import UsageError
from apet.subspaces.scope import DEFAULT, all_names, in_scope, kind_label, layer_label, layer_of, parse_scope, tensor_roles


@dataclass(frozen=True)
class ParameterSpace:
    """Sorted (name, shape) pairs with D = `size` scalars. `roles` holds the roles of each tensor (see `apet.subspaces.scope`)."""

    tensors: tuple[tuple[str, tuple[int, ...]], ...]
    roles: tuple[frozenset[str], ...]

    @classmethod
    def of(cls, model: nn.Module, scope: str = DEFAULT, among: Collection[str] | None = None) -> ParameterSpace:
        """Return the space of the parameters of `model` that `scope` selects (see `apet.subspaces.scope`).

        If `among` is given, only parameters named in it are selected. The default scope leaves out the token embeddings and the output
        head. Raises UsageError for an unknown term and for a scope without parameters.
        """
        terms, roles = parse_scope(scope), tensor_roles(model)
        shapes = {name: tuple(p.shape) for name, p in all_names(model).items()}
        chosen = sorted(name for name in roles if (among is None or name in among) and in_scope(name, roles[name], terms))
        if not chosen:
            layers = [layer for layer in map(layer_of, roles) if layer is not None]
            terms_of_model = ", ".join([*sorted(set().union(*roles.values())), *([f"layers:0-{max(layers)}"] if layers else [])])
            raise UsageError(f"the scope '{scope}' selects no parameter of this model, which has {terms_of_model}")
        return cls(tuple((name, shapes[name]) for name in chosen), tuple(roles[name] for name in chosen))

    @cached_property
    def sizes(self) -> np.ndarray:  # (tensors,)
        return np.array([math.prod(shape) for _, shape in self.tensors], dtype=np.int64)

    @cached_property
    def offsets(self) -> np.ndarray:  # (tensors + 1,)
        return np.concatenate([[0], np.cumsum(self.sizes)])

    @property
    def size(self) -> int:
        """Number of scalars in scope, D."""
        return int(self.offsets[-1])

    @property
    def layers(self) -> int:
        """Number of layers with tensors in scope. All tensors outside the layers count as one layer."""
        return len({layer_label(name) for name in self.names})

    @property
    def names(self) -> list[str]:
        return [name for name, _ in self.tensors]

    @cached_property
    def number(self) -> dict[str, int]:
        """Position of each tensor in `tensors`, by name."""
        return {name: i for i, name in enumerate(self.names)}

    @property
    def fingerprint(self) -> str:
        return hashlib.sha256(json.dumps(self.tensors).encode()).hexdigest()

    def locate(self, index: np.ndarray) -> list[tuple[str, slice, np.ndarray]]:
        """Split ascending global indices (k,) by tensor: (name, slice of `index`, positions in the flattened tensor)."""
        bounds = np.searchsorted(index, self.offsets)
        return [
            (self.tensors[i][0], slice(int(bounds[i]), int(bounds[i + 1])), index[bounds[i] : bounds[i + 1]] - self.offsets[i])
            for i in np.flatnonzero(np.diff(bounds))
        ]

    def histogram(self, counts: dict[str, int]) -> dict[str, dict[str, int]]:
        """Sum `counts` {tensor: number} over each layer and each kind of tensor: {"layer": {label: sum}, "kind": {label: sum}}.

        A tensor of the space that is missing from `counts` counts 0.
        """
        sums: dict[str, dict[str, int]] = {"layer": {}, "kind": {}}
        for name, roles in zip(self.names, self.roles, strict=True):
            for grouping, label in (("layer", layer_label(name)), ("kind", kind_label(roles))):
                sums[grouping][label] = sums[grouping].get(label, 0) + counts.get(name, 0)
        return sums
