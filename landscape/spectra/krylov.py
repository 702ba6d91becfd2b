"""Lanczos with full reorthogonalisation, and extreme eigenpairs from it.

Without reorthogonalisation Lanczos returns copies of converged eigenvalues (a peer answers [10, 10, 10, 10, 10] for the
eigenvalues 10, 9.9, 5, 2.5, 1), so it is always on, and twice ("twice is enough", Parlett 1998, section 6.9). Its cost,
4 k m multiplications a step, is small beside a Hessian-vector product.
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
from landscape.numerics import FloatArray, eigh, normal, orthonormal

Which = Literal["top", "bottom", "magnitude"]

NEWS = 1e-6  # of the largest eigenvalue: what another round must gain to be worth one more
ORDERS: dict[str, Callable[[FloatArray], FloatArray]] = {"top": np.negative, "bottom": np.asarray, "magnitude": lambda x: -np.abs(x)}


@dataclass(frozen=True)
class Tridiagonal:
    """A basis V of orthonormal Lanczos vectors and T = V'AV; m <= steps where the Krylov space ended."""

    alphas: FloatArray  # (m,) diagonal of T
    betas: FloatArray  # (m,) betas[j] couples j and j + 1; the last is the norm of what is left over, 0 at a breakdown
    basis: Tensor  # (k, m)

    def with_zero(self) -> "Tridiagonal":
        """T with one more row, chosen so that zero is an eigenvalue: the Gauss-Radau rule (Golub & Meurant 2010, section 6.2).

        Of a semidefinite matrix, Gauss and Gauss-Radau bracket the integral of l / (l + kappa), log(l + kappa) and the like.
        """
        last = np.zeros(len(self.alphas))
        last[-1] = self.betas[-1] ** 2
        matrix = np.diag(self.alphas) + np.diag(self.betas[:-1], 1) + np.diag(self.betas[:-1], -1)
        if self.betas[-1] == 0 or np.abs(np.linalg.eigvalsh(matrix)).min() <= np.finfo(float).eps * np.abs(matrix).max():
            return self  # nothing is left over, or zero is one already
        corner = float(np.linalg.solve(matrix, last)[-1])
        return Tridiagonal(np.append(self.alphas, corner), np.append(self.betas, 0.0), self.basis)

    def ritz(self) -> tuple[FloatArray, FloatArray]:
        """Eigenvalues of T, ascending, (m,) and its eigenvectors by columns, (m, m)."""
        # stev (QR) keeps eigenvectors orthogonal where restarts make eigenvalues equal.
        return cast(
            tuple[FloatArray, FloatArray],
            scipy.linalg.eigh_tridiagonal(self.alphas, self.betas[:-1], lapack_driver="stev"),  # pyright: ignore[reportUnknownMemberType]
        )


@dataclass(frozen=True)
class Eigenpairs:
    """Approximate eigenpairs, each within its residual of an eigenvalue."""

    eigenvalues: FloatArray  # (count,) in the order asked for
    eigenvectors: Tensor  # (k, count), orthonormal
    residuals: FloatArray  # (count,) |A x - l x|, from products of their own
    products: int  # with the operator, in all


class _Recursion:
    """One Lanczos recursion: ask for `vector`, multiply it, `take` the product; over when `vector` is None.

    All its vectors are kept orthogonal to those by which the operator is deflated, if it is: normalising a small remainder would blow up
    what rounding left of them.
    """

    def __init__(self, operator: LinearOperator, start: Tensor, steps: int, restart: Callable[[int], Tensor] | None = None) -> None:
        self.steps, self.restart = min(steps, operator.size), restart
        self.without: Tensor | None = operator.vectors.T if isinstance(operator, Deflated) else None
        length = _length(start.reshape(-1))
        if self.steps < 1 or start.shape != (operator.size,) or not length > 0:
            raise ValueError(
                f"lanczos needs steps >= 1 and a nonzero start of shape ({operator.size},), "
                f"got {steps} and shape {tuple(start.shape)} of norm {length}"
            )
        self.rows = torch.empty((self.steps, operator.size), dtype=operator.dtype, device=operator.device)
        self.rows[0] = start / length
        self.alphas: list[float] = []
        self.betas: list[float] = []
        self.scale = 0.0  # the largest |A v| so far, a lower bound on |A|: what rounding is relative to
        self.vector: Tensor | None = self.rows[0]

    def take(self, product: Tensor) -> None:
        step = len(self.alphas)
        self.alphas.append(_dot(self.rows[step], product))
        self.scale = max(self.scale, _length(product))
        rest = self._orthogonal(product, step)
        self.betas.append(_coupling(rest, self.scale, step))
        if self.betas[-1] == 0 and self.restart is not None and step + 1 < self.steps:
            rest = self._orthogonal(self.restart(step).to(self.rows), step)
        elif self.betas[-1] == 0 or step + 1 == self.steps:
            self.vector = None
            return
        self.rows[step + 1] = rest / _length(rest)
        self.vector = self.rows[step + 1]

    def _orthogonal(self, vector: Tensor, step: int) -> Tensor:
        for _ in range(2):
            vector = _less(vector, self.rows[: step + 1])
            vector = vector if self.without is None else _less(vector, self.without)
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
    """Tridiagonalise an operator on the Krylov space of `start`, shape (k,), in at most min(steps, k) products.

    Where the space ends (an invariant subspace), the run stops, or goes on with `restart(step)`, a vector (k,) made
    orthogonal to all before, so that eigenvalues repeated or not seen by `start` are found. `progress(done, steps)` is
    called after each product. Raises ValueError for a start of wrong shape or zero, steps < 1, or a product that is not
    finite. Source: Golub & Van Loan, Matrix Computations, section 10.3.
    """
    return _together(operator, [_Recursion(operator, start, steps, restart)], progress)[0]


def lanczos_many(operator: LinearOperator, starts: Sequence[Tensor], steps: int, *, progress: Progress | None = None) -> list[Tridiagonal]:
    """One recursion a start, all in step: each takes its product from one `matmat`, which costs less than one by one."""
    return _together(operator, [_Recursion(operator, start, steps) for start in starts], progress)


def _together(operator: LinearOperator, runs: list[_Recursion], progress: Progress | None) -> list[Tridiagonal]:
    done, total = 0, sum(run.steps for run in runs)
    while going := [run for run in runs if run.vector is not None]:
        products = matmat(operator, torch.stack([cast(Tensor, run.vector) for run in going], dim=1))
        for run, product in zip(going, products.T, strict=True):
            run.take(product)
        done += len(going)
        if progress:
            progress(done, total)
    return [run.result() for run in runs]


def eigenpairs(
    operator: LinearOperator,
    count: int,
    steps: int,
    *,
    which: Which = "top",
    seed: int = 0,
    rounds: int = 8,
    progress: Progress | None = None,
) -> Eigenpairs:
    """The `count` eigenvalues that are algebraically largest (top), smallest (bottom) or largest in magnitude, in this order.

    One Krylov space holds one vector of each eigenspace, so a cluster or a repeated eigenvalue needs several: rounds of
    min(steps, k) products, each from a random start orthogonal to what was found, go on until one adds nothing, or `rounds` are over. A
    last `count` products give a Rayleigh-Ritz step and true residuals. Exact, in one round, at steps >= k. Starts are named by `seed`.
    Raises ValueError unless 1 <= count <= min(steps, k).
    """
    if not 1 <= count <= min(steps, operator.size):
        raise ValueError(f"count must be in 1..{min(steps, operator.size)} (steps {steps}, size {operator.size})")
    found = torch.zeros((operator.size, 0), dtype=operator.dtype, device=operator.device)
    values, products, scale = np.empty(0), 0, 0.0
    for number in range(rounds):
        rest = Deflated(operator, found)

        def draw(step: int, number: int = number, rest: Deflated = rest) -> Tensor:
            return rest.project(normal(seed, f"lanczos/{number}/{step}", operator.size, operator.dtype, operator.device))

        space = lanczos(rest, draw(-1), min(steps, operator.size - found.shape[1]), restart=draw, progress=_after(products, progress))
        products += len(space.alphas)
        ritz, vectors = space.ritz()
        scale = max(scale, float(np.abs(ritz).max()))
        candidates = np.concatenate([values, ritz])
        chosen = np.argsort(ORDERS[which](candidates), kind="stable")[:count]
        old, new = chosen[chosen < len(values)], chosen[chosen >= len(values)] - len(values)
        worst = ORDERS[which](values).max() if number else math.inf
        if not (ORDERS[which](ritz[new]) < worst - NEWS * scale).any():
            break
        fresh = space.basis @ torch.as_tensor(vectors[:, new]).to(space.basis)
        found, values = torch.cat([found[:, torch.as_tensor(old)], fresh], dim=1), np.concatenate([values[old], ritz[new]])
        if len(space.alphas) == operator.size:  # the whole space was seen
            break
    return _rayleigh_ritz(operator, found, which, products)


def _after(products: int, progress: Progress | None) -> Progress | None:
    """`progress` that counts the products of earlier rounds too."""
    return progress and (lambda done, total: progress(products + done, products + total))


class Deflated:
    """An operator on the complement of the span of orthonormal `vectors` (k, n), zero on the span."""

    def __init__(self, operator: LinearOperator, vectors: Tensor) -> None:
        self.operator, self.vectors = operator, vectors
        self.size, self.dtype, self.device = operator.size, operator.dtype, operator.device

    def project(self, v: Tensor) -> Tensor:
        return orthogonalise(v, self.vectors.T)

    def matvec(self, v: Tensor) -> Tensor:
        return self.project(self.operator.matvec(v))

    def matmat(self, vectors: Tensor) -> Tensor:
        return self.project(matmat(self.operator, vectors))


def _rayleigh_ritz(operator: LinearOperator, vectors: Tensor, which: Which, products: int) -> Eigenpairs:
    """The best pairs in the span of `vectors`, which rounding left nearly orthonormal."""
    basis, _ = orthonormal(vectors.double())
    images = matmat(operator, basis.to(vectors.dtype)).double()
    values, rotation = eigh((basis.T @ images + images.T @ basis) / 2)
    order = torch.as_tensor(np.argsort(ORDERS[which](values.cpu().numpy()), kind="stable"))
    values, rotation = values[order], rotation[:, order]
    pairs = basis @ rotation
    residuals = (images @ rotation - pairs * values).square().sum(0).sqrt()
    return Eigenpairs(values.cpu().numpy(), pairs.to(vectors.dtype), residuals.cpu().numpy(), products + vectors.shape[1])


def orthogonalise(vector: Tensor, rows: Tensor) -> Tensor:
    """`vector` (k,) or several (k, columns) without their components along the orthonormal rows (m, k)."""
    return _less(_less(vector, rows), rows)


def _less(vector: Tensor, rows: Tensor) -> Tensor:
    return vector - rows.T @ (rows @ vector)


def _dot(a: Tensor, b: Tensor) -> float:
    return float(a.double() @ b.double())


def _length(vector: Tensor) -> float:
    return math.sqrt(_dot(vector, vector))


def _coupling(rest: Tensor, scale: float, step: int) -> float:
    """|rest|, or exactly 0 where it is rounding only: then the Krylov space has ended."""
    length = _length(rest)
    if not math.isfinite(length):
        raise ValueError(f"the operator's product at step {step} is not finite")
    return length if length > 10 * torch.finfo(rest.dtype).eps * scale else 0.0
