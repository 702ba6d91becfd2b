"""Patterns of tuned entries in a matrix: k entries stored row by row (SparsityPattern), or all entries without storage (FullPattern).

Values are in the order of z or in row order. The two orders differ for the transpose of a pattern. A pattern also names the kernel that
computes the contractions of `apet.subspaces.kernels`: the one with the least time according to `apet.subspaces.kernel_costs`.
"""

from __future__ import annotations

from functools import cached_property

import torch
from torch import Tensor

from apet.subspaces.kernel_costs import current_costs

KERNELS = ("gather", "sampled", "dense")  # products of gathered columns; a sampled dense-dense product; entries of a dense product


def cheapest(shape: tuple[int, int], k: int) -> str:
    """Return the kernel with the least time for k entries of a matrix of `shape`, according to the constants in use."""
    costs = current_costs()
    return min(KERNELS, key=lambda kernel: costs.of(kernel, shape, k))


class SparsityPattern:
    """k distinct entries of a matrix of `shape` (m, n), row by row (CSR): `starts` (m + 1,) and `cols` (k,), int32.

    `order` (k,) holds the index into z of each entry (None: z is in row order). `kernel` overrides the choice by cost. `occupied` is
    (number of rows, number of columns) with an entry, as Python integers, so that kernels need not read them from the device.
    """

    def __init__(
        self, shape: tuple[int, int], starts: Tensor, cols: Tensor, occupied: tuple[int, int], order: Tensor | None = None,
        kernel: str | None = None,
    ):  # fmt: skip
        self.shape, self.starts, self.cols, self.order, self.k = shape, starts, cols, order, len(cols)
        self.occupied, self.kernel = occupied, kernel or cheapest(shape, self.k)

    @classmethod
    def at(cls, shape: tuple[int, int], flat: Tensor, kernel: str | None = None, device: torch.device | str = "cpu") -> SparsityPattern:
        """Return the pattern on `device` of the entries at ascending positions `flat` (k,), on the host, in the flattened matrix."""
        rows, cols = flat // shape[1], flat % shape[1]
        occupied = int(torch.bincount(rows).count_nonzero()), int(torch.bincount(cols).count_nonzero())
        return cls(shape, _starts(rows, shape[0]).to(device), cols.int().to(device), occupied, None, kernel)

    @property
    def rows(self) -> Tensor:  # (k,)
        return self._few_rows if self.kernel == "gather" else self._rows()

    def _rows(self) -> Tensor:
        return torch.repeat_interleave(self.starts.diff().long(), output_size=self.k)

    @cached_property
    def _few_rows(self) -> Tensor:
        """`rows`, cached: the gather kernel has few entries and needs them in every product."""
        return self._rows()

    @property
    def flat(self) -> Tensor:  # (k,)
        return self.rows * self.shape[1] + self.cols

    @cached_property
    def needed(self) -> tuple[Tensor | None, SparsityPattern]:
        """(columns with an entry, pattern in the matrix of only these columns), or (None, self) if most columns have an entry."""
        (m, n), count = self.shape, self.occupied[1]
        if 2 * count > n:
            return None, self
        occurs = torch.zeros(n, dtype=torch.int64, device=self.cols.device).index_fill_(0, self.cols.long(), 1)
        position = occurs.cumsum(0) - 1  # among the columns with an entry
        target = torch.where(occurs > 0, position, count)  # the other columns go to one extra position, which is cut off
        columns = target.new_empty(count + 1).scatter_(0, target, torch.arange(n, device=target.device))[:count]
        return columns, SparsityPattern((m, count), self.starts, position[self.cols].int(), self.occupied, self.order, self.kernel)

    @cached_property
    def transposed(self) -> SparsityPattern:
        """Pattern of the same entries in the transposed matrix, with the same order of z."""
        rows = self.rows
        order = torch.argsort(self.cols.long() * self.shape[0] + rows)
        starts = _starts(self.cols[order], self.shape[1])
        (m, n), (occupied_rows, occupied_cols) = self.shape, self.occupied
        of_z = order if self.order is None else self.order[order]
        return SparsityPattern((n, m), starts, rows[order].int(), (occupied_cols, occupied_rows), of_z, self.kernel)

    def to_row_order(self, z: Tensor) -> Tensor:
        """Return z (k,) in row order."""
        return z if self.order is None else z[self.order]

    def to_z_order(self, values: Tensor) -> Tensor:
        """Reorder `values` (..., k) from row order to the order of z."""
        return values if self.order is None else torch.empty_like(values).index_copy_(-1, self.order, values)

    def take(self, matrix: Tensor) -> Tensor:
        """Return the tuned entries of a matrix (m, n), in the order of z: (k,)."""
        return self.to_z_order(matrix.flatten()[self.flat])

    def matrix(self, z: Tensor) -> Tensor:
        """Return the matrix (m, n) with z (k,) at the tuned entries and zeros elsewhere."""
        flat = z.new_zeros(self.shape[0] * self.shape[1])
        return flat.index_copy_(0, self.flat, self.to_row_order(z)).view(self.shape)


class FullPattern:
    """All entries of a matrix of `shape` (m, n). The class has the members of SparsityPattern, which it computes at each access.

    If `flipped`, z is in column order, as for the transpose of a pattern with z in row order.
    """

    def __init__(self, shape: tuple[int, int], kernel: str | None = None, device: torch.device | str = "cpu", flipped: bool = False):
        self.shape, self.k, self.device, self.flipped = shape, shape[0] * shape[1], device, flipped
        self.kernel = kernel or cheapest(shape, self.k)

    @property
    def starts(self) -> Tensor:  # (m + 1,)
        return torch.arange(self.shape[0] + 1, dtype=torch.int32, device=self.device) * self.shape[1]

    @property
    def cols(self) -> Tensor:  # (k,)
        return torch.arange(self.shape[1], dtype=torch.int32, device=self.device).repeat(self.shape[0])

    @property
    def rows(self) -> Tensor:  # (k,)
        return torch.arange(self.shape[0], device=self.device).repeat_interleave(self.shape[1], output_size=self.k)

    @property
    def flat(self) -> Tensor:  # (k,)
        return torch.arange(self.k, device=self.device)

    @property
    def needed(self) -> tuple[None, FullPattern]:
        """(None, self), because every column has an entry."""
        return None, self

    @cached_property
    def transposed(self) -> FullPattern:
        """Pattern of all entries of the transposed matrix, with the same order of z."""
        return FullPattern((self.shape[1], self.shape[0]), self.kernel, self.device, not self.flipped)

    def to_row_order(self, z: Tensor) -> Tensor:
        """Return z (k,) in row order."""
        return z.view(self.shape[1], self.shape[0]).t().flatten() if self.flipped else z

    def to_z_order(self, values: Tensor) -> Tensor:
        """Reorder `values` (..., k) from row order to the order of z."""
        return values.unflatten(-1, self.shape).transpose(-1, -2).flatten(-2) if self.flipped else values

    def take(self, matrix: Tensor) -> Tensor:
        """Return the tuned entries of a matrix (m, n), in the order of z: (k,)."""
        return self.to_z_order(matrix.flatten())

    def matrix(self, z: Tensor) -> Tensor:
        """Return z (k,) as a matrix (m, n)."""
        return self.to_row_order(z).clone().view(self.shape)  # a copy has the memory layout that the products expect


Pattern = SparsityPattern | FullPattern


def _starts(rows: Tensor, m: int) -> Tensor:
    """Return the CSR row pointers for ascending row numbers `rows` (k,) of a matrix with m rows: int32 (m + 1,)."""
    return torch.searchsorted(rows, torch.arange(m + 1, dtype=rows.dtype, device=rows.device)).int()
