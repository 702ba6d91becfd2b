"""BitFit (Ben Zaken et al. 2022, arXiv 2106.10199): all biases."""

from __future__ import annotations

from typing import TYPE_CHECKING

from apet.errors import UsageError
from apet.methods.method import Method

if TYPE_CHECKING:
    from torch import nn

    from apet.methods.tunable_model import TunableModel


def tune_biases(model: nn.Module) -> TunableModel:
    """Make all biases trainable. If the model has no biases, zero biases are first added to its linear layers.

    Raises UsageError for a model with neither biases nor linear layers.
    """
    from apet.methods.operations import add_zero_biases
    from apet.methods.tunable_model import tune_only

    if not own_biases(model):
        add_zero_biases(model)
    if not own_biases(model):
        raise UsageError(f"{type(model).__name__} has neither biases nor linear layers: bitfit cannot tune it")
    return tune_only(model, own_biases(model))


def own_biases(model: nn.Module) -> list[nn.Parameter]:
    """Return the biases that `model` has."""
    return [p for name, p in model.named_parameters() if name.rpartition(".")[2] == "bias"]


BITFIT = Method("bitfit", "BitFit", "P", 1e-2, tune_biases, "all biases", mergeable=True)
