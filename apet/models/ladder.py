"""The ladder: built-in miniature models with genuine pretraining, shipped as package data.

The sizes of a family differ mainly in width; SIZES lists the heads and layers that go with each width. All models share one tokenizer.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from apet.errors import lookup
from apet.models.vocabulary import CLS, EOS, PAD, POSITIONS, SEP, VOCABULARY

if TYPE_CHECKING:
    from torch import nn


# A segment of a learning-rate schedule: (steps, rate at its end, shape). "sqrt" changes the rate fastest at the beginning.
Stretch = tuple[int, float, str]

LADDER = Path(__file__).parent / "weights"
TOKENIZER = LADDER / "tokenizer" / "tokenizer.json"

# family -> size -> (width, heads, layers); for T5, layers of the encoder and as many of the decoder
SIZES: dict[str, dict[str, tuple[int, int, int]]] = {
    "t5": {"130k": (24, 2, 2), "240k": (40, 2, 2), "790k": (80, 4, 3), "2m": (128, 4, 4), "6m": (224, 7, 4)},
    "bert": {"120k": (24, 2, 2), "400k": (64, 4, 2), "1m": (128, 4, 3), "3m": (224, 7, 4)},
    "bloom": {"120k": (24, 2, 2), "400k": (64, 4, 2), "1m": (128, 4, 3), "3m": (224, 8, 4)},
}

# family -> (steps, peak learning rate) of the default schedule
DEFAULTS = {"t5": (8000, 2e-2), "bert": (6000, 3e-3), "bloom": (6000, 5e-3)}

# The largest T5: the rate falls early to end a long phase near the unigram loss, then rises twice more to make use of the features learned.
# The largest BERT: when its rate had fallen to half, the next smaller model still had a lower loss. From there on the rate falls more
# slowly and rises once more.
SCHEDULES: dict[tuple[str, str], tuple[Stretch, ...]] = {
    ("t5", "6m"): (
        *((200, 2e-2, "linear"), (3528, 2e-2, "linear"), (2567, 4.5e-3, "sqrt"), (50, 1e-2, "linear"), (4155, 0.0, "linear")),
        *((100, 1e-2, "linear"), (4400, 1e-2, "linear"), (5000, 0.0, "linear")),
    ),
    ("bert", "3m"): (
        *((200, 3e-3, "linear"), (2800, 3e-3, "linear"), (1500, 1.5e-3, "linear"), (4302, 0.0002094, "linear")),
        *((100, 8e-4, "linear"), (2200, 0.0, "linear")),
    ),
}

HALF_STEPS = {("bert", "3m"): 7125}

# Corpora whose licences allow the redistribution of weights trained on them, with the attribution that each licence requires.
SOURCES = {
    "wikipedia_en_2015": "English Wikipedia contributors, extraction of 2015, CC BY-SA 3.0",
    "english_novels_100": "100 English Novels (Computational Stylistics Group), texts in the public domain",
    "eltec_english_novels": "ELTeC-eng, European Literary Text Collection (COST Action CA16204), CC BY 4.0",
    "us_presidential_addresses": "State of the Union and inaugural addresses, public domain",
    "tiny_shakespeare": "Tiny Shakespeare (works of William Shakespeare), public domain",
}


def t5_config(width: int, heads: int, layers: int) -> Any:
    """Return the configuration of a T5 v1.1 (gated GELU, tied embeddings) without dropout."""
    from transformers import T5Config

    return T5Config(
        vocab_size=VOCABULARY, d_model=width, d_kv=width // heads, d_ff=2 * width, num_layers=layers, num_heads=heads,
        feed_forward_proj="gated-gelu", dropout_rate=0.0, pad_token_id=PAD, eos_token_id=EOS,
        **{"decoder_start_token_id": PAD, "tie_word_embeddings": True},
    )  # fmt: skip


def bert_config(width: int, heads: int, layers: int) -> Any:
    """Return the configuration of a BERT without dropout, with one position per token of a training window.

    The standard deviation of the initial weights is 0.02 sqrt(768 / width), so that a layer's output is as large as at width 768.
    """
    from transformers import BertConfig

    return BertConfig(
        vocab_size=VOCABULARY, hidden_size=width, num_hidden_layers=layers, num_attention_heads=heads, intermediate_size=4 * width,
        max_position_embeddings=POSITIONS, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, pad_token_id=PAD,
        initializer_range=0.02 * (768 / width) ** 0.5,
    )  # fmt: skip


def bloom_config(width: int, heads: int, layers: int) -> Any:
    """Return the configuration of a BLOOM (ALiBi, tied embeddings) without dropout."""
    from transformers import BloomConfig

    return BloomConfig(
        vocab_size=VOCABULARY, hidden_size=width, n_layer=layers, n_head=heads, hidden_dropout=0.0, attention_dropout=0.0,
        pad_token_id=PAD, bos_token_id=EOS, eos_token_id=EOS,
    )  # fmt: skip


CONFIGS = {"t5": t5_config, "bert": bert_config, "bloom": bloom_config}
PRETRAINED = {"t5": "T5ForConditionalGeneration", "bert": "BertForPreTraining", "bloom": "BloomForCausalLM"}


def config_of(family: str, size: str) -> Any:
    """Return the transformers configuration of a ladder model."""
    sizes = lookup(SIZES, family, "family")
    return CONFIGS[family](*lookup(sizes, size, f"size of {family}"))


def build_ladder_model(family: str, size: str) -> nn.Module:
    """Return a ladder model with fresh weights and the output heads of its pretraining."""
    import transformers

    model = getattr(transformers, PRETRAINED[family])(config_of(family, size))
    model.set_attn_implementation("eager")  # on a CPU, the fused kernel's backward pass would take a third of BERT's step
    if family == "bert":
        attend_nearby(model)
    return model


def attend_nearby(model: Any) -> None:
    """Initialise a BERT so that each token attends to its neighbours.

    The learned positions start as sinusoids (Vaswani et al. 2017, arXiv 1706.03762) with wavelengths up to twice the window, three
    times as large as the token embeddings. The query weights are multiplied by four, and the key weights are equal to them.

    From the usual initialisation a miniature model must first learn which positions are neighbours. Its loss then stays at the unigram
    level for most of this recipe.
    """
    import torch

    table = model.bert.embeddings.position_embeddings.weight
    positions, width = table.shape
    rates = 40.0 ** (-torch.arange(0, width, 2) / width)
    angles = torch.arange(positions)[:, None] * rates
    waves = torch.stack([angles.sin(), angles.cos()], dim=2).flatten(1)[:, :width]
    with torch.no_grad():
        table.copy_(3 * table.std() / waves.std() * waves)
        for layer in model.bert.encoder.layer:
            attention = layer.attention.self
            attention.query.weight.mul_(4)
            attention.key.weight.copy_(attention.query.weight)


def ladder_tokenizer(family: str) -> Any:
    """Return the ladder's tokenizer with the special tokens of a family: [CLS] a [SEP] b [SEP] for BERT, a final </s> for the others."""
    from tokenizers.processors import TemplateProcessing
    from transformers import PreTrainedTokenizerFast

    tokenizer = PreTrainedTokenizerFast(
        tokenizer_file=str(TOKENIZER), eos_token="</s>", pad_token="<pad>", unk_token="<unk>", cls_token="[CLS]", sep_token="[SEP]",
        mask_token="[MASK]",
    )  # fmt: skip
    if family == "bert":
        tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
            single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", CLS), ("[SEP]", SEP)]
        )
        tokenizer.model_input_names = ["input_ids", "token_type_ids", "attention_mask"]  # BERT is pretrained on pairs
    return tokenizer


def every_name() -> list[str]:
    """Return the names of all ladder models, shipped or not, by family and then by size, the smallest first (`mini-t5-130k`, ...)."""
    return [f"mini-{family}-{size}" for family, sizes in SIZES.items() for size in sizes]


def ladder_names() -> list[str]:
    """Return the names of the models that are shipped with weights."""
    return [name for name in every_name() if (LADDER / name / "model.safetensors").exists()]


def ladder_card(name: str) -> dict[str, Any]:
    """Return the shipped model's card: sources with licences, tokens, steps, held-out loss and its curve."""
    return json.loads((LADDER / name / "card.json").read_text())
