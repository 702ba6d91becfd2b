"""Count-sketch: each row has one entry, a sign at a hashed place (Charikar, Chen and Farach-Colton 2002).

Parameter i moves by +-z_h(i): a parameter's share of the subspace is one coordinate, and a coordinate moves about D / d parameters
together. Nothing is stored; a product reads a coordinate and writes a parameter.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from apet.projections.hashed import Keys, words

BLOCK = 2**16  # rows with keys of their own
AT_ONCE = {"cpu": 1}  # blocks that are hashed together: on a CPU what stays in the cache,
MOST = 2**8  # elsewhere 0.5 GB at most


class CountSketch:
    """Endless rows +-scale e_h of a linear map of z (d,), h uniform; named by (seed, role)."""

    def __init__(self, d: int, seed: int, role: str, scale: float):
        self.d, self.seed, self.role, self.scale = d, seed, role, scale
        self._keys = Keys(seed, role)

    def values(self, z: Tensor, start: int, stop: int) -> Tensor:
        """Rows start .. stop times z: (d,) -> (stop - start,)."""
        signed = torch.cat([z, -z]) * self.scale
        out = z.new_empty(stop - start)
        for low, high in _stretches(start, stop, z.device):
            torch.index_select(signed, 0, self._places(low, high, z.device), out=out[low - start : high - start])
        return out

    def adjoint(self, w: Tensor, start: int) -> Tensor:
        """Return the same rows, transposed, times w: (count,) -> (d,)."""
        sums = w.new_zeros(2 * self.d)
        for low, high in _stretches(start, start + len(w), w.device):
            sums.index_add_(0, self._places(low, high, w.device), w[low - start : high - start])
        return (sums[: self.d] - sums[self.d :]) * self.scale

    def _places(self, low: int, high: int, device: torch.device) -> Tensor:
        """h of rows low .. high - 1, in 0 .. 2 d - 1: from d on the sign is minus. int64 (high - low,).

        Of 32 hashed bits h is the high part of the product with 2 d.
        """
        first, last = low // BLOCK, -(-high // BLOCK)
        x = words(self._keys.of(first, last, device), BLOCK if last > first + 1 else high - first * BLOCK)
        x = x.flatten()[low - first * BLOCK : high - first * BLOCK]
        return (x.long() + 2**31).mul_(2 * self.d) >> 32


def _stretches(start: int, stop: int, device: torch.device) -> Iterator[tuple[int, int]]:
    """Rows start .. stop cut at the bounds of what is hashed together."""
    rows = BLOCK * AT_ONCE.get(device.type, MOST)
    while start < stop:
        end = min(stop, (start // rows + 1) * rows)
        yield start, end
        start = end
