"""Projections: random linear maps of a short z (d,) to a perturbation of all D parameters in scope, and their adjoints.

A projection is a random matrix. Its rows are computed when they are needed, tensor by tensor, from names (seed, kind, block). Except for z
and one tensor, no state grows with D. All projections have the same scale: E |P z|^2 = |z|^2 over the whole space, and every parameter
moves with the variance |z|^2 / D, whatever tensor it belongs to. The exception is `fastfood-legacy`, which is neither isometric nor correct
(see `apet.projections.fastfood`).

    fastfood         block Fastfood over the flat space: direct intrinsic dimension (DID; Li et al. 2018, arXiv 1804.08838)
    fastfood-tensor  Fastfood with separate blocks for every tensor: the rows of a tensor do not depend on the other tensors in scope
    said             fastfood-tensor with a learned scale for each layer (SAID; Aghajanyan et al. 2020, arXiv 2012.13255)
    countsketch      one signed coordinate for each parameter
    gaussian         a dense Gaussian matrix, for comparison on small models
    fastfood-legacy  Fastfood with the defects of public code, to reproduce its results
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.autograd import Function

from apet.errors import UsageError, lookup
from apet.projections.countsketch import CountSketch
from apet.projections.fastfood import BLOCK, Fastfood, LegacyFastfood
from apet.projections.gaussian import Gaussian
from apet.projections.projected import Projected
from apet.projections.subspace_names import SUBSPACE_NAMES
from apet.projections.walsh_hadamard import power_of_two
from apet.subspaces import ParameterSpace, layer_label

VERSION = 2  # of the random numbers: a checkpoint of another version belongs to another subspace


class Rows(Protocol):
    """The rows of a linear map of z (d,)."""

    def values(self, z: Tensor, start: int, stop: int) -> Tensor:
        """Return rows start .. stop - 1 times z: (d,) -> (stop - start,)."""
        ...

    def adjoint(self, w: Tensor, start: int) -> Tensor:
        """Return the transpose of rows start .. start + count - 1, times w: (count,) -> (d,)."""
        ...


class Projection:
    """The linear map z (k,) -> perturbation of the parameters of `space`, and its adjoint. (kind, seed) determine its random numbers."""

    def __init__(self, kind: str, space: ParameterSpace, k: int, seed: int):
        """Raises UsageError for an unknown kind and unless 1 <= k <= D."""
        _check(k, 1, space)
        self.kind, self.space, self.k, self.seed = kind, space, k, seed
        self._rows = lookup(_ROWS_OF_TENSORS, kind, "projection")(space, k, seed)

    @property
    def name(self) -> str:
        """Identity of the subspace: a checkpoint can be resumed only if its name is equal."""
        return f"{self.kind} {self.seed} {self.k} {self.space.fingerprint[:16]} {VERSION}"

    def lift_one(self, z: Tensor, i: int) -> Tensor:
        """Return the perturbation of tensor i for z (k,), in the dtype of z, differentiable any number of times."""
        _, shape = self.space.tensors[i]
        rows, start = self._rows[i]
        return _Lift.apply(z, rows, start, int(self.space.sizes[i])).view(shape)  # pyright: ignore[reportOptionalMemberAccess]

    def pull_one(self, w: Tensor, i: int, z: Tensor) -> Tensor:
        """Compute the adjoint of `lift_one` at w, which has the shape of tensor i and the dtype of z: (k,), independent of z."""
        rows, start = self._rows[i]
        return rows.adjoint(w.reshape(-1), start)

    def lift(self, z: Tensor) -> dict[str, Tensor]:
        """Return the perturbation of each tensor, by name, for z (k,)."""
        return {name: self.lift_one(z, i) for i, name in enumerate(self.space.names)}

    def pull(self, tensors: dict[str, Tensor]) -> Tensor:
        """Compute the adjoint of `lift` at `tensors` (by name): (k,)."""
        pulled = (self.pull_one(tensors[name], i, tensors[name]) for i, name in enumerate(self.space.names))
        return torch.stack(list(pulled)).sum(0)

    def groups(self, by: str) -> tuple[Tensor, list[str]]:
        """Return no groups. Every coordinate of a projection moves all tensors, so it does not belong to a layer, kind or tensor."""
        return torch.zeros(self.k, dtype=torch.int64), []

    def attach(self, model: nn.Module) -> Projected:
        """Make all tensors of the space in `model` functions of one z."""
        return Projected(model, self)


class Said(Projection):
    """The map z = (theta (k - m,), lambda - 1 (m,)) -> lambda_l P theta in each of the m layers l.

    All tensors outside the layers count as one layer. The map is not linear, but z = 0 is the pretrained model. `pull_one` is the adjoint
    of the derivative at z.
    """

    def __init__(self, kind: str, space: ParameterSpace, k: int, seed: int):
        """Raises UsageError unless m < k <= D."""
        layers = list(dict.fromkeys(layer_label(name) for name in space.names))
        _check(k, len(layers) + 1, space)
        super().__init__("fastfood-tensor", space, k - len(layers), seed)
        self.kind, self.inner, self.k = kind, self.k, k
        self.layers = [layers.index(layer_label(name)) for name in space.names]

    def lift_one(self, z: Tensor, i: int) -> Tensor:
        return super().lift_one(z[: self.inner], i) * (1 + z[self.inner + self.layers[i]])

    def pull_one(self, w: Tensor, i: int, z: Tensor) -> Tensor:
        inner_pulled, scale = super().pull_one(w, i, z), self.inner + self.layers[i]
        pulled = torch.cat([inner_pulled * (1 + z[scale]), z.new_zeros(self.k - self.inner)])
        pulled[scale] = inner_pulled @ z[: self.inner]
        return pulled

    def pull(self, tensors: dict[str, Tensor]) -> Tensor:
        raise TypeError("SAID is not linear and has no adjoint: use pull_one, the adjoint of its derivative at z")


class _Lift(Function):
    """Rows times z. The map is linear: its backward pass is `_Pull`, whose backward pass is `_Lift`."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, rows: Rows, start: int, count: int) -> Tensor:
        ctx.rows, ctx.start = rows, start
        return rows.values(z, start, start + count)

    @staticmethod
    def backward(ctx: Any, w: Tensor) -> tuple:  # pyright: ignore[reportIncompatibleMethodOverride]
        return _Pull.apply(w, ctx.rows, ctx.start), None, None, None


class _Pull(Function):
    """Transposed rows times w."""

    @staticmethod
    def forward(ctx: Any, w: Tensor, rows: Rows, start: int) -> Tensor:
        ctx.rows, ctx.start, ctx.count = rows, start, len(w)
        return rows.adjoint(w.contiguous(), start)

    @staticmethod
    def backward(ctx: Any, z: Tensor) -> tuple:  # pyright: ignore[reportIncompatibleMethodOverride]
        return _Lift.apply(z, ctx.rows, ctx.start, ctx.count), None, None


TensorRows = list[tuple[Rows, int]]  # for each tensor: the map, and the row at which the tensor begins


def _flat(rows: Rows, space: ParameterSpace) -> TensorRows:
    return [(rows, int(start)) for start in space.offsets[:-1]]


def _fastfood(space: ParameterSpace, k: int, seed: int) -> TensorRows:
    return _flat(Fastfood(k, seed, "fastfood", space.size**-0.5, min(BLOCK, power_of_two(space.size))), space)


def _by_tensor(space: ParameterSpace, k: int, seed: int) -> TensorRows:
    scale, blocks = space.size**-0.5, [min(BLOCK, power_of_two(int(size))) for size in space.sizes]
    return [(Fastfood(k, seed, f"fastfood {name}", scale, block), 0) for name, block in zip(space.names, blocks, strict=True)]


def _legacy(space: ParameterSpace, k: int, seed: int) -> TensorRows:
    pairs = zip(space.names, space.sizes, strict=True)
    return [(LegacyFastfood(k, seed, f"fastfood {name}", int(size)), 0) for name, size in pairs]


_ROWS_OF_TENSORS: dict[str, Callable[[ParameterSpace, int, int], TensorRows]] = {
    "fastfood": _fastfood,
    "fastfood-tensor": _by_tensor,
    "countsketch": lambda space, k, seed: _flat(CountSketch(k, seed, "countsketch", (k / space.size) ** 0.5), space),
    "gaussian": lambda space, k, seed: _flat(Gaussian(k, seed, "gaussian", space.size**-0.5), space),
    "fastfood-legacy": _legacy,
}
PROJECTIONS: dict[str, type[Projection]] = dict.fromkeys(_ROWS_OF_TENSORS, Projection) | {"said": Said}
SUBSPACES = ("coordinates", *PROJECTIONS)
assert set(SUBSPACES) == set(SUBSPACE_NAMES)


def project(kind: str, space: ParameterSpace, k: int, seed: int) -> Projection:
    """Return the projection of this `kind` (see the module's docstring).

    Raises UsageError for an unknown kind, and for a k outside 1..D (for said: m + 1..D with m layers).
    """
    return lookup(PROJECTIONS, kind, "subspace")(kind, space, k, seed)


def _check(k: int, least: int, space: ParameterSpace) -> None:
    if not least <= k <= space.size:
        scales = f" and at least {least}, because {least - 1} of them are scales of layers" if least > 1 else ""
        raise UsageError(f"k = {k} is outside {least}..{space.size}: a projection has at most one dimension per parameter in scope{scales}")
