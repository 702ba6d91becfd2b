"""Graphs of a model's outputs, built once a batch and kept for any number of derivatives, as far as memory goes."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Generic, TypeVar, cast

import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode

MEMORY = 2**30  # bytes of graphs to keep, unless told

Graph = TypeVar("Graph")


class Graphs(Generic[Graph]):
    """What `build(number)` makes of batch `number`, which holds a graph; as many as fit in `memory` bytes are kept.

    All count as the first of the largest of `batches`, by their numbers of elements. A graph holds the model's weights as they are:
    `release` them before they change. Autograd refuses derivatives through weights that did.
    """

    def __init__(self, build: Callable[[int], Graph], memory: float, batches: Sequence[Any]) -> None:
        self.build, self.memory, self.batches = build, memory, batches
        self._kept: dict[int, Graph] = {}
        self._room: int | None = None  # how many may be kept

    def of(self, number: int) -> Graph:
        """That of batch `number`, kept or new."""
        room = self._fitting()
        if number not in self._kept and len(self._kept) < room:
            self._kept[number] = self.build(number)
        return self._kept[number] if number in self._kept else self.build(number)

    def release(self) -> None:
        """Drop what is kept; it is built anew when it is asked for."""
        self._kept.clear()

    def _fitting(self) -> int:
        """How many fit in `memory`. The graph that is measured is kept if one does."""
        if self._room is None:
            if self.memory <= 0:
                self._room = 0
                return 0
            sizes = [sum(tensor.numel() for tensor in _tensors(batch)) for batch in self.batches]
            largest = sizes.index(max(sizes))
            with Made() as made:
                graph = self.build(largest)
            self._room = int(self.memory // max(1, made.held()))
            if self._room:
                self._kept[largest] = graph
        return self._room


class Made(TorchDispatchMode):
    """While it lasts, notes the memory of every tensor that an operation makes; `held()` tells how much of it is still in use."""

    def __init__(self) -> None:
        super().__init__()  # pyright: ignore[reportUnknownMemberType]
        self._made: dict[int, tuple[StorageWeakRef, int]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        given = {_identity(tensor) for tensor in _tensors([args, kwargs])}  # a result in their memory is a view, or changed in place
        for tensor in _tensors(found):
            if _identity(tensor) not in given:
                storage = tensor.untyped_storage()
                self._made[_identity(tensor)] = StorageWeakRef(storage), storage.nbytes()
        return found

    def held(self) -> int:
        """Bytes: for a graph, whatever autograd and the derivatives' functions keep of it, the model's weights left out."""
        return sum(size for reference, size in self._made.values() if not reference.expired())


def _identity(tensor: torch.Tensor) -> int:
    """Of the tensor's memory, for as long as it lives; an address would be 0 on the meta device."""
    return tensor.untyped_storage()._cdata  # pyright: ignore[reportPrivateUsage]


def _tensors(value: Any) -> Iterable[torch.Tensor]:
    """The tensors in a nest of lists, tuples and dictionaries; those that a sparse one consists of in its place."""
    if isinstance(value, torch.Tensor):
        yield from (value.crow_indices(), value.col_indices(), value.values()) if value.layout == torch.sparse_csr else (value,)
    elif isinstance(value, Mapping):
        yield from _tensors(list(cast(Mapping[Any, Any], value).values()))
    elif isinstance(value, list | tuple):
        for each in cast(Sequence[Any], value):
            yield from _tensors(each)
