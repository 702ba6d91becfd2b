"""Named random numbers: equal names give equal numbers, in any order of calls and on any device. Nothing is stored.

    generator(...)        numpy's generator for a name: examples, batches, masks
    bits, normals,        one block of the stream (seed, role), for projections; from raw bits, which no version of numpy changes
    permutation
    weights(name, shape)  initial values of a parameter, which depend only on its name

`bits` is Philox (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"), a function of a key and a counter. The key is a hash
of the seed and the role. The counter begins at the block's number, so blocks are independent and any block can be drawn directly.
"""

from __future__ import annotations

import hashlib
from functools import cache, lru_cache
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch


def generator(*name: int | str) -> np.random.Generator:
    """Return numpy's generator for `name`: integers >= 0 (for instance a seed and an epoch) and short strings (roles)."""
    return np.random.default_rng([part if isinstance(part, int) else int.from_bytes(part.encode(), "big") for part in name])


def bits(seed: int, role: str, block: int, words: int) -> np.ndarray:
    """Return the first `words` random 64-bit words of (seed, role, block): uint64 (words,)."""
    return np.random.Philox(key=_key(seed, role), counter=[0, 0, block, 0]).random_raw(words)


def normals(seed: int, role: str, block: int, count: int) -> np.ndarray:
    """Return standard normal numbers: float32 (count,).

    Each is one of 65,536 equally likely values, with mean 0, variance 1 and absolute value at most 4.3.
    """
    words = bits(seed, role, block, -(-count // 4)).astype("<u8", copy=False)
    return _quantiles()[words.view("<u2")[:count]]


def permutation(seed: int, role: str, count: int) -> np.ndarray:
    """Return a random permutation of 0 .. count - 1: int64 (count,)."""
    return np.argsort(bits(seed, role, 0, count), kind="stable")


def weights(name: str, shape: torch.Size) -> torch.Tensor:
    """Return standard normal numbers, float32 of `shape`, for the parameter `name`. A file of tuned values need not store them."""
    import torch

    seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:7], "little")
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@lru_cache(maxsize=4096)
def _key(seed: int, role: str) -> np.ndarray:
    """Return 128 bits for (seed, role), as two uint64."""
    return np.frombuffer(hashlib.sha256(f"{seed} {role}".encode()).digest()[:16], dtype="<u8")


@cache
def _quantiles() -> np.ndarray:
    """Return the medians of 65,536 equally likely parts of the normal distribution, scaled to variance 1."""
    from scipy.special import ndtri

    middles = ndtri((np.arange(2**16) + 0.5) / 2**16)
    return (middles / np.sqrt((middles**2).mean())).astype(np.float32)


@cache
def quantiles(device: torch.device) -> torch.Tensor:
    """Return the values of `normals` in ascending order: float32 (65536,)."""
    import torch

    return torch.as_tensor(_quantiles(), device=device)
