"""Whole spectra of matrices small enough: by columns, or for a Gauss-Newton matrix from one backward pass a class.

With n examples of C classes the Gauss-Newton matrix is A'A with A of n (C - 1) rows, and a row's batch costs one backward pass:
its spectrum is exact at the price of C - 1 gradients, whatever k is (the dual form of theory.md).
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from landscape.curvature import LinearOperator, Objective, Progress, Term, derivatives, leaf, to_dense, vjp
from landscape.numerics import FloatArray, eigh


@dataclass(frozen=True)
class Spectrum:
    """All eigenpairs that are not zero by rank, largest first; the other k - n eigenvalues are zero."""

    eigenvalues: FloatArray  # (n,) n <= k
    eigenvectors: Tensor  # (k, n) orthonormal
    size: int  # k

    @property
    def all_eigenvalues(self) -> FloatArray:
        """(k,) largest first, the zeros of rank among them."""
        padded = np.concatenate([self.eigenvalues, np.zeros(self.size - len(self.eigenvalues))])
        return np.sort(padded)[::-1]


def by_columns(operator: LinearOperator, progress: Progress | None = None) -> Spectrum:
    """The whole spectrum of an operator from k products; it is symmetrised, so check its symmetry first."""
    return of_matrix(to_dense(operator, progress))


def of_matrix(matrix: Tensor) -> Spectrum:
    """The spectrum of the symmetric part of a matrix (k, k), in float64."""
    matrix = matrix.double()
    values, vectors = eigh((matrix + matrix.T) / 2)
    return Spectrum(values.flip(0).cpu().numpy(), vectors.flip(1), len(matrix))


def gauss_newton_rows(objective: Objective[Any], z: Tensor, *, each: bool = True, progress: Progress | None = None) -> Tensor:
    """A (n (C - 1), k) float64 with A'A the Gauss-Newton matrix at z, for a criterion with `roots` (or ValueError).

    With `each`, outputs(z, batch) must also take z of shape (B, k), one equal row an example, so that one backward pass serves
    a batch; else there is one an example. The rows are of this process's batches, divided by the weight of all.
    """
    criterion: Any = objective.criterion
    if not hasattr(criterion, "roots"):
        raise ValueError("exact rows need a criterion with `roots`, such as landscape.CrossEntropy")
    z = objective.vector(z, "z")
    rows: list[Tensor] = []
    mass = torch.zeros((), dtype=torch.float64, device=objective.device)
    with derivatives():
        for number, batch in enumerate(objective.batches):
            found, weight = _rows_of(objective, z, batch, each)
            rows.append(found)
            mass = mass + weight
            if progress:
                progress(number + 1, len(objective.batches))
    return torch.cat(rows) / objective.total(mass.reshape(1)).sqrt()


def _rows_of(objective: Objective[Any], z: Tensor, batch: Any, each: bool) -> Term:
    criterion: Any = objective.criterion
    if each:
        with torch.no_grad():
            count = len(objective.outputs(z, batch))
        start = leaf(z.expand(count, -1))
    else:
        start = leaf(z)
    outputs = objective.outputs(start, batch)
    with torch.no_grad():
        _, weight = criterion(outputs, batch)
    roots = criterion.roots(outputs, batch)
    if each:
        found = torch.stack([vjp(outputs, start, root, keep=True) for root in roots], dim=1)
    else:
        found = torch.stack([_row(outputs, start, root, i) for i in range(len(outputs)) for root in roots])
    return found.detach().double().reshape(-1, objective.size), weight


def _row(outputs: Tensor, z: Tensor, root: Tensor, example: int) -> Tensor:
    return vjp(outputs[example], z, root[example], keep=True)


def of_rows(rows: Tensor) -> Spectrum:
    """The spectrum of A'A from A (m, k), by the smaller of A'A and AA'."""
    m, k = rows.shape
    if k <= m:
        return of_matrix(rows.T @ rows)
    values, vectors = eigh(rows @ rows.T)
    values, vectors = values.flip(0).clamp(min=0), vectors.flip(1)
    there = values > values[0] * m * torch.finfo(values.dtype).eps
    values, vectors = values[there], vectors[:, there]
    return Spectrum(values.cpu().numpy(), rows.T @ vectors / values.sqrt(), k)


def shares(spectrum: Spectrum, g: Tensor) -> FloatArray:
    """(u_i'g)^2 of every eigenvector, (n,): the g-weighted measure. What |g|^2 has beyond their sum lies in the null space."""
    return ((spectrum.eigenvectors.T @ g.double()) ** 2).cpu().numpy()
