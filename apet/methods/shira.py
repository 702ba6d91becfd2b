"""Conversion to and from peft's SHiRA (Bhardwaj et al. 2024, arXiv 2406.13175): sparse additions to the weights of linear layers.

SHiRA has exactly r (m + n) entries in each layer (m, n) and does not save their positions. So an export requires that all tuned entries
are in linear layers. It pads each layer with entries of value zero, and passes the positions to peft as a mask.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from apet.errors import UsageError
from apet.files import atomic_folder
from apet.subspaces import Coordinates, ParameterSpace


def to_shira(model: nn.Module, coordinates: Coordinates, z: Tensor) -> nn.Module:
    """Inject a SHiRA adapter with the values z (k,) into `model` (frozen, not attached), which then computes the tuned function.

    Raises UsageError if a tuned entry is outside the linear layers, and if a layer is too small for the r (m + n) entries of SHiRA.
    """
    deltas = {name.removesuffix(".weight"): delta for name, delta in coordinates.lift(z).items()}
    layers: dict[str, Any] = {name: module for name, module in model.named_modules() if name in deltas}
    outside = [name for name in deltas if not isinstance(layers.get(name), nn.Linear)]
    if outside:
        raise UsageError(f"SHiRA holds weights of linear layers only, but entries of {outside[0]} are tuned", scope=...)
    flat = {
        name.removesuffix(".weight"): torch.arange(where.stop - where.start) if positions is None else torch.as_tensor(positions)
        for name, where, positions in coordinates.by_tensor
    }
    r = max(math.ceil(len(flat[name]) / sum(layer.weight.shape)) for name, layer in layers.items())
    indices = {name: _padded(layer.weight, flat[name], r * sum(layer.weight.shape), name) for name, layer in layers.items()}
    values = {name: deltas[name][tuple(index)] for name, index in indices.items()}
    return _inject(model, r, indices, values)


def _padded(weight: Tensor, flat: Tensor, count: int, name: str) -> Tensor:
    """Return the rows and columns (2, count) of the entries `flat` and of enough untuned entries to have `count`, in row order."""
    if count > weight.numel():
        problem = f"SHiRA would tune {count} entries of {name}, which has {weight.numel()}"
        raise UsageError(f"{problem}: tune fewer entries, or spread them evenly over the layers")
    chosen = torch.zeros(weight.numel(), dtype=torch.bool)
    chosen[flat] = True
    free = torch.nonzero(~chosen).squeeze(1)
    chosen[free[: count - len(flat)]] = True
    return torch.stack(torch.where(chosen.view(weight.shape)))


def _inject(model: nn.Module, r: int, indices: dict[str, Tensor], values: dict[str, Tensor]) -> nn.Module:
    from peft import ShiraConfig, inject_adapter_in_model

    index_of_layer = {id(model.get_submodule(name)): index for name, index in indices.items()}

    def mask(base_layer: nn.Linear, r: int, **_: Any) -> Tensor:
        ones = torch.zeros_like(base_layer.weight)
        ones[tuple(index_of_layer[id(base_layer)])] = 1
        return ones

    config: Any = ShiraConfig(r=r, target_modules=list(indices))
    config.mask_fn = mask
    inject_adapter_in_model(config, model)
    for name, value in values.items():
        layer: Any = model.get_submodule(name)
        layer.shira_weight["default"].data.copy_(value)
    return model


def save_shira(model: nn.Module, folder: Path) -> None:
    """Write an adapter made by `to_shira`: peft's configuration and weights, and the positions, which peft's own files lack."""
    layers: dict[str, Any] = {name: m for name, m in model.named_modules() if "default" in getattr(m, "shira_weight", {})}
    tensors = {f"base_model.model.{name}.shira_weight": m.shira_weight["default"].detach().cpu().contiguous() for name, m in layers.items()}
    tensors |= {f"base_model.model.{name}.shira_indices": m.shira_indices["default"].cpu().contiguous() for name, m in layers.items()}
    r = next(iter(layers.values())).r["default"]
    config = {"peft_type": "SHIRA", "r": r, "target_modules": sorted(layers), "mask_type": "custom", "inference_mode": True}
    with atomic_folder(folder) as temporary:
        save_file(tensors, temporary / "adapter_model.safetensors")
        (temporary / "adapter_config.json").write_text(json.dumps(config, indent=1) + "\n")


def load_shira(folder: Path, model: nn.Module) -> nn.Module:
    """Inject an adapter that `save_shira` wrote, with its positions, into `model`.

    Raises UsageError if the file holds no positions.
    """
    tensors = load_file(folder / "adapter_model.safetensors")
    parts: dict[str, dict[str, Tensor]] = {"shira_weight": {}, "shira_indices": {}}
    for key, tensor in tensors.items():
        name, _, part = key.removeprefix("base_model.model.").rpartition(".")
        parts[part][name] = tensor
    if set(parts["shira_indices"]) != set(parts["shira_weight"]):
        raise UsageError(f"{folder} does not hold the positions of its entries, which peft does not save: export the run again")
    r = json.loads((folder / "adapter_config.json").read_text())["r"]
    return _inject(model, r, {name: t.long() for name, t in parts["shira_indices"].items()}, parts["shira_weight"])


def from_shira(model: nn.Module, base: nn.Module, adapter: str = "default") -> tuple[Coordinates, Tensor]:
    """Return the coordinates and values (k,) of a SHiRA adapter in `model`.

    The coordinates are in the space of all parameters of `base`, the same model without the adapter. Raises UsageError if `model` does not
    have an adapter of this name.
    """
    space = ParameterSpace.of(base, "all")
    offsets = dict(zip(space.names, space.offsets, strict=False))
    index, values = [], []
    modules: dict[str, Any] = dict(model.named_modules())
    for name, layer in modules.items():
        if adapter in getattr(layer, "shira_weight", {}):
            rows, columns = layer.shira_indices[adapter].long().cpu().numpy()
            clean = name.removeprefix("base_model.model.") + ".weight"
            index.append(int(offsets[clean]) + rows * layer.in_features + columns)
            values.append(layer.shira_weight[adapter].detach().cpu() * layer.scaling[adapter])
    if not index:
        raise UsageError(f"the model has no SHiRA adapter '{adapter}'")
    entries = np.concatenate(index)
    return Coordinates(space, entries), torch.cat(values)[torch.as_tensor(np.argsort(entries))]
