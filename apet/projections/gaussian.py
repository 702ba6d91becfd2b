"""Dense Gaussian rows, drawn again for every product: the subspace that the theory speaks of (Li et al. 2018, arXiv 1804.08838).

A product draws D x d numbers, so this is for small models, to compare the others with.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from apet.random_numbers import normals

NUMBERS = 2**20  # that are drawn at once


class Gaussian:
    """Endless rows of independent N(0, scale^2) numbers of a linear map of z (d,); named by (seed, role)."""

    def __init__(self, d: int, seed: int, role: str, scale: float):
        self.d, self.seed, self.role, self.scale = d, seed, role, scale
        self.n = max(1, NUMBERS // d)  # rows of a block

    def values(self, z: Tensor, start: int, stop: int) -> Tensor:
        """Rows start .. stop times z: (d,) -> (stop - start,)."""
        return torch.cat([rows @ z for _, rows in self._blocks(start, stop, z)]) * self.scale

    def adjoint(self, w: Tensor, start: int) -> Tensor:
        """Return the same rows, transposed, times w: (count,) -> (d,)."""
        total = w.new_zeros(self.d)
        for at, rows in self._blocks(start, start + len(w), w):
            total += w[at : at + len(rows)] @ rows
        return total * self.scale

    def _blocks(self, start: int, stop: int, like: Tensor) -> Iterator[tuple[int, Tensor]]:
        """Yield (place after `start`, rows (count, d)) of each block that holds some of the rows."""
        for block in range(start // self.n, -(-stop // self.n)):
            low, high = max(start, block * self.n), min(stop, (block + 1) * self.n)
            # A block's draws come row by row: those after the last that is wanted are not made.
            drawn = normals(self.seed, self.role, block, (high - block * self.n) * self.d).reshape(-1, self.d)
            yield low - start, torch.as_tensor(drawn[low - block * self.n :]).to(like.device, like.dtype)
