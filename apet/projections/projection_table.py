"""Projections: random linear maps of a short z (d,) to a perturbation of all D parameters in scope, and their adjoints.

Every kind is rows of a random matrix that are made when they are needed, from names (seed, kind, block), tensor by tensor: beside z
and one tensor there is no state that grows with D. All are scaled alike, so that E |P z|^2 = |z|^2 over the whole space and
every parameter moves by the same variance |z|^2 / D, whatever tensor it is of. `fastfood-legacy` alone is neither isometric nor
right, see `apet.projections.fastfood`.

    fastfood         block Fastfood over the flat space: direct intrinsic dimension (DID; Li et al. 2018, arXiv 1804.08838)
    fastfood-tensor  the same with blocks that begin anew at every tensor, so that a tensor's rows do not depend on what else is in scope
    said             a learned scale for each layer beside it (SAID; Aghajanyan et al. 2020, arXiv 2012.13255)
    countsketch      one signed coordinate for each parameter
    gaussian         dense, for comparison on small models
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

VERSION = 2  # of the random numbers; a checkpoint of another one is of another subspace


class Rows(Protocol):
    """Rows of a linear map of z (d,)."""

    def values(self, z: Tensor, start: int, stop: int) -> Tensor:
        """Rows start .. stop times z: (d,) -> (stop - start,)."""
        ...

    def adjoint(self, w: Tensor, start: int) -> Tensor:
        """Return the same rows, transposed, times w: (count,) -> (d,)."""
        ...


class Projection:
    """The linear map z (k,) -> perturbation of the parameters of `space`, and its adjoint; named by (kind, seed)."""

    def __init__(self, kind: str, space: ParameterSpace, k: int, seed: int):
        """Raises UsageError for an unknown kind, and unless 1 <= k <= D."""
        _check(k, 1, space)
        self.kind, self.space, self.k, self.seed = kind, space, k, seed
        self._places = lookup(_PLACES, kind, "projection")(space, k, seed)

    @property
    def name(self) -> str:
        """What a checkpoint must agree in."""
        return f"{self.kind} {self.seed} {self.k} {self.space.fingerprint[:16]} {VERSION}"

    def lift_one(self, z: Tensor, i: int) -> Tensor:
        """Return the perturbation of tensor number i, in z's dtype; differentiable any number of times."""
        _, shape = self.space.tensors[i]
        rows, start = self._places[i]
        return _Lift.apply(z, rows, start, int(self.space.sizes[i])).view(shape)  # pyright: ignore[reportOptionalMemberAccess]

    def pull_one(self, w: Tensor, i: int, z: Tensor) -> Tensor:
        """Return the adjoint of `lift_one` at w, of that tensor's shape and z's dtype: (k,). What it does not depend on is z."""
        rows, start = self._places[i]
        return rows.adjoint(w.reshape(-1), start)

    def lift(self, z: Tensor) -> dict[str, Tensor]:
        """z (k,) -> perturbation of each tensor."""
        return {name: self.lift_one(z, i) for i, name in enumerate(self.space.names)}

    def pull(self, tensors: dict[str, Tensor]) -> Tensor:
        """Return the adjoint of `lift`: (k,)."""
        pulled = (self.pull_one(tensors[name], i, tensors[name]) for i, name in enumerate(self.space.names))
        return torch.stack(list(pulled)).sum(0)

    def groups(self, by: str) -> tuple[Tensor, list[str]]:
        """Return no groups: every coordinate of a projection moves all tensors, so it belongs to no layer, kind or tensor."""
        return torch.zeros(self.k, dtype=torch.int64), []

    def attach(self, model: nn.Module) -> Projected:
        """Make all tensors of the space functions of one z."""
        return Projected(model, self)


class Said(Projection):
    """z = (theta (k - m,), lambda - 1 (m,)) -> lambda_l P theta in each of the m layers l, what lies outside of layers being one.

    It is not linear, though z = 0 is the model; `pull_one` is the adjoint of its derivative at z.
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
        found, at = super().pull_one(w, i, z), self.inner + self.layers[i]
        pulled = torch.cat([found * (1 + z[at]), z.new_zeros(self.k - self.inner)])
        pulled[at] = found @ z[: self.inner]
        return pulled

    def pull(self, tensors: dict[str, Tensor]) -> Tensor:
        raise TypeError("SAID is not linear: its derivative's adjoint at z is pull_one")


class _Lift(Function):
    """Rows times z. Linear, so its derivative is the adjoint, whose derivative it is."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, rows: Rows, start: int, count: int) -> Tensor:
        ctx.rows, ctx.start = rows, start
        return rows.values(z, start, start + count)

    @staticmethod
    def backward(ctx: Any, w: Tensor) -> tuple:  # pyright: ignore[reportIncompatibleMethodOverride]
        return _Pull.apply(w, ctx.rows, ctx.start), None, None, None


class _Pull(Function):
    """Rows, transposed, times w."""

    @staticmethod
    def forward(ctx: Any, w: Tensor, rows: Rows, start: int) -> Tensor:
        ctx.rows, ctx.start, ctx.count = rows, start, len(w)
        return rows.adjoint(w.contiguous(), start)

    @staticmethod
    def backward(ctx: Any, z: Tensor) -> tuple:  # pyright: ignore[reportIncompatibleMethodOverride]
        return _Lift.apply(z, ctx.rows, ctx.start, ctx.count), None, None


Places = list[tuple[Rows, int]]  # of each tensor: rows, and at which they begin


def _flat(rows: Rows, space: ParameterSpace) -> Places:
    return [(rows, int(start)) for start in space.offsets[:-1]]


def _fastfood(space: ParameterSpace, k: int, seed: int) -> Places:
    return _flat(Fastfood(k, seed, "fastfood", space.size**-0.5, min(BLOCK, power_of_two(space.size))), space)


def _by_tensor(space: ParameterSpace, k: int, seed: int) -> Places:
    scale, blocks = space.size**-0.5, [min(BLOCK, power_of_two(int(size))) for size in space.sizes]
    return [(Fastfood(k, seed, f"fastfood {name}", scale, block), 0) for name, block in zip(space.names, blocks, strict=True)]


def _legacy(space: ParameterSpace, k: int, seed: int) -> Places:
    pairs = zip(space.names, space.sizes, strict=True)
    return [(LegacyFastfood(k, seed, f"fastfood {name}", int(size)), 0) for name, size in pairs]


_PLACES: dict[str, Callable[[ParameterSpace, int, int], Places]] = {
    "fastfood": _fastfood,
    "fastfood-tensor": _by_tensor,
    "countsketch": lambda space, k, seed: _flat(CountSketch(k, seed, "countsketch", (k / space.size) ** 0.5), space),
    "gaussian": lambda space, k, seed: _flat(Gaussian(k, seed, "gaussian", space.size**-0.5), space),
    "fastfood-legacy": _legacy,
}
PROJECTIONS: dict[str, type[Projection]] = dict.fromkeys(_PLACES, Projection) | {"said": Said}
SUBSPACES = ("coordinates", *PROJECTIONS)
assert set(SUBSPACES) == set(SUBSPACE_NAMES)


def project(kind: str, space: ParameterSpace, k: int, seed: int) -> Projection:
    """Return the projection of this kind (see above). Raises UsageError for an unknown kind and a k that does not fit."""
    return lookup(PROJECTIONS, kind, "subspace")(kind, space, k, seed)


def _check(k: int, least: int, space: ParameterSpace) -> None:
    if not least <= k <= space.size:
        scales = f" (of which {least - 1} are the layers' scales)" if least > 1 else ""
        raise UsageError(
            f"k = {k} is outside {least}..{space.size}{scales}: a projection has at most as many dimensions as parameters in scope"
        )
