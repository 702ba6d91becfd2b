"""Count-sketch: each row has one entry, a sign at a hashed place (Charikar, Chen and Farach-Colton 2002).

Parameter i moves by +-z_h(i): a parameter's share of the subspace is one coordinate, and a coordinate moves about D / d parameters
together. Nothing is stored; a product reads a coordinate and writes a parameter.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from apet.noise import bits

BLOCK = 2**16  # rows with a key of their own


class CountSketch:
    """Endless rows +-scale e_h of a linear map of z (d,), h uniform; named by (seed, role)."""

    def __init__(self, d: int, seed: int, role: str, scale: float):
        self.d, self.seed, self.role, self.scale = d, seed, role, scale

    def values(self, z: Tensor, start: int, stop: int) -> Tensor:
        """Rows start .. stop times z: (d,) -> (stop - start,)."""
        signed = torch.cat([z, -z]) * self.scale
        out = z.new_empty(stop - start)
        for low, high in _stretches(start, stop):
            torch.index_select(signed, 0, self._places(low, high, z.device), out=out[low - start : high - start])
        return out

    def adjoint(self, w: Tensor, start: int) -> Tensor:
        """The same rows, transposed, times w: (count,) -> (d,)."""
        sums = w.new_zeros(2 * self.d)
        for low, high in _stretches(start, start + len(w)):
            sums.index_add_(0, self._places(low, high, w.device), w[low - start : high - start])
        return (sums[: self.d] - sums[self.d :]) * self.scale

    def _places(self, low: int, high: int, device: torch.device) -> Tensor:
        """h of rows of one block, in 0 .. 2 d - 1: from d on the sign is minus. int64 (high - low,).

        Murmur3's finaliser (Appleby 2011) of row + one key, another put in between, gives 32 bits, of which h is the high part of
        the product with 2 d.
        """
        block, at = divmod(low, BLOCK)
        first, between = (int(x >> 33) - 2**30 for x in bits(self.seed, self.role, block, 2))
        x = torch.arange(first + at, first + at + high - low, dtype=torch.int32, device=device)
        x = _mixed(_mixed(x, 16, -0x7A143595).bitwise_xor_(between), 13, -0x3D4D51CB)
        x ^= (x >> 16) & 0xFFFF
        return (x.long() + 2**31).mul_(2 * self.d) >> 32


def _stretches(start: int, stop: int) -> Iterator[tuple[int, int]]:
    """Rows start .. stop cut at the blocks' bounds."""
    while start < stop:
        end = min(stop, (start // BLOCK + 1) * BLOCK)
        yield start, end
        start = end


def _mixed(x: Tensor, shift: int, factor: int) -> Tensor:
    """x, in place, after one round; an int32 shifts its sign in, which is masked away."""
    x ^= (x >> shift) & ((1 << (32 - shift)) - 1)
    x *= factor
    return x
