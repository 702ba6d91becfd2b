"""Random numbers that are named, not stored: the same name gives the same ones, in any order and on any device.

Philox (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3") is a function of a key and a counter: the key is
made of the seed and the role, the counter begins at the block's number, so streams are independent and start at once. All
is made of its raw bits, which no version of numpy changes.
"""

from __future__ import annotations

import hashlib
from functools import cache, lru_cache

import numpy as np
import torch
from scipy.special import ndtri
from torch import Tensor


def bits(seed: int, role: str, block: int, words: int) -> np.ndarray:
    """The first random words of (seed, role, block): uint64 (words,)."""
    return np.random.Philox(key=_key(seed, role), counter=[0, 0, block, 0]).random_raw(words)


def normals(seed: int, role: str, block: int, count: int) -> np.ndarray:
    """Standard normal numbers: float32 (count,); 65,536 different ones of equal odds, of mean 0 and variance 1, the largest 4.3."""
    words = bits(seed, role, block, -(-count // 4)).astype("<u8", copy=False)
    return _quantiles()[words.view("<u2")[:count]]


def permutation(seed: int, role: str, count: int) -> np.ndarray:
    """int64 (count,)."""
    return np.argsort(bits(seed, role, 0, count), kind="stable")


@lru_cache(maxsize=4096)
def _key(seed: int, role: str) -> np.ndarray:
    """128 bits for (seed, role), as two uint64."""
    return np.frombuffer(hashlib.sha256(f"{seed} {role}".encode()).digest()[:16], dtype="<u8")


@cache
def _quantiles() -> np.ndarray:
    """The middles, in probability, of 65,536 equally likely pieces of the normal distribution, scaled to variance 1."""
    middles = ndtri((np.arange(2**16) + 0.5) / 2**16)
    return (middles / np.sqrt((middles**2).mean())).astype(np.float32)


@cache
def quantiles(device: torch.device) -> Tensor:
    """The values of `normals` in ascending order: float32 (65536,)."""
    return torch.as_tensor(_quantiles(), device=device)
