"""The final values of a tuned model: new parameters, and displacements of the base model's own tensors.

Full fine-tuning and BitFit change tensors of the model. LoRA and most tuners of peft can be merged: each tuned layer stands for another
weight. Such runs are points of one space, the model's own entries. Adapters, prefixes and prompts are parameters that the base model does
not have, so the final points of their runs are not in this space.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from apet.methods.registry import method_named
from apet.methods.tunable_model import TunableModel
from apet.subspaces import all_names

WRAPPED = "base_model.model."  # peft's prefix of the names in a wrapped model; with virtual tokens it is only base_model.


def final_values(method: str, untuned: Mapping[str, Tensor], mounted: TunableModel) -> dict[str, dict[str, Tensor]]:
    """Return the final values of a model that was tuned by `method`, as fp32 tensors on the CPU.

    `untuned` holds the earlier values of all tensors of the base model that were trained, also of a classification head.

    new: parameters that the base model does not have, by name in the tuned model.
    head: the parameters of the head, by name in the base model.
    end: displacements of the base model's tensors (`displacement`), if they describe the tuned model completely.
    """
    values = {name: p.detach().to("cpu", torch.float32, copy=True) for name, p in mounted.trainable.items()}
    head = {_unwrapped(name, untuned): values[name] for name in mounted.head}
    new = {name: value for name, value in values.items() if _unwrapped(name, untuned) not in untuned}
    whole = method_named(method).mergeable and (not new or any(map(_merges, mounted.model.modules())))
    changes = displacement(untuned, mounted.model) if whole else {}
    return {"new": new, "head": head, "end": {name: change for name, change in changes.items() if name not in head}}


@torch.no_grad()
def displacement(untuned: Mapping[str, Tensor], tuned: nn.Module) -> dict[str, Tensor]:
    """Return the change of each tensor by a mergeable method: {name: fp32 tensor of its shape, on the CPU}.

    `untuned` holds the earlier values of all tensors of the model that the method trains. Differences are computed in float64.
    """
    after = {_unwrapped(name, untuned): p for name, p in all_names(tuned).items()}
    changes = {name: (after[name].double() - before.double()).float().cpu() for name, before in sorted(untuned.items())}
    for path, module in tuned.named_modules():
        if _merges(module):
            changes |= {f"{path.removeprefix(WRAPPED)}.{name}": change for name, change in _of_layer(module).items()}
    return changes


def _unwrapped(name: str, names: Collection[str]) -> str:
    """Return the name in the base model, one of `names`, of a parameter of the tuned model; `name` itself for a new parameter."""
    candidates = (name.removeprefix(prefix) for prefix in ("", WRAPPED, "base_model."))
    return next((candidate for candidate in candidates if candidate in names), name)


def _merges(module: nn.Module) -> bool:
    """Return whether `module` is a layer of peft that stands for another value of its base layer's parameters."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    return isinstance(module, BaseTunerLayer)


def _of_layer(layer: Any) -> dict[str, Tensor]:
    """Return the change of each parameter of a layer of peft, with one adapter, when the adapter is merged."""
    from peft.tuners.lora import Linear

    if type(layer) is Linear and not layer.lora_variant and not any(layer.lora_bias.values()):  # exact, while a merged weight is rounded
        (adapter,) = layer.active_adapters
        return {"weight": layer.get_delta_weight(adapter).float().cpu()}
    before = {name: p.detach().double() for name, p in layer.get_base_layer().named_parameters(recurse=False)}
    merged = copy.deepcopy(layer)
    merged.merge()
    after = dict(merged.get_base_layer().named_parameters(recurse=False))
    changes = {name: (after[name].double() - value).float().cpu() for name, value in before.items()}
    return {name: change for name, change in changes.items() if change.any()}
