"""A symmetric matrix that is known by its products with vectors.

An operator has four members (size, dtype, device, matvec), and `matmat` if several products at once cost less. Algorithms take any object
with these members. Check an operator before you trust its spectrum: dropout or a wrong second derivative shows only as a defect of
determinism or symmetry.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import scipy.sparse.linalg  # pyright: ignore[reportMissingTypeStubs]
import torch
from torch import Tensor

from landscape.numerics import norm, normal

TOLERANCE = {torch.float32: 1e-3, torch.float64: 1e-8}  # largest relative defect that passes the check
COLUMNS = 16  # products per call when a whole matrix is built

Progress = Callable[[int, int], None]  # (done, total)


class LinearOperator(Protocol):
    """A symmetric matrix (size, size) that is known by its products with vectors (size,)."""

    @property
    def size(self) -> int: ...
    @property
    def dtype(self) -> torch.dtype: ...
    @property
    def device(self) -> torch.device: ...
    def matvec(self, v: Tensor) -> Tensor: ...


def matmat(operator: LinearOperator, vectors: Tensor) -> Tensor:
    """Return operator times vectors (size, columns), in one call if the operator has `matmat`, else column by column."""
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
    """A symmetric matrix (size, size) as an operator. Raises ValueError unless the matrix is square."""

    def __init__(self, matrix: Tensor) -> None:
        if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
            raise ValueError(f"an operator's matrix must be square, got shape {tuple(matrix.shape)}")
        self.matrix = matrix
        self.size, self.dtype, self.device = matrix.shape[0], matrix.dtype, matrix.device

    def matvec(self, v: Tensor) -> Tensor:
        """Return matrix @ v, shape (size,)."""
        return self.matrix @ v

    matmat = matvec


class Block:
    """The diagonal block of an operator on the coordinates `index` (n,).

    Raises ValueError unless `index` holds distinct integers in 0..size - 1.
    """

    def __init__(self, operator: LinearOperator, index: Tensor) -> None:
        entries = index.cpu().numpy()
        if not len(entries) or len(np.unique(entries)) < len(entries) or entries.min() < 0 or entries.max() >= operator.size:
            raise ValueError(f"the coordinates of a block must be distinct integers in 0..{operator.size - 1}, at least one")
        self.operator, self.index = operator, index.to(operator.device)
        self.size, self.dtype, self.device = len(index), operator.dtype, operator.device

    def matvec(self, v: Tensor) -> Tensor:
        """Return the block times v, shape (n,)."""
        return self.matmat(v[:, None])[:, 0]

    def matmat(self, vectors: Tensor) -> Tensor:
        """Return the block times vectors (n, columns)."""
        wide = torch.zeros(self.operator.size, vectors.shape[1], dtype=self.dtype, device=self.device)
        return matmat(self.operator, wide.index_copy(0, self.index, vectors.to(wide)))[self.index]


def groups(labels: Sequence[Any] | np.ndarray[Any, Any]) -> dict[Any, Tensor]:
    """Return a dictionary from each label to its coordinates (int64, ascending), in the order of the labels' first appearance.

    labels (k,) are strings or integers, one per coordinate.
    """
    values, first, inverse = np.unique(np.asarray(labels), return_index=True, return_inverse=True)
    by_label = np.split(np.argsort(inverse, kind="stable"), np.cumsum(np.bincount(inverse, minlength=len(values)))[:-1])
    return {values[i].item(): torch.as_tensor(by_label[i]) for i in np.argsort(first)}


def blocks(operator: LinearOperator, labels: Sequence[Any] | np.ndarray[Any, Any]) -> dict[Any, Block]:
    """Return a dictionary from each label to the operator's diagonal block on its coordinates; labels (size,) as for `groups`."""
    if len(labels) != operator.size:
        raise ValueError(f"labels must have {operator.size} entries, got {len(labels)}")
    return {label: Block(operator, index) for label, index in groups(labels).items()}


def to_scipy(operator: LinearOperator) -> scipy.sparse.linalg.LinearOperator:
    """Return the operator as a symmetric scipy LinearOperator of the same dtype, for eigsh, lobpcg, cg and minres."""

    def product(v: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        vectors = torch.as_tensor(v.reshape(operator.size, -1).copy()).to(device=operator.device, dtype=operator.dtype)
        return matmat(operator, vectors).cpu().numpy().reshape(v.shape)

    dtype = torch.empty(0, dtype=operator.dtype).numpy().dtype
    shape = (operator.size, operator.size)
    # scipy builds another class in __new__, with arguments that its __init__ does not declare.
    return scipy.sparse.linalg.LinearOperator(shape, matvec=product, rmatvec=product, matmat=product, rmatmat=product, dtype=dtype)  # pyright: ignore[reportCallIssue]


def to_dense(operator: LinearOperator, progress: Progress | None = None) -> Tensor:
    """Return the matrix (size, size) from `size` products. progress(done, size) is called after every 16 products."""
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
    """The operator's products contradict a symmetric matrix. The message states the defect."""


@dataclass(frozen=True)
class OperatorCheck:
    """Relative defects of an operator: near rounding error for a sound operator. Store them with every spectrum."""

    symmetry_defect: float  # |u'Av - v'Au| in units of |A|_F, for one random pair u, v
    determinism_defect: float  # |Av - Av again| / |Av|


def check_operator(operator: LinearOperator, seed: int = 0) -> OperatorCheck:
    """Check symmetry and determinism of an operator with three products of two random vectors, drawn with `seed`.

        symmetry defect = |u'Av - v'Au| / |A|_F  for standard normal u, v;  |A|_F is estimated by |Av|
        determinism defect = |Av - (Av again)| / |Av|

    The symmetry defect does not shrink with the size of the matrix, as it would relative to |u||Av|. `release` is called before the
    repeated product, since a kept graph hides dropout. The tolerance of both defects is 1e-3 (float32) or 1e-8 (float64). Raises
    NotSymmetric if u'Av and v'Au differ by more. Raises ValueError if two equal products differ by more or are not finite, or for another
    dtype.
    """
    if operator.dtype not in TOLERANCE:
        raise ValueError(f"an operator must be float32 or float64 to be checked, got {operator.dtype}")
    tolerance = TOLERANCE[operator.dtype]
    u, v = (normal(seed, f"check/{name}", operator.size, operator.dtype, operator.device) for name in "uv")
    image_v, image_u = matmat(operator, torch.stack([v, u], dim=1)).double().T
    release(operator)
    image_again = operator.matvec(v).double()
    scale = (norm(image_v) + norm(image_u)) / 2 or 1.0
    symmetry = abs(float(u.double() @ image_v - v.double() @ image_u)) / scale
    determinism = norm(image_v - image_again) / scale
    # `not ... <= ...` also fails for NaN.
    if not determinism <= tolerance:
        raise ValueError(
            f"two equal products differ by {determinism:.2e} of their norm (at most {tolerance:.0e} for "
            f"{operator.dtype}): turn dropout off and check that all values are finite"
        )
    if not symmetry <= tolerance:
        raise NotSymmetric(f"u'Av and v'Au differ by {symmetry:.2e} of |A|_F (at most {tolerance:.0e} for {operator.dtype})")
    return OperatorCheck(symmetry, determinism)
