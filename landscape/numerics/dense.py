"""Factorisations of small dense matrices, with the types that torch leaves out."""

from typing import Any, cast

import torch
from torch import Tensor


def eigh(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues, ascending, and eigenvectors by columns of symmetric matrices (..., n, n)."""
    values, vectors = cast(Any, torch.linalg).eigh(matrix)
    return values, vectors


def orthonormal(vectors: Tensor) -> tuple[Tensor, Tensor]:
    """Q (k, n) and R (n, n) of vectors (k, n), n <= k."""
    q, r = cast(Any, torch.linalg).qr(vectors)
    return q, r
