"""The loss of a linearised model: outputs f(z0) + J (z - z0), whatever the criterion (theory.md, T2 and the dual form).

It is convex in z where the criterion is convex in the outputs, so its proximal path is easy to follow where the model's own is not, and a
random subspace reaches what its Moreau envelope says. `landscape.prediction.linearised_classifier` has the same from a Gram matrix, where
there is one.
"""

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor

from landscape.curvature import MEMORY, Batch, Graphs, Objective, jvp, leaf, vjp

Map = Callable[[Tensor], Tensor]
Graph = tuple[Tensor, Map, Map]  # outputs at z0, v -> J v, u -> J' u of a batch


class Tangent(Objective[Batch]):
    """The objective whose outputs are those of `objective` linearised at z0, (k,); a Gauss-Newton matrix of it is J' M J with J at z0.

    Its loss and gradient take a product with J and one with J', on graphs that are kept in up to `memory` bytes (the last one always).
    While it is asked, the model's weights must stay as they are; `release` it (or leave its block) before they change.
    """

    def __init__(self, objective: Objective[Batch], z0: Tensor, *, memory: float = MEMORY) -> None:
        super().__init__(
            self._linearised, objective.criterion, objective.batches, objective.size, objective.dtype, objective.device, objective.total
        )
        self.objective, self.z0 = objective, objective.vector(z0, "z0").clone()
        self._numbers = {id(batch): number for number, batch in enumerate(self.batches)}
        self._graphs = Graphs(self._graph, memory, objective.batches)
        self._recent: tuple[int, Graph] | None = None

    def __enter__(self) -> "Tangent[Batch]":
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def release(self) -> None:
        """Drop the kept graphs; the next call builds them anew."""
        self._graphs.release()
        self._recent = None

    def _linearised(self, z: Tensor, batch: Batch) -> Tensor:
        number = self._numbers[id(batch)]
        outputs, _, _ = self._of(number)

        # Asked by number each time: whoever keeps the result holds no graph that this refused to keep.
        def forth(v: Tensor) -> Tensor:
            return self._of(number)[1](v)

        def back(u: Tensor) -> Tensor:
            return self._of(number)[2](u)

        return outputs + _product(z - self.z0, forth, back)

    def _of(self, number: int) -> Graph:
        """That of a batch. The one asked for last stays until another is: a gradient asks three times."""
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
    """v -> A v, and its derivative u -> A' u the same way round: so it can be differentiated any number of times."""

    @staticmethod
    def forward(ctx: Any, v: Tensor, forth: Map, back: Map) -> Tensor:
        ctx.maps = forth, back
        return forth(v)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        forth, back = ctx.maps
        return _product(grads[0], back, forth), None, None


def _product(v: Tensor, forth: Map, back: Map) -> Tensor:
    return cast(Tensor, cast(Any, _Product).apply(v, forth, back))
