"""Keep the autograd graphs of a model's outputs, one per batch, for any number of derivatives, as far as memory allows."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Generic, TypeVar, cast

import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode

GRAPH_MEMORY = 2**30  # default number of bytes for kept graphs

Graph = TypeVar("Graph")


class KeptGraphs(Generic[Graph]):
    """A cache of the results of `build(number)`. Each result holds the graph of batch `number`.

    As many results as fit in `memory` bytes are kept. The memory of the largest batch's graph (the batch with the most elements) is
    measured once, and every graph is assumed to take as much. A graph refers to the model's weights: call `release` before they change.
    Autograd refuses derivatives through weights that have changed.
    """

    def __init__(self, build: Callable[[int], Graph], memory: float, batches: Sequence[Any]) -> None:
        self.build, self.memory, self.batches = build, memory, batches
        self._kept: dict[int, Graph] = {}
        self._capacity: int | None = None  # number of graphs to keep; None before it is measured

    def of(self, number: int) -> Graph:
        """Return the graph of batch `number`, from the cache or newly built."""
        capacity = self._fitting()
        if number not in self._kept and len(self._kept) < capacity:
            self._kept[number] = self.build(number)
        return self._kept[number] if number in self._kept else self.build(number)

    def release(self) -> None:
        """Drop the kept graphs. A graph is built again when it is needed."""
        self._kept.clear()

    def _fitting(self) -> int:
        """Return how many graphs fit in `memory`. The measured graph is kept if at least one fits."""
        if self._capacity is None:
            if self.memory <= 0:
                self._capacity = 0
                return 0
            sizes = [sum(tensor.numel() for tensor in _tensors(batch)) for batch in self.batches]
            largest = sizes.index(max(sizes))
            with AllocationTracker() as allocations:
                graph = self.build(largest)
            self._capacity = int(self.memory // max(1, allocations.held()))
            if self._capacity:
                self._kept[largest] = graph
        return self._capacity


class AllocationTracker(TorchDispatchMode):
    """A context manager that records the memory of every tensor made in its block. `held()` returns how many of these bytes are still in
    use.
    """

    def __init__(self) -> None:
        super().__init__()  # pyright: ignore[reportUnknownMemberType]
        self._allocated: dict[int, tuple[StorageWeakRef, int]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        # A result that shares memory with an input is a view, or was changed in place.
        inputs = {_identity(tensor) for tensor in _tensors([args, kwargs])}
        for tensor in _tensors(result):
            if _identity(tensor) not in inputs:
                storage = tensor.untyped_storage()
                self._allocated[_identity(tensor)] = StorageWeakRef(storage), storage.nbytes()
        return result

    def held(self) -> int:
        """Return the number of bytes still in use. For a graph, this is all that autograd and the derivatives keep, without the model's
        weights.
        """
        return sum(size for reference, size in self._allocated.values() if not reference.expired())


def _identity(tensor: torch.Tensor) -> int:
    """Return an identity of the tensor's memory that is valid while the tensor lives. (The address would be 0 on the meta device.)"""
    return tensor.untyped_storage()._cdata  # pyright: ignore[reportPrivateUsage]


def _tensors(value: Any) -> Iterable[torch.Tensor]:
    """Yield the tensors in nested lists, tuples and dictionaries. A sparse CSR tensor yields its three parts."""
    if isinstance(value, torch.Tensor):
        yield from (value.crow_indices(), value.col_indices(), value.values()) if value.layout == torch.sparse_csr else (value,)
    elif isinstance(value, Mapping):
        yield from _tensors(list(cast(Mapping[Any, Any], value).values()))
    elif isinstance(value, list | tuple):
        for item in cast(Sequence[Any], value):
            yield from _tensors(item)
