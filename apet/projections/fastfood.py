"""Fastfood: rows of a random matrix in blocks H G P H B of Hadamard matrices and diagonals (Le, Sarlos and Smola 2013, arXiv 1408.3060).

B holds signs, P permutes, G holds Gaussian numbers, H is the Walsh-Hadamard matrix of a block's n rows; the d columns are the first of n.
So a product costs n log n a block (here: matrix products), whatever d. Signs and Gaussian numbers are each block's own and are hashed
anew for every product (`apet.projections.hashed`), the permutation is that of all blocks of a stream. Le et al.'s last diagonal S, which
gives rows the lengths of Gaussian ones, is left out, and G is divided by its length instead, which makes every column of a whole block
exactly as long as the others.
"""

from __future__ import annotations

import torch
from torch import Tensor

from apet.projections.hashed import Keys, words
from apet.projections.walsh_hadamard import narrow, power_of_two, widen
from apet.random_numbers import permutation, quantiles

BLOCK = 2**14  # rows, unless d is more or the tensors are less
AT_ONCE = {"cpu": 2**18}  # rows that are worked on together: on a CPU what stays in the cache,
MOST = 2**22  # elsewhere 0.1 GB


class Fastfood:
    """Endless rows of a linear map of z (d,), `scale` sqrt(n) the length of a column of a block of n rows; named by (seed, role)."""

    def __init__(self, d: int, seed: int, role: str, scale: float, block: int = BLOCK):
        self.d, self.seed, self.role, self.scale = d, seed, role, scale
        self.n = max(block, power_of_two(d))
        self._keys = Keys(seed, role)
        self._orders: dict[torch.device, tuple[Tensor, Tensor]] = {}

    def values(self, z: Tensor, start: int, stop: int) -> Tensor:
        """Rows start .. stop times z: (d,) -> (stop - start,)."""
        out = z.new_empty(stop - start)
        for first, last in self._groups(start, stop, z.device):
            signs, gains = self._drawn(first, last, z)
            x = widen(signs * z, self.n).index_select(1, self._order(z)[0]).mul_(gains)
            _shared(out, start, widen(x, self.n).flatten(), first * self.n)
        return out.mul_(self.scale)

    def adjoint(self, w: Tensor, start: int) -> Tensor:
        """Return the same rows, transposed, times w: (count,) -> (d,)."""
        total = w.new_zeros(self.d)
        for first, last in self._groups(start, start + len(w), w.device):
            signs, gains = self._drawn(first, last, w)
            rows = w.new_zeros((last - first) * self.n)
            _shared(rows, first * self.n, w, start)
            x = widen(rows.view(-1, self.n), self.n).mul_(gains).index_select(1, self._order(w)[1])
            total += (narrow(x, self.d) * signs).sum(0)
        return total.mul_(self.scale)

    def _groups(self, start: int, stop: int, device: torch.device) -> list[tuple[int, int]]:
        """Return the blocks that hold these rows, (first, one past the last) of as many as are worked on together."""
        last, step = -(-stop // self.n), max(1, AT_ONCE.get(device.type, MOST) // self.n)
        return [(b, min(b + step, last)) for b in range(start // self.n, last, step)]

    def _drawn(self, first: int, last: int, like: Tensor) -> tuple[Tensor, Tensor]:
        """Signs (blocks, d), and G / |G| (blocks, n): a word's lowest bit is a sign, its upper half a Gaussian number."""
        drawn = words(self._keys.of(first, last, like.device), self.n)
        gains = quantiles(like.device).index_select(0, ((drawn >> 16) + 2**15).flatten()).view(drawn.shape).to(like.dtype)
        signs = 1 - 2 * (drawn[:, : self.d] & 1)
        return signs.to(like.dtype), gains / gains.norm(dim=1, keepdim=True)

    def _order(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """Return (the permutation, its inverse), (n,) each."""
        if like.device not in self._orders:
            order = torch.as_tensor(permutation(self.seed, f"{self.role} permutation", self.n))
            self._orders[like.device] = order.to(like.device), order.argsort().to(like.device)
        return self._orders[like.device]


class LegacyFastfood:
    """Fastfood as public code after Aghajanyan et al. 2020 (arXiv 2012.13255) has it, with its defects, to reproduce what it finds.

    One block as long as the tensor: columns are of length 1 in each tensor, whatever its size. A z longer than the block loses
    its end without a word. `adjoint` is n times too small, so small tensors have too large a say in the gradient.
    """

    def __init__(self, d: int, seed: int, role: str, size: int):
        self.d, n = d, power_of_two(size)
        self.rows = Fastfood(min(d, n), seed, role, n**-0.5, n)

    def values(self, z: Tensor, start: int, stop: int) -> Tensor:
        return self.rows.values(z[: self.rows.d], start, stop)

    def adjoint(self, w: Tensor, start: int) -> Tensor:
        found = self.rows.adjoint(w, start) / self.rows.n
        return torch.cat([found, found.new_zeros(self.d - len(found))])


def _shared(into: Tensor, into_start: int, values: Tensor, start: int) -> None:
    """Copy what two stretches of the rows have in common; each begins at its `start`."""
    low, high = max(into_start, start), min(into_start + len(into), start + len(values))
    into[low - into_start : high - into_start] = values[low - start : high - start]
