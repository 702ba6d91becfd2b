"""The Walsh-Hadamard transform by matrix products: H_n is the Kronecker product of small factors H_f, which are applied in turn.

This takes more multiplications than butterflies (n log n), but only a few passes over memory, each at the speed of a matrix product. If
only the first d inputs are non-zero, or only the first d outputs are needed, the rest is not computed.
"""

from __future__ import annotations

from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

SIDE = 32  # side of the largest factor; 16 takes the same time, 128 twice the time (one thread, AVX-512)


def hadamard(x: Tensor) -> Tensor:
    """Compute H x along the last axis: (..., n) -> (..., n). H has entries +-1 in Sylvester's order, so H H = n I.

    Raises ValueError unless n is a power of two.
    """
    return widen(x, x.shape[-1])


def widen(x: Tensor, n: int) -> Tensor:
    """Multiply the first d columns of H_n by x: (..., d) -> (..., n), for d <= n."""
    _check(x.shape[-1], n)
    outer, x = x.shape[:-1], x.reshape(-1, x.shape[-1])
    for factor, inner in _factors(n):
        h, filled = matrix(factor, x.dtype, x.device), x.shape[-1]
        rows = min(factor, -(-filled // inner))  # later rows of a single block are zero
        x = F.pad(x, (0, -filled % (rows * inner))) if filled % (rows * inner) else x
        x = x.reshape(-1, factor) @ h if inner == 1 and rows == factor else h[:, :rows] @ x.reshape(-1, rows, inner)
        x = x.reshape(outer.numel(), -1)
    return x.view(*outer, n)


def narrow(x: Tensor, d: int) -> Tensor:
    """Multiply the first d rows of H_n by x: (..., n) -> (..., d), the adjoint of `widen`."""
    n = x.shape[-1]
    _check(d, n)
    outer, x = x.shape[:-1], x.reshape(-1, n)
    for factor, inner in reversed(_factors(n)):
        h = matrix(factor, x.dtype, x.device)
        x = x[:, : -(-d // (factor * inner)) * factor * inner]  # only the blocks with needed outputs
        rows = min(factor, -(-d // inner))
        x = x.reshape(-1, factor) @ h if inner == 1 and rows == factor else h[:rows] @ x.reshape(-1, factor, inner)
        x = x.reshape(outer.numel(), -1)
    return x[:, :d].reshape(*outer, d)


def power_of_two(least: int) -> int:
    """Return the smallest power of two that is at least `least`."""
    return 1 << max(0, least - 1).bit_length()


@cache
def matrix(n: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return H_n: (n, n)."""
    h = torch.ones(1, 1, dtype=dtype, device=device)
    while len(h) < n:
        h = torch.cat([torch.cat([h, h], 1), torch.cat([h, -h], 1)])
    return h


@cache
def _factors(n: int) -> list[tuple[int, int]]:
    """Split n into factors of at most SIDE, as equal as powers of two allow: [(factor, product of the factors before it)]."""
    bits = n.bit_length() - 1
    count = max(1, -(-bits // (SIDE.bit_length() - 1)))
    sizes = [1 << (bits // count + (i < bits % count)) for i in range(count)]
    return [(size, 1 << sum(s.bit_length() - 1 for s in sizes[:i])) for i, size in enumerate(sizes)]


def _check(d: int, n: int) -> None:
    if n < 1 or n & (n - 1) or not 1 <= d <= n:
        raise ValueError(f"cannot take {d} columns of a Hadamard matrix of size {n}: use a power of two as the size, and 1..size columns")
