"""Curvature of an objective at one z as linear operators: Hessian, Gauss-Newton matrix, empirical Fisher.

A product differentiates the graph of a first derivative. That graph is built once a batch and serves any number of vectors:
batches are the outer loop, vectors the inner one. As many graphs as fit in `memory` stay for the next products, which then
cost about one gradient each instead of two or three. A graph holds the model's weights as they are: `release` it (or
leave the `with` block) before they change; autograd refuses a product through weights that did.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from landscape.curvature.kept_graphs import MEMORY, Graphs
from landscape.curvature.objective import Objective, Term, jvp, leaf, vjp
from landscape.numerics import Stream, generator

Product = Callable[[Tensor], Tensor]  # v (k,) -> a batch's sum (k,)


class Curvature(ABC):
    """A symmetric matrix (k, k), the mean over an objective's batches; see Hessian, GaussNewton and EmpiricalFisher.

    `memory` is how many bytes of graphs may be kept between products, 0 for none.
    """

    def __init__(self, objective: Objective[Any], z: Tensor, *, memory: float = MEMORY) -> None:
        self.objective, self.z = objective, objective.vector(z, "z").clone()
        self.size, self.dtype, self.device = objective.size, objective.dtype, objective.device
        self._graphs = Graphs(lambda number: self._graph(leaf(self.z), number), memory, objective.batches)

    @abstractmethod
    def _graph(self, z: Tensor, number: int) -> tuple[Product, Tensor | float]:
        """The product with the matrix of batch `number`, summed over it, from the leaf z; and the batch's weight."""

    def matvec(self, v: Tensor) -> Tensor:
        """The matrix times v, both (k,)."""
        return self.matmat(self.objective.vector(v, "v")[:, None])[:, 0]

    def matmat(self, vectors: Tensor) -> Tensor:
        """The matrix times `vectors`, both (k, columns); ValueError for another shape."""
        if vectors.dim() != 2 or len(vectors) != self.size:
            raise ValueError(f"vectors must have shape ({self.size}, columns), got {tuple(vectors.shape)}")
        columns = vectors.detach().to(device=self.device, dtype=self.dtype).T.contiguous()
        return self.objective.mean(self._term(number, columns) for number in range(len(self.objective.batches))).to(self.dtype)

    def __matmul__(self, vectors: Tensor) -> Tensor:
        return self.matvec(vectors) if vectors.dim() == 1 else self.matmat(vectors)

    def release(self) -> None:
        """Drop the kept graphs; the next product builds them anew."""
        self._graphs.release()

    def __enter__(self) -> "Curvature":
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def _term(self, number: int, columns: Tensor) -> Term:
        product, weight = self._graphs.of(number)
        return torch.stack([product(v) for v in columns], dim=1), weight


class Hessian(Curvature):
    """The Hessian of an objective at z, shape (k,), by double backward; may be indefinite."""

    def _graph(self, z: Tensor, number: int) -> tuple[Product, Tensor | float]:
        batch = self.objective.batches[number]
        loss_sum, weight = self.objective.criterion(self.objective.outputs(z, batch), batch)
        gradient = vjp(loss_sum, z, differentiable=True)
        return lambda v: vjp(gradient, z, v, keep=True), weight


class GaussNewton(Curvature):
    """The Gauss-Newton matrix J' M J of an objective at z (Schraudolph 2002, doi 10.1162/08997660260028683).

    J is the Jacobian of the outputs in z, M the criterion's Hessian in the outputs; semidefinite where the criterion is
    convex. M is in closed form where the criterion has one (`landscape.curvature.criterion`), else by double backward through it. With
    `samples`, M is an unbiased draw from so many labels of the model's own (`seed` names them): for cross-entropy the Monte-Carlo
    Fisher matrix; operators of several seeds give the standard error of whatever is computed from them.
    """

    def __init__(self, objective: Objective[Any], z: Tensor, *, memory: float = MEMORY, samples: int | None = None, seed: int = 0) -> None:
        super().__init__(objective, z, memory=memory)
        self.samples, self.seed = samples, seed
        if samples is not None and not hasattr(objective.criterion, "sampled_curvature"):
            raise ValueError("only a criterion with `sampled_curvature` can be sampled, such as landscape.CrossEntropy")

    def _graph(self, z: Tensor, number: int) -> tuple[Product, Tensor | float]:
        batch = self.objective.batches[number]
        outputs = self.objective.outputs(z, batch)
        with torch.no_grad():
            _, weight = self.objective.criterion(outputs, batch)
        return _sandwich(outputs, z, self._middle(outputs.detach(), number)), weight

    def forms(self, vectors: Tensor) -> Tensor:
        """v'Gv of each of the `samples` draws for each column v, (samples, columns) float64; their mean is that of the operator.

        The draws are independent, so their spread gives the Monte-Carlo standard error of v'Gv, and with an eigenvector, to first order,
        that of its eigenvalue. ValueError without `samples`.
        """
        if self.samples is None:
            raise ValueError("only a sampled Gauss-Newton matrix has draws")
        columns = vectors.detach().to(device=self.device, dtype=self.dtype).T.contiguous()
        return self.objective.mean(self._forms(number, columns) for number in range(len(self.objective.batches)))

    def _forms(self, number: int, columns: Tensor) -> Term:
        criterion: Any = self.objective.criterion
        batch, z = self.objective.batches[number], leaf(self.z)
        outputs = self.objective.outputs(z, batch)
        form = criterion.sampled_forms(outputs.detach(), batch, self.samples, self._random(number))
        along = jvp(outputs, z)
        with torch.no_grad():
            _, weight = criterion(outputs, batch)
        return torch.stack([form(along(v)) for v in columns], dim=1), weight

    def _random(self, number: int) -> Stream:
        return generator(self.seed, f"labels/{number}")

    def _middle(self, outputs: Tensor, number: int) -> Product:
        criterion: Any = self.objective.criterion
        batch = self.objective.batches[number]
        if self.samples is not None:
            return criterion.sampled_curvature(outputs, batch, self.samples, self._random(number))
        if hasattr(criterion, "curvature"):
            return criterion.curvature(outputs, batch)
        end = outputs.requires_grad_()
        gradient = vjp(criterion(end, batch)[0], end, differentiable=True)
        return lambda u: vjp(gradient, end, u, keep=True)


class EmpiricalFisher(Curvature):
    """sum_i g_i g_i' / weight over the gradients g_i of each example's loss (of a text: the sum over its pieces).

    Not the Fisher matrix, whose labels are the model's own (Kunstner et al. 2019, arXiv 1905.12558): that one is GaussNewton.
    Raises ValueError unless the criterion has `losses`.
    """

    def __init__(self, objective: Objective[Any], z: Tensor, *, memory: float = MEMORY) -> None:
        super().__init__(objective, z, memory=memory)
        if not hasattr(objective.criterion, "losses"):
            raise ValueError("an empirical Fisher matrix needs a criterion with `losses`, such as landscape.CrossEntropy")

    def _graph(self, z: Tensor, number: int) -> tuple[Product, Tensor | float]:
        criterion: Any = self.objective.criterion
        batch = self.objective.batches[number]
        outputs = self.objective.outputs(z, batch)
        with torch.no_grad():
            _, weight = criterion(outputs, batch)
        return _sandwich(criterion.losses(outputs, batch), z, lambda u: u), weight


def _sandwich(outputs: Tensor, z: Tensor, middle: Product) -> Product:
    """v -> J' M J v."""
    along = jvp(outputs, z)
    return lambda v: vjp(outputs, z, middle(along(v)), keep=True)
