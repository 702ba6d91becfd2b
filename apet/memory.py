"""Training with less memory: activations computed again in the backward pass, and knowing when memory ran out."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from apet.errors import UsageError

# How libraries say it where they have no exception of its own for it.
OUT_OF_MEMORY = ("DefaultCPUAllocator", "out of memory", "CUBLAS_STATUS_ALLOC_FAILED")


def out_of_memory(error: RuntimeError) -> bool:
    """Whether `error` is an allocator's, so that a smaller batch may fit."""
    return isinstance(error, torch.OutOfMemoryError) or any(words in str(error) for words in OUT_OF_MEMORY)


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
