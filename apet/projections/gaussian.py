"""Dense Gaussian projection, drawn again for every product: the subspace of the theory (Li et al. 2018, arXiv 1804.08838).

A product draws D x d numbers. So this projection is a reference for small models, to compare the other projections with.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from apet.random_numbers import normals

NUMBERS = 2**20  # random numbers that are drawn together


class Gaussian:
    """A matrix of independent N(0, scale^2) numbers, with d columns and any number of rows, named by (seed, role)."""

    def __init__(self, d: int, seed: int, role: str, scale: float):
        self.d, self.seed, self.role, self.scale = d, seed, role, scale
        self.n = max(1, NUMBERS // d)  # rows per block

    def values(self, z: Tensor, start: int, stop: int) -> Tensor:
        """Return rows start .. stop - 1 times z: (d,) -> (stop - start,)."""
        return torch.cat([rows @ z for _, rows in self._blocks(start, stop, z)]) * self.scale

    def adjoint(self, w: Tensor, start: int) -> Tensor:
        """Return the transpose of rows start .. start + count - 1, times w: (count,) -> (d,)."""
        total = w.new_zeros(self.d)
        for at, rows in self._blocks(start, start + len(w), w):
            total += w[at : at + len(rows)] @ rows
        return total * self.scale

    def _blocks(self, start: int, stop: int, like: Tensor) -> Iterator[tuple[int, Tensor]]:
        """Yield (index of the first row, relative to `start`; rows (count, d)) for each block that overlaps rows start .. stop - 1."""
        for block in range(start // self.n, -(-stop // self.n)):
            low, high = max(start, block * self.n), min(stop, (block + 1) * self.n)
            # A block is drawn row by row, so rows after `high` need not be drawn.
            drawn = normals(self.seed, self.role, block, (high - block * self.n) * self.d).reshape(-1, self.d)
            yield low - start, torch.as_tensor(drawn[low - block * self.n :]).to(like.device, like.dtype)
