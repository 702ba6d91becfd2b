"""Exact spectra of small matrices: from k products, or for a Gauss-Newton matrix from one backward pass per class.

With n examples of C classes the Gauss-Newton matrix is A'A, where A has n (C - 1) rows. Its spectrum costs C - 1 gradients for any k, and 8
n (C - 1) k bytes. `dense_spectrum` costs k products and 8 k^2 bytes; use it for k up to some thousands, and `eigenpairs` and `slq` for
larger k.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from landscape.curvature import HasRoots, LinearOperator, Objective, Progress, Term, leaf, to_dense, twice_differentiable, vjp
from landscape.numerics import FloatArray, eigh


@dataclass(frozen=True)
class Spectrum:
    """The eigenpairs of a matrix (k, k), largest first. If only n < k pairs are given, the other k - n eigenvalues are zero."""

    eigenvalues: FloatArray  # (n,) n <= k
    eigenvectors: Tensor  # (k, n) orthonormal
    size: int  # k

    @property
    def all_eigenvalues(self) -> FloatArray:
        """All k eigenvalues (k,), largest first, including the zeros."""
        padded = np.concatenate([self.eigenvalues, np.zeros(self.size - len(self.eigenvalues))])
        return np.sort(padded)[::-1]


def dense_spectrum(operator: LinearOperator, progress: Progress | None = None) -> Spectrum:
    """Return the whole spectrum of an operator from k products.

    The matrix is symmetrised, so check its symmetry first (`check_operator`).
    """
    return spectrum_of_matrix(to_dense(operator, progress))


def spectrum_of_matrix(matrix: Tensor) -> Spectrum:
    """Return the spectrum of the symmetric part of a matrix (k, k), in float64."""
    matrix = matrix.double()
    values, vectors = eigh((matrix + matrix.T) / 2)
    return Spectrum(values.flip(0).cpu().numpy(), vectors.flip(1), len(matrix))


def gauss_newton_rows(objective: Objective[Any], z: Tensor, *, per_example: bool = True, progress: Progress | None = None) -> Tensor:
    """Return A (n (C - 1), k) float64, where A'A is the Gauss-Newton matrix at z (k,).

    With `per_example`, outputs(z, batch) must also accept z of shape (B, k) with one equal row per example, so that one backward pass
    serves a batch. Otherwise there is one pass per example. The result has the rows of this process's batches, divided by the root of the
    total weight over all processes. Raises ValueError unless the criterion has `roots`.
    """
    if not isinstance(objective.criterion, HasRoots):
        raise ValueError("exact rows need a criterion with `roots`, such as landscape.CrossEntropy")
    z = objective.vector(z, "z")
    rows: list[Tensor] = []
    total_weight = torch.zeros((), dtype=torch.float64, device=objective.device)
    with twice_differentiable():
        for number, batch in enumerate(objective.batches):
            batch_rows, weight = _rows_of(objective, z, batch, per_example)
            rows.append(batch_rows)
            total_weight = total_weight + weight
            if progress:
                progress(number + 1, len(objective.batches))
    return torch.cat(rows) / objective.total(total_weight.reshape(1)).sqrt()


def _rows_of(objective: Objective[Any], z: Tensor, batch: Any, per_example: bool) -> Term:
    """Return the rows of one batch, before the division by the total weight, and the batch's weight."""
    criterion = objective.criterion
    assert isinstance(criterion, HasRoots)
    if per_example:
        with torch.no_grad():
            count = len(objective.outputs(z, batch))
        start = leaf(z.expand(count, -1))
    else:
        start = leaf(z)
    outputs = objective.outputs(start, batch)
    with torch.no_grad():
        _, weight = objective.criterion(outputs, batch)
    roots = criterion.roots(outputs, batch)
    if per_example:
        rows = torch.stack([vjp(outputs, start, root, keep=True) for root in roots], dim=1)
    else:
        rows = torch.stack([_row(outputs, start, root, i) for i in range(len(outputs)) for root in roots])
    return rows.detach().double().reshape(-1, objective.size), weight


def _row(outputs: Tensor, z: Tensor, root: Tensor, example: int) -> Tensor:
    return vjp(outputs[example], z, root[example], keep=True)


def spectrum_of_rows(rows: Tensor) -> Spectrum:
    """Return the spectrum of A'A from A (m, k), through the smaller of A'A and AA'."""
    m, k = rows.shape
    if k <= m:
        return spectrum_of_matrix(rows.T @ rows)
    values, vectors = eigh(rows @ rows.T)
    values, vectors = values.flip(0).clamp(min=0), vectors.flip(1)
    positive = values > values[0] * m * torch.finfo(values.dtype).eps
    values, vectors = values[positive], vectors[:, positive]
    return Spectrum(values.cpu().numpy(), rows.T @ vectors / values.sqrt(), k)


def gradient_shares(spectrum: Spectrum, g: Tensor) -> FloatArray:
    """Return (u_i'g)^2 for every eigenvector u_i, (n,): the gradient-weighted measure. The rest of |g|^2 lies in the null space."""
    return ((spectrum.eigenvectors.T @ g.double()) ** 2).cpu().numpy()
