"""What is tuned: `apet` (k single entries), `full` (everything), `lora` (peft).

Each mount freezes the rest of the model and names its trainable tensors; the loop that trains them is the same.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from torch import nn

from apet.coordinates import Coordinates
from apet.errors import UsageError, lookup
from apet.placement import random_entries
from apet.space import ParameterSpace

LORA_RANK, LORA_ALPHA, LORA_TARGETS = 8, 16, ["q", "v"]  # the paper's reference set-up


@dataclass
class Mounted:
    """A model made ready for training: its trainable tensors, their number k, and what to do after a step."""

    trainable: dict[str, nn.Parameter]
    k: int
    space: ParameterSpace
    write: Callable[[], None] = field(default=lambda: None)
    coordinates: Coordinates | None = None


def mount(method: str, model: nn.Module, k: int | None, position_seed: int) -> Mounted:
    """Make `model` trainable by `method`; `k` and `position_seed` are for apet alone.

    Raises UsageError for an unknown method, or for k that is missing, below 1 or over the number of parameters in scope.
    """
    return lookup(METHODS, method, "method")(model, k, position_seed)


def _apet(model: nn.Module, k: int | None, position_seed: int) -> Mounted:
    if k is None:
        raise UsageError("method apet needs --k, the number of tuned parameters")
    space = ParameterSpace.of(model)
    index = random_entries(space.size, k, position_seed)
    coordinates = Coordinates(space, index, device=next(model.parameters()).device)
    return Mounted({"z": coordinates.attach(model)}, k, space, coordinates.write, coordinates)


def _full(model: nn.Module, k: int | None, position_seed: int) -> Mounted:
    space = ParameterSpace.of(model, embeddings=True)
    model.requires_grad_(True)
    return Mounted(dict(model.named_parameters()), space.size, space)


def _lora(model: nn.Module, k: int | None, position_seed: int) -> Mounted:
    from peft import LoraConfig, inject_adapter_in_model

    config = LoraConfig(r=LORA_RANK, lora_alpha=LORA_ALPHA, lora_dropout=0.0, target_modules=LORA_TARGETS)
    inject_adapter_in_model(config, model)
    trainable = {name: p for name, p in model.named_parameters() if p.requires_grad}
    return Mounted(trainable, sum(p.numel() for p in trainable.values()), ParameterSpace.of(model))


METHODS = {"apet": _apet, "full": _full, "lora": _lora}
