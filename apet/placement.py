"""Which entries are tuned: the first k places of a keyed pseudo-random order of all of them.

The order is a permutation of range(D) that is computed, not stored: a Feistel network over the smallest square
domain that holds D, walked until it falls inside ("cycle walking", Black and Rogaway 2002, "Ciphers with arbitrary
finite domains"). So the first k of a larger k are the same, memory is O(k) at any D, and neither device, dtype,
module order nor k changes a position.
"""

from __future__ import annotations

import numpy as np

from apet.errors import UsageError

ROUNDS = 6


def random_entries(size: int, k: int, seed: int) -> np.ndarray:
    """The first k of a permutation of range(size) named by `seed`: int64 (k,), distinct, nested in k.

    Raises UsageError unless 1 <= k <= size.
    """
    if not 1 <= k <= size:
        raise UsageError(f"k = {k} is outside 1..{size}, the number of parameters in scope")
    half = max(1, (int(size - 1).bit_length() + 1) // 2)  # bits in each half of the domain 2^(2 half) >= size
    keys = np.random.default_rng([seed, 0x504C4143]).integers(0, 2**63, ROUNDS, dtype=np.uint64)
    places = _permute(np.arange(k, dtype=np.uint64), half, keys)
    outside = np.flatnonzero(places >= size)
    while len(outside):
        places[outside] = _permute(places[outside], half, keys)
        outside = outside[places[outside] >= size]
    return places.astype(np.int64)


def _permute(values: np.ndarray, half: int, keys: np.ndarray) -> np.ndarray:
    """A bijection of [0, 2^(2 half)): Feistel rounds over (left, right) halves."""
    mask = np.uint64((1 << half) - 1)
    left, right = values >> np.uint64(half), values & mask
    for key in keys:
        left, right = right, left ^ (_mix(right + key) & mask)
    return (left << np.uint64(half)) | right


def _mix(x: np.ndarray) -> np.ndarray:
    """The finaliser of splitmix64 (Steele, Lea and Flood 2014): every input bit reaches every output bit."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
