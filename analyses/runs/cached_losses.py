"""Losses of single examples at points of a subspace, kept on disk as they are computed.

Slices, paths, balls and rays all ask for losses at points, one after the other, each a function of what was found before. Started
again they ask for the same points in the same order (`analyses.runs.replay`), and are given what was kept, bitwise; so none of them needs a
checkpoint of its own. That every example's loss is kept, not the mean alone, makes differences between points paired: what one
sentence adds to both cancels.
"""

from __future__ import annotations

import hashlib
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from analyses.runs.replay import named_tensors, same, sketch
from apet.files import write_whole
from apet.scoring import stderr_of_mean

SECONDS = 5.0  # between writes: what a kill can cost
NAME = "losses"  # of the file: checkpoint.NAME.safetensors; the store removes it with the other checkpoints when the run is whole


@dataclass(frozen=True)
class Measure:
    """What is summed over examples: the mean of `quantity` on `split` is sum(values) / sum(weights)."""

    quantity: str  # loss or accuracy
    split: str
    weights: np.ndarray  # (n,): 1 an example, of a text its pieces
    where: slice  # in the numbers of a point

    def mean(self, numbers: np.ndarray) -> np.ndarray:
        """The mean at each point, (...,) of numbers (..., all)."""
        return numbers[..., self.where].sum(-1) / self.weights.sum()

    def stderr(self, numbers: np.ndarray) -> np.ndarray:
        """Its standard error over examples: of a loss that of a ratio, NaN for a single example; of an accuracy never 0."""
        if self.quantity == "accuracy":
            return stderr_of_mean(numbers[..., self.where])
        values, count = numbers[..., self.where], len(self.weights)
        if count < 2:
            return np.full(numbers.shape[:-1], np.nan)
        rest = values - self.mean(numbers)[..., None] * self.weights
        return np.sqrt(count / (count - 1) * (rest**2).sum(-1)) / self.weights.sum()


class Evaluated:
    """z -> what every example adds to every measure, (all,) float64, from `objectives` by split; see `measures`.

    With `metric` the number of right answers is measured too (tasks with classes). `name` says of which weights and machine
    these are: what was kept under another one is not used; it is written every `seconds`. `outputs` gives those of several points in one
    forward pass (`apet.subspaces.stacked`), where that pays.
    """

    def __init__(
        self, objectives: dict[str, Any], folder: Path, name: str, metric: bool = False, seconds: float = SECONDS,
        file: str = NAME, outputs: Callable[[Any, Any], Any] | None = None,
    ):  # fmt: skip
        self.objectives, self.name, self.metric, self.seconds, self.outputs = objectives, name, metric, seconds, outputs
        self.path = folder / f"checkpoint.{file}.safetensors"
        self.measures = _measures(objectives, metric)
        self.size = sum(len(each.weights) for each in self.measures)  # numbers a point
        self._known = deque(_kept(self.path, name))  # of an earlier start, in the order in which they were asked for
        self._asked: list[tuple[np.ndarray, np.ndarray]] = []  # (sketch of z, numbers) of each point of this start
        self._found: dict[bytes, np.ndarray] = {}  # by the bytes of z: within one start a point may be asked for again
        self._saved, self._new = time.monotonic(), 0
        self.made = 0  # points that were not known

    def __call__(self, z: Any) -> np.ndarray:
        return self.many(z[None])[0]

    def many(self, points: Any) -> np.ndarray:
        """The numbers at each of points (P, k), (P, all)."""
        keys = [hashlib.blake2b(z.detach().cpu().contiguous().numpy().data, digest_size=16).digest() for z in points]
        new = list({key: i for i, key in reversed(list(enumerate(keys))) if key not in self._found}.values())[::-1]
        while new and self._replayed(keys[new[0]], points[new[0]]):
            del new[0]
        if new:
            self._known.clear()
            found = [_numbers(each, points[new], self.metric, self.outputs) for each in self.objectives.values()]
            for i, numbers in zip(new, np.concatenate(found, axis=1), strict=True):
                self._note(keys[i], points[i], numbers)
            self.made, self._new = self.made + len(new), self._new + len(new)
            if time.monotonic() - self._saved >= self.seconds:
                self.flush()
        return np.stack([self._found[key] for key in keys])

    def _replayed(self, key: bytes, z: Any) -> bool:
        """Whether the next of the known points is this one, which then is found."""
        if not self._known or not same(self._known[0][0], sketch(z[:, None])):
            return False
        self._note(key, z, self._known.popleft()[1])
        return True

    def _note(self, key: bytes, z: Any, numbers: np.ndarray) -> None:
        self._found[key] = numbers
        self._asked.append((sketch(z[:, None]), numbers))

    def __enter__(self) -> Evaluated:
        return self

    def __exit__(self, *_: object) -> None:
        self.flush()

    def flush(self) -> None:
        """Write all that is known, if anything is new."""
        from safetensors.numpy import save

        started = time.monotonic()
        if self._new:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            sketches, numbers = (np.stack(each) for each in zip(*self._asked, strict=True))
            write_whole(self.path, save({"sketches": sketches, "numbers": numbers}, {"name": self.name}))
        self._saved, self._new = time.monotonic(), 0
        self.seconds = max(self.seconds, 20 * (self._saved - started))  # all is written each time: at most a twentieth of the time


def _kept(path: Path, name: str) -> list[tuple[np.ndarray, np.ndarray]]:
    """(sketch, numbers) of the points that are on the disk."""
    tensors = named_tensors(path, name)
    return list(zip(tensors["sketches"], tensors["numbers"], strict=True)) if tensors else []


def _measures(objectives: dict[str, Any], metric: bool) -> list[Measure]:
    found, start = [], 0
    for split, objective in objectives.items():
        weights = np.concatenate([_weights(batch["labels"]) for batch in objective.batches])
        for quantity in ("loss", *(["accuracy"] if metric else [])):
            found.append(Measure(quantity, split, weights, slice(start, start + len(weights))))
            start += len(weights)
    return found


def _weights(labels: Any) -> np.ndarray:
    from apet.scoring import IGNORED

    return (labels.reshape(len(labels), -1) != IGNORED).sum(1).double().cpu().numpy()


def _numbers(objective: Any, points: Any, metric: bool, outputs: Callable[[Any, Any], Any] | None) -> np.ndarray:
    """(P, n) losses of one split's examples at points (P, k); with `metric` (P, 2 n), the right answers after them."""
    import torch

    from landscape.curvature import twice_differentiable

    losses, right = [[] for _ in points], [[] for _ in points]
    with twice_differentiable(), torch.no_grad():
        for batch in objective.batches:
            together = outputs(points, batch) if outputs is not None and len(points) > 1 else None
            for i, z in enumerate(points):
                found = objective.outputs(z, batch) if together is None else together[i]
                losses[i].append(objective.criterion.losses(found, batch).double())
                if metric:
                    right[i].append((found.argmax(-1) == batch["labels"]).double())
    return torch.stack([torch.cat(each + more) for each, more in zip(losses, right, strict=True)]).cpu().numpy()
