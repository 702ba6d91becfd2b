"""Random numbers that depend only on (seed, role), so that drawing one more vector never changes another.

A stream uses the raw bits of numpy's Philox generator, which are equal in all versions of numpy. The methods of numpy's `Generator`
(normal, permutation and others) may change between versions (NEP 19). The key of Philox has 128 bits, so it is a hash of seed and role;
torch's CPU generator keeps only 32 bits of its seed. All numbers are drawn on the CPU in float64 and cast afterwards, so device and dtype
do not change a draw.
"""

import hashlib
import math

import numpy as np
import torch
from scipy.special import ndtri  # pyright: ignore[reportMissingTypeStubs]
from torch import Tensor

Size = int | tuple[int, ...]


class Stream:
    """A stream of random numbers that `seed` (any integer) and `role` (any text) determine.

    Equal seeds and roles give equal streams. In all methods, `size` is the shape of the array to draw.
    """

    def __init__(self, seed: int, role: str):
        key = hashlib.sha256(f"{seed}/{role}".encode()).digest()[:16]
        self._bits = np.random.Philox(key=int.from_bytes(key, "little"))

    def _words(self, size: Size) -> np.ndarray:
        shape = (size,) if isinstance(size, int) else size
        return self._bits.random_raw(math.prod(shape)).reshape(shape)

    def random(self, size: Size = ()) -> np.ndarray:
        """Draw uniformly from (0, 1). The values are midpoints of 2^52 equal intervals, so neither end is drawn."""
        return ((self._words(size) >> np.uint64(12)) + 0.5) * 2.0**-52

    def standard_normal(self, size: Size) -> np.ndarray:
        """Draw from the standard normal distribution, by its inverse distribution function."""
        return ndtri(self.random(size))

    def signs(self, count: int) -> np.ndarray:
        """Draw +1 or -1 with equal probability, int8 (count,)."""
        words = self._words(-(-count // 64)).astype("<u8", copy=False)
        return 1 - 2 * np.unpackbits(words.view(np.uint8), count=count).astype(np.int8)

    def permutation(self, count: int) -> np.ndarray:
        """Return 0..count - 1 in random order, int64 (count,)."""
        return np.argsort(self._words(count), kind="stable")

    def choice(self, values: np.ndarray, size: Size, p: np.ndarray) -> np.ndarray:
        """Draw from `values` (n,) with replacement, with probabilities proportional to p (n,)."""
        bounds = np.cumsum(p)
        return values[np.searchsorted(bounds[:-1] / bounds[-1], self.random(size), side="right")]


def normal(seed: int, role: str, size: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return a standard normal vector (size,), determined by (seed, role)."""
    return torch.as_tensor(Stream(seed, role).standard_normal(size)).to(device=device, dtype=dtype)


def rademacher(seed: int, role: str, size: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return a vector (size,) of independent random signs, determined by (seed, role)."""
    return torch.as_tensor(Stream(seed, role).signs(size)).to(device=device, dtype=dtype)
