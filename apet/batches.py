"""Which examples make a batch: a function of (lengths, size, seed, step) alone."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

POOL = 4  # batches that are sorted by length together


def batch_indices(lengths: Sequence[int] | np.ndarray, size: int, seed: int, step: int) -> np.ndarray:
    """Which examples make batch `step`: int64 (min(size, examples),), each example at most once an epoch, whole batches only.

    Every epoch is a fresh permutation, cut into pools of POOL batches; a pool's batches hold examples of similar length,
    so that little is padded, and come in random order.
    """
    count = len(lengths)
    size = min(size, count)
    epoch, place = divmod(step, count // size)
    random = np.random.default_rng([seed, 0x42415443, epoch])
    order = random.permutation(count)[: count // size * size]
    pools = [order[i : i + POOL * size] for i in range(0, len(order), POOL * size)]
    batches = np.concatenate([pool[np.argsort(np.asarray(lengths)[pool], kind="stable")] for pool in pools]).reshape(-1, size)
    return batches[random.permutation(len(batches))[place]]


def parts(chosen: np.ndarray, count: int) -> list[np.ndarray]:
    """`chosen` in `count` parts of nearly equal size, in order, empty ones left out."""
    return [part for part in np.array_split(chosen, count) if len(part)]
