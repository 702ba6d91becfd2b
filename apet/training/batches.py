"""Choose the examples of each batch as a function of (lengths, size, seed, step) alone."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from apet.random_numbers import generator

POOL = 4  # number of batches per pool; the examples of a pool are sorted by length


class Batches:
    """The batches of a run. Every batch is complete, and an example occurs at most once per epoch.

    Every epoch is a new permutation, cut into pools of POOL batches. Each batch of a pool holds examples of similar length, which reduces
    padding. The batches of an epoch come in random order. An epoch's batches are kept until a step of another epoch.
    """

    def __init__(self, lengths: Sequence[int] | np.ndarray, size: int, seed: int):
        self.lengths, self.size, self.seed = np.asarray(lengths), min(size, len(lengths)), seed
        self._epoch, self._batches = -1, np.empty((0, self.size), int)

    def at(self, step: int) -> np.ndarray:
        """Return the indices of the examples of batch `step`: int64 (min(size, examples),)."""
        epoch, index = divmod(step, len(self.lengths) // self.size)
        if epoch != self._epoch:
            self._epoch, self._batches = epoch, self._drawn(epoch)
        return self._batches[index]

    def _drawn(self, epoch: int) -> np.ndarray:
        """Return all batches of the epoch: int64 (batches, size)."""
        count, size = len(self.lengths), self.size
        random = generator(self.seed, "BATC", epoch)
        order = random.permutation(count)[: count // size * size]
        pools = [order[i : i + POOL * size] for i in range(0, len(order), POOL * size)]
        batches = np.concatenate([pool[np.argsort(self.lengths[pool], kind="stable")] for pool in pools]).reshape(-1, size)
        return batches[random.permutation(len(batches))]


def parts(chosen: np.ndarray, count: int) -> list[np.ndarray]:
    """Return `chosen` split, in order, into `count` parts of nearly equal size. Empty parts are left out."""
    return [part for part in np.array_split(chosen, count) if len(part)]
