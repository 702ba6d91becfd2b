"""Full fine-tuning: every parameter."""

from __future__ import annotations

from typing import TYPE_CHECKING

from apet.methods.method import Method

if TYPE_CHECKING:
    from torch import nn

    from apet.methods.tunable_model import TunableModel


def tune_all(model: nn.Module) -> TunableModel:
    """Make every parameter of `model` trainable."""
    from apet.methods.tunable_model import tune_only

    return tune_only(model, list(model.parameters()))


FULL = Method("full", "full fine-tuning", "*", 1e-3, tune_all, "every parameter", mergeable=True)
