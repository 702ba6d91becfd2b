"""Working within the available memory: smaller batches when it runs out, the amount that is free, and gradient checkpointing."""

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
SMALLER = "lower max_length or use a smaller model"  # advice if a single example does not fit

# Messages of libraries that raise no specific exception.
OUT_OF_MEMORY = ("DefaultCPUAllocator", "out of memory", "CUBLAS_STATUS_ALLOC_FAILED")


def out_of_memory(error: RuntimeError) -> bool:
    """Return whether `error` is a failed allocation, so that a smaller batch may fit."""
    return isinstance(error, torch.OutOfMemoryError) or any(message in str(error) for message in OUT_OF_MEMORY)


def release_memory() -> None:
    """Return the unused memory that torch has reserved to the GPUs.

    Call this function outside of an exception handler, because the handler's traceback keeps tensors alive.
    """
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def in_parts(
    work: Callable[[Sequence[Item]], Result], items: Sequence[Item], size: int, together: Callable[[Sequence[Item]], int] = len,
    report: Callable[[int, int], None] = lambda done, total: None,
) -> Iterator[Result]:  # fmt: skip
    """Yield work(part) for consecutive parts of `items`, with at most `size` items each.

    When memory runs out, the size of a part is halved, for all later parts too. `together(part)` returns the number of items at the front
    of `part` that may be processed together. `report(done, total)` is called after each part, with numbers of items. Raises ApetError if
    memory runs out for a single item.
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
            start += len(part)
            report(start, len(items))
            yield result[0]


def free_memory(device: torch.device | str) -> float:
    """Return the free memory on `device` in bytes, divided by the number of processes that share it (`share_memory`)."""
    device = torch.device(device)
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0] / _SHARERS[device.type]
    import psutil

    return psutil.virtual_memory().available / _SHARERS["cpu"]


def share_memory(**sharers: int) -> None:
    """Set the number of processes of this launch that share one device of each type, for instance cpu=4, cuda=1 (for `free_memory`)."""
    _SHARERS.update(sharers)


_SHARERS = {"cpu": 1, "cuda": 1}


def checkpointed(model: nn.Module, enabled: bool = True) -> AbstractContextManager[Any]:
    """Use gradient checkpointing inside the `with` block: blocks save only their input and run again in the backward pass.

    The gradient is the same, and dropout stays on or off. Raises UsageError for a model without transformers blocks, and for prefix tuning:
    a block that runs again would lose the prefix's cached keys and values.
    """
    return _checkpointed(model) if enabled else nullcontext()


@contextmanager
def _checkpointed(model: Any) -> Iterator[None]:
    from transformers.modeling_layers import GradientCheckpointingLayer

    blocks: list[Any] = [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]
    if not blocks:
        raise UsageError(f"{type(model).__name__} has no blocks for gradient checkpointing: turn gradient checkpointing off")
    if getattr(getattr(model, "active_peft_config", None), "peft_type", None) == "PREFIX_TUNING":
        raise UsageError("prefix tuning cannot be used with gradient checkpointing: choose one of them")
    before, use_cache = [block.training for block in blocks], getattr(model.config, "use_cache", None)
    for block in blocks:
        # A block checks only its own `training` flag. Its dropout modules have separate flags, so dropout stays off in evaluation mode.
        block.gradient_checkpointing = block.training = True
        block._gradient_checkpointing_func = partial(checkpoint, use_reentrant=False)
    model.config.use_cache = False
    try:
        yield
    finally:
        model.config.use_cache = use_cache
        for block, training in zip(blocks, before, strict=True):
            block.gradient_checkpointing, block.training = False, training
