"""Lanczos with full reorthogonalisation, and extreme eigenpairs from it.

The implementation differs from the textbook recursion (Golub & Van Loan, Matrix Computations, section 10.3) in:

1. Every vector is orthogonalised twice against all previous ones ("twice is enough", Parlett 1998, section 6.9). Otherwise Lanczos returns
   copies of converged eigenvalues. The cost is 4 k m multiplications per step, little compared with a Hessian-vector product.
2. Where the Krylov space ends, the recursion can continue from a new random vector, which finds repeated eigenvalues.
3. Several recursions advance together, so that an operator with `matmat` computes their products in one call.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, cast

import numpy as np
import scipy.linalg  # pyright: ignore[reportMissingTypeStubs]
import torch
from torch import Tensor

from landscape.curvature import LinearOperator, Progress, matmat
from landscape.numerics import FloatArray, dot, eigh, norm, normal, qr

Which = Literal["LA", "SA", "LM"]  # as in scipy: largest and smallest algebraic, largest magnitude

MIN_GAIN = 1e-6  # smallest improvement by a round, relative to the largest eigenvalue, for another round to follow
SORT_KEYS: dict[str, Callable[[FloatArray], FloatArray]] = {"LA": np.negative, "SA": np.asarray, "LM": lambda x: -np.abs(x)}


@dataclass(frozen=True)
class Tridiagonal:
    """Orthonormal Lanczos vectors V and T = V'AV, of m <= steps rows. m < steps if the Krylov space ended."""

    alphas: FloatArray  # (m,) diagonal of T
    betas: FloatArray  # (m,) betas[j] couples j and j + 1; the last is the norm of the remainder, 0 at a breakdown
    basis: Tensor  # (k, m)

    def with_zero(self) -> "Tridiagonal":
        """Return T extended by one row so that zero is an eigenvalue: the Gauss-Radau rule (Golub & Meurant 2010, section 6.2).

        For a semidefinite matrix, the Gauss and Gauss-Radau rules bracket the integrals of l / (l + kappa), log(l + kappa) and similar
        functions.
        """
        last = np.zeros(len(self.alphas))
        last[-1] = self.betas[-1] ** 2
        matrix = np.diag(self.alphas) + np.diag(self.betas[:-1], 1) + np.diag(self.betas[:-1], -1)
        if self.betas[-1] == 0 or np.abs(np.linalg.eigvalsh(matrix)).min() <= np.finfo(float).eps * np.abs(matrix).max():
            return self  # the remainder is zero, or zero is already an eigenvalue
        corner = float(np.linalg.solve(matrix, last)[-1])
        return Tridiagonal(np.append(self.alphas, corner), np.append(self.betas, 0.0), self.basis)

    def ritz(self) -> tuple[FloatArray, FloatArray]:
        """Return the eigenvalues of T (m,), ascending, and its eigenvectors, the columns of (m, m)."""
        # stev (QR) keeps eigenvectors orthogonal when restarts make eigenvalues equal.
        return cast(
            tuple[FloatArray, FloatArray],
            scipy.linalg.eigh_tridiagonal(self.alphas, self.betas[:-1], lapack_driver="stev"),  # pyright: ignore[reportUnknownMemberType]
        )


@dataclass(frozen=True)
class Eigenpairs:
    """Approximate eigenpairs. An exact eigenvalue lies within each pair's residual of its eigenvalue."""

    eigenvalues: FloatArray  # (count,) in the order of `which`
    eigenvectors: Tensor  # (k, count), orthonormal
    residuals: FloatArray  # (count,) |A x - l x|, from separate products
    products: int  # total number of products with the operator


class _Recursion:
    """One Lanczos recursion: multiply `vector` by the operator and `take` the product, until `vector` is None.

    All vectors are also kept orthogonal to the deflated vectors. Otherwise, normalising a small remainder would amplify the rounding error
    along the deflated vectors.
    """

    def __init__(self, operator: LinearOperator, start: Tensor, steps: int, restart: Callable[[int], Tensor] | None = None) -> None:
        self.steps, self.restart = min(steps, operator.size), restart
        self.deflated: Tensor | None = operator.vectors.T if isinstance(operator, Deflated) else None
        length = norm(start.reshape(-1))
        if self.steps < 1 or start.shape != (operator.size,) or not length > 0:
            raise ValueError(
                f"lanczos needs steps >= 1 and a nonzero start of shape ({operator.size},), "
                f"got {steps} and shape {tuple(start.shape)} of norm {length}"
            )
        self.rows = torch.empty((self.steps, operator.size), dtype=operator.dtype, device=operator.device)
        self.rows[0] = start / length
        self.alphas: list[float] = []
        self.betas: list[float] = []
        self.scale = 0.0  # largest |A v| so far: a lower bound on |A|, the scale of rounding errors
        self.vector: Tensor | None = self.rows[0]

    def take(self, product: Tensor) -> None:
        step = len(self.alphas)
        self.alphas.append(dot(self.rows[step], product))
        self.scale = max(self.scale, norm(product))
        remainder = self._orthogonal(product, step)
        self.betas.append(_coupling(remainder, self.scale, step))
        if self.betas[-1] == 0 and self.restart is not None and step + 1 < self.steps:
            remainder = self._orthogonal(self.restart(step).to(self.rows), step)
        elif self.betas[-1] == 0 or step + 1 == self.steps:
            self.vector = None
            return
        self.rows[step + 1] = remainder / norm(remainder)
        self.vector = self.rows[step + 1]

    def _orthogonal(self, vector: Tensor, step: int) -> Tensor:
        for _ in range(2):
            vector = _minus_projection(vector, self.rows[: step + 1])
            vector = vector if self.deflated is None else _minus_projection(vector, self.deflated)
        return vector

    def result(self) -> Tridiagonal:
        return Tridiagonal(np.array(self.alphas), np.array(self.betas), self.rows[: len(self.alphas)].T)


def lanczos(
    operator: LinearOperator,
    start: Tensor,
    steps: int,
    *,
    restart: Callable[[int], Tensor] | None = None,
    progress: Progress | None = None,
) -> Tridiagonal:
    """Tridiagonalise an operator on the Krylov space of `start` (k,), in at most min(steps, k) products.

    Where the space ends (an invariant subspace), the recursion stops. With `restart` it continues with restart(step), a vector (k,) that is
    then made orthogonal to all previous ones. This finds repeated eigenvalues, and eigenvalues whose eigenvectors are orthogonal to
    `start`. progress(done, steps) is called after each product. Raises ValueError for a start that is zero or has another shape, for steps
    < 1, or for a product that is not finite.
    """
    return _together(operator, [_Recursion(operator, start, steps, restart)], progress)[0]


def lanczos_many(operator: LinearOperator, starts: Sequence[Tensor], steps: int, *, progress: Progress | None = None) -> list[Tridiagonal]:
    """Return one recursion per start, advanced together: each `matmat` gives the next products of all recursions."""
    return _together(operator, [_Recursion(operator, start, steps) for start in starts], progress)


def _together(operator: LinearOperator, recursions: list[_Recursion], progress: Progress | None) -> list[Tridiagonal]:
    """Advance the recursions together until all have ended."""
    done, total = 0, sum(recursion.steps for recursion in recursions)
    while active := [recursion for recursion in recursions if recursion.vector is not None]:
        products = matmat(operator, torch.stack([cast(Tensor, recursion.vector) for recursion in active], dim=1))
        for recursion, product in zip(active, products.T, strict=True):
            recursion.take(product)
        done += len(active)
        if progress:
            progress(done, total)
    return [recursion.result() for recursion in recursions]


def eigenpairs(
    operator: LinearOperator,
    count: int,
    steps: int,
    *,
    which: Which = "LA",
    seed: int = 0,
    rounds: int = 8,
    progress: Progress | None = None,
) -> Eigenpairs:
    """Return `count` extreme eigenpairs: the algebraically largest ("LA") or smallest ("SA"), or the largest in magnitude ("LM").

    `steps` is the number of Lanczos steps per round. The cost is at most rounds * steps + count products, and 4 k steps bytes (float32) for
    the basis. The pairs are exact after one round if steps >= k. `seed` determines the starting vectors. progress(done, total) counts
    products. Raises ValueError unless 1 <= count <= min(steps, k). Use `slq` for densities and traces, and `dense_spectrum` for all pairs
    of a matrix with k up to some thousands.

    The algorithm differs from scipy's eigsh (implicitly restarted Lanczos) in:

    1. Each round starts from a random vector orthogonal to the pairs found before, since one Krylov space holds only one vector of each
       eigenspace. Rounds end when one of them does not improve the pairs.
    2. A last Rayleigh-Ritz step on `count` products gives residuals that do not rely on the recursion.
    """
    if not 1 <= count <= min(steps, operator.size):
        most = min(steps, operator.size)
        raise ValueError(f"count must be in 1..{most}, the smaller of steps = {steps} and size = {operator.size}; got {count}")
    basis = torch.zeros((operator.size, 0), dtype=operator.dtype, device=operator.device)
    values, products, scale = np.empty(0), 0, 0.0
    for number in range(rounds):
        deflated = Deflated(operator, basis)

        def draw(step: int, number: int = number, deflated: Deflated = deflated) -> Tensor:
            return deflated.project(normal(seed, f"lanczos/{number}/{step}", operator.size, operator.dtype, operator.device))

        space = lanczos(deflated, draw(-1), min(steps, operator.size - basis.shape[1]), restart=draw, progress=_after(products, progress))
        products += len(space.alphas)
        ritz, vectors = space.ritz()
        scale = max(scale, float(np.abs(ritz).max()))
        candidates = np.concatenate([values, ritz])
        chosen = np.argsort(SORT_KEYS[which](candidates), kind="stable")[:count]
        kept, new = chosen[chosen < len(values)], chosen[chosen >= len(values)] - len(values)
        worst = SORT_KEYS[which](values).max() if number else math.inf
        if not (SORT_KEYS[which](ritz[new]) < worst - MIN_GAIN * scale).any():
            break
        fresh = space.basis @ torch.as_tensor(vectors[:, new]).to(space.basis)
        basis, values = torch.cat([basis[:, torch.as_tensor(kept)], fresh], dim=1), np.concatenate([values[kept], ritz[new]])
        if len(space.alphas) == operator.size:  # the Krylov space is the whole space
            break
    return _rayleigh_ritz(operator, basis, which, products)


def _after(products: int, progress: Progress | None) -> Progress | None:
    """Return `progress` with the products of earlier rounds added to its counts."""
    if progress is None:
        return None
    return lambda done, total: progress(products + done, products + total)


class Deflated:
    """An operator restricted to the orthogonal complement of orthonormal `vectors` (k, n), and zero on their span."""

    def __init__(self, operator: LinearOperator, vectors: Tensor) -> None:
        self.operator, self.vectors = operator, vectors
        self.size, self.dtype, self.device = operator.size, operator.dtype, operator.device

    def project(self, v: Tensor) -> Tensor:
        """Return v without its components along the deflated vectors."""
        return orthogonalise(v, self.vectors.T)

    def matvec(self, v: Tensor) -> Tensor:
        return self.project(self.operator.matvec(v))

    def matmat(self, vectors: Tensor) -> Tensor:
        return self.project(matmat(self.operator, vectors))


def _rayleigh_ritz(operator: LinearOperator, vectors: Tensor, which: Which, products: int) -> Eigenpairs:
    """Return the best pairs in the span of `vectors`, which rounding has left nearly orthonormal."""
    basis, _ = qr(vectors.double())
    images = matmat(operator, basis.to(vectors.dtype)).double()
    values, rotation = eigh((basis.T @ images + images.T @ basis) / 2)
    order = torch.as_tensor(np.argsort(SORT_KEYS[which](values.cpu().numpy()), kind="stable"))
    values, rotation = values[order], rotation[:, order]
    pairs = basis @ rotation
    residuals = (images @ rotation - pairs * values).square().sum(0).sqrt()
    return Eigenpairs(values.cpu().numpy(), pairs.to(vectors.dtype), residuals.cpu().numpy(), products + vectors.shape[1])


def orthogonalise(vector: Tensor, rows: Tensor) -> Tensor:
    """Return `vector` (k,), or several vectors (k, columns), without the components along the orthonormal rows (m, k). The rows are
    projected out twice.
    """
    return _minus_projection(_minus_projection(vector, rows), rows)


def _minus_projection(vector: Tensor, rows: Tensor) -> Tensor:
    """Return `vector` minus its projection on the orthonormal rows (m, k)."""
    return vector - rows.T @ (rows @ vector)


def _coupling(remainder: Tensor, scale: float, step: int) -> float:
    """Return |remainder|, or exactly 0 if the remainder is only rounding error, which means that the Krylov space has ended."""
    length = norm(remainder)
    if not math.isfinite(length):
        raise ValueError(f"the operator's product at step {step} is not finite")
    return length if length > 10 * torch.finfo(remainder.dtype).eps * scale else 0.0
