"""Adapters (Houlsby et al. 2019, arXiv 1902.00751): two bottlenecks per block, the same as in the operation `plug`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from apet.methods.method import Method, MethodOption
from apet.methods.operation_names import SIZE

if TYPE_CHECKING:
    from torch import nn

    from apet.methods.tunable_model import TunableModel


def tune_adapters(model: nn.Module, size: int = SIZE) -> TunableModel:
    """Add bottlenecks of width `size` to `model` and make only them trainable."""
    from apet.methods.operations import inject_bottlenecks
    from apet.methods.tunable_model import tune_only

    names = set(inject_bottlenecks(model, size))
    return tune_only(model, [p for name, p in model.named_parameters() if name in names])


ADAPTER = Method(
    "adapter", "adapter", "D", 1e-2, tune_adapters, "new: two bottlenecks per block", {"size": MethodOption(SIZE, least=1)}, dial="size",
)  # fmt: skip
