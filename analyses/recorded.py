"""Products with an operator, kept on disk as they are made: whatever was computed from them goes on where it was killed.

Curvature algorithms ask for products one after another, each a function of those before. Started again, they ask for the same
ones and are given what was kept, bitwise; so no algorithm needs a checkpoint of its own. Where an input differs (another machine
rounds otherwise) what was kept from there on is dropped.
"""

from __future__ import annotations

import time
import zlib
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from apet.files import write_whole
from landscape.operators import matmat

SECONDS = 5.0  # between writes: what a kill can cost


class Recorded:
    """An operator whose products are kept in `folder` as checkpoint-*.safetensors (`write`: by this process)."""

    def __init__(self, operator: Any, folder: Path, write: bool = True, seconds: float = SECONDS):
        self.operator, self.folder, self.write, self.seconds = operator, folder, write, seconds
        self.size, self.dtype, self.device = operator.size, operator.dtype, operator.device
        self._known = deque(_read(folder))
        self._new: list[tuple[int, Tensor]] = []
        self._chunks = len(list(folder.glob("checkpoint-*.safetensors")))
        self._saved = time.monotonic()
        self.made = 0  # products that were not known

    def matvec(self, v: Tensor) -> Tensor:
        return self.matmat(v[:, None])[:, 0]

    def matmat(self, vectors: Tensor) -> Tensor:
        sum_ = zlib.crc32(vectors.detach().cpu().contiguous().numpy().data)
        if self._known:
            known, products = self._known.popleft()
            if known == sum_ and products.shape == vectors.shape:
                return products.to(self.device)
            self._known.clear()
            self._forget()
        products = matmat(self.operator, vectors)
        self.made += vectors.shape[1]
        self._new.append((sum_, products.cpu()))
        if time.monotonic() - self._saved >= self.seconds:
            self.flush()
        return products

    def release(self) -> None:
        self.operator.release()

    def __enter__(self) -> Recorded:
        return self

    def __exit__(self, *_: object) -> None:
        self.flush()
        self.release()

    def flush(self) -> None:
        """Write what is not yet on the disk."""
        if self.write and self._new:
            self.folder.mkdir(parents=True, exist_ok=True)
            tensors = {f"{i:06d}.{sum_}": products.contiguous() for i, (sum_, products) in enumerate(self._new)}
            write_whole(self.folder / f"checkpoint-{self._chunks:06d}.safetensors", save(tensors))
            self._chunks += 1
        self._new, self._saved = [], time.monotonic()

    def _forget(self) -> None:
        if self.write:
            for path in self.folder.glob("checkpoint-*.safetensors"):
                path.unlink()
        self._chunks = 0


def _read(folder: Path) -> Iterator[tuple[int, Tensor]]:
    """(checksum of the input, product) in the order they were made, up to the first file that is not whole."""
    for number, path in enumerate(sorted(folder.glob("checkpoint-*.safetensors"))):
        try:
            found = load(path.read_bytes())
        except (OSError, SafetensorError, ValueError):
            return
        if path.name != f"checkpoint-{number:06d}.safetensors":
            return
        for name in sorted(found):
            yield int(name.partition(".")[2]), found[name].clone(memory_format=torch.contiguous_format)
