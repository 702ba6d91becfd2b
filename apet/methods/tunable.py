"""What is tuned: `apet` (k entries anywhere), `full` (everything) and the usual parameter-efficient methods.

Each mount freezes the rest of the model and names its trainable tensors; the loop that trains them is the same, and k
is their number of scalars. A projected subspace (`apet.projections.table`) can stand for the entries of apet, or for all
parameters of another method (the intrinsic dimension inside LoRA); k is then the length of z. A classification head,
which no pretraining has made, is trained along and counted apart. LoRA, prompt and prefix tuning are peft's.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import nn

from apet.errors import UsageError, lookup
from apet.methods.operations import add_zero_biases, inject
from apet.projections import Projected, project
from apet.subspaces import Attached, Coordinates, ParameterSpace, Placement, Scores, all_names, place, tensor_roles

# The paper's set-up: LoRA of rank 8 on the queries and values of self-attention, 100 prompt tokens.
LORA_RANK, LORA_ALPHA, PROMPT_TOKENS = 8, 16, 100
LORA_TARGETS = r".*(SelfAttention\.[qv]|attention\.self\.(query|value)|self_attention\.query_key_value|attn\.c_attn)"


@dataclass(frozen=True)
class Choice:
    """Which entries `apet` tunes: k of them, or as many as `matched` (a method) has, placed as `apet.subspaces.placement.place` says.

    `operations` (see `apet.methods.operations`) say what there is to choose from: the model's own entries with `add`, new ones.
    """

    k: int | None = None
    matched: str | None = None
    position_seed: int = 0
    operations: tuple[str, ...] = ("add",)
    scope: str = ""
    unit: str = "entry"
    order: str = "random"
    scores: Callable[[ParameterSpace], Scores] | None = None  # for the order by score
    subspace: str = "coordinates"  # or a projection: of apet's space, or of all that another method tunes


@dataclass
class Mounted:
    """A model made ready for training: the model to call, its trainable tensors, and what to do after a step.

    `head` names those of `trainable` that read the answer out, and are no part of k.
    """

    model: nn.Module
    trainable: dict[str, nn.Parameter]
    write: Callable[[], None] = field(default=lambda: None)
    space: ParameterSpace | None = None
    placement: Placement | None = None
    attached: Attached | Projected | None = None
    head: frozenset[str] = frozenset()
    trajectory: list[torch.Tensor] = field(default_factory=list)  # z at each look, where a run keeps it

    @property
    def k(self) -> int:
        return sum(p.numel() for name, p in self.trainable.items() if name not in self.head)

    @property
    def k_head(self) -> int:
        return sum(self.trainable[name].numel() for name in self.head)


def mount(method: str, model: nn.Module, choice: Choice = Choice()) -> Mounted:
    """Make `model` trainable by `method`; `choice` is for apet and projected subspaces.

    Raises UsageError for an unknown method, a k that is missing or outside the space, and a placement that fails.
    """
    build = (lambda model: _apet(model, choice)) if method == "apet" else lookup(BASELINES, method, "method")
    if choice.subspace != "coordinates":
        build = lambda model: _projected(method, model, choice)  # noqa: E731
    return _with_head(build, model)


def count(method: str, model: nn.Module) -> int:
    """k of a baseline on the exact shapes of `model`, which is left alone; nothing is allocated."""
    build = lookup(BASELINES, method, "method")
    with torch.device("meta"):
        return _with_head(build, _shapes_only(model)).k


def _with_head(build: Callable[[nn.Module], Mounted], model: nn.Module) -> Mounted:
    """What `build` mounts, and the model's classification head (if it has one) among its trainable tensors."""
    head = {id(p) for p in head_of(model).values()}
    mounted = build(model)
    found = {name: p for name, p in mounted.model.named_parameters() if id(p) in head}
    for p in found.values():
        p.requires_grad_(True)
    return replace(mounted, trainable=mounted.trainable | found, head=frozenset(found))


def head_of(model: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters of a sequence classifier's own head by name; of any other model none.

    Those are its output layer, and all that the checkpoint had not and `apet.models.loading.load_model` drew (`drawn`): it is trained for
    the
    task or stays at random. A pooler that the checkpoint holds is the model's.
    """
    if not type(model).__name__.endswith("SequenceClassification"):
        return {}
    roles, drawn = tensor_roles(model), getattr(model, "drawn", frozenset())
    return {name: p for name, p in model.named_parameters() if "head" in roles[name] or name in drawn}


def _shapes_only(model: nn.Module) -> nn.Module:
    """A copy on the meta device, tied like the original."""
    memo = {id(p): nn.Parameter(torch.empty_like(p, device="meta")) for p in model.parameters()}
    return copy.deepcopy(model, memo)


def space_of(model: nn.Module, operations: tuple[str, ...] = ("add",), scope: str = "", dry: bool = False) -> ParameterSpace:
    """What can be tuned after `operations`, whose new parameters stay in `model` (with `dry` in a copy without values)."""
    if dry and operations != ("add",):
        model = _shapes_only(model)
    new = inject(model, operations)
    own = [name for name in tensor_roles(model) if name not in head_of(model)]
    return ParameterSpace.of(model, scope, own if "add" in operations else new)


def _k(model: nn.Module, choice: Choice) -> int:
    if choice.k is not None and choice.matched is None:
        return choice.k
    if choice.k is None and choice.matched is not None:
        return count(choice.matched, model)
    raise UsageError("this needs either --k, the number of tuned parameters, or --matched METHOD")


def _projected(method: str, model: nn.Module, choice: Choice) -> Mounted:
    """z of a projection of apet's space, or of all (in scope) that `method` would tune, the head left out."""
    k = _k(model, choice)
    if method == "apet":
        space = space_of(model, choice.operations, choice.scope)
    else:
        head = {id(p) for p in head_of(model).values()}
        inner = BASELINES[method](model)
        model, names = inner.model, all_names(inner.model)
        tuned = {id(p) for p in inner.trainable.values()} - head
        space = ParameterSpace.of(model, choice.scope or "all", [name for name in tensor_roles(model) if id(names[name]) in tuned])
    attached = project(choice.subspace, space, k, choice.position_seed).attach(model)
    return Mounted(model, {"z": attached.z}, attached.write, space, attached=attached)


def _apet(model: nn.Module, choice: Choice) -> Mounted:
    k = _k(model, choice)
    space = space_of(model, choice.operations, choice.scope)
    scores = choice.scores(space) if choice.scores else None
    placement = place(space, k, choice.position_seed, choice.unit, choice.order, scores)
    attached = Coordinates(space, placement.index).attach(model)
    return Mounted(model, {"z": attached.z}, attached.write, space, placement, attached)


def _full(model: nn.Module) -> Mounted:
    return _with(model, list(model.parameters()))


def _bitfit(model: nn.Module) -> Mounted:
    """All biases (Ben Zaken et al. 2022, arXiv 2106.10199), zero ones added to the linear layers of a model without any."""
    if not own_biases(model):
        add_zero_biases(model)
    if not own_biases(model):
        raise UsageError(f"{type(model).__name__} has neither biases nor linear layers to give them to")
    return _with(model, own_biases(model))


def own_biases(model: nn.Module) -> list[nn.Parameter]:
    """What BitFit tunes of `model` as it is."""
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

    config = PromptTuningConfig(task_type=_task_type(model), num_virtual_tokens=PROMPT_TOKENS, num_transformer_submodules=1)
    mounted = _wrapped(model, config)
    if config.task_type == "CAUSAL_LM" and "position_ids" in inspect.signature(model.forward).parameters:  # padded on the left
        model.register_forward_pre_hook(_count_positions, with_kwargs=True)
    pooler = getattr(getattr(model, "base_model", None), "pooler", None)
    if pooler is not None and head_of(model):  # it reads [CLS], which no longer stands first
        pooler.register_forward_pre_hook(lambda module, inputs: (inputs[0][:, PROMPT_TOKENS:],))
    return mounted


def _count_positions(module: nn.Module, inputs: tuple, options: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
    """Positions that do not count the padding between prompt and text: peft drops those it is given."""
    mask = options.get("attention_mask")
    if options.get("position_ids") is None and mask is not None and mask.dim() == 2:
        given = options["input_ids"] if options.get("inputs_embeds") is None else options["inputs_embeds"]
        options["position_ids"] = (mask.long().cumsum(1) - 1).clamp(min=0)[:, -given.shape[1] :]
    return inputs, options


def _prefix(model: Any) -> Mounted:
    from peft import PrefixTuningConfig

    task_type, config = _task_type(model), model.config
    a_head = getattr(config, "d_kv", None) or getattr(config, "head_dim", None)  # peft takes the model's width to be that of all heads
    width = {"token_dim": a_head * config.num_attention_heads} if a_head else {}
    return _wrapped(model, PrefixTuningConfig(task_type=task_type, num_virtual_tokens=PROMPT_TOKENS, **width))


def _wrapped(model: nn.Module, config: Any) -> Mounted:
    from peft import get_peft_model
    from peft.utils import ModulesToSaveWrapper

    wrapper = get_peft_model(model, config)  # type: ignore[arg-type]
    for name, module in model.named_children():
        if isinstance(module, ModulesToSaveWrapper):  # a copy of the head, to be tuned as part of the method
            setattr(model, name, module.original_module)
    return _with(wrapper, [p for p in wrapper.parameters() if p.requires_grad])


def _task_type(model: Any) -> str:
    if not hasattr(model, "config"):
        raise UsageError(f"{type(model).__name__} is no transformers model: peft's prompts do not fit it")
    if model.config.is_encoder_decoder:
        return "SEQ_2_SEQ_LM"
    if head_of(model):
        return "SEQ_CLS"
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
