"""ParameterSpace: every tunable scalar of a model has one global integer.

The (name, shape) pairs in scope, sorted by name, tied tensors once; prefix sums give entry j of tensor i the
index `offsets[i] + j`. A sha256 of the list is stored with everything that refers to such integers.
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from torch import nn

from apet.errors import UsageError


@dataclass(frozen=True)
class ParameterSpace:
    """Sorted (name, shape) pairs; D = `size` scalars."""

    tensors: tuple[tuple[str, tuple[int, ...]], ...]

    @classmethod
    def of(cls, model: nn.Module, embeddings: bool = False) -> ParameterSpace:
        """All weights, biases and norms of `model`; token embeddings and output head only with `embeddings`.

        The share of the embeddings in all parameters changes along a family of models, so leaving them out is the
        default. Raises UsageError where nothing is in scope.
        """
        left_out = set() if embeddings else _token_tables(model)
        chosen = sorted((name, tuple(p.shape)) for name, p in model.named_parameters() if id(p) not in left_out)
        if not chosen:
            raise UsageError("the scope holds no parameter")
        return cls(tuple(chosen))

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
    def names(self) -> list[str]:
        return [name for name, _ in self.tensors]

    @property
    def fingerprint(self) -> str:
        return hashlib.sha256(json.dumps(self.tensors).encode()).hexdigest()

    def locate(self, index: np.ndarray) -> list[tuple[str, np.ndarray, np.ndarray]]:
        """Split global indices (k,) by tensor: (name, which of the k, flat entries in the tensor), sorted by name."""
        tensor = np.searchsorted(self.offsets, index, side="right") - 1
        found = []
        for i in np.unique(tensor):
            which = np.flatnonzero(tensor == i)
            found.append((self.tensors[i][0], which, index[which] - self.offsets[i]))
        return found


def _token_tables(model: nn.Module) -> set[int]:
    """Identities of the token embedding and output head, the tensors with a row a token."""
    tables = [getattr(model, f"get_{side}_embeddings")() for side in ("input", "output")]
    return {id(p) for table in tables if table is not None for p in table.parameters()}
