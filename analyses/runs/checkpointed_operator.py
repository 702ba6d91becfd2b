"""An operator whose products are saved to disk, so that a killed curvature computation resumes where it stopped.

Curvature algorithms request products in sequence, and each input depends on the products before it. A restarted algorithm requests the
same products and receives the saved ones, bitwise. No algorithm therefore needs its own checkpoint. If an input differs by more than
rounding (`analyses.runs.replay`), the saved products from that input onwards are discarded.
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

SECONDS = 5.0  # between writes: a kill loses at most this much work

Kept = tuple[np.ndarray, Tensor]  # sketch of the input, product


class Recorded:
    """An operator whose products are saved in `folder` as checkpoint-*.safetensors, if `write`.

    `name` must identify the operator and everything on which its products depend; products saved under another name are not used.
    `known` are the products to replay, by default `kept(folder, name)`.
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
        self._chunks: int | None = None  # number of files written; None before the first
        self.made = 0  # number of products that were not replayed

    def matvec(self, v: Tensor) -> Tensor:
        return self.matmat(v[:, None])[:, 0]

    def matmat(self, vectors: Tensor) -> Tensor:
        requested = sketch(vectors)
        if self._known:
            known, products = self._known.popleft()
            if same(known, requested) and products.shape == vectors.shape:
                self._replayed.append((known, products))
                return products.to(self.device)
            self._known.clear()
        products = matmat(self.operator, vectors)
        self.made += vectors.shape[1]
        self._new.append((requested, products.cpu()))
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
        """Write the unsaved products. The first call also writes the replayed products and replaces the existing files."""
        if self.write and self._new:
            self.folder.mkdir(parents=True, exist_ok=True)
            if self._chunks is None:
                for path in self.folder.glob("checkpoint-*.safetensors"):
                    path.unlink()
                self._new, self._chunks = self._replayed + self._new, 0
            tensors = {f"{i:06d}": products.contiguous() for i, (_, products) in enumerate(self._new)}
            tensors |= {f"{i:06d}.input": torch.as_tensor(requested) for i, (requested, _) in enumerate(self._new)}
            write_whole(self.folder / f"checkpoint-{self._chunks:06d}.safetensors", save(tensors, {"name": self.name}))
            self._chunks += 1
        self._new, self._saved = [], time.monotonic()


def kept(folder: Path, name: str) -> list[Kept]:
    """Return the products saved in `folder` under `name`, in order, up to the first damaged or missing file."""
    saved: list[Kept] = []
    for number, path in enumerate(sorted(folder.glob("checkpoint-*.safetensors"))):
        tensors = named_tensors(path, name)
        if not tensors or path.name != f"checkpoint-{number:06d}.safetensors":
            break
        saved += [(tensors[f"{i:06d}.input"], torch.as_tensor(tensors[f"{i:06d}"])) for i in range(len(tensors) // 2)]
    return saved
