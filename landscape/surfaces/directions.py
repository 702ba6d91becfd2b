"""Directions in z-space for slices of a loss, stored as columns (k, n), like eigenvectors.

Directions are orthonormal unless stated otherwise, so that coordinates along them are true displacements |delta|. Normalised and scaled
directions are longer or shorter on purpose. Eigenvectors are never rescaled: a filter-wise rescaled eigenvector is not an eigenvector.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from landscape.curvature import groups
from landscape.numerics import FloatArray, normal, qr

ROWS = 2**16  # number of rows of directions that are converted to float64 at a time
INDEPENDENT = 1e-6  # relative distance from the span of the others below which points or directions count as dependent


@dataclass(frozen=True)
class PrincipalDirections:
    """Principal directions of points about the last point, largest spread first."""

    directions: Tensor  # (k, count), orthonormal; the first point has a negative coordinate on each
    explained: FloatArray  # (count,) shares of the points' squared distances from `centre`
    coordinates: FloatArray  # (points, count), relative to `centre`
    centre: Tensor  # (k,)


@dataclass(frozen=True)
class AffineSpan:
    """The line through two points, the plane through three, and so on."""

    origin: Tensor  # (k,), the points' mean: the centre of a symmetric grid
    directions: Tensor  # (k, points - 1), orthonormal; the first leads from the first point to the second
    coordinates: FloatArray  # (points, points - 1), relative to `origin`


def random_directions(size: int, count: int, seed: int, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu") -> Tensor:
    """Return `count` orthonormal directions (size, count), uniform over rotations and determined by `seed`.

    A larger count keeps the first directions. Raises ValueError unless 1 <= count <= size.
    """
    if not 1 <= count <= size:
        raise ValueError(f"count must be in 1..{size}, the size of the space, got {count}")
    columns = [normal(seed, f"direction/{i}", size, torch.float64, torch.device("cpu")) for i in range(count)]
    return orthonormalised(torch.stack(columns, dim=1)).to(device=device, dtype=dtype)


def orthonormalised(directions: Tensor) -> Tensor:
    """Return an orthonormal basis (k, n) of the columns of `directions` (k, n). Each basis vector has a positive product with its column.

    Raises ValueError for a column that is zero, not finite, or in the span of the columns before it.
    """
    wide = nonzero(directions).double()
    q, r = qr(wide / _lengths(wide))
    diagonal = torch.diagonal(r)
    if bool((diagonal.abs() < INDEPENDENT).any()):
        raise ValueError(f"direction {int(diagonal.abs().argmin())} lies in the span of the directions before it")
    return (q * diagonal.sign()).to(directions.dtype)


def nonzero(directions: Tensor) -> Tensor:
    """Return `directions` (k, n) unchanged. Raises ValueError for another shape, or for a direction that is zero or not finite."""
    if directions.dim() != 2 or not 1 <= directions.shape[1] <= directions.shape[0]:
        raise ValueError(f"directions must have shape (k, n) with 1 <= n <= k, got {tuple(directions.shape)}")
    for number, length in enumerate(map(float, _lengths(directions))):
        if not 0 < length < float("inf"):
            raise ValueError(f"direction {number} has length {length}, which must be positive and finite")
    return directions


def group_normalised(directions: Tensor, theta: Tensor, labels: Sequence[Any] | npt.NDArray[Any]) -> Tensor:
    """Return directions (k, n), rescaled in every group of coordinates to the norm of theta (k,) in the group (Li et al. 2018, arXiv
    1712.09913).

    labels (k,), strings or integers, name the groups of the coordinates: tensors, or filters if whole filters are tuned. A group with zero
    theta becomes zero, as in the original method for biases. The result is not orthonormal. Raises ValueError for lengths that differ, or
    if the whole result is zero.
    """
    if not len(labels) == len(theta) == len(directions):
        raise ValueError(f"directions, theta and labels must have equal lengths, got {len(directions)}, {len(theta)} and {len(labels)}")
    result = torch.zeros_like(directions)
    for index in groups(labels).values():
        index = index.to(directions.device)
        part = directions[index]
        lengths = _lengths(part)
        units = torch.where(lengths > 0, part.double() / lengths.clamp(min=1e-300), 0.0)
        result[index] = (units * _lengths(theta[index][:, None])).to(result)
    return nonzero(result)


def curvature_scaled(directions: Tensor, diagonal: Tensor, floor: float = 1e-4) -> Tensor:
    """Return directions (k, n) divided by the root of a curvature's diagonal (k,): d_j / sqrt(max(|c_j|, floor max|c|)).

    With the diagonal of the Fisher matrix, unit steps along all coordinates change the outputs by equal amounts. With the diagonal of the
    Hessian, the scaling is Jacobi's preconditioner. The result is not orthonormal. Raises ValueError for an all-zero diagonal.
    """
    size = diagonal.abs().double()
    largest = float(size.max())
    if not 0 < largest < float("inf"):
        raise ValueError(f"the largest entry of |diagonal| must be positive and finite, got {largest}")
    return nonzero(directions / size.clamp(min=floor * largest).sqrt().to(directions)[:, None])


def principal_directions(points: Tensor, count: int) -> PrincipalDirections:
    """Return the principal components of points (T, k) about the last point, where a trajectory ended.

    Raises ValueError unless 1 <= count <= min(T - 1, k), or if the points span fewer dimensions.
    """
    if points.dim() != 2 or not 1 <= count <= min(len(points) - 1, points.shape[1]):
        raise ValueError(f"count = {count} principal directions need more than {count} points (T, k), got shape {tuple(points.shape)}")
    centred = (points - points[-1]).double()
    _, sizes, rows = cast(Any, torch.linalg).svd(centred, full_matrices=False)
    if not float(sizes[count - 1]) > INDEPENDENT * float(sizes[0]):
        raise ValueError(
            f"the points do not span {count} dimensions: singular values {', '.join(f'{s:.2g}' for s in sizes[:count].tolist())}"
        )
    directions = rows[:count].T
    # The sign of a singular vector is arbitrary: choose the sign that gives the first point negative coordinates.
    signs = -torch.sign(centred[0] @ directions)
    directions = directions * torch.where(signs == 0, 1.0, signs)
    explained = (sizes[:count] ** 2 / (sizes**2).sum()).cpu().numpy()
    return PrincipalDirections(directions.to(points.dtype), explained, (centred @ directions).cpu().numpy(), points[-1])


def affine_span(points: Tensor) -> AffineSpan:
    """Return the span of points (n, k), of n - 1 dimensions: the line through two points, the plane through three, and so on.

    Raises ValueError if the points coincide or span fewer dimensions.
    """
    if points.dim() != 2 or not 2 <= len(points) <= points.shape[1] + 1:
        raise ValueError(f"points must have shape (n, k) with 2 <= n <= k + 1, got {tuple(points.shape)}")
    wide = points.double()
    try:
        directions = orthonormalised((wide[1:] - wide[0]).T)
    except ValueError as error:
        few = "lie on one line" if len(points) < 4 else f"span fewer than {len(points) - 1} dimensions"
        raise ValueError(f"the points coincide or {few}: {error}") from None
    origin = wide.mean(0)
    return AffineSpan(origin.to(points.dtype), directions.to(points.dtype), np.asarray(((wide - origin) @ directions).cpu()))


def _lengths(vectors: Tensor) -> Tensor:
    """Return the norm of each column of vectors (k, n), (n,) float64."""
    return torch.diagonal(gram(vectors)).sqrt()


def gram(vectors: Tensor) -> Tensor:
    """Return the inner products of the columns of vectors (k, n), (n, n) float64, summed over blocks of rows to save memory."""
    total = torch.zeros(vectors.shape[1], vectors.shape[1], dtype=torch.float64, device=vectors.device)
    for start in range(0, len(vectors), ROWS):
        wide = vectors[start : start + ROWS].double()
        total += wide.T @ wide
    return total
