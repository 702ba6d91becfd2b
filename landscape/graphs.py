"""Graphs of a model's outputs, built once a batch and kept for any number of derivatives, as far as memory goes."""

from collections.abc import Callable
from typing import Generic, TypeVar

import torch

MEMORY = 2**30  # bytes of graphs to keep, unless told

Graph = TypeVar("Graph")


class Graphs(Generic[Graph]):
    """What `build(number)` makes of batch `number`, which holds a graph; as many as fit in `memory` bytes are kept.

    A graph holds the model's weights as they are: `release` them before they change. Autograd refuses derivatives through
    weights that did.
    """

    def __init__(self, build: Callable[[int], Graph], memory: float) -> None:
        self.build, self.memory = build, memory
        self._kept: dict[int, Graph] = {}
        self._room: int | None = None  # how many may be kept

    def of(self, number: int) -> Graph:
        """That of batch `number`, kept or new."""
        if number not in self._kept and len(self._kept) < self._fitting():
            self._kept[number] = self.build(number)
        return self._kept[number] if number in self._kept else self.build(number)

    def release(self) -> None:
        """Drop what is kept; it is built anew when it is asked for."""
        self._kept.clear()

    def _fitting(self) -> int:
        """How many fit in `memory`, by the size of the first."""
        if self._room is None:
            self._room = int(self.memory // max(1, self.bytes())) if self.memory > 0 else 0
        return self._room

    def bytes(self) -> int:
        """What autograd keeps of one graph alone: of two, what is not kept by both (the model's weights).

        The graphs are made for this alone: hooks would slow down every derivative.
        """
        kept: list[dict[int, int]] = []
        graphs: list[Graph] = []  # alive, or the second would take the first one's places

        def count(tensor: torch.Tensor) -> torch.Tensor:
            storage = tensor.untyped_storage()
            kept[-1][storage.data_ptr()] = storage.nbytes()
            return tensor.detach()  # the tensor itself would hold the graph that holds it, and neither would ever be freed

        for _ in range(2):
            kept.append({})
            with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
                graphs.append(self.build(0))
        return sum(size for place, size in kept[1].items() if place not in kept[0])
