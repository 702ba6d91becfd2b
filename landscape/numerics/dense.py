"""Inner products in float64, and factorisations of small dense matrices with the type annotations that torch lacks."""

import math
from typing import Any, cast

import torch
from torch import Tensor


def dot(a: Tensor, b: Tensor) -> float:
    """Return a'b of two vectors (k,), summed in float64 for any dtype."""
    return float(a.double() @ b.double())


def norm(v: Tensor) -> float:
    """Return the Euclidean norm |v| of a vector (k,), summed in float64."""
    return math.sqrt(dot(v, v))


def eigh(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Return the eigenvalues (..., n), ascending, and the eigenvectors (columns of (..., n, n)) of symmetric matrices (..., n, n)."""
    values, vectors = cast(Any, torch.linalg).eigh(matrix)
    return values, vectors


def qr(vectors: Tensor) -> tuple[Tensor, Tensor]:
    """Return Q (k, n) with orthonormal columns and R (n, n) of vectors (k, n), for n <= k."""
    q, r = cast(Any, torch.linalg).qr(vectors)
    return q, r
