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
from apet.subspaces.scope import DEFAULT, all_names, in_scope, kind_label, layer_label, layer_of, parse, tensor_roles


@dataclass(frozen=True)
class ParameterSpace:
    """Sorted (name, shape) pairs; D = `size` scalars. `roles` says of each tensor which roles of `apet.subspaces.scope` it has."""

    tensors: tuple[tuple[str, tuple[int, ...]], ...]
    roles: tuple[frozenset[str], ...]

    @classmethod
    def of(cls, model: nn.Module, scope: str = DEFAULT, among: Collection[str] | None = None) -> ParameterSpace:
        """The parameters of `model` that `scope` selects (see `apet.subspaces.scope`), only those named in `among` if it is given.

        The default leaves the token embeddings and the output head out. Raises UsageError for an unknown term, and where
        nothing is in scope.
        """
        terms, roles = parse(scope), tensor_roles(model)
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

    def index_of(self, other: ParameterSpace, index: np.ndarray) -> np.ndarray:
        """The global integers here of entries that have the ascending ones (k,) in `other`, a part of this space; ascending too."""
        offsets = dict(zip(self.names, self.offsets, strict=False))
        parts = [offsets[name] + flat for name, _, flat in other.locate(index)]
        return np.concatenate(parts) if parts else np.zeros(0, np.int64)

    def labels(self, index: np.ndarray) -> dict[str, list[str]]:
        """The layer and the kind of tensor of each of the global indices, in ascending order (k,)."""
        found: dict[str, list[str]] = {"layer": [], "kind": []}
        roles = dict(zip(self.names, self.roles, strict=True))
        for name, where, _ in self.locate(np.sort(index)):
            count = where.stop - where.start
            found["layer"] += [layer_label(name)] * count
            found["kind"] += [kind_label(roles[name])] * count
        return found

    def histogram(self, index: np.ndarray) -> dict[str, dict[str, int]]:
        """How many of the ascending global indices (k,) fall in each layer and in each kind of tensor."""
        counts = np.diff(np.searchsorted(index, self.offsets))
        found: dict[str, dict[str, int]] = {"layer": {}, "kind": {}}
        for (name, _), roles, count in zip(self.tensors, self.roles, counts, strict=True):
            for by, label in (("layer", layer_label(name)), ("kind", kind_label(roles))):
                found[by][label] = found[by].get(label, 0) + int(count)
        return found
