"""The loss of a linearised model, for any criterion: its outputs are f(z0) + J (z - z0).

If the criterion is convex in the outputs, this loss is convex in z. Its proximal path is then easier to follow than the path of the model
itself, and the best loss in a random subspace is its Moreau envelope. Use `landscape.prediction.linearised_classifier` instead if the Gram
matrix is known.
"""

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor

from landscape.curvature import GRAPH_MEMORY, Batch, KeptGraphs, Objective, jvp, leaf, vjp

LinearMap = Callable[[Tensor], Tensor]
Graph = tuple[Tensor, LinearMap, LinearMap]  # outputs at z0, v -> J v, u -> J' u of a batch


class LinearisedObjective(Objective[Batch]):
    """The objective whose outputs are the outputs of `objective`, linearised at z0 (k,).

    Its Gauss-Newton matrix is J' M J with J at z0. Loss and gradient take one product with J and one with J', on graphs that are kept in up
    to `memory` bytes (the last graph is always kept). The graphs refer to the model's weights: call `release` (or leave the `with` block)
    before the weights change.
    """

    def __init__(self, objective: Objective[Batch], z0: Tensor, *, memory: float = GRAPH_MEMORY) -> None:
        super().__init__(
            self._linearised, objective.criterion, objective.batches, objective.size, objective.dtype, objective.device, objective.total
        )
        self.objective, self.z0 = objective, objective.vector(z0, "z0").clone()
        self._numbers = {id(batch): number for number, batch in enumerate(self.batches)}
        self._graphs = KeptGraphs(self._graph, memory, objective.batches)
        self._recent: tuple[int, Graph] | None = None

    def __enter__(self) -> "LinearisedObjective[Batch]":
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def release(self) -> None:
        """Drop the kept graphs. The next call builds them again."""
        self._graphs.release()
        self._recent = None

    def _linearised(self, z: Tensor, batch: Batch) -> Tensor:
        number = self._numbers[id(batch)]
        outputs, _, _ = self._graph_of(number)

        # Each map looks the graph up by its number, so that the result does not keep alive a graph that does not fit in memory.
        def jacobian(v: Tensor) -> Tensor:
            return self._graph_of(number)[1](v)

        def transposed(u: Tensor) -> Tensor:
            return self._graph_of(number)[2](u)

        return outputs + _product(z - self.z0, jacobian, transposed)

    def _graph_of(self, number: int) -> Graph:
        """Return the graph of a batch. The last graph is kept until another is needed, because a gradient uses it three times."""
        if self._recent is None or self._recent[0] != number:
            self._recent = None  # freed before the next is built
            self._recent = number, self._graphs.of(number)
        return self._recent[1]

    def _graph(self, number: int) -> Graph:
        with torch.enable_grad():
            z0 = leaf(self.z0)
            outputs = self.objective.outputs(z0, self.batches[number])
            return outputs.detach(), jvp(outputs, z0), lambda u: vjp(outputs, z0, u, keep=True)


class _Product(torch.autograd.Function):
    """The linear map v -> A v with derivative u -> A' u. The derivative is again a `_Product`, so it can be differentiated any number of
    times.
    """

    @staticmethod
    def forward(ctx: Any, v: Tensor, forward_map: LinearMap, adjoint: LinearMap) -> Tensor:
        ctx.maps = forward_map, adjoint
        return forward_map(v)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        forward_map, adjoint = ctx.maps
        return _product(grads[0], adjoint, forward_map), None, None


def _product(v: Tensor, forward_map: LinearMap, adjoint: LinearMap) -> Tensor:
    return cast(Tensor, cast(Any, _Product).apply(v, forward_map, adjoint))
