"""Which examples make a batch: a function of (lengths, size, seed, step) alone."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from apet.random_numbers import generator

POOL = 4  # batches that are sorted by length together


class Batches:
    """The batches of a run, each example at most once an epoch, whole batches only.

    Every epoch is a fresh permutation, cut into pools of POOL batches; a pool's batches hold examples of similar length,
    so that little is padded, and come in random order. An epoch is drawn once for all steps in it that follow each other.
    """

    def __init__(self, lengths: Sequence[int] | np.ndarray, size: int, seed: int):
        self.lengths, self.size, self.seed = np.asarray(lengths), min(size, len(lengths)), seed
        self._epoch, self._batches = -1, np.empty((0, self.size), int)

    def at(self, step: int) -> np.ndarray:
        """Return which examples make batch `step`: int64 (min(size, examples),)."""
        epoch, place = divmod(step, len(self.lengths) // self.size)
        if epoch != self._epoch:
            self._epoch, self._batches = epoch, self._drawn(epoch)
        return self._batches[place]

    def _drawn(self, epoch: int) -> np.ndarray:
        """Return all batches of the epoch (batches, size)."""
        count, size = len(self.lengths), self.size
        random = generator(self.seed, "BATC", epoch)
        order = random.permutation(count)[: count // size * size]
        pools = [order[i : i + POOL * size] for i in range(0, len(order), POOL * size)]
        batches = np.concatenate([pool[np.argsort(self.lengths[pool], kind="stable")] for pool in pools]).reshape(-1, size)
        return batches[random.permutation(len(batches))]


def parts(chosen: np.ndarray, count: int) -> list[np.ndarray]:
    """`chosen` in `count` parts of nearly equal size, in order, empty ones left out."""
    return [part for part in np.array_split(chosen, count) if len(part)]
