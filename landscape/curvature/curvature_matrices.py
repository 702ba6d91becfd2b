"""Curvature matrices of an objective at one z as linear operators: Hessian, Gauss-Newton matrix, empirical Fisher matrix.

Which one: `Hessian` for sharpness and negative curvature; `GaussNewton` for effective dimensions and predictions, which need a positive
semidefinite matrix (it equals the Fisher matrix for cross-entropy); `EmpiricalFisher` for comparison with work that uses it.

A product differentiates the graph of a first derivative. The graph of a batch is built once and serves any number of vectors: batches are
the outer loop, vectors the inner one. As many graphs as fit in `memory` bytes stay for later products, which then cost about one gradient
each in place of two or three. A graph refers to the model's weights: call `release` (or leave the `with` block) before they change.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from landscape.curvature.criterion import HasCurvature, HasLosses, HasSampledCurvature
from landscape.curvature.kept_graphs import GRAPH_MEMORY, KeptGraphs
from landscape.curvature.objective import Objective, Term, jvp, leaf, vjp
from landscape.numerics import Stream

Product = Callable[[Tensor], Tensor]  # v (k,) -> a batch's sum (k,)


class CurvatureOperator(ABC):
    """A symmetric matrix (k, k), the weighted mean over an objective's batches; see Hessian, GaussNewton and EmpiricalFisher.

    z is (k,); `memory` is the number of bytes of graphs to keep between products, 0 for none.
    """

    def __init__(self, objective: Objective[Any], z: Tensor, *, memory: float = GRAPH_MEMORY) -> None:
        self.objective, self.z = objective, objective.vector(z, "z").clone()
        self.size, self.dtype, self.device = objective.size, objective.dtype, objective.device
        self._graphs = KeptGraphs(lambda number: self._graph(leaf(self.z), number), memory, objective.batches)

    @abstractmethod
    def _graph(self, z: Tensor, number: int) -> tuple[Product, Tensor | float]:
        """Return v -> (matrix of batch `number`, summed over it) v, computed from the leaf z, and the batch's weight."""

    def matvec(self, v: Tensor) -> Tensor:
        """Return the matrix times v, both (k,). Raises ValueError for another shape."""
        return self.matmat(self.objective.vector(v, "v")[:, None])[:, 0]

    def matmat(self, vectors: Tensor) -> Tensor:
        """Return the matrix times `vectors`, both (k, columns). Raises ValueError for another shape."""
        if vectors.dim() != 2 or len(vectors) != self.size:
            raise ValueError(f"vectors must have shape ({self.size}, columns), got {tuple(vectors.shape)}")
        columns = vectors.detach().to(device=self.device, dtype=self.dtype).T.contiguous()
        return self.objective.mean(self._term(number, columns) for number in range(len(self.objective.batches))).to(self.dtype)

    def __matmul__(self, vectors: Tensor) -> Tensor:
        return self.matvec(vectors) if vectors.dim() == 1 else self.matmat(vectors)

    def release(self) -> None:
        """Drop the kept graphs; the next product builds them again."""
        self._graphs.release()

    def __enter__(self) -> "CurvatureOperator":
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def _term(self, number: int, columns: Tensor) -> Term:
        product, weight = self._graphs.of(number)
        return torch.stack([product(v) for v in columns], dim=1), weight


class Hessian(CurvatureOperator):
    """The Hessian d^2 L / dz^2 of an objective at z (k,), by double backward. It may be indefinite."""

    def _graph(self, z: Tensor, number: int) -> tuple[Product, Tensor | float]:
        batch = self.objective.batches[number]
        loss_sum, weight = self.objective.criterion(self.objective.outputs(z, batch), batch)
        gradient = vjp(loss_sum, z, differentiable=True)
        return lambda v: vjp(gradient, z, v, keep=True), weight


class GaussNewton(CurvatureOperator):
    """The Gauss-Newton matrix J' M J of an objective at z (k,) (Schraudolph 2002, doi 10.1162/08997660260028683).

    J is the Jacobian of the outputs in z, M the criterion's Hessian in the outputs; the matrix is positive semidefinite if the criterion is
    convex. M has a closed form if the criterion has `curvature` (`CrossEntropy` has), else it costs a double backward through the
    criterion. With `samples` >= 1, M is an unbiased estimate from that many labels per example drawn from the model, named by `seed`: the
    Monte Carlo Fisher matrix. Operators of several seeds give the standard error of any number computed from them. Raises ValueError if
    the criterion has no `sampled_curvature`.
    """

    def __init__(
        self, objective: Objective[Any], z: Tensor, *, memory: float = GRAPH_MEMORY, samples: int | None = None, seed: int = 0
    ) -> None:
        super().__init__(objective, z, memory=memory)
        self.samples, self.seed = samples, seed
        if samples is not None and not isinstance(objective.criterion, HasSampledCurvature):
            raise ValueError("samples need a criterion with `sampled_curvature`, such as landscape.CrossEntropy")

    def _graph(self, z: Tensor, number: int) -> tuple[Product, Tensor | float]:
        batch = self.objective.batches[number]
        outputs = self.objective.outputs(z, batch)
        with torch.no_grad():
            _, weight = self.objective.criterion(outputs, batch)
        return _sandwich(outputs, z, self._middle(outputs.detach(), number)), weight

    def forms(self, vectors: Tensor) -> Tensor:
        """Return v'Gv of each of the `samples` draws for each column v of `vectors` (k, columns), (samples, columns) float64.

        The mean over draws is the operator's v'Gv. The draws are independent, so their spread is the Monte Carlo standard error of v'Gv; if
        v is an eigenvector, it is that of the eigenvalue to first order. Raises ValueError without `samples`.
        """
        if self.samples is None:
            raise ValueError("forms need a Gauss-Newton matrix with `samples`")
        columns = vectors.detach().to(device=self.device, dtype=self.dtype).T.contiguous()
        return self.objective.mean(self._forms(number, columns, self.samples) for number in range(len(self.objective.batches)))

    def _forms(self, number: int, columns: Tensor, samples: int) -> Term:
        criterion = self.objective.criterion
        assert isinstance(criterion, HasSampledCurvature)
        batch, z = self.objective.batches[number], leaf(self.z)
        outputs = self.objective.outputs(z, batch)
        form = criterion.sampled_forms(outputs.detach(), batch, samples, self._random(number))
        jacobian_times = jvp(outputs, z)
        with torch.no_grad():
            _, weight = self.objective.criterion(outputs, batch)
        return torch.stack([form(jacobian_times(v)) for v in columns], dim=1), weight

    def _random(self, number: int) -> Stream:
        return Stream(self.seed, f"labels/{number}")

    def _middle(self, outputs: Tensor, number: int) -> Product:
        criterion, batch = self.objective.criterion, self.objective.batches[number]
        if self.samples is not None and isinstance(criterion, HasSampledCurvature):
            return criterion.sampled_curvature(outputs, batch, self.samples, self._random(number))
        if isinstance(criterion, HasCurvature):
            return criterion.curvature(outputs, batch)
        leaf_outputs = outputs.requires_grad_()
        gradient = vjp(criterion(leaf_outputs, batch)[0], leaf_outputs, differentiable=True)
        return lambda u: vjp(gradient, leaf_outputs, u, keep=True)


class EmpiricalFisher(CurvatureOperator):
    """The empirical Fisher matrix sum_i g_i g_i' / weight, g_i the gradient of example i's loss (a text's loss is the sum over its tokens).

    The Fisher matrix itself takes labels drawn from the model (Kunstner et al. 2019, arXiv 1905.12558): that is `GaussNewton`. Raises
    ValueError if the criterion has no `losses`.
    """

    def __init__(self, objective: Objective[Any], z: Tensor, *, memory: float = GRAPH_MEMORY) -> None:
        super().__init__(objective, z, memory=memory)
        if not isinstance(objective.criterion, HasLosses):
            raise ValueError("an empirical Fisher matrix needs a criterion with `losses`, such as landscape.CrossEntropy")

    def _graph(self, z: Tensor, number: int) -> tuple[Product, Tensor | float]:
        criterion, batch = self.objective.criterion, self.objective.batches[number]
        assert isinstance(criterion, HasLosses)
        outputs = self.objective.outputs(z, batch)
        with torch.no_grad():
            _, weight = self.objective.criterion(outputs, batch)
        return _sandwich(criterion.losses(outputs, batch), z, lambda u: u), weight


def _sandwich(outputs: Tensor, z: Tensor, middle: Product) -> Product:
    """Return v -> J' M J v, J the Jacobian of `outputs` in z and `middle` the product with M."""
    jacobian_times = jvp(outputs, z)
    return lambda v: vjp(outputs, z, middle(jacobian_times(v)), keep=True)
