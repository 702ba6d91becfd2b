"""Random numbers named by (seed, role), so that drawing one more vector never changes another.

A stream is made of the raw bits of numpy's Philox generator, which no version of numpy changes; its `Generator` methods (normal,
permutation and others) may change (NEP 19). Philox takes a 128-bit key, enough for a hash to be used as it is; torch's CPU generator
keeps 32 bits of its seed. Everything is drawn on the CPU in float64 and cast afterwards: device and dtype do not change a probe.
"""

import hashlib
import math

import numpy as np
import torch
from scipy.special import ndtri  # pyright: ignore[reportMissingTypeStubs]
from torch import Tensor

Size = int | tuple[int, ...]


class Stream:
    """Numbers of one name, one after the other; `size` is the shape of what is drawn."""

    def __init__(self, seed: int, role: str):
        key = hashlib.sha256(f"{seed}/{role}".encode()).digest()[:16]
        self._bits = np.random.Philox(key=int.from_bytes(key, "little"))

    def _words(self, size: Size) -> np.ndarray:
        shape = (size,) if isinstance(size, int) else size
        return self._bits.random_raw(math.prod(shape)).reshape(shape)

    def random(self, size: Size = ()) -> np.ndarray:
        """Uniform in (0, 1): the middles of 2^52 equal parts, so that neither end is drawn."""
        return ((self._words(size) >> np.uint64(12)) + 0.5) * 2.0**-52

    def standard_normal(self, size: Size) -> np.ndarray:
        """Normal of mean 0 and variance 1, by its inverse distribution function."""
        return ndtri(self.random(size))

    def signs(self, count: int) -> np.ndarray:
        """+-1 with equal odds: int8 (count,)."""
        words = self._words(-(-count // 64)).astype("<u8", copy=False)
        return 1 - 2 * np.unpackbits(words.view(np.uint8), count=count).astype(np.int8)

    def permutation(self, count: int) -> np.ndarray:
        """range(count) in random order: int64 (count,)."""
        return np.argsort(self._words(count), kind="stable")

    def choice(self, values: np.ndarray, size: Size, p: np.ndarray) -> np.ndarray:
        """Of `values` (n,), drawn with replacement and the probabilities p (n,)."""
        bounds = np.cumsum(p)
        return values[np.searchsorted(bounds[:-1] / bounds[-1], self.random(size), side="right")]


def generator(seed: int, role: str) -> Stream:
    """The stream called `role` (any text) under `seed` (any integer); equal names give equal streams."""
    return Stream(seed, role)


def normal(seed: int, role: str, size: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """A standard normal vector of shape (size,)."""
    return torch.as_tensor(generator(seed, role).standard_normal(size)).to(device=device, dtype=dtype)


def rademacher(seed: int, role: str, size: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """A vector of independent signs, shape (size,)."""
    return torch.as_tensor(generator(seed, role).signs(size)).to(device=device, dtype=dtype)
