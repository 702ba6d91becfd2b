"""Prompt tuning (Lester et al. 2021, arXiv 2104.08691) and prefix tuning (Li and Liang 2021, arXiv 2101.00190) by peft's virtual tokens."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

from apet.errors import UsageError
from apet.methods.method import Method

if TYPE_CHECKING:
    from torch import nn

    from apet.methods.tunable_model import TunableModel

PROMPT_TOKENS = 100  # as in the paper


def tune_prompt(model: nn.Module) -> TunableModel:
    """Prepend trainable embeddings of virtual tokens to the model's inputs."""
    from peft import PromptTuningConfig

    from apet.methods.tunable_model import classification_head

    config = PromptTuningConfig(task_type=_task_type(model), num_virtual_tokens=PROMPT_TOKENS, num_transformer_submodules=1)
    tunable = _wrapped(model, config)
    if (
        config.task_type == "CAUSAL_LM" and "position_ids" in inspect.signature(model.forward).parameters
    ):  # its texts are padded on the left
        model.register_forward_pre_hook(_count_positions, with_kwargs=True)
    pooler = getattr(getattr(model, "base_model", None), "pooler", None)
    if pooler is not None and classification_head(model):  # the pooler reads the first token, now a prompt token
        pooler.register_forward_pre_hook(lambda module, inputs: (inputs[0][:, PROMPT_TOKENS:],))
    return tunable


def tune_prefix(model: Any) -> TunableModel:
    """Prepend trainable keys and values of virtual tokens to the keys and values of every attention."""
    from peft import PrefixTuningConfig

    task_type, config = _task_type(model), model.config
    head_width = getattr(config, "d_kv", None) or getattr(
        config, "head_dim", None
    )  # peft assumes that all heads together have the model's width
    width = {"token_dim": head_width * config.num_attention_heads} if head_width else {}
    return _wrapped(model, PrefixTuningConfig(task_type=task_type, num_virtual_tokens=PROMPT_TOKENS, **width))


def _count_positions(module: nn.Module, inputs: tuple, options: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
    """Pass the model positions that do not count the padding between prompt and text. peft discards positions that are passed to it."""
    mask = options.get("attention_mask")
    if options.get("position_ids") is None and mask is not None and mask.dim() == 2:
        tokens = options["input_ids"] if options.get("inputs_embeds") is None else options["inputs_embeds"]
        options["position_ids"] = (mask.long().cumsum(1) - 1).clamp(min=0)[:, -tokens.shape[1] :]
    return inputs, options


def _wrapped(model: nn.Module, config: Any) -> TunableModel:
    from peft import get_peft_model
    from peft.utils import ModulesToSaveWrapper

    from apet.methods.tunable_model import tune_only

    wrapper = get_peft_model(model, config)  # type: ignore[arg-type]
    for name, module in model.named_children():
        if isinstance(module, ModulesToSaveWrapper):  # a copy of the head, to be tuned as part of the method
            setattr(model, name, module.original_module)
    return tune_only(wrapper, [p for p in wrapper.parameters() if p.requires_grad])


def _task_type(model: Any) -> str:
    """Return peft's name for the kind of model. Raises UsageError for a model that is not a transformers model."""
    from apet.methods.tunable_model import classification_head

    if not hasattr(model, "config"):
        raise UsageError(f"{type(model).__name__} is not a transformers model: peft's virtual tokens do not support it")
    if model.config.is_encoder_decoder:
        return "SEQ_2_SEQ_LM"
    if classification_head(model):
        return "SEQ_CLS"
    return "CAUSAL_LM" if type(model).__name__.endswith(("CausalLM", "LMHeadModel")) else "FEATURE_EXTRACTION"


PROMPT = Method("prompt", "prompt", "^", 0.1, tune_prompt, virtual_tokens=PROMPT_TOKENS, low_precision=True)
PREFIX = Method("prefix", "prefix", "v", 3e-2, tune_prefix, virtual_tokens=PROMPT_TOKENS, low_precision=True)
