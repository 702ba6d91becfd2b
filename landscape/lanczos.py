"""Lanczos with full reorthogonalisation, and the extreme eigenpairs from it.

Without reorthogonalisation Lanczos returns copies of converged eigenvalues (a peer answers [10, 10, 10, 10, 10] for the
eigenvalues 10, 9.9, 5, 2.5, 1), so it is always on, and twice ("twice is enough", Parlett 1998, section 6.9). Its cost,
4 k m multiplications a step, is small beside a Hessian-vector product.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import numpy as np
import numpy.typing as npt
import scipy.linalg  # pyright: ignore[reportMissingTypeStubs]
import torch
from torch import Tensor

from landscape.operators import LinearOperator
from landscape.random import normal

FloatArray = npt.NDArray[np.float64]
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Tridiagonal:
    """A basis V of orthonormal Lanczos vectors and T = V'AV; m <= steps where the Krylov space ended."""

    alphas: FloatArray  # (m,) diagonal of T
    betas: FloatArray  # (m,) betas[j] couples j and j + 1; the last is the norm of what is left over, 0 at a breakdown
    basis: Tensor  # (k, m)

    def ritz(self) -> tuple[FloatArray, FloatArray]:
        """Eigenvalues of T, ascending, (m,) and its eigenvectors by columns, (m, m)."""
        # stev (QR) keeps eigenvectors orthogonal where restarts make eigenvalues equal.
        return cast(
            tuple[FloatArray, FloatArray],
            scipy.linalg.eigh_tridiagonal(self.alphas, self.betas[:-1], lapack_driver="stev"),  # pyright: ignore[reportUnknownMemberType]
        )


@dataclass(frozen=True)
class Eigenpairs:
    """Approximate eigenpairs with the norm of each residual A x - l x, in exact arithmetic."""

    eigenvalues: FloatArray  # (count,) descending
    eigenvectors: Tensor  # (k, count)
    residuals: FloatArray  # (count,) |beta_m s_mi|


def lanczos(
    operator: LinearOperator,
    start: Tensor,
    steps: int,
    *,
    restart: Callable[[int], Tensor] | None = None,
    progress: Progress | None = None,
) -> Tridiagonal:
    """Tridiagonalise an operator on the Krylov space of `start`, shape (k,), in at most min(steps, k) products.

    Where the space ends (an invariant subspace), the run stops, or goes on with `restart(step)`, a vector (k,) made
    orthogonal to all before, so that eigenvalues repeated or not seen by `start` are found. `progress(done, steps)` is
    called after each product. Raises ValueError for a start of wrong shape or zero, steps < 1, or a product that is not
    finite. Source: Golub & Van Loan, Matrix Computations, section 10.3.
    """
    steps = min(steps, operator.size)
    length = _length(start.reshape(-1))
    if steps < 1 or start.shape != (operator.size,) or not length > 0:
        raise ValueError(
            f"lanczos needs steps >= 1 and a nonzero start of shape ({operator.size},), "
            f"got {steps} and shape {tuple(start.shape)} of norm {length}"
        )
    rows = torch.empty((steps, operator.size), dtype=operator.dtype, device=operator.device)
    rows[0] = start / length
    alphas: list[float] = []
    betas: list[float] = []
    scale = 0.0  # the largest |A v| so far, a lower bound on |A|: what rounding is relative to
    for step in range(steps):
        product = operator.matvec(rows[step])
        alphas.append(_dot(rows[step], product))
        scale = max(scale, _length(product))
        rest = _orthogonalise(product, rows[: step + 1])
        betas.append(_coupling(rest, scale, step))
        if progress:
            progress(step + 1, steps)
        if betas[-1] == 0 and restart is not None and step + 1 < steps:
            rest = _orthogonalise(restart(step).to(rows), rows[: step + 1])
        elif betas[-1] == 0:
            break
        if step + 1 < steps:
            rows[step + 1] = rest / _length(rest)
    return Tridiagonal(np.array(alphas), np.array(betas), rows[: len(alphas)].T)


def top_eigenpairs(operator: LinearOperator, count: int, steps: int, seed: int = 0, *, progress: Progress | None = None) -> Eigenpairs:
    """The `count` algebraically largest eigenvalues, descending, with eigenvectors and residuals.

    Costs min(steps, k) products. Exact at steps >= k, repeated eigenvalues included; with fewer steps mostly one copy
    of a repeated eigenvalue is found, and residuals say how far the others have converged. Start and restarts are
    random, named by `seed`. Raises ValueError unless 1 <= count <= min(steps, k).
    """
    if not 1 <= count <= min(steps, operator.size):
        raise ValueError(f"count must be in 1..{min(steps, operator.size)} (steps {steps}, size {operator.size})")

    def draw(role: str) -> Tensor:
        return normal(seed, f"lanczos/{role}", operator.size, operator.dtype, operator.device)

    tridiagonal = lanczos(operator, draw("start"), steps, restart=lambda step: draw(f"restart/{step}"), progress=progress)
    values, vectors = tridiagonal.ritz()
    top = slice(-1, -count - 1, -1)
    chosen = torch.as_tensor(vectors[:, top].copy()).to(tridiagonal.basis)
    residuals = np.abs(tridiagonal.betas[-1] * vectors[-1, top])
    return Eigenpairs(values[top].copy(), tridiagonal.basis @ chosen, residuals)


def _dot(a: Tensor, b: Tensor) -> float:
    return float(a.double() @ b.double())


def _orthogonalise(vector: Tensor, rows: Tensor) -> Tensor:
    """`vector` (k,) without its components along the orthonormal rows (m, k)."""
    for _ in range(2):
        vector = vector - rows.T @ (rows @ vector)
    return vector


def _length(vector: Tensor) -> float:
    return math.sqrt(_dot(vector, vector))


def _coupling(rest: Tensor, scale: float, step: int) -> float:
    """|rest|, or exactly 0 where it is rounding only: then the Krylov space has ended."""
    length = _length(rest)
    if not math.isfinite(length):
        raise ValueError(f"the operator's product at step {step} is not finite")
    return length if length > 10 * torch.finfo(rest.dtype).eps * scale else 0.0
