"""Prompt tuning (Lester et al. 2021, arXiv 2104.08691) and prefix tuning (Li and Liang 2021, arXiv 2101.00190) by peft's virtual tokens."""

from __future__ import annotations

import inspect
import warnings
from typing import TYPE_CHECKING, Any

from apet.errors import UsageError
from apet.methods.method import Method, MethodOption

if TYPE_CHECKING:
    from torch import Tensor, nn

    from apet.methods.tunable_model import TunableModel

TOKENS = 100  # as in the paper


def tune_prompt(model: nn.Module, tokens: int = TOKENS) -> TunableModel:
    """Prepend trainable embeddings of virtual tokens to the model's inputs."""
    from peft import PromptTuningConfig

    return prepended(model, PromptTuningConfig(num_virtual_tokens=tokens))


def tune_prefix(model: nn.Module, tokens: int = TOKENS) -> TunableModel:
    """Prepend trainable keys and values of virtual tokens to the keys and values of every attention."""
    from peft import PrefixTuningConfig

    return with_keys(model, PrefixTuningConfig(num_virtual_tokens=tokens))


def prepended(model: Any, config: Any) -> TunableModel:
    """Wrap `model` with embeddings of virtual tokens before its inputs, as `config` of peft describes them.

    Raises UsageError for a model that does not accept embeddings as inputs.
    """
    from apet.methods.tunable_model import classification_head

    complete_for_embeddings(model, config)
    embeddings = model.get_input_embeddings()
    tunable = wrapped(model, config)
    tunable.model.word_embeddings = embeddings  # peft guesses them by the size of the vocabulary
    # The texts of a causal model are padded on the left.
    if config.task_type == "CAUSAL_LM" and "position_ids" in inspect.signature(model.forward).parameters:
        model.register_forward_pre_hook(_count_positions, with_kwargs=True)
    pooler = getattr(getattr(model, "base_model", None), "pooler", None)
    if pooler is not None and classification_head(model):  # the pooler reads the first token, now a prompt token
        pooler.register_forward_pre_hook(lambda module, inputs: (_own(inputs[0], config.num_virtual_tokens),))
    return tunable


def with_keys(model: Any, config: Any) -> TunableModel:
    """Wrap `model` with keys and values of virtual tokens in every self-attention, as `config` of peft describes them.

    Raises UsageError for a model that does not cache keys and values.
    """
    complete_for_keys(model, config)
    return wrapped(model, config)


def complete_for_embeddings(model: Any, config: Any) -> None:
    """Set the fields of a prompt's `config` that follow from the model. Raises UsageError for a model without embeddings as inputs."""
    if "inputs_embeds" not in inspect.signature(_backbone(model).forward).parameters:
        raise UsageError(f"prompts need a model that accepts embeddings as inputs (inputs_embeds): {type(model).__name__} does not")
    config.task_type, config.num_transformer_submodules = task_type(model), 1
    config.token_dim, config.num_layers, config.num_attention_heads = model.get_input_embeddings().weight.shape[1], 1, 1


def complete_for_keys(model: Any, config: Any) -> None:
    """Set the fields of a prefix's `config` that follow from the model. Raises UsageError for a model that caches no keys."""
    if "past_key_values" not in inspect.signature(_backbone(model).forward).parameters:
        raise UsageError(
            f"prefixes need keys and values that the model caches (past_key_values): {type(model).__name__} does not have them"
        )
    config.task_type = task_type(model)
    config.num_layers, config.num_attention_heads, width = _cached_shape(model)
    config.token_dim = config.num_attention_heads * width


def _backbone(model: Any) -> Any:
    """Return the part of a transformers model without its output head. Raises UsageError for any other model."""
    if not hasattr(model, "config"):
        raise UsageError(f"{type(model).__name__} is not a transformers model: peft's virtual tokens do not support it")
    return model.base_model


def _cached_shape(model: Any) -> tuple[int, int, int]:
    """Return (layers, heads, width of a head) of the keys that the self-attentions of `model` cache.

    The numbers come from a forward pass of one token, or from the config if the model returns no keys (an encoder) or has no weights.
    Raises UsageError if the layers have different shapes.
    """
    import torch

    config = model.config
    layers, queries = config.num_hidden_layers, config.num_attention_heads
    if config.is_encoder_decoder:
        layers = getattr(config, "decoder_layers", None) or getattr(config, "num_decoder_layers", None) or layers
        queries = getattr(config, "decoder_attention_heads", None) or queries
    heads = getattr(config, "num_key_value_heads", None) or queries
    width = getattr(config, "d_kv", None) or getattr(config, "head_dim", None) or config.hidden_size // queries
    ids = torch.ones(1, 1, dtype=torch.long, device=next(model.parameters()).device)
    inputs = {"input_ids": ids, "use_cache": True} | ({"decoder_input_ids": ids} if config.is_encoder_decoder else {})
    try:
        with torch.no_grad():
            cache = getattr(model(**inputs), "past_key_values", None)
    except (RuntimeError, NotImplementedError, TypeError):  # some models cannot compute on the meta device
        cache = None
    if cache is None:
        return layers, heads, width
    shapes = {tuple(layer.keys.shape) for layer in getattr(cache, "self_attention_cache", cache).layers}
    if len(shapes) > 1:
        raise UsageError(f"the layers of {type(model).__name__} cache keys of different shapes: prefixes need equal shapes")
    ((_, heads, _, width),) = shapes
    return len(getattr(cache, "self_attention_cache", cache).layers), heads, width


def _own(states: Tensor, virtual: int) -> Tensor:
    """Return the states (B, T, d) of a text behind `virtual` tokens. ALBERT's pooler has only the first token's state (B, d): keep it."""
    return states[:, virtual:] if states.dim() == 3 else states


def _count_positions(module: nn.Module, inputs: tuple, options: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
    """Pass the model positions that do not count the padding between prompt and text. peft discards positions that are passed to it."""
    mask = options.get("attention_mask")
    if options.get("position_ids") is None and mask is not None and mask.dim() == 2:
        tokens = options["input_ids"] if options.get("inputs_embeds") is None else options["inputs_embeds"]
        options["position_ids"] = (mask.long().cumsum(1) - 1).clamp(min=0)[:, -tokens.shape[1] :]
    return inputs, options


def wrapped(model: nn.Module, config: Any) -> TunableModel:
    """Wrap `model` by peft with the parameters that `config` describes, and make only them trainable."""
    from peft import get_peft_model
    from peft.utils import ModulesToSaveWrapper

    from apet.methods.tunable_model import tune_only

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of peft and transformers, about each other's versions and unknown layer types
        wrapper = get_peft_model(model, config)  # type: ignore[arg-type]
    wrapper.train(model.training)  # peft's new modules begin in training mode
    for name, module in model.named_children():
        if isinstance(module, ModulesToSaveWrapper):  # a copy of the head, to be tuned as part of the method
            setattr(model, name, module.original_module)
    return tune_only(wrapper, [p for p in wrapper.parameters() if p.requires_grad])


def task_type(model: Any) -> str:
    """Return peft's name for the kind of model."""
    from apet.methods.tunable_model import classification_head

    if model.config.is_encoder_decoder:
        return "SEQ_2_SEQ_LM"
    if classification_head(model):
        return "SEQ_CLS"
    return "CAUSAL_LM" if type(model).__name__.endswith(("CausalLM", "LMHeadModel")) else "FEATURE_EXTRACTION"


PROMPT = Method(
    "prompt", "prompt", "^", 0.1, tune_prompt, "new: embeddings of virtual tokens before the text",
    {"tokens": MethodOption(TOKENS, least=1)}, dial="tokens", virtual_tokens="tokens", low_precision=True, starts_at_base=False,
)  # fmt: skip
PREFIX = Method(
    "prefix", "prefix", "v", 3e-2, tune_prefix, "new: keys and values of virtual tokens in every self-attention",
    {"tokens": MethodOption(TOKENS, least=1)}, dial="tokens", virtual_tokens="tokens", low_precision=True, starts_at_base=False,
)  # fmt: skip
