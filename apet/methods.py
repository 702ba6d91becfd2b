"""What is tuned: `apet` (k entries anywhere), `full` (everything) and the usual parameter-efficient methods.

Each mount freezes the rest of the model and names its trainable tensors; the loop that trains them is the same, and k
is their number of scalars. LoRA, prompt and prefix tuning are peft's.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from apet.coordinates import Attached, Coordinates
from apet.errors import UsageError, lookup
from apet.operations import add_zero_biases, inject
from apet.placement import Placement, Scores, place
from apet.space import ParameterSpace

# The paper's set-up: LoRA of rank 8 on the queries and values of self-attention, 100 prompt tokens.
LORA_RANK, LORA_ALPHA, PROMPT_TOKENS = 8, 16, 100
LORA_TARGETS = r".*(SelfAttention\.[qv]|attention\.self\.(query|value)|self_attention\.query_key_value|attn\.c_attn)"


@dataclass(frozen=True)
class Choice:
    """Which entries `apet` tunes: k of them, or as many as `matched` (a method) has, placed as `apet.placement.place` says.

    `operations` (see `apet.operations`) say what there is to choose from: the model's own entries with `add`, new ones.
    """

    k: int | None = None
    matched: str | None = None
    position_seed: int = 0
    operations: tuple[str, ...] = ("add",)
    scope: str = ""
    unit: str = "entry"
    order: str = "random"
    scores: Callable[[ParameterSpace], Scores] | None = None  # for the order by score


@dataclass
class Mounted:
    """A model made ready for training: the model to call, its trainable tensors, and what to do after a step."""

    model: nn.Module
    trainable: dict[str, nn.Parameter]
    write: Callable[[], None] = field(default=lambda: None)
    space: ParameterSpace | None = None
    placement: Placement | None = None
    attached: Attached | None = None

    @property
    def k(self) -> int:
        return sum(p.numel() for p in self.trainable.values())


def mount(method: str, model: nn.Module, choice: Choice = Choice()) -> Mounted:
    """Make `model` trainable by `method`; `choice` is for apet alone.

    Raises UsageError for an unknown method, a k that is missing or outside the space, and a placement that fails.
    """
    if method == "apet":
        return _apet(model, choice)
    return lookup(BASELINES, method, "method")(model)


def count(method: str, model: nn.Module) -> int:
    """k of a baseline on the exact shapes of `model`, which is left alone; nothing is allocated."""
    build = lookup(BASELINES, method, "method")
    with torch.device("meta"):
        return build(_shapes_only(model)).k


def _shapes_only(model: nn.Module) -> nn.Module:
    """A copy on the meta device, tied like the original."""
    memo = {id(p): nn.Parameter(torch.empty_like(p, device="meta")) for p in model.parameters()}
    return copy.deepcopy(model, memo)


def space_of(model: nn.Module, operations: tuple[str, ...] = ("add",), scope: str = "", dry: bool = False) -> ParameterSpace:
    """What can be tuned after `operations`, whose new parameters stay in `model` (with `dry` in a copy without values)."""
    if dry and operations != ("add",):
        model = _shapes_only(model)
    new = inject(model, operations)
    return ParameterSpace.of(model, scope, None if "add" in operations else new)


def _apet(model: nn.Module, choice: Choice) -> Mounted:
    if (choice.k is None) == (choice.matched is None):
        raise UsageError("method apet needs either --k, the number of tuned parameters, or --matched METHOD")
    k = choice.k if choice.matched is None else count(choice.matched, model)
    assert k is not None
    space = space_of(model, choice.operations, choice.scope)
    scores = choice.scores(space) if choice.scores else None
    placement = place(space, k, choice.position_seed, choice.unit, choice.order, scores)
    attached = Coordinates(space, placement.index).attach(model)
    return Mounted(model, {"z": attached.z}, attached.write, space, placement, attached)


def _full(model: nn.Module) -> Mounted:
    return _with(model, list(model.parameters()))


def _bitfit(model: nn.Module) -> Mounted:
    """All biases (Ben Zaken et al. 2022, arXiv 2106.10199), zero ones added to the linear layers of a model without any."""
    if not _biases(model):
        add_zero_biases(model)
    if not _biases(model):
        raise UsageError(f"{type(model).__name__} has neither biases nor linear layers to give them to")
    return _with(model, _biases(model))


def _biases(model: nn.Module) -> list[nn.Parameter]:
    return [p for name, p in model.named_parameters() if name.rpartition(".")[2] == "bias"]


def _adapter(model: nn.Module) -> Mounted:
    names = set(inject(model, ("plug",)))
    return _with(model, [p for name, p in model.named_parameters() if name in names])


def _lora(model: nn.Module) -> Mounted:
    from peft import LoraConfig, inject_adapter_in_model

    transposed = any(type(module).__name__ == "Conv1D" for module in model.modules())
    config = LoraConfig(r=LORA_RANK, lora_alpha=LORA_ALPHA, lora_dropout=0.0, target_modules=LORA_TARGETS, fan_in_fan_out=transposed)
    try:
        inject_adapter_in_model(config, model)
    except ValueError as error:
        raise UsageError(f"{type(model).__name__} has no self-attention that LoRA's targets fit") from error
    return _with(model, [p for p in model.parameters() if p.requires_grad])


def _prompt(model: nn.Module) -> Mounted:
    from peft import PromptTuningConfig

    return _wrapped(model, PromptTuningConfig(task_type=_task_type(model), num_virtual_tokens=PROMPT_TOKENS, num_transformer_submodules=1))


def _prefix(model: nn.Module) -> Mounted:
    from peft import PrefixTuningConfig

    return _wrapped(model, PrefixTuningConfig(task_type=_task_type(model), num_virtual_tokens=PROMPT_TOKENS))


def _wrapped(model: nn.Module, config: Any) -> Mounted:
    from peft import get_peft_model

    wrapper = get_peft_model(model, config)  # type: ignore[arg-type]
    return _with(wrapper, [p for p in wrapper.parameters() if p.requires_grad])


def _task_type(model: Any) -> str:
    if not hasattr(model, "config"):
        raise UsageError(f"{type(model).__name__} is no transformers model: peft's prompts do not fit it")
    if model.config.is_encoder_decoder:
        return "SEQ_2_SEQ_LM"
    return "CAUSAL_LM" if type(model).__name__.endswith(("CausalLM", "LMHeadModel")) else "FEATURE_EXTRACTION"


def _with(model: nn.Module, trainable: list[nn.Parameter]) -> Mounted:
    chosen = {id(p) for p in trainable}
    for p in model.parameters():
        p.requires_grad_(id(p) in chosen)
    return Mounted(model, {name: p for name, p in model.named_parameters() if id(p) in chosen})


BASELINES: dict[str, Callable[[nn.Module], Mounted]] = {
    "full": _full, "bitfit": _bitfit, "adapter": _adapter, "lora": _lora, "prompt": _prompt, "prefix": _prefix,
}  # fmt: skip
METHODS = ("apet", *BASELINES)
