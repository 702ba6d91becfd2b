"""LoRA (Hu et al. 2021, arXiv 2106.09685) by peft, in the paper's set-up: rank 8 on the queries and values of self-attention."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from apet.methods.method import Method

if TYPE_CHECKING:
    from torch import nn

    from apet.methods.tunable_model import TunableModel

RANK, ALPHA = 8, 16
TARGETS = r".*(SelfAttention\.[qv]|attention\.self\.(query|value)|self_attention\.query_key_value|attn\.c_attn)"
FUSED = re.compile(r"w?(qkv|query_key_value)(_proj)?", re.IGNORECASE)  # queries, keys and values in one projection
SEPARATE = re.compile(r"w?(q|v|query|value)(_proj|_lin)?", re.IGNORECASE)


def tune_low_rank(model: nn.Module) -> TunableModel:
    """Add low-rank products to the projections that `targets` names. Raises UsageError for a model without self-attention."""
    from peft import LoraConfig, inject_adapter_in_model

    from apet.methods.blocks import is_conv1d
    from apet.methods.tunable_model import tune_only

    names = targets(model)
    transposed = any(is_conv1d(model.get_submodule(name)) for name in names)
    # A full name matches itself only, while a list would also match names that end with one of its elements.
    pattern = "|".join(map(re.escape, names))
    config = LoraConfig(r=RANK, lora_alpha=ALPHA, lora_dropout=0.0, target_modules=pattern, fan_in_fan_out=transposed)
    inject_adapter_in_model(config, model)
    return tune_only(model, [p for p in model.parameters() if p.requires_grad])


def targets(model: nn.Module) -> list[str]:
    """Return the paths of the linear projections that LoRA tunes: the first of these choices that the model has.

    1. The projections that match TARGETS, in T5, BERT, BLOOM, GPT-2 and their relatives.
    2. peft's own targets for the model type.
    3. The queries and values of every self-attention, by their names.
    4. All linear projections of the blocks.

    Raises UsageError for a model without self-attention or without linear projections in its blocks.
    """
    from peft.utils.constants import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING as PEFT_TARGETS

    from apet.errors import UsageError
    from apet.methods.blocks import elements, projections, self_attentions

    linear = projections(model)
    if usual := _matching(linear, TARGETS):
        return usual
    attentions = self_attentions(model)
    of_type = _matching(linear, PEFT_TARGETS.get(getattr(getattr(model, "config", None), "model_type", ""), []))
    blocks = {list(elements(model, path))[-1] for path in attentions}
    in_blocks = [name for name in linear if any(name.startswith(f"{block}.") for block in blocks)]
    found = of_type or _queries_and_values(linear, list(attentions)) or in_blocks
    if not found:
        raise UsageError(f"the blocks of {type(model).__name__} have no linear projections: lora needs them")
    return found


def _matching(names: dict[str, nn.Module], wanted: str | list[str]) -> list[str]:
    """Return the names that a target of peft matches: a pattern for whole names, or a list of the names' endings."""
    if isinstance(wanted, str):
        return [name for name in names if re.fullmatch(wanted, name)]
    return [name for name in names if any(f".{name}".endswith(f".{ending}") for ending in wanted)]


def _queries_and_values(names: dict[str, nn.Module], attentions: list[str]) -> list[str]:
    """Return the projections to queries and values of all `attentions`, or [] if the names of one attention do not tell them."""
    found: list[str] = []
    for path in attentions:
        leaves = {name: name.rpartition(".")[2] for name in names if name.startswith(f"{path}.")}
        fused = [name for name, leaf in leaves.items() if FUSED.fullmatch(leaf)]
        separate = {name: match[1][0].lower() for name, leaf in leaves.items() if (match := SEPARATE.fullmatch(leaf))}
        if not fused and set(separate.values()) != {"q", "v"}:
            return []
        found += fused or list(separate)
    return found


LORA = Method("lora", "LoRA", "s", 3e-3, tune_low_rank, mergeable=True)
