"""Random numbers named by (seed, role), so that drawing one more vector never changes another.

numpy's Philox takes a 128-bit key, enough for a hash to be used as it is; torch's CPU generator keeps 32 bits of its
seed. Everything is drawn on the CPU in float64 and cast afterwards: device and dtype do not change a probe.
"""

import hashlib

import numpy as np
import torch
from torch import Tensor


def generator(seed: int, role: str) -> np.random.Generator:
    """The stream called `role` (any text) under `seed` (any integer); equal names give equal streams."""
    key = hashlib.sha256(f"{seed}/{role}".encode()).digest()[:16]
    return np.random.Generator(np.random.Philox(key=int.from_bytes(key, "little")))


def normal(seed: int, role: str, size: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """A standard normal vector of shape (size,)."""
    return torch.as_tensor(generator(seed, role).standard_normal(size)).to(device=device, dtype=dtype)


def rademacher(seed: int, role: str, size: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """A vector of independent signs, shape (size,)."""
    signs = generator(seed, role).integers(0, 2, size, dtype=np.int8) * 2 - 1
    return torch.as_tensor(signs).to(device=device, dtype=dtype)
