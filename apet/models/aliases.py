"""Short names of Hugging Face checkpoints, with their ids, architectures and parameter counts.

The names `t5-*` stand for T5 v1.1, the models of the paper. The original T5 has no size "xl": its largest checkpoints are
google-t5/t5-3b and google-t5/t5-11b. The v1.1 checkpoints with further training as language models (for prompts) have no short
name; use their ids, google/t5-*-lm-adapt.

The architectures are stored here so that random weights and parameter counts need neither the network nor the cache. They consist
of the fields of each checkpoint's config.json that determine the function.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

APACHE, RAIL = "Apache-2.0", "BigScience RAIL 1.0"


@dataclass(frozen=True)
class Alias:
    """A checkpoint: its Hugging Face id, the fields of its transformers configuration (with `model_type`), and its licence."""

    hub_id: str
    config: dict[str, Any]
    licence: str


def _t5(size: str, width: int, feed_forward: int, layers: int, heads: int) -> Alias:
    config = {
        "model_type": "t5", "vocab_size": 32128, "d_model": width, "d_kv": 64, "d_ff": feed_forward, "num_layers": layers,
        "num_decoder_layers": layers, "num_heads": heads, "relative_attention_num_buckets": 32, "relative_attention_max_distance": 128,
        "dropout_rate": 0.1, "layer_norm_epsilon": 1e-6, "initializer_factor": 1.0, "feed_forward_proj": "gated-gelu",
        "is_encoder_decoder": True, "tie_word_embeddings": False, "use_cache": True, "pad_token_id": 0, "eos_token_id": 1,
        "decoder_start_token_id": 0,
    }  # fmt: skip
    return Alias(f"google/t5-v1_1-{size}", config, APACHE)


def _bert(hub_id: str, width: int, layers: int, heads: int) -> Alias:
    config = {
        "model_type": "bert", "vocab_size": 30522, "hidden_size": width, "num_hidden_layers": layers, "num_attention_heads": heads,
        "intermediate_size": 4 * width, "hidden_act": "gelu", "hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1,
        "max_position_embeddings": 512, "type_vocab_size": 2, "initializer_range": 0.02, "layer_norm_eps": 1e-12, "pad_token_id": 0,
        "tie_word_embeddings": True,
    }  # fmt: skip
    return Alias(hub_id, config, APACHE)


def _bloom(size: str, width: int, layers: int, heads: int) -> Alias:
    config = {
        "model_type": "bloom", "vocab_size": 250880, "hidden_size": width, "n_layer": layers, "n_head": heads, "layer_norm_epsilon": 1e-5,
        "initializer_range": 0.02, "apply_residual_connection_post_layernorm": False, "hidden_dropout": 0.0, "attention_dropout": 0.0,
        "slow_but_exact": False, "tie_word_embeddings": True, "use_cache": True, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 3,
    }  # fmt: skip
    return Alias(f"bigscience/bloom-{size}", config, RAIL)


ALIASES = {
    "bert-tiny": _bert("google/bert_uncased_L-2_H-128_A-2", 128, 2, 2),
    "bert-mini": _bert("google/bert_uncased_L-4_H-256_A-4", 256, 4, 4),
    "bert-small": _bert("google/bert_uncased_L-4_H-512_A-8", 512, 4, 8),
    "bert-medium": _bert("google/bert_uncased_L-8_H-512_A-8", 512, 8, 8),
    "bert-base": _bert("google-bert/bert-base-uncased", 768, 12, 12),
    "bert-large": _bert("google-bert/bert-large-uncased", 1024, 24, 16),
    "t5-small": _t5("small", 512, 1024, 8, 6),
    "t5-base": _t5("base", 768, 2048, 12, 12),
    "t5-large": _t5("large", 1024, 2816, 24, 16),
    "t5-xl": _t5("xl", 2048, 5120, 24, 32),
    "t5-xxl": _t5("xxl", 4096, 10240, 24, 64),
    "bloom-560m": _bloom("560m", 1024, 24, 16),
    "bloom-1b1": _bloom("1b1", 1536, 24, 16),
    "bloom-1b7": _bloom("1b7", 2048, 24, 16),
    "bloom-3b": _bloom("3b", 2560, 30, 32),
    "bloom-7b1": _bloom("7b1", 4096, 30, 32),
}


@dataclass(frozen=True)
class Count:
    """Parameter counts of an architecture. Tied tensors count once. `tables` are the token embeddings and the output head with its bias."""

    layers: int  # for T5: layers of the encoder (the decoder has as many)
    blocks: int  # all parameters outside `tables`
    tables: int

    @property
    def total(self) -> int:
        return self.blocks + self.tables


def count_parameters(config: dict[str, Any]) -> Count:
    """Return the parameter counts, in closed form, of a T5 v1.1, BERT (masked language model) or BLOOM with these config.json fields."""
    return {"t5": _count_t5, "bert": _count_bert, "bloom": _count_bloom}[config["model_type"]](config)


def _count_t5(config: dict[str, Any]) -> Count:
    width, layers, heads, decoder = (config[name] for name in ("d_model", "num_layers", "num_heads", "num_decoder_layers"))
    attention, feed_forward = 4 * width * heads * config["d_kv"], 3 * width * config["d_ff"]
    blocks = layers * (attention + feed_forward + 2 * width) + decoder * (2 * attention + feed_forward + 3 * width)
    positions = 2 * heads * config["relative_attention_num_buckets"]
    tables = config["vocab_size"] * width * (1 if config["tie_word_embeddings"] else 2)
    return Count(layers, blocks + positions + 2 * width, tables)


def _count_bert(config: dict[str, Any]) -> Count:
    width, layers, inner = config["hidden_size"], config["num_hidden_layers"], config["intermediate_size"]
    block = 4 * (width * width + width) + 2 * width * inner + inner + width + 4 * width
    embeddings = (config["max_position_embeddings"] + config["type_vocab_size"] + 2) * width
    head = width * width + width + 2 * width  # the dense layer and the norm before the output layer
    return Count(layers, layers * block + embeddings + head, config["vocab_size"] * (width + 1))


def _count_bloom(config: dict[str, Any]) -> Count:
    width, layers = config["hidden_size"], config["n_layer"]
    return Count(layers, layers * (12 * width * width + 13 * width) + 4 * width, config["vocab_size"] * width)
