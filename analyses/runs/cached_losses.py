"""Losses of single examples at points of a subspace, saved to disk as they are computed.

Slices, paths, balls and rays request losses at a sequence of points, and each point depends on the losses before it. A restarted
computation requests the same points in the same order (`analyses.runs.replay`) and receives the saved losses, bitwise. None of them
therefore needs its own checkpoint. The losses of all examples are saved, not only their mean, so that differences between points are
paired: the contribution of an example to both points cancels.
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

SECONDS = 5.0  # between writes: a kill loses at most this much work
NAME = "losses"  # the file is checkpoint.NAME.safetensors; the store removes it with the other checkpoints when the run is complete


@dataclass(frozen=True)
class Measure:
    """A mean over examples: `quantity` on `split` is sum(values) / sum(weights)."""

    quantity: str  # loss or accuracy
    split: str
    weights: np.ndarray  # (n,): 1 per example, or the number of tokens of a text
    where: slice  # position within the numbers of a point

    def mean(self, numbers: np.ndarray) -> np.ndarray:
        """Return the mean at each point, (...,), from numbers (..., all)."""
        return numbers[..., self.where].sum(-1) / self.weights.sum()

    def stderr(self, numbers: np.ndarray) -> np.ndarray:
        """Return the standard error over examples: for a loss the error of a ratio (NaN for one example), for an accuracy never 0."""
        if self.quantity == "accuracy":
            return stderr_of_mean(numbers[..., self.where])
        values, count = numbers[..., self.where], len(self.weights)
        if count < 2:
            return np.full(numbers.shape[:-1], np.nan)
        residuals = values - self.mean(numbers)[..., None] * self.weights
        return np.sqrt(count / (count - 1) * (residuals**2).sum(-1)) / self.weights.sum()


class Evaluated:
    """Function z -> contribution of every example to every measure, (all,) float64. `measures` describes the positions.

    `objectives` maps splits to losses. With `metric`, accuracies are measured too (tasks with classes). `name` must identify the weights
    and the machine: numbers saved under another name are not used. The file is written every `seconds`. `outputs`, if given, computes the
    outputs at several points in one forward pass (`apet.subspaces.stacked_forward`).
    """

    def __init__(
        self, objectives: dict[str, Any], folder: Path, name: str, metric: bool = False, seconds: float = SECONDS,
        file: str = NAME, outputs: Callable[[Any, Any], Any] | None = None,
    ):  # fmt: skip
        self.objectives, self.name, self.metric, self.seconds, self.outputs = objectives, name, metric, seconds, outputs
        self.path = folder / f"checkpoint.{file}.safetensors"
        self.measures = _measures(objectives, metric)
        self.size = sum(len(measure.weights) for measure in self.measures)  # numbers per point
        self._known = deque(_saved_points(self.path, name))  # of an earlier start, in the order of the requests
        self._requested: list[tuple[np.ndarray, np.ndarray]] = []  # (sketch of z, numbers) per point of this start
        self._by_hash: dict[bytes, np.ndarray] = {}  # by a hash of z: one start may request a point again
        self._saved, self._new = time.monotonic(), 0
        self.made = 0  # number of points that were not replayed

    def __call__(self, z: Any) -> np.ndarray:
        return self.many(z[None])[0]

    def many(self, points: Any) -> np.ndarray:
        """Return the numbers (P, all) at points (P, k)."""
        keys = [hashlib.blake2b(z.detach().cpu().contiguous().numpy().data, digest_size=16).digest() for z in points]
        new = list({key: i for i, key in reversed(list(enumerate(keys))) if key not in self._by_hash}.values())[::-1]
        while new and self._replayed(keys[new[0]], points[new[0]]):
            del new[0]
        if new:
            self._known.clear()
            by_split = [_numbers(objective, points[new], self.metric, self.outputs) for objective in self.objectives.values()]
            for i, numbers in zip(new, np.concatenate(by_split, axis=1), strict=True):
                self._note(keys[i], points[i], numbers)
            self.made, self._new = self.made + len(new), self._new + len(new)
            if time.monotonic() - self._saved >= self.seconds:
                self.flush()
        return np.stack([self._by_hash[key] for key in keys])

    def _replayed(self, key: bytes, z: Any) -> bool:
        """Return whether the next known point is z. If so, take over its numbers."""
        if not self._known or not same(self._known[0][0], sketch(z[:, None])):
            return False
        self._note(key, z, self._known.popleft()[1])
        return True

    def _note(self, key: bytes, z: Any, numbers: np.ndarray) -> None:
        self._by_hash[key] = numbers
        self._requested.append((sketch(z[:, None]), numbers))

    def __enter__(self) -> Evaluated:
        return self

    def __exit__(self, *_: object) -> None:
        self.flush()

    def flush(self) -> None:
        """Write all numbers of this start, if any are new."""
        from safetensors.numpy import save

        started = time.monotonic()
        if self._new:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            sketches, numbers = (np.stack(column) for column in zip(*self._requested, strict=True))
            write_whole(self.path, save({"sketches": sketches, "numbers": numbers}, {"name": self.name}))
        self._saved, self._new = time.monotonic(), 0
        self.seconds = max(
            self.seconds, 20 * (self._saved - started)
        )  # every write includes all numbers; limit writing to 1/20 of the time


def _saved_points(path: Path, name: str) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return (sketch, numbers) of each saved point."""
    tensors = named_tensors(path, name)
    return list(zip(tensors["sketches"], tensors["numbers"], strict=True)) if tensors else []


def _measures(objectives: dict[str, Any], metric: bool) -> list[Measure]:
    measures, start = [], 0
    for split, objective in objectives.items():
        weights = np.concatenate([_weights(batch["labels"]) for batch in objective.batches])
        for quantity in ("loss", *(["accuracy"] if metric else [])):
            measures.append(Measure(quantity, split, weights, slice(start, start + len(weights))))
            start += len(weights)
    return measures


def _weights(labels: Any) -> np.ndarray:
    from apet.scoring import IGNORED

    if labels.is_floating_point():  # targets of a regression
        return np.ones(len(labels))
    return (labels.reshape(len(labels), -1) != IGNORED).sum(1).double().cpu().numpy()


def _numbers(objective: Any, points: Any, metric: bool, outputs: Callable[[Any, Any], Any] | None) -> np.ndarray:
    """Return the losses (P, n) of one split's examples at points (P, k). With `metric`, n columns with 1 for each right answer follow."""
    import torch

    from landscape.curvature import twice_differentiable

    losses, right = [[] for _ in points], [[] for _ in points]
    with twice_differentiable(), torch.no_grad():
        for batch in objective.batches:
            together = outputs(points, batch) if outputs is not None and len(points) > 1 else None
            for i, z in enumerate(points):
                logits = objective.outputs(z, batch) if together is None else together[i]
                losses[i].append(objective.criterion.losses(logits, batch).double())
                if metric:
                    right[i].append((logits.argmax(-1) == batch["labels"]).double())
    return torch.stack([torch.cat(columns + more) for columns, more in zip(losses, right, strict=True)]).cpu().numpy()
