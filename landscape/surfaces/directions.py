"""Directions in z-space along which a loss is looked at; by columns, (k, n), as eigenvectors are.

Orthonormal unless said, so that coordinates along them are true displacements |delta|. Normalised and scaled directions are longer or
shorter on purpose, and eigenvectors are never normalised again: a filter-wise rescaled eigenvector is none.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from landscape.curvature import groups
from landscape.numerics import FloatArray, normal, orthonormal

ROWS = 2**16  # of directions at a time, in float64
APART = 1e-6  # of the longest: points or directions closer to the span of the others are on it


@dataclass(frozen=True)
class Principal:
    """Principal directions of points about the last of them, largest spread first."""

    directions: Tensor  # (k, count), orthonormal; the first point lies on the negative side of each
    explained: FloatArray  # (count,) the share of the points' squared distances from `centre`
    coordinates: FloatArray  # (points, count), from `centre`
    centre: Tensor  # (k,)


@dataclass(frozen=True)
class Through:
    """The line through two points, the plane through three, and so on."""

    origin: Tensor  # (k,), their mean: the centre of a symmetric grid
    directions: Tensor  # (k, points - 1), orthonormal, the first from the first point to the second
    coordinates: FloatArray  # (points, points - 1), from `origin`


def random_directions(size: int, count: int, seed: int, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu") -> Tensor:
    """`count` orthonormal directions (size, count), uniform over the rotations, named by `seed`; more keep the first ones.

    ValueError unless 1 <= count <= size.
    """
    if not 1 <= count <= size:
        raise ValueError(f"count = {count} directions must be in 1..{size}, the size of the space")
    drawn = [normal(seed, f"direction/{i}", size, torch.float64, torch.device("cpu")) for i in range(count)]
    return orthonormalised(torch.stack(drawn, dim=1)).to(device=device, dtype=dtype)


def orthonormalised(directions: Tensor) -> Tensor:
    """An orthonormal basis (k, n) of the columns of `directions` (k, n), each turned as its column was.

    ValueError for a column that is zero, not finite, or in the span of those before.
    """
    wide = nonzero(directions).double()
    q, r = orthonormal(wide / _lengths(wide))
    along = torch.diagonal(r)
    if bool((along.abs() < APART).any()):
        raise ValueError(f"direction {int(along.abs().argmin())} lies in the span of those before it")
    return (q * along.sign()).to(directions.dtype)


def nonzero(directions: Tensor) -> Tensor:
    """`directions` (k, n) as they are; ValueError for another shape, or for one that is zero or not finite."""
    if directions.dim() != 2 or not 1 <= directions.shape[1] <= directions.shape[0]:
        raise ValueError(f"directions must be columns (k, n) with 1 <= n <= k, got shape {tuple(directions.shape)}")
    for number, length in enumerate(map(float, _lengths(directions))):
        if not 0 < length < float("inf"):
            raise ValueError(f"direction {number} has length {length}: it must be positive and finite")
    return directions


def normalised(directions: Tensor, theta: Tensor, labels: Sequence[str]) -> Tensor:
    """In every group of coordinates the directions (k, n) get the norm of theta (k,) there (Li et al. 2018, arXiv 1712.09913).

    labels (k,) say which group a coordinate is of: a tensor or, where whole filters are tuned, a filter. A group in which theta is zero
    is not moved in, as in the original for biases. The result is not orthonormal. ValueError for another length, or where nothing moves.
    """
    if not len(labels) == len(theta) == len(directions):
        raise ValueError(f"directions, theta and labels must be of one length, got {len(directions)}, {len(theta)} and {len(labels)}")
    found = torch.zeros_like(directions)
    for index in groups(labels).values():
        index = index.to(directions.device)
        part = directions[index]
        lengths = _lengths(part)
        units = torch.where(lengths > 0, part.double() / lengths.clamp(min=1e-300), 0.0)
        found[index] = (units * _lengths(theta[index][:, None])).to(found)
    return nonzero(found)


def scaled(directions: Tensor, diagonal: Tensor, floor: float = 1e-4) -> Tensor:
    """directions (k, n) over the root of a curvature's diagonal (k,): d_j / sqrt(max(|c_j|, floor max|c|)).

    With the Fisher matrix's diagonal a unit step changes every coordinate's part of the outputs alike; with the Hessian's it is Jacobi's
    preconditioner. Not orthonormal. ValueError for an all-zero diagonal.
    """
    size = diagonal.abs().double()
    largest = float(size.max())
    if not 0 < largest < float("inf"):
        raise ValueError(f"a curvature's diagonal must have a positive, finite entry, its largest is {largest}")
    return nonzero(directions / size.clamp(min=floor * largest).sqrt().to(directions)[:, None])


def principal_directions(points: Tensor, count: int) -> Principal:
    """Principal components of points (T, k) about the last one, where a trajectory ended.

    ValueError unless 1 <= count <= min(T - 1, k), and where the points do not span so many.
    """
    if points.dim() != 2 or not 1 <= count <= min(len(points) - 1, points.shape[1]):
        raise ValueError(f"{count} principal directions need more than {count} points, got shape {tuple(points.shape)}")
    apart = (points - points[-1]).double()
    _, sizes, rows = cast(Any, torch.linalg).svd(apart, full_matrices=False)
    if not float(sizes[count - 1]) > APART * float(sizes[0]):
        raise ValueError(
            f"the points do not span {count} dimensions: singular values {', '.join(f'{s:.2g}' for s in sizes[:count].tolist())}"
        )
    directions = rows[:count].T
    # A singular vector's sign is arbitrary: the start of the trajectory goes to the negative side.
    signs = -torch.sign(apart[0] @ directions)
    directions = directions * torch.where(signs == 0, 1.0, signs)
    explained = (sizes[:count] ** 2 / (sizes**2).sum()).cpu().numpy()
    return Principal(directions.to(points.dtype), explained, (apart @ directions).cpu().numpy(), points[-1])


def through(points: Tensor) -> Through:
    """The line through two points, the plane through three, n - 1 dimensions through n, of points (n, k).

    ValueError if they coincide, or lie on a line (in a plane, ...) already.
    """
    if points.dim() != 2 or not 2 <= len(points) <= points.shape[1] + 1:
        raise ValueError(f"a line or plane goes through points (n, k) with 2 <= n <= k + 1, got shape {tuple(points.shape)}")
    wide = points.double()
    try:
        directions = orthonormalised((wide[1:] - wide[0]).T)
    except ValueError as error:
        few = "lie on one line" if len(points) < 4 else f"span fewer than {len(points) - 1} dimensions"
        raise ValueError(f"the points coincide or {few}: {error}") from None
    origin = wide.mean(0)
    return Through(origin.to(points.dtype), directions.to(points.dtype), np.asarray(((wide - origin) @ directions).cpu()))


def _lengths(vectors: Tensor) -> Tensor:
    """The norm of each column of vectors (k, n), (n,) float64."""
    return torch.diagonal(gram(vectors)).sqrt()


def gram(vectors: Tensor) -> Tensor:
    """The inner products of the columns of vectors (k, n), (n, n) float64, a part of the rows at a time: k may be a whole model."""
    total = torch.zeros(vectors.shape[1], vectors.shape[1], dtype=torch.float64, device=vectors.device)
    for start in range(0, len(vectors), ROWS):
        wide = vectors[start : start + ROWS].double()
        total += wide.T @ wide
    return total
