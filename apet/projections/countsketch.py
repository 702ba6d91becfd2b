"""Count-sketch: each row has one non-zero entry, a random sign in a hashed column (Charikar, Chen and Farach-Colton 2002).

Parameter i moves by +-z_h(i): each parameter follows one coordinate, and each coordinate moves about D / d parameters together. Nothing is
stored. A product reads one coordinate and writes one parameter per row.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from apet.projections.hashed import Keys, words

BLOCK = 2**16  # rows per pair of keys
AT_ONCE = {"cpu": 1}  # blocks that are hashed together: on a CPU they must stay in the cache
MOST = 2**8  # blocks on other devices: at most 0.5 GB


class CountSketch:
    """A matrix with d columns and any number of rows +-scale e_h, with h uniform, named by (seed, role)."""

    def __init__(self, d: int, seed: int, role: str, scale: float):
        self.d, self.seed, self.role, self.scale = d, seed, role, scale
        self._keys = Keys(seed, role)

    def values(self, z: Tensor, start: int, stop: int) -> Tensor:
        """Return rows start .. stop - 1 times z: (d,) -> (stop - start,)."""
        signed = torch.cat([z, -z]) * self.scale
        out = z.new_empty(stop - start)
        for low, high in _row_ranges(start, stop, z.device):
            torch.index_select(signed, 0, self._signed_columns(low, high, z.device), out=out[low - start : high - start])
        return out

    def adjoint(self, w: Tensor, start: int) -> Tensor:
        """Return the transpose of rows start .. start + count - 1, times w: (count,) -> (d,)."""
        sums = w.new_zeros(2 * self.d)
        for low, high in _row_ranges(start, start + len(w), w.device):
            sums.index_add_(0, self._signed_columns(low, high, w.device), w[low - start : high - start])
        return (sums[: self.d] - sums[self.d :]) * self.scale

    def _signed_columns(self, low: int, high: int, device: torch.device) -> Tensor:
        """Return the column and sign of rows low .. high - 1 as one number h in 0 .. 2 d - 1: int64 (high - low,).

        h < d means +1 in column h, h >= d means -1 in column h - d. h is the upper part of the product of 32 hashed bits with 2 d.
        """
        first, last = low // BLOCK, -(-high // BLOCK)
        x = words(self._keys.of(first, last, device), BLOCK if last > first + 1 else high - first * BLOCK)
        x = x.flatten()[low - first * BLOCK : high - first * BLOCK]
        return (x.long() + 2**31).mul_(2 * self.d) >> 32


def _row_ranges(start: int, stop: int, device: torch.device) -> Iterator[tuple[int, int]]:
    """Split rows start .. stop - 1 at the bounds of the groups of blocks that are hashed together."""
    rows = BLOCK * AT_ONCE.get(device.type, MOST)
    while start < stop:
        end = min(stop, (start // rows + 1) * rows)
        yield start, end
        start = end
