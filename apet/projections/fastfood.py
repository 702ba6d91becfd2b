"""Fastfood: a random matrix made of blocks H G P H B (Le, Sarlos and Smola 2013, arXiv 1408.3060).

B is a diagonal of signs, P a permutation, G a diagonal of Gaussian numbers, and H the Walsh-Hadamard matrix (n, n) for blocks of n rows.
A block keeps the first d of the n columns. A product costs n log n per block (here computed by matrix products), for any d.

Each block has separate signs and Gaussian numbers, which are hashed again for every product (`apet.projections.hashed`). All blocks of a
stream share one permutation. The last diagonal S of Le et al., which gives the rows the lengths of Gaussian rows, is left out. Instead, G
is divided by its length, so that all columns of a complete block have exactly the same length.
"""

from __future__ import annotations

import torch
from torch import Tensor

from apet.projections.hashed import Keys, words
from apet.projections.walsh_hadamard import narrow, power_of_two, widen
from apet.random_numbers import permutation, quantiles

BLOCK = 2**14  # rows per block, unless d is larger or the tensors are smaller
AT_ONCE = {"cpu": 2**18}  # rows that are processed together: on a CPU they must stay in the cache
MOST = 2**22  # rows on other devices: 0.1 GB


class Fastfood:
    """A matrix with d columns and any number of rows, named by (seed, role).

    A column of a block of n rows has the length `scale` sqrt(n).
    """

    def __init__(self, d: int, seed: int, role: str, scale: float, block: int = BLOCK):
        self.d, self.seed, self.role, self.scale = d, seed, role, scale
        self.n = max(block, power_of_two(d))
        self._keys = Keys(seed, role)
        self._orders: dict[torch.device, tuple[Tensor, Tensor]] = {}

    def values(self, z: Tensor, start: int, stop: int) -> Tensor:
        """Return rows start .. stop - 1 times z: (d,) -> (stop - start,)."""
        out = z.new_empty(stop - start)
        for first, last in self._groups(start, stop, z.device):
            signs, gains = self._drawn(first, last, z)
            x = widen(signs * z, self.n).index_select(1, self._order(z)[0]).mul_(gains)
            _copy_overlap(out, start, widen(x, self.n).flatten(), first * self.n)
        return out.mul_(self.scale)

    def adjoint(self, w: Tensor, start: int) -> Tensor:
        """Return the transpose of rows start .. start + count - 1, times w: (count,) -> (d,)."""
        total = w.new_zeros(self.d)
        for first, last in self._groups(start, start + len(w), w.device):
            signs, gains = self._drawn(first, last, w)
            rows = w.new_zeros((last - first) * self.n)
            _copy_overlap(rows, first * self.n, w, start)
            x = widen(rows.view(-1, self.n), self.n).mul_(gains).index_select(1, self._order(w)[1])
            total += (narrow(x, self.d) * signs).sum(0)
        return total.mul_(self.scale)

    def _groups(self, start: int, stop: int, device: torch.device) -> list[tuple[int, int]]:
        """Return the blocks that hold rows start .. stop - 1, as ranges (first, one past the last) that are processed together."""
        last, step = -(-stop // self.n), max(1, AT_ONCE.get(device.type, MOST) // self.n)
        return [(b, min(b + step, last)) for b in range(start // self.n, last, step)]

    def _drawn(self, first: int, last: int, like: Tensor) -> tuple[Tensor, Tensor]:
        """Return (signs (blocks, d), G / |G| (blocks, n)).

        The lowest bit of each word gives a sign, and its upper half gives a Gaussian number.
        """
        drawn = words(self._keys.of(first, last, like.device), self.n)
        gains = quantiles(like.device).index_select(0, ((drawn >> 16) + 2**15).flatten()).view(drawn.shape).to(like.dtype)
        signs = 1 - 2 * (drawn[:, : self.d] & 1)
        return signs.to(like.dtype), gains / gains.norm(dim=1, keepdim=True)

    def _order(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """Return (the permutation (n,), its inverse (n,))."""
        if like.device not in self._orders:
            order = torch.as_tensor(permutation(self.seed, f"{self.role} permutation", self.n))
            self._orders[like.device] = order.to(like.device), order.argsort().to(like.device)
        return self._orders[like.device]


class LegacyFastfood:
    """Fastfood with the defects of public code after Aghajanyan et al. 2020 (arXiv 2012.13255), to reproduce its results.

    - Each tensor is one block, so columns have length 1 in every tensor, whatever its size.
    - A z longer than the block is silently truncated.
    - `adjoint` is n times too small, so small tensors have too much weight in the gradient.
    """

    def __init__(self, d: int, seed: int, role: str, size: int):
        self.d, n = d, power_of_two(size)
        self.rows = Fastfood(min(d, n), seed, role, n**-0.5, n)

    def values(self, z: Tensor, start: int, stop: int) -> Tensor:
        return self.rows.values(z[: self.rows.d], start, stop)

    def adjoint(self, w: Tensor, start: int) -> Tensor:
        pulled = self.rows.adjoint(w, start) / self.rows.n
        return torch.cat([pulled, pulled.new_zeros(self.d - len(pulled))])


def _copy_overlap(into: Tensor, into_start: int, values: Tensor, start: int) -> None:
    """Copy the rows that two ranges have in common. `into` begins at row `into_start`, `values` at row `start`."""
    low, high = max(into_start, start), min(into_start + len(into), start + len(values))
    into[low - into_start : high - into_start] = values[low - start : high - start]
