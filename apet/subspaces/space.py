"""ParameterSpace: every tunable scalar of a model has one global integer.

The (name, shape) pairs in scope, sorted by name, tied tensors once; prefix sums give entry j of tensor i the
index `offsets[i] + j`. A sha256 of the list is stored with everything that refers to such integers.
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
    """Sorted (name, shape) pairs; D = `size` scalars. `roles` says of each tensor which roles of `apet.subspaces.scope` it has."""

    tensors: tuple[tuple[str, tuple[int, ...]], ...]
    roles: tuple[frozenset[str], ...]

    @classmethod
    def of(cls, model: nn.Module, scope: str = DEFAULT, among: Collection[str] | None = None) -> ParameterSpace:
        """Return the parameters of `model` that `scope` selects (see `apet.subspaces.scope`), only those named in `among` if it is given.

        The default leaves the token embeddings and the output head out. Raises UsageError for an unknown term, and where
        nothing is in scope.
        """
        terms, roles = parse_scope(scope), tensor_roles(model)
        shapes = {name: tuple(p.shape) for name, p in all_names(model).items()}
        chosen = sorted(name for name in roles if (among is None or name in among) and in_scope(name, roles[name], terms))
        if not chosen:
            layers = [layer for layer in map(layer_of, roles) if layer is not None]
            there = ", ".join([*sorted(set().union(*roles.values())), *([f"layers:0-{max(layers)}"] if layers else [])])
            raise UsageError(f"the scope '{scope}' holds no parameter of this model, which has {there}")
        return cls(tuple((name, shapes[name]) for name in chosen), tuple(roles[name] for name in chosen))

    @cached_property
    def sizes(self) -> np.ndarray:  # (tensors,)
        return np.array([math.prod(shape) for _, shape in self.tensors], dtype=np.int64)

    @cached_property
    def offsets(self) -> np.ndarray:  # (tensors + 1,)
        return np.concatenate([[0], np.cumsum(self.sizes)])

    @property
    def size(self) -> int:
        """D, the number of scalars in scope."""
        return int(self.offsets[-1])

    @property
    def layers(self) -> int:
        """How many layers have tensors in scope, what lies outside of layers counted as one."""
        return len({layer_label(name) for name in self.names})

    @property
    def names(self) -> list[str]:
        return [name for name, _ in self.tensors]

    @cached_property
    def number(self) -> dict[str, int]:
        """{name of a tensor: its place in `tensors`}."""
        return {name: i for i, name in enumerate(self.names)}

    @property
    def fingerprint(self) -> str:
        return hashlib.sha256(json.dumps(self.tensors).encode()).hexdigest()

    def locate(self, index: np.ndarray) -> list[tuple[str, slice, np.ndarray]]:
        """Split ascending global indices (k,) by tensor: (name, which of the k, flat entries in the tensor)."""
        bounds = np.searchsorted(index, self.offsets)
        return [
            (self.tensors[i][0], slice(int(bounds[i]), int(bounds[i + 1])), index[bounds[i] : bounds[i + 1]] - self.offsets[i])
            for i in np.flatnonzero(np.diff(bounds))
        ]

    def histogram(self, counts: dict[str, int]) -> dict[str, dict[str, int]]:
        """Sum the `counts` of tensors, by name, over each layer and each kind of tensor of the space; other tensors count 0."""
        sums: dict[str, dict[str, int]] = {"layer": {}, "kind": {}}
        for name, roles in zip(self.names, self.roles, strict=True):
            for by, label in (("layer", layer_label(name)), ("kind", kind_label(roles))):
                sums[by][label] = sums[by].get(label, 0) + counts.get(name, 0)
        return sums
