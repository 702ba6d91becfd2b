"""LoRA (Hu et al. 2021, arXiv 2106.09685) by peft, in the paper's set-up: rank 8 on the queries and values of self-attention."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from apet.methods.method import Method, MethodOption

if TYPE_CHECKING:
    from torch import nn

    from apet.methods.tunable_model import TunableModel

RANK, ALPHA = 8, 16
ALL_LINEAR = "all-linear"
TARGETS = r".*(SelfAttention\.[qv]|attention\.self\.(query|value)|self_attention\.query_key_value|attn\.c_attn)"
FUSED = re.compile(r"w?(qkv|query_key_value)(_proj)?", re.IGNORECASE)  # queries, keys and values in one projection
SEPARATE = re.compile(r"w?(q|v|query|value)(_proj|_lin)?", re.IGNORECASE)


def tune_low_rank(model: nn.Module, **options: Any) -> TunableModel:
    """Add low-rank products to linear projections (`lora_config`) and make only them trainable."""
    from peft import inject_adapter_in_model

    from apet.methods.tunable_model import tune_only

    inject_adapter_in_model(lora_config(model, **options), model)
    return tune_only(model, [p for p in model.parameters() if p.requires_grad])


def lora_config(model: nn.Module, r: int = RANK, alpha: float = ALPHA, targets: str = "") -> Any:
    """Return peft's LoraConfig of products of rank `r`, scaled by alpha / r, on the projections that `named_targets` returns.

    Raises UsageError for a model without self-attention, and for a name that no projection has.
    """
    from peft import LoraConfig

    from apet.methods.blocks import is_conv1d

    names = named_targets(model, targets)
    transposed = any(is_conv1d(model.get_submodule(name)) for name in names)
    return LoraConfig(r=r, lora_alpha=alpha, lora_dropout=0.0, target_modules=exactly(names), fan_in_fan_out=transposed)  # type: ignore[arg-type]


def exactly(names: list[str]) -> str:
    """Return a target of peft that matches the modules `names` only. A list would also match names that end with one of its elements."""
    return "|".join(map(re.escape, names))


def named_targets(model: nn.Module, wanted: str) -> list[str]:
    """Return the paths of linear projections: `targets` for "", all except the output head for "all-linear", or all with given names.

    Names are joined by |, and a name may be the end of a path, for instance q_proj|mlp.up_proj. Raises UsageError for a name that no
    projection has.
    """
    from apet.errors import UsageError, did_you_mean
    from apet.methods.blocks import projections
    from apet.methods.tunable_model import classification_head

    if not wanted:
        return targets(model)
    linear = projections(model)
    if wanted == ALL_LINEAR:
        head = {id(p) for p in classification_head(model).values()}
        outputs = getattr(model, "get_output_embeddings", lambda: None)()
        return [name for name, part in linear.items() if part is not outputs and id(part.get_parameter("weight")) not in head]
    for name in wanted.split("|"):
        if not _matching(linear, [name]):
            leaves = dict.fromkeys(path.rpartition(".")[2] for path in linear)
            raise UsageError(f"{type(model).__name__} has no linear projection '{name}'{did_you_mean(name, [ALL_LINEAR, *leaves])}")
    return _matching(linear, wanted.split("|"))


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


LORA = Method(
    "lora", "LoRA", "s", 3e-3, tune_low_rank, "new: low-rank products on queries and values",
    {"r": MethodOption(RANK, least=1), "alpha": MethodOption(ALPHA, (int, float), least=0), "targets": MethodOption("")},
    dial="r", mergeable=True,
)  # fmt: skip
