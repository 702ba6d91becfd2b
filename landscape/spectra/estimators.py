"""Traces, diagonals and norms of operators from random probes, each with its standard error.

- Hutchinson's estimator averages v'Av over random signs v. Its terms are independent, so its t-interval is as accurate as the central limit
  theorem.
- Hutch++ (Meyer et al. 2021, arXiv 2010.09649) and XTrace (Epperly, Tropp & Webber 2024, arXiv 2301.07825) remove a low-rank part first.
  Both are far more precise if the spectrum decays, but their errors are estimated from few or dependent terms.
- `landscape.spectra.quadrature.slq` estimates the trace of a function of the matrix, or many numbers at once.
"""

import numpy as np
import torch
from torch import Tensor

from landscape.curvature import LinearOperator, matmat
from landscape.numerics import qr, rademacher
from landscape.spectra.quadrature import Estimate, mean_of


def hutchinson(operator: LinearOperator, probes: int, seed: int = 0) -> Estimate:
    """Return the trace from `probes` >= 1 products: the mean of v'Av over random signs v, drawn with `seed`."""
    v = _signs(operator, probes, seed, "hutchinson")
    return mean_of(_quadratic_forms(v, matmat(operator, v)))


def hutch_plus_plus(operator: LinearOperator, products: int, seed: int = 0) -> Estimate:
    """Return the trace from `products` >= 6 products, by Hutch++.

    One third of the products builds a sketch, one third gives the exact trace on the sketch, and one third serves Hutchinson's estimator on
    the rest. `seed` determines the random signs. Raises ValueError for fewer than 6 products.
    """
    third = products // 3
    if third < 2:
        raise ValueError(f"Hutch++ needs at least 6 products, got {products}")
    third = min(third, operator.size)
    basis, _ = qr(matmat(operator, _signs(operator, third, seed, "sketch")).double())
    exact = float((basis * matmat(operator, basis.to(operator.dtype)).double()).sum())
    v = _signs(operator, third, seed, "hutch++").double()
    complement = v - basis @ (basis.T @ v)
    sampled = mean_of(_quadratic_forms(complement, matmat(operator, complement.to(operator.dtype))))
    return Estimate(exact + sampled.value, sampled.stderr, sampled.terms)


def xtrace(operator: LinearOperator, products: int, seed: int = 0) -> Estimate:
    """Return the trace from `products` >= 4 products, by XTrace.

    One half of the products builds a sketch and one half gives its images; every probe is tested on the sketch of the other probes. The
    standard error is the authors' formula. It treats the probes' estimates as independent although they share their sketches, so it is too
    small (in simulations by up to a third). `seed` determines the random signs. Raises ValueError for fewer than 4 products.
    """
    count = min(products // 2, operator.size)
    if count < 2:
        raise ValueError(f"XTrace needs at least 4 products, got {products}")
    probes = _signs(operator, count, seed, "xtrace")
    images = matmat(operator, probes).double()
    basis, r = qr(images)
    h = basis.T @ matmat(operator, basis.to(operator.dtype)).double()
    w, forms = basis.T @ probes.double(), (probes.double() * images).sum(0)

    def without(i: int) -> float:
        """Return the trace on the sketch of the other probes, plus probe i's estimate of the remainder."""
        others, _ = qr(r[:, [j for j in range(count) if j != i]])
        projected = others @ (others.T @ w[:, i])
        remainder = forms[i] - 2 * projected @ r[:, i] + projected @ h @ projected
        return float((others * (h @ others)).sum() + remainder)

    return mean_of([without(i) for i in range(count)])


def diagonal_estimates(operator: LinearOperator, probes: int, seed: int = 0) -> Tensor:
    """Return independent unbiased estimates v * Av of the diagonal, (k, probes) float64, one per product (Bekas et al. 2007).

    The mean over probes estimates the diagonal, and the spread over probes gives its standard error. Sums over a block of entries estimate
    the block's trace (pass them to `mean_of`). `seed` determines the random signs v.
    """
    v = _signs(operator, probes, seed, "diagonal")
    return v.double() * matmat(operator, v).double()


def squared_frobenius(operator: LinearOperator, probes: int, seed: int = 0) -> Estimate:
    """Return |A|_F^2, the sum of the squared eigenvalues, as the mean of |Av|^2 over `probes` >= 1 products."""
    images = matmat(operator, _signs(operator, probes, seed, "frobenius"))
    return mean_of(_quadratic_forms(images, images))


def _signs(operator: LinearOperator, count: int, seed: int, role: str) -> Tensor:
    """Return random signs (k, count). A larger count keeps the first columns. Raises ValueError unless count >= 1."""
    if count < 1:
        raise ValueError(f"an estimate needs at least one probe, got {count}")
    columns = [rademacher(seed, f"{role}/{i}", operator.size, operator.dtype, operator.device) for i in range(count)]
    return torch.stack(columns, dim=1)


def _quadratic_forms(v: Tensor, images: Tensor) -> np.ndarray:
    """Return v_i' A v_i, (count,) float64, from v and its images A v, (k, count) each."""
    return (v.double() * images.double()).sum(0).cpu().numpy()
