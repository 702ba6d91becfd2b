"""The Walsh-Hadamard transform as matrix products: H_n is the Kronecker product of small H_f, applied one after the other.

More multiplications than the butterflies' n log n, but few passes over the memory, each at a matrix product's speed. Where
only the first d inputs are not zero, or only the first d outputs are wanted, the rest is left out.
"""

from __future__ import annotations

from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

SIDE = 32  # of the largest factor; 16 takes as long, 128 twice as long (one thread, AVX-512)


def hadamard(x: Tensor) -> Tensor:
    """H x along the last axis, (..., n) -> (..., n); H of +-1 in Sylvester's order, so H H = n. ValueError unless n is a power of two."""
    return widen(x, x.shape[-1])


def widen(x: Tensor, n: int) -> Tensor:
    """Return the first d columns of H_n times x: (..., d) -> (..., n), for d <= n."""
    _check(x.shape[-1], n)
    outer, x = x.shape[:-1], x.reshape(-1, x.shape[-1])
    for factor, inner in _factors(n):
        h, filled = matrix(factor, x.dtype, x.device), x.shape[-1]
        rows = min(factor, -(-filled // inner))  # of a single block, those after are zero
        x = F.pad(x, (0, -filled % (rows * inner))) if filled % (rows * inner) else x
        x = x.reshape(-1, factor) @ h if inner == 1 and rows == factor else h[:, :rows] @ x.reshape(-1, rows, inner)
        x = x.reshape(outer.numel(), -1)
    return x.view(*outer, n)


def narrow(x: Tensor, d: int) -> Tensor:
    """Return the first d rows of H_n times x, the adjoint of `widen`: (..., n) -> (..., d)."""
    n = x.shape[-1]
    _check(d, n)
    outer, x = x.shape[:-1], x.reshape(-1, n)
    for factor, inner in reversed(_factors(n)):
        h = matrix(factor, x.dtype, x.device)
        x = x[:, : -(-d // (factor * inner)) * factor * inner]  # the blocks that are asked for
        rows = min(factor, -(-d // inner))
        x = x.reshape(-1, factor) @ h if inner == 1 and rows == factor else h[:rows] @ x.reshape(-1, factor, inner)
        x = x.reshape(outer.numel(), -1)
    return x[:, :d].reshape(*outer, d)


def power_of_two(least: int) -> int:
    """Return the smallest power of two that is at least this."""
    return 1 << max(0, least - 1).bit_length()


@cache
def matrix(n: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """H_n, (n, n)."""
    h = torch.ones(1, 1, dtype=dtype, device=device)
    while len(h) < n:
        h = torch.cat([torch.cat([h, h], 1), torch.cat([h, -h], 1)])
    return h


@cache
def _factors(n: int) -> list[tuple[int, int]]:
    """Return (a factor of n, the product of those before it), as even as powers of two can be, at most SIDE."""
    bits = n.bit_length() - 1
    count = max(1, -(-bits // (SIDE.bit_length() - 1)))
    sizes = [1 << (bits // count + (i < bits % count)) for i in range(count)]
    return [(size, 1 << sum(s.bit_length() - 1 for s in sizes[:i])) for i, size in enumerate(sizes)]


def _check(d: int, n: int) -> None:
    if n < 1 or n & (n - 1) or not 1 <= d <= n:
        raise ValueError(f"a Hadamard matrix has a power of two of columns of which the first 1 to n are taken, not {d} of {n}")
