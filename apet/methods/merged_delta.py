"""The displacement of the model's own tensors by a method, which makes runs of different methods points of one space.

Full fine-tuning and BitFit change tensors of the model; LoRA's product B A, scaled, is what merging adds to its weights. Adapters,
prefixes and prompts are parameters that the base model does not have: their runs end at no point that other methods could reach.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from apet.errors import UsageError
from apet.methods.bitfit import own_biases
from apet.methods.registry import METHODS
from apet.methods.tunable_model import classification_head
from apet.subspaces import all_names, tensor_roles


def check_mergeable(method: str, model: nn.Module) -> None:
    """Raise UsageError unless all that `method` tunes of `model` can be merged into the model's own tensors."""
    if not METHODS[method].mergeable:
        raise UsageError(f"{method} adds parameters that the base model does not have: it ends at no point of the model's own entries")
    if method == "bitfit" and not own_biases(model):
        raise UsageError(f"bitfit adds biases that {type(model).__name__} does not have: it ends at no point of the model's own entries")
    if classification_head(model):
        raise UsageError(f"{method} would tune a classification head, which the model in words does not have", readout="words")


@torch.no_grad()
def displacement(model: nn.Module, tuned: nn.Module) -> dict[str, Tensor]:
    """Return what was added to each tensor of `model` that was tuned: name -> fp32 tensor of its shape, on the CPU.

    `tuned` is a copy of `model` that a mergeable method was mounted on and that was trained. Differences are taken in float64.
    """
    before, after = all_names(model), all_names(tuned)
    changes: dict[str, Tensor] = {}
    for name in sorted(tensor_roles(model)):
        if name in after and after[name].requires_grad:
            changes[name] = (after[name].double() - before[name].double()).float().cpu()
    for path, module in tuned.named_modules():
        if hasattr(module, "get_delta_weight"):  # peft's; a layer has one adapter
            layer: Any = module
            (adapter,) = layer.active_adapters
            changes[f"{path}.weight"] = layer.get_delta_weight(adapter).float().cpu()
    return changes
