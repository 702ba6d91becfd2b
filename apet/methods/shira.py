"""To and from peft's SHiRA (Bhardwaj et al. 2024, arXiv 2406.13175): sparse additions to the weights of linear layers.

SHiRA gives each layer (m, n) exactly r (m + n) entries, and keeps their places in memory only. So an export needs all
tuned entries in linear layers, pads with entries of value zero, and the places go into the mask that peft asks for.
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
    """Inject a SHiRA adapter with these values into `model` (frozen, not attached), which then computes the tuned function.

    Raises UsageError where an entry is outside the linear layers, or a layer has more of them than SHiRA can hold.
    """
    deltas = {name.removesuffix(".weight"): delta for name, delta in coordinates.lift(z).items()}
    layers: dict[str, Any] = {name: module for name, module in model.named_modules() if name in deltas}
    outside = [name for name in deltas if not isinstance(layers.get(name), nn.Linear)]
    if outside:
        raise UsageError(f"SHiRA holds weights of linear layers only, but entries of {outside[0]} are tuned", scope=...)
    flat = {
        name.removesuffix(".weight"): torch.arange(where.stop - where.start) if places is None else torch.as_tensor(places)
        for name, where, places in coordinates.by_tensor
    }
    r = max(math.ceil(len(flat[name]) / sum(layer.weight.shape)) for name, layer in layers.items())
    indices = {name: _padded(layer.weight, flat[name], r * sum(layer.weight.shape), name) for name, layer in layers.items()}
    values = {name: deltas[name][tuple(places)] for name, places in indices.items()}
    return _inject(model, r, indices, values)


def _padded(weight: Tensor, flat: Tensor, count: int, name: str) -> Tensor:
    """Return (rows, columns) (2, count) of the flat places and of as many others as are missing, in the order of the matrix."""
    if count > weight.numel():
        raise UsageError(f"SHiRA would give {name} {count} entries, but it has {weight.numel()}: tune fewer, or spread them evenly")
    chosen = torch.zeros(weight.numel(), dtype=torch.bool)
    chosen[flat] = True
    free = torch.nonzero(~chosen).squeeze(1)
    chosen[free[: count - len(flat)]] = True
    return torch.stack(torch.where(chosen.view(weight.shape)))


def _inject(model: nn.Module, r: int, indices: dict[str, Tensor], values: dict[str, Tensor]) -> nn.Module:
    from peft import ShiraConfig, inject_adapter_in_model

    places = {id(model.get_submodule(name)): where for name, where in indices.items()}

    def mask(base_layer: nn.Linear, r: int, **_: Any) -> Tensor:
        ones = torch.zeros_like(base_layer.weight)
        ones[tuple(places[id(base_layer)])] = 1
        return ones

    config: Any = ShiraConfig(r=r, target_modules=list(indices))
    config.mask_fn = mask
    inject_adapter_in_model(config, model)
    for name, value in values.items():
        layer: Any = model.get_submodule(name)
        layer.shira_weight["default"].data.copy_(value)
    return model


def save_shira(model: nn.Module, folder: Path) -> None:
    """Write an adapter of `to_shira`: peft's configuration and weights, and the places, which peft's files leave out."""
    layers: dict[str, Any] = {name: m for name, m in model.named_modules() if "default" in getattr(m, "shira_weight", {})}
    tensors = {f"base_model.model.{name}.shira_weight": m.shira_weight["default"].detach().cpu().contiguous() for name, m in layers.items()}
    tensors |= {f"base_model.model.{name}.shira_indices": m.shira_indices["default"].cpu().contiguous() for name, m in layers.items()}
    r = next(iter(layers.values())).r["default"]
    config = {"peft_type": "SHIRA", "r": r, "target_modules": sorted(layers), "mask_type": "custom", "inference_mode": True}
    with atomic_folder(folder) as temporary:
        save_file(tensors, temporary / "adapter_model.safetensors")
        (temporary / "adapter_config.json").write_text(json.dumps(config, indent=1) + "\n")


def load_shira(folder: Path, model: nn.Module) -> nn.Module:
    """Inject a saved adapter, its places included, into `model`."""
    tensors = load_file(folder / "adapter_model.safetensors")
    parts: dict[str, dict[str, Tensor]] = {"shira_weight": {}, "shira_indices": {}}
    for key, tensor in tensors.items():
        name, _, part = key.removeprefix("base_model.model.").rpartition(".")
        parts[part][name] = tensor
    if set(parts["shira_indices"]) != set(parts["shira_weight"]):
        raise UsageError(f"{folder} does not say where its entries are: peft's own files leave that out")
    r = json.loads((folder / "adapter_config.json").read_text())["r"]
    return _inject(model, r, {name: t.long() for name, t in parts["shira_indices"].items()}, parts["shira_weight"])


def from_shira(model: nn.Module, base: nn.Module, adapter: str = "default") -> tuple[Coordinates, Tensor]:
    """Return the coordinates and values (k,) of a SHiRA adapter in `model`, on the space of all parameters of `base`, its bare twin."""
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
    places = np.concatenate(index)
    return Coordinates(space, places), torch.cat(values)[torch.as_tensor(np.argsort(places))]
