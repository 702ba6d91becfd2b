"""Curvature matrices of an objective at one z as linear operators: Hessian, Gauss-Newton matrix, empirical Fisher matrix.

- `Hessian` measures sharpness and negative curvature.
- `GaussNewton` serves effective dimensions and predictions, which need a positive semidefinite matrix. It equals the Fisher matrix for
  cross-entropy.
- `EmpiricalFisher` allows comparison with work that uses it.

A product differentiates the graph of a first derivative. The graph of a batch is built once and serves any number of vectors: the outer
loop is over batches, the inner loop over vectors. As many graphs as fit in `memory` bytes are kept for later products, which then cost
about one gradient each instead of two or three. A graph refers to the model's weights: call `release` (or leave the `with` block) before
the weights change.
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

Product = Callable[[Tensor], Tensor]  # v (k,) -> matrix of a batch, summed over its examples, times v (k,)


class CurvatureOperator(ABC):
    """Base class of the curvature matrices: a symmetric matrix (k, k) of an objective at z (k,).

    The matrix is the sum over the objective's batches, divided by the sum of the batches' weights. `memory` is the number of bytes for
    graphs that are kept between products (0: none is kept). Products have the objective's dtype and device.
    """

    def __init__(self, objective: Objective[Any], z: Tensor, *, memory: float = GRAPH_MEMORY) -> None:
        self.objective, self.z = objective, objective.vector(z, "z").clone()
        self.size, self.dtype, self.device = objective.size, objective.dtype, objective.device
        self._graphs = KeptGraphs(lambda number: self._graph(leaf(self.z), number), memory, objective.batches)

    @abstractmethod
    def _graph(self, z: Tensor, number: int) -> tuple[Product, Tensor | float]:
        """Return v -> A v and the weight of batch `number`, where A is the batch's matrix at the leaf z, summed over its examples."""

    def matvec(self, v: Tensor) -> Tensor:
        """Return the matrix times v (k,), (k,). Raises ValueError unless v has shape (k,)."""
        return self.matmat(self.objective.vector(v, "v")[:, None])[:, 0]

    def matmat(self, vectors: Tensor) -> Tensor:
        """Return the matrix times `vectors` (k, columns), (k, columns). Raises ValueError for another shape."""
        if vectors.dim() != 2 or len(vectors) != self.size:
            raise ValueError(f"vectors must have shape ({self.size}, columns), got {tuple(vectors.shape)}")
        columns = vectors.detach().to(device=self.device, dtype=self.dtype).T.contiguous()
        return self.objective.mean(self._term(number, columns) for number in range(len(self.objective.batches))).to(self.dtype)

    def __matmul__(self, vectors: Tensor) -> Tensor:
        return self.matvec(vectors) if vectors.dim() == 1 else self.matmat(vectors)

    def release(self) -> None:
        """Drop the kept graphs. The next product builds them again."""
        self._graphs.release()

    def __enter__(self) -> "CurvatureOperator":
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def _term(self, number: int, columns: Tensor) -> Term:
        product, weight = self._graphs.of(number)
        return torch.stack([product(v) for v in columns], dim=1), weight


class Hessian(CurvatureOperator):
    """The Hessian matrix of an objective at z (k,), computed by double backward (Pearlmutter 1994, doi 10.1162/neco.1994.6.1.147).

        H = d^2 L / dz^2 = sum_i d^2 loss_i / dz^2 / sum of weights, shape (k, k)

    H may be indefinite.
    """

    def _graph(self, z: Tensor, number: int) -> tuple[Product, Tensor | float]:
        batch = self.objective.batches[number]
        loss_sum, weight = self.objective.criterion(self.objective.outputs(z, batch), batch)
        gradient = vjp(loss_sum, z, differentiable=True)
        return lambda v: vjp(gradient, z, v, keep=True), weight


class GaussNewton(CurvatureOperator):
    """The Gauss-Newton matrix of an objective at z (k,) (Schraudolph 2002, doi 10.1162/08997660260028683).

        G = sum_i J_i' M_i J_i / sum of weights, shape (k, k)
        J_i = d outputs_i / dz,  M_i = d^2 loss_i / d outputs_i^2

    G is positive semidefinite if the loss is convex in the outputs. For cross-entropy it equals the Fisher matrix. The product with M comes
    from the criterion's `curvature`, or without that method from a double backward through the criterion.

    With `samples` >= 1, M is an unbiased estimate from `samples` labels per example, drawn from the model with `seed`: G is then the Monte
    Carlo Fisher matrix. Operators with several seeds give the standard error of any number computed from them. Raises ValueError for
    `samples` with a criterion without `sampled_curvature`.
    """

    def __init__(
        self, objective: Objective[Any], z: Tensor, *, memory: float = GRAPH_MEMORY, samples: int | None = None, seed: int = 0
    ) -> None:
        super().__init__(objective, z, memory=memory)
        self.samples, self.seed = samples, seed
        if samples is not None and not isinstance(objective.criterion, HasSampledCurvature):
            raise ValueError("`samples` needs a criterion with `sampled_curvature`, such as landscape.CrossEntropy")

    def _graph(self, z: Tensor, number: int) -> tuple[Product, Tensor | float]:
        batch = self.objective.batches[number]
        outputs = self.objective.outputs(z, batch)
        with torch.no_grad():
            _, weight = self.objective.criterion(outputs, batch)
        return _sandwich(outputs, z, self._middle(outputs.detach(), number)), weight

    def forms(self, vectors: Tensor) -> Tensor:
        """Return v'Gv of each of the `samples` draws, (samples, columns) float64, for each column v of `vectors` (k, columns).

        The mean over draws is the operator's v'Gv. The draws are independent, so their spread gives the Monte Carlo standard error of v'Gv.
        If v is an eigenvector, this is to first order the standard error of its eigenvalue. Raises ValueError without `samples`.
        """
        if self.samples is None:
            raise ValueError("forms needs a Gauss-Newton matrix with `samples`: pass samples=... to GaussNewton")
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
    """The empirical Fisher matrix of an objective at z (k,): the mean outer product of the gradients of single examples.

        E = sum_i g_i g_i' / sum of weights, shape (k, k);  g_i = d loss_i / dz

    The loss of a text is the sum over its tokens. E uses the labels of the data. The Fisher matrix draws labels from the model instead
    (Kunstner et al. 2019, arXiv 1905.12558); use `GaussNewton` for it. Raises ValueError if the criterion has no `losses`.
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
    """Return v -> J' M J v, where J is the Jacobian of `outputs` in z and `middle` multiplies by M."""
    jacobian_times = jvp(outputs, z)
    return lambda v: vjp(outputs, z, middle(jacobian_times(v)), keep=True)
