"""Random bits by hashing: integers alone, so that every device makes the same ones where they are needed.

A block's key is drawn by name (`apet.random_numbers`); the words of its places are Murmur3's finaliser (Appleby 2011) of place + key,
with another key put in between.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from apet.random_numbers import bits


class Keys:
    """Two keys of each block of (seed, role), which are drawn one by one on the host and kept: 8 bytes a block."""

    def __init__(self, seed: int, role: str):
        self.seed, self.role = seed, role
        self._known: dict[tuple[int, int, torch.device], Tensor] = {}

    def of(self, first: int, last: int, device: torch.device) -> Tensor:
        """Return the keys of the blocks first .. last - 1: int32 (blocks, 2)."""
        name = first, last, device
        if name not in self._known:
            drawn = np.array([bits(self.seed, self.role, block, 2) for block in range(first, last)], dtype=np.uint64)
            self._known[name] = torch.as_tensor((drawn >> np.uint64(33)).astype(np.int32) - 2**30, device=device)
        return self._known[name]


def words(keys: Tensor, count: int) -> Tensor:
    """32 random bits of each of `count` places of the blocks with `keys` (blocks, 2): int32 (blocks, count), on the keys' device."""
    x = keys[:, :1] + torch.arange(count, dtype=torch.int32, device=keys.device)
    x = _mixed(_mixed(x, 16, -0x7A143595).bitwise_xor_(keys[:, 1:]), 13, -0x3D4D51CB)
    x ^= (x >> 16) & 0xFFFF
    return x


def _mixed(x: Tensor, shift: int, factor: int) -> Tensor:
    """x, in place, after one round; an int32 shifts its sign in, which is masked away."""
    x ^= (x >> shift) & ((1 << (32 - shift)) - 1)
    x *= factor
    return x
