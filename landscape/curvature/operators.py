"""A symmetric matrix known by its products: four members (size, dtype, device, matvec), and `matmat` where several at once pay.

Algorithms take any object with these members. Check an operator before trusting a spectrum: dropout or a wrong second
derivative shows as a defect of determinism or symmetry, and nowhere else.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import scipy.sparse.linalg  # pyright: ignore[reportMissingTypeStubs]
import torch
from torch import Tensor

from landscape.numerics import normal

TOLERANCE = {torch.float32: 1e-3, torch.float64: 1e-8}
COLUMNS = 16  # products at a time where a whole matrix is asked for

Progress = Callable[[int, int], None]


class LinearOperator(Protocol):
    """A symmetric matrix of shape (size, size), known by its products."""

    @property
    def size(self) -> int: ...
    @property
    def dtype(self) -> torch.dtype: ...
    @property
    def device(self) -> torch.device: ...
    def matvec(self, v: Tensor) -> Tensor: ...


def matmat(operator: LinearOperator, vectors: Tensor) -> Tensor:
    """operator times vectors (size, columns), at once where the operator can."""
    at_once: Callable[[Tensor], Tensor] | None = getattr(operator, "matmat", None)
    if at_once is not None:
        return at_once(vectors)
    return torch.stack([operator.matvec(column) for column in vectors.T.contiguous()], dim=1)


def release(operator: LinearOperator) -> None:
    """Drop the graphs that an operator keeps between products, if it keeps any."""
    drop: Callable[[], None] | None = getattr(operator, "release", None)
    if drop is not None:
        drop()


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

    matmat = matvec


class Block:
    """An operator's diagonal block on the coordinates `index` (n,), distinct integers in 0..size - 1 (or ValueError)."""

    def __init__(self, operator: LinearOperator, index: Tensor) -> None:
        places = index.cpu().numpy()
        if not len(places) or len(np.unique(places)) < len(places) or places.min() < 0 or places.max() >= operator.size:
            raise ValueError(f"a block needs distinct coordinates in 0..{operator.size - 1}")
        self.operator, self.index = operator, index.to(operator.device)
        self.size, self.dtype, self.device = len(index), operator.dtype, operator.device

    def matvec(self, v: Tensor) -> Tensor:
        """The block times v, shape (n,)."""
        return self.matmat(v[:, None])[:, 0]

    def matmat(self, vectors: Tensor) -> Tensor:
        """The block times vectors (n, columns)."""
        wide = torch.zeros(self.operator.size, vectors.shape[1], dtype=self.dtype, device=self.device)
        return matmat(self.operator, wide.index_copy(0, self.index, vectors.to(wide)))[self.index]


def groups(labels: Sequence[str]) -> dict[str, Tensor]:
    """Which coordinates bear each label, in the order of their first places."""
    places: dict[str, list[int]] = {}
    for place, label in enumerate(labels):
        places.setdefault(label, []).append(place)
    return {label: torch.tensor(index) for label, index in places.items()}


def blocks(operator: LinearOperator, labels: Sequence[str]) -> dict[str, Block]:
    """The diagonal block of every label; labels (size,) say which group a coordinate is of."""
    if len(labels) != operator.size:
        raise ValueError(f"labels must have {operator.size} entries, got {len(labels)}")
    return {label: Block(operator, index) for label, index in groups(labels).items()}


def to_scipy(operator: LinearOperator) -> scipy.sparse.linalg.LinearOperator:
    """The operator as scipy's symmetric LinearOperator of the same dtype, for eigsh, lobpcg, cg, minres."""

    def product(v: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        vectors = torch.as_tensor(v.reshape(operator.size, -1).copy()).to(device=operator.device, dtype=operator.dtype)
        return matmat(operator, vectors).cpu().numpy().reshape(v.shape)

    dtype = torch.empty(0, dtype=operator.dtype).numpy().dtype
    shape = (operator.size, operator.size)
    # scipy builds another class in __new__, with other arguments than its __init__ declares.
    return scipy.sparse.linalg.LinearOperator(shape, matvec=product, rmatvec=product, matmat=product, rmatmat=product, dtype=dtype)  # pyright: ignore[reportCallIssue]


def to_dense(operator: LinearOperator, progress: Progress | None = None) -> Tensor:
    """The matrix, shape (size, size), by `size` products; `progress(done, size)` is called now and then."""
    parts: list[Tensor] = []
    for start in range(0, operator.size, COLUMNS):
        end = min(start + COLUMNS, operator.size)
        columns = torch.zeros(operator.size, end - start, dtype=operator.dtype, device=operator.device)
        columns[torch.arange(start, end), torch.arange(end - start)] = 1
        parts.append(matmat(operator, columns))
        if progress:
            progress(end, operator.size)
    return torch.cat(parts, dim=1)


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
    the defect does not shrink with the size, as it would divided by |u||Av|. An operator that keeps graphs is asked to `release`
    them in between: dropout would hide in one that is kept. Raises NotSymmetric, or ValueError when
    two equal products differ or are not finite, if a defect exceeds 1e-3 (float32) or 1e-8 (float64).
    """
    if operator.dtype not in TOLERANCE:
        raise ValueError(f"an operator must be float32 or float64 to be checked, got {operator.dtype}")
    tolerance = TOLERANCE[operator.dtype]
    u, v = (normal(seed, f"check/{name}", operator.size, operator.dtype, operator.device) for name in "uv")
    first, other = matmat(operator, torch.stack([v, u], dim=1)).double().T
    release(operator)
    again = operator.matvec(v).double()
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
