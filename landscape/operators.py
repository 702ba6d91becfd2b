"""Curvature at one z as a symmetric linear operator: four members (size, dtype, device, matvec), nothing more.

Algorithms take any object with these members. Check an operator before trusting a spectrum: dropout or a wrong second
derivative shows as a defect of determinism or symmetry, and nowhere else.
"""

import math
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import scipy.sparse.linalg  # pyright: ignore[reportMissingTypeStubs]
import torch
from torch import Tensor

from landscape.objective import Objective
from landscape.random import normal

TOLERANCE = {torch.float32: 1e-3, torch.float64: 1e-8}


class LinearOperator(Protocol):
    """A symmetric matrix of shape (size, size), known by its products."""

    @property
    def size(self) -> int: ...
    @property
    def dtype(self) -> torch.dtype: ...
    @property
    def device(self) -> torch.device: ...
    def matvec(self, v: Tensor) -> Tensor: ...


class Hessian:
    """The Hessian of an objective at z, shape (k,); may be indefinite."""

    def __init__(self, objective: Objective[Any], z: Tensor) -> None:
        self.objective, self.z = objective, objective.vector(z, "z").clone()
        self.size, self.dtype, self.device = objective.size, objective.dtype, objective.device

    def matvec(self, v: Tensor) -> Tensor:
        """H v, shape (k,)."""
        return self.objective.hvp(self.z, v)


class GaussNewton:
    """The Gauss-Newton matrix of an objective at z, shape (k,); semidefinite where the criterion is convex."""

    def __init__(self, objective: Objective[Any], z: Tensor) -> None:
        self.objective, self.z = objective, objective.vector(z, "z").clone()
        self.size, self.dtype, self.device = objective.size, objective.dtype, objective.device

    def matvec(self, v: Tensor) -> Tensor:
        """G v, shape (k,)."""
        return self.objective.ggnvp(self.z, v)


class DenseOperator:
    """A symmetric matrix (size, size) as an operator. Raises ValueError unless it is square."""

    def __init__(self, matrix: Tensor) -> None:
        if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
            raise ValueError(f"an operator's matrix must be square, got shape {tuple(matrix.shape)}")
        self.matrix = matrix
        self.size, self.dtype, self.device = matrix.shape[0], matrix.dtype, matrix.device

    def matvec(self, v: Tensor) -> Tensor:
        """matrix @ v, shape (size,)."""
        return self.matrix @ v


def to_scipy(operator: LinearOperator) -> scipy.sparse.linalg.LinearOperator:
    """The operator as scipy's symmetric LinearOperator of the same dtype, for eigsh, cg, minres."""

    def matvec(v: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        vector = torch.as_tensor(v.reshape(-1).copy()).to(device=operator.device, dtype=operator.dtype)
        return operator.matvec(vector).cpu().numpy()

    dtype = torch.empty(0, dtype=operator.dtype).numpy().dtype
    shape = (operator.size, operator.size)
    # scipy builds another class in __new__, with other arguments than its __init__ declares.
    return scipy.sparse.linalg.LinearOperator(shape, matvec=matvec, rmatvec=matvec, dtype=dtype)  # pyright: ignore[reportCallIssue]


def to_dense(operator: LinearOperator) -> Tensor:
    """The matrix, shape (size, size), by `size` products."""
    identity = torch.eye(operator.size, dtype=operator.dtype, device=operator.device)
    return torch.stack([operator.matvec(column) for column in identity], dim=1)


class NotSymmetric(ValueError):
    """The operator's products contradict a symmetric matrix; the message carries the defect."""


@dataclass(frozen=True)
class OperatorCheck:
    """Relative defects of an operator, of the order of rounding when it is sound; store them with every spectrum."""

    symmetry_defect: float  # |u'Av - v'Au| in units of |A|_F, for one random pair u, v
    determinism_defect: float  # |Av - Av again| / |Av|


def check_operator(operator: LinearOperator, seed: int = 0) -> OperatorCheck:
    """Symmetry and determinism of an operator from three products with two random vectors named by `seed`.

    For a standard normal v, |Av| estimates the Frobenius norm, and u'Av - v'Au has the size of |A - A'|_F: in this unit
    the defect does not shrink with the size, as it would divided by |u||Av|. Raises NotSymmetric, or ValueError when
    two equal products differ or are not finite, if a defect exceeds 1e-3 (float32) or 1e-8 (float64).
    """
    if operator.dtype not in TOLERANCE:
        raise ValueError(f"an operator must be float32 or float64 to be checked, got {operator.dtype}")
    tolerance = TOLERANCE[operator.dtype]
    u, v = (normal(seed, f"check/{name}", operator.size, operator.dtype, operator.device) for name in "uv")
    first, again, other = (operator.matvec(x).double() for x in (v, v, u))
    scale = (_norm(first) + _norm(other)) / 2 or 1.0
    symmetry = abs(float(u.double() @ first - v.double() @ other)) / scale
    determinism = _norm(first - again) / scale
    # Written so that a NaN fails too.
    if not determinism <= tolerance:
        raise ValueError(
            f"two equal products differ by {determinism:.2e} of their norm (at most {tolerance:.0e} for "
            f"{operator.dtype}): is dropout on, or a value not finite?"
        )
    if not symmetry <= tolerance:
        raise NotSymmetric(f"u'Av and v'Au differ by {symmetry:.2e} of |A|_F (at most {tolerance:.0e} for {operator.dtype})")
    return OperatorCheck(symmetry, determinism)


def _norm(v: Tensor) -> float:
    return math.sqrt(float(v @ v))
