"""The displacement of the base model's tensors by a method. It makes runs of different methods points of one space.

Full fine-tuning and BitFit change tensors of the model. LoRA can be merged: the scaled product B A is added to the weight. Adapters,
prefixes and prompts are parameters that the base model does not have, so the final points of their runs are not in this space.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from apet.errors import UsageError
from apet.methods.bitfit import own_biases
from apet.methods.registry import METHODS
from apet.methods.tunable_model import classification_head
from apet.subspaces import all_names


def check_mergeable(method: str, model: nn.Module) -> None:
    """Raise UsageError unless everything that `method` tunes can be merged into the tensors of `model`."""
    if not METHODS[method].mergeable:
        raise UsageError(f"{method} adds parameters that the base model does not have: its final point is not in the model's space")
    if method == "bitfit" and not own_biases(model):
        raise UsageError(f"bitfit adds biases that {type(model).__name__} does not have: its final point is not in the model's space")
    if classification_head(model):
        raise UsageError(f"{method} would tune a classification head, which a model that answers in words does not have", readout="words")


@torch.no_grad()
def displacement(untuned: dict[str, Tensor], tuned: nn.Module) -> dict[str, Tensor]:
    """Return the change of each tensor by a mergeable method: {name: fp32 tensor of its shape, on the CPU}.

    `untuned` holds the earlier values of all tensors of the model that the method trains. Differences are computed in float64.
    """
    after = all_names(tuned)
    changes = {name: (after[name].double() - before.double()).float().cpu() for name, before in sorted(untuned.items())}
    for path, module in tuned.named_modules():
        if hasattr(module, "get_delta_weight"):  # a layer of peft, with one adapter
            layer: Any = module
            (adapter,) = layer.active_adapters
            changes[f"{path}.weight"] = layer.get_delta_weight(adapter).float().cpu()
    return changes
