"""Work within the memory that is there: smaller batches where it runs out, how much is free, activations computed again."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any, TypeVar

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from apet.errors import ApetError, UsageError

Item = TypeVar("Item")
Result = TypeVar("Result")
SMALLER = "lower max_length or use a smaller model"  # what helps where one example at a time is too much

# How libraries say it where they have no exception of its own for it.
OUT_OF_MEMORY = ("DefaultCPUAllocator", "out of memory", "CUBLAS_STATUS_ALLOC_FAILED")


def out_of_memory(error: RuntimeError) -> bool:
    """Return whether `error` is an allocator's, so that a smaller batch may fit."""
    return isinstance(error, torch.OutOfMemoryError) or any(words in str(error) for words in OUT_OF_MEMORY)


def release_memory() -> None:
    """Give the memory that torch holds unused back to the GPUs; call it outside of the handler, whose traceback holds tensors."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def in_parts(
    work: Callable[[Sequence[Item]], Result], items: Sequence[Item], size: int, together: Callable[[Sequence[Item]], int] = len
) -> Iterator[Result]:
    """Yield work(part) of consecutive parts of `items`, at most `size` at a time, and half as many from where memory runs out.

    `together` says how many of the first of some items may be one part.
    Raises ApetError if memory runs out for a single item.
    """
    start = 0
    while start < len(items):
        part, result = items[start : start + size], None
        part = part[: together(part)]
        try:
            result = (work(part),)
        except RuntimeError as error:
            if not out_of_memory(error):
                raise
        if result is None:
            if len(part) == 1:
                raise ApetError(f"out of memory with one example at a time: {SMALLER}")
            size = -(-len(part) // 2)
            release_memory()
        else:
            yield result[0]
            start += len(part)


def free_memory(device: torch.device | str) -> float:
    """Bytes of memory that are free on `device`, divided among the processes that share it (`share_memory`)."""
    device = torch.device(device)
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0] / _SHARERS[device.type]
    import psutil

    return psutil.virtual_memory().available / _SHARERS["cpu"]


def share_memory(**sharers: int) -> None:
    """Tell `free_memory` how many processes of this launch share one device of each type, for instance cpu=4, cuda=1."""
    _SHARERS.update(sharers)


_SHARERS = {"cpu": 1, "cuda": 1}


def checkpointed(model: nn.Module, wanted: bool = True) -> AbstractContextManager[Any]:
    """While it lasts, each of a transformers model's blocks keeps its input alone and runs again in the backward pass.

    The gradient is the same; dropout stays as it is. Raises UsageError for a model without such blocks, and for prefix
    tuning, whose cached keys and values a block that runs again would lose.
    """
    return _checkpointed(model) if wanted else nullcontext()


@contextmanager
def _checkpointed(model: Any) -> Iterator[None]:
    from transformers.modeling_layers import GradientCheckpointingLayer

    blocks: list[Any] = [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]
    if not blocks:
        raise UsageError(f"{type(model).__name__} has no blocks for gradient checkpointing")
    if getattr(getattr(model, "active_peft_config", None), "peft_type", None) == "PREFIX_TUNING":
        raise UsageError("prefix tuning cannot be used with gradient checkpointing: choose one of them")
    before, use_cache = [block.training for block in blocks], getattr(model.config, "use_cache", None)
    for block in blocks:
        # Blocks look at their own flag alone; their dropout has its own, so it stays off in an evaluated model.
        block.gradient_checkpointing = block.training = True
        block._gradient_checkpointing_func = partial(checkpoint, use_reentrant=False)
    model.config.use_cache = False
    try:
        yield
    finally:
        model.config.use_cache = use_cache
        for block, training in zip(blocks, before, strict=True):
            block.gradient_checkpointing, block.training = False, training
