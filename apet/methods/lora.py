"""LoRA (Hu et al. 2021, arXiv 2106.09685) by peft, in the paper's set-up: rank 8 on the queries and values of self-attention."""

from __future__ import annotations

from typing import TYPE_CHECKING

from apet.errors import UsageError
from apet.methods.method import Method

if TYPE_CHECKING:
    from torch import nn

    from apet.methods.tunable_model import TunableModel

RANK, ALPHA = 8, 16
TARGETS = r".*(SelfAttention\.[qv]|attention\.self\.(query|value)|self_attention\.query_key_value|attn\.c_attn)"


def tune_low_rank(model: nn.Module) -> TunableModel:
    """Add low-rank products to the projections that match TARGETS. Raises UsageError if no module of the model matches."""
    from peft import LoraConfig, inject_adapter_in_model

    from apet.methods.tunable_model import tune_only

    transposed = any(type(module).__name__ == "Conv1D" for module in model.modules())
    config = LoraConfig(r=RANK, lora_alpha=ALPHA, lora_dropout=0.0, target_modules=TARGETS, fan_in_fan_out=transposed)
    try:
        inject_adapter_in_model(config, model)
    except ValueError as error:
        raise UsageError(f"{type(model).__name__} has no self-attention projections that LoRA supports ({TARGETS})") from error
    return tune_only(model, [p for p in model.parameters() if p.requires_grad])


LORA = Method("lora", "LoRA", "s", 3e-3, tune_low_rank, mergeable=True)
