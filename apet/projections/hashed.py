"""Random bits by hashing. They use only integer arithmetic, so every device computes the same bits when they are needed.

The two keys of a block are drawn by name (`apet.random_numbers`). The word at index i of the block is Murmur3's finaliser (Appleby 2011)
of i + first key, with an exclusive or with the second key after the first of its two rounds.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from apet.random_numbers import bits


class Keys:
    """Two keys for each block of (seed, role), drawn on the host at first use and cached (8 bytes per block)."""

    def __init__(self, seed: int, role: str):
        self.seed, self.role = seed, role
        self._cache: dict[tuple[int, int, torch.device], Tensor] = {}

    def of(self, first: int, last: int, device: torch.device) -> Tensor:
        """Return the keys of the blocks first .. last - 1, on `device`: int32 (blocks, 2)."""
        name = first, last, device
        if name not in self._cache:
            drawn = np.array([bits(self.seed, self.role, block, 2) for block in range(first, last)], dtype=np.uint64)
            self._cache[name] = torch.as_tensor((drawn >> np.uint64(33)).astype(np.int32) - 2**30, device=device)
        return self._cache[name]


def words(keys: Tensor, count: int) -> Tensor:
    """Return `count` random 32-bit words for each block with `keys` (blocks, 2): int32 (blocks, count), on the keys' device."""
    x = keys[:, :1] + torch.arange(count, dtype=torch.int32, device=keys.device)
    x = _mixed(_mixed(x, 16, -0x7A143595).bitwise_xor_(keys[:, 1:]), 13, -0x3D4D51CB)
    x ^= (x >> 16) & 0xFFFF
    return x


def _mixed(x: Tensor, shift: int, factor: int) -> Tensor:
    """Apply one round to x (int32) in place. The right shift of an int32 repeats the sign bit, which the mask removes."""
    x ^= (x >> shift) & ((1 << (32 - shift)) - 1)
    x *= factor
    return x
