"""Products with an operator, kept on disk as they are made: whatever was computed from them goes on where it was killed.

Curvature algorithms ask for products one after another, each a function of those before. Started again, they ask for the same
ones and are given what was kept, bitwise; so no algorithm needs a checkpoint of its own. Where an input differs by more than rounding
(`analyses.runs.replay`) what was kept from there on is dropped.
"""

from __future__ import annotations

import time
from collections import deque
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save
from torch import Tensor

from analyses.runs.replay import named_tensors, same, sketch
from apet.files import write_whole
from landscape.curvature import matmat, release

SECONDS = 5.0  # between writes: what a kill can cost

Kept = tuple[np.ndarray, Tensor]  # sketch of the input, product


class Recorded:
    """An operator whose products are kept in `folder` as checkpoint-*.safetensors (`write`: by this process).

    `name` says which operator it is, whatever its products depend on: what was kept under another one is not used. `known` are
    products to begin with, by default those that `kept(folder, name)` finds.
    """

    def __init__(
        self, operator: Any, folder: Path, name: str = "", write: bool = True, known: list[Kept] | None = None, seconds: float = SECONDS
    ):
        self.operator, self.folder, self.name, self.write, self.seconds = operator, folder, name, write, seconds
        self.size, self.dtype, self.device = operator.size, operator.dtype, operator.device
        self._known = deque(kept(folder, name) if known is None else known)
        self._replayed: list[Kept] = []
        self._new: list[Kept] = []
        self._saved = time.monotonic()
        self._chunks: int | None = None  # on the disk and in use; None until the first is written
        self.made = 0  # products that were not known

    def matvec(self, v: Tensor) -> Tensor:
        return self.matmat(v[:, None])[:, 0]

    def matmat(self, vectors: Tensor) -> Tensor:
        asked = sketch(vectors)
        if self._known:
            known, products = self._known.popleft()
            if same(known, asked) and products.shape == vectors.shape:
                self._replayed.append((known, products))
                return products.to(self.device)
            self._known.clear()
        products = matmat(self.operator, vectors)
        self.made += vectors.shape[1]
        self._new.append((asked, products.cpu()))
        if time.monotonic() - self._saved >= self.seconds:
            self.flush()
        return products

    def release(self) -> None:
        release(self.operator)

    def __enter__(self) -> Recorded:
        return self

    def __exit__(self, *_: object) -> None:
        self.flush()
        self.release()

    def flush(self) -> None:
        """Write what is not yet on the disk: the first time with all that was replayed, in place of the files that are there."""
        if self.write and self._new:
            self.folder.mkdir(parents=True, exist_ok=True)
            if self._chunks is None:
                for path in self.folder.glob("checkpoint-*.safetensors"):
                    path.unlink()
                self._new, self._chunks = self._replayed + self._new, 0
            tensors = {f"{i:06d}": products.contiguous() for i, (_, products) in enumerate(self._new)}
            tensors |= {f"{i:06d}.input": torch.as_tensor(asked) for i, (asked, _) in enumerate(self._new)}
            write_whole(self.folder / f"checkpoint-{self._chunks:06d}.safetensors", save(tensors, {"name": self.name}))
            self._chunks += 1
        self._new, self._saved = [], time.monotonic()


def kept(folder: Path, name: str) -> list[Kept]:
    """What was kept in `folder` under `name`, in the order it was made, up to the first file that is not whole."""
    found: list[Kept] = []
    for number, path in enumerate(sorted(folder.glob("checkpoint-*.safetensors"))):
        tensors = named_tensors(path, name)
        if not tensors or path.name != f"checkpoint-{number:06d}.safetensors":
            break
        found += [(tensors[f"{i:06d}.input"], torch.as_tensor(tensors[f"{i:06d}"])) for i in range(len(tensors) // 2)]
    return found
