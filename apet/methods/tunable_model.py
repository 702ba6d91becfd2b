"""A model that is ready for training, and the parameters of its classification head."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from apet.projections import Projected
from apet.subspaces import Attached, ParameterSpace, Placement, tensor_roles


@dataclass
class TunableModel:
    """The model to call, its trainable tensors by name, and `write`, which must be called after each optimiser step.

    `head` names the tensors of `trainable` that belong to a classification head, which does not count in k. `options` are the method's
    options that differ from their default.
    """

    model: nn.Module
    trainable: dict[str, nn.Parameter]
    write: Callable[[], None] = field(default=lambda: None)
    space: ParameterSpace | None = None
    placement: Placement | None = None
    attached: Attached | Projected | None = None
    head: frozenset[str] = frozenset()
    options: Mapping[str, Any] = field(default_factory=dict)
    trajectory: list[torch.Tensor] = field(default_factory=list)  # z (k,) at each evaluation, if the run keeps it

    @property
    def k(self) -> int:
        """Number of tuned scalars, without the head."""
        return sum(p.numel() for name, p in self.trainable.items() if name not in self.head)

    @property
    def k_head(self) -> int:
        """Number of scalars in the head."""
        return sum(self.trainable[name].numel() for name in self.head)


def tune_only(model: nn.Module, parameters: Collection[nn.Parameter]) -> TunableModel:
    """Freeze all parameters of `model` except `parameters`, and return the model with them."""
    chosen = {id(p) for p in parameters}
    for p in model.parameters():
        p.requires_grad_(id(p) in chosen)
    return TunableModel(model, {name: p for name, p in model.named_parameters() if id(p) in chosen})


def classification_head(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return the parameters of a sequence classifier's head by name, or {} for any other model.

    The head is the output layer and all parameters that are missing from the checkpoint, which `apet.models.load_model` draws at random
    (`drawn`). A pooler that the checkpoint holds belongs to the model, not to the head.
    """
    if not type(model).__name__.endswith("SequenceClassification"):
        return {}
    roles, drawn = tensor_roles(model), getattr(model, "drawn", frozenset())
    return {name: p for name, p in model.named_parameters() if "head" in roles[name] or name in drawn}
