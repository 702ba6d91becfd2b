"""Undo every change that a method makes to a model: modules, hooks, parameters and trained values, without a second copy of the model."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

Values = dict[str, Tensor]


@contextmanager
def restored(model: nn.Module) -> Iterator[Callable[[nn.Module], Values]]:
    """Restore `model` bitwise at the end of the block: its modules, hooks, attributes and configuration, and the values that were kept.

    The block receives a function that keeps the values of all parameters of `model` which are trainable at its call, and returns them by
    name. Call it after a method has been mounted and before it changes values.
    """
    modules = [(module, type(module), _attributes(module)) for module in model.modules()]
    frozen = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    names = dict(model.named_parameters())
    config = dict(vars(model.config)) if hasattr(model, "config") else {}
    kept: list[tuple[nn.Parameter, Tensor]] = []

    def keep(mounted: nn.Module) -> Values:
        trained = {id(p) for p in mounted.parameters() if p.requires_grad}
        values = {name: p.detach().clone() for name, p in names.items() if id(p) in trained}
        kept.extend((names[name], value) for name, value in values.items())
        return values

    try:
        yield keep
    finally:
        for module, kind, attributes in modules:
            module.__class__ = kind
            module.__dict__.clear()
            module.__dict__.update(attributes)
        with torch.no_grad():
            for parameter, value in kept:
                parameter.copy_(value)
        for parameter, requires_grad in frozen:
            parameter.requires_grad_(requires_grad)
            parameter.grad = None
        if config:
            vars(model.config).clear()
            vars(model.config).update(config)


def _attributes(module: nn.Module) -> dict[str, Any]:
    """Return a copy of the module's attributes. Its tables of parameters, submodules and hooks are copied, their members are not."""
    return {name: value.copy() if isinstance(value, dict) else value for name, value in vars(module).items()}
