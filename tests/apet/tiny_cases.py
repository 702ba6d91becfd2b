"""Small random models of current architectures, and tokenizers with their own ways."""

from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, normalizers, processors

from apet.models.ladder import ladder_tokenizer
from apet.models.loading import Loaded, load_model

WIDE = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
LLAMA = {**WIDE, "num_key_value_heads": 2, "max_position_embeddings": 256}
GPT = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 256}
EXPERTS = {**LLAMA, "num_experts_per_tok": 1}
T5 = {"d_model": 32, "d_kv": 12, "d_ff": 64, "num_layers": 2, "num_heads": 4, "feed_forward_proj": "gated-gelu"}
BART = {
    "d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4, "decoder_attention_heads": 4,
    "encoder_ffn_dim": 64, "decoder_ffn_dim": 64, "max_position_embeddings": 128,
}  # fmt: skip
SIZES: dict[str, dict[str, Any]] = {
    # causal
    "llama": LLAMA,
    "mistral": LLAMA,
    "qwen2": LLAMA,
    "qwen3": {**LLAMA, "head_dim": 16},
    "gemma2": {**LLAMA, "head_dim": 8},
    "phi": LLAMA,
    "mixtral": {**EXPERTS, "num_local_experts": 4},
    "olmoe": {**EXPERTS, "num_experts": 4},
    "gpt_oss": {**EXPERTS, "num_local_experts": 4, "head_dim": 8},
    "qwen2_moe": {**EXPERTS, "num_experts": 4, "moe_intermediate_size": 16, "shared_expert_intermediate_size": 48},
    "qwen3_moe": {**EXPERTS, "head_dim": 8, "num_experts": 4, "moe_intermediate_size": 16},
    "gpt_neox": {**WIDE, "max_position_embeddings": 256},
    "opt": {**WIDE, "word_embed_proj_dim": 32, "ffn_dim": 64, "max_position_embeddings": 64},
    "gpt2": GPT,
    "gptj": {**GPT, "rotary_dim": 4},
    "gpt_bigcode": GPT,
    "openai-gpt": GPT,
    "ctrl": {**GPT, "dff": 64},
    "gpt_neo": {
        "hidden_size": 32, "num_layers": 2, "num_heads": 4, "attention_types": [[["global", "local"], 1]], "window_size": 8,
        "max_position_embeddings": 256,
    },
    "falcon": {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4},
    "mpt": {"d_model": 32, "n_heads": 4, "n_layers": 2, "max_seq_len": 256},
    "bloom": {"hidden_size": 32, "n_layer": 2, "n_head": 4},
    "xglm": {"d_model": 32, "ffn_dim": 64, "num_layers": 2, "attention_heads": 4, "max_position_embeddings": 256},
    "biogpt": {**WIDE, "max_position_embeddings": 256},
    "mamba": {"hidden_size": 32, "num_hidden_layers": 2, "state_size": 4},
    "mamba2": {
        "hidden_size": 32, "num_hidden_layers": 2, "state_size": 8, "num_heads": 8, "head_dim": 8, "n_groups": 1, "chunk_size": 8,
    },
    "rwkv": {"hidden_size": 32, "attention_hidden_size": 32, "num_hidden_layers": 2},
    "xlnet": {"d_model": 32, "n_layer": 2, "n_head": 4, "d_inner": 64},
    # masked
    "bert": WIDE,
    "roberta": {**WIDE, "max_position_embeddings": 66},
    "xlm-roberta": {**WIDE, "max_position_embeddings": 66},
    "electra": {**WIDE, "embedding_size": 32},
    "albert": {**WIDE, "embedding_size": 16},
    "mpnet": {**WIDE, "max_position_embeddings": 66},
    "distilbert": {"dim": 32, "hidden_dim": 64, "n_layers": 2, "n_heads": 4},
    "deberta-v2": WIDE,
    "modernbert": {**WIDE, "global_attn_every_n_layers": 2},
    "fnet": WIDE,
    "xlm": {"emb_dim": 32, "n_layers": 2, "n_heads": 4},
    # encoder-decoder
    "t5": T5,
    "mt5": T5,
    "bart": BART,
    "pegasus": BART,
}  # fmt: skip


def config(kind: str, **changes: Any) -> Any:
    import transformers

    sizes = {**SIZES[kind], "vocab_size": 4096, "pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 1, **changes}
    made = transformers.AutoConfig.for_model(kind, **sizes)
    if made.is_encoder_decoder:
        made.decoder_start_token_id = 0
    return made


def random_model(kind: str, **changes: Any) -> tuple[Any, str]:
    """Return a random model of a kind, on no disk, and the form in which the kind is pretrained."""
    import transformers

    described = config(kind, **changes)
    form = next(
        f for f in ("Seq2SeqLM", "MaskedLM", "CausalLM") if type(described) in getattr(transformers, f"AutoModelFor{f}")._model_mapping
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return getattr(transformers, f"AutoModelFor{form}").from_config(described).eval(), form


def saved(kind: str, folder: Path, tokenizer: Any = None, **changes: Any) -> Path:
    """A folder with such a model, in the form it is pretrained in, and a tokenizer (the ladder's unless one is given)."""
    model, form = random_model(kind, **changes)
    with torch.no_grad():  # so that every logit depends on the text
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter *= 8.0
    model.save_pretrained(folder)
    family = {"Seq2SeqLM": "t5", "MaskedLM": "bert", "CausalLM": "bloom"}[form]
    (tokenizer or ladder_tokenizer(family)).save_pretrained(folder)
    return folder


@lru_cache
def _folder(kind: str) -> Any:
    import tempfile

    kept = tempfile.TemporaryDirectory()
    saved(kind, Path(kept.name))
    return kept


def folder_of(kind: str) -> str:
    """A folder with the kind's model, made once per process."""
    return _folder(kind).name


def tiny(kind: str, classes: int | None = None) -> Loaded:
    """A new copy of the kind's model."""
    return load_model(folder_of(kind), classes=classes)


def wrapped(tokenizer: Tokenizer, **special: str) -> Any:
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special)


def with_bos() -> Any:
    """The ladder's tokenizer with a [CLS] before every text, as LLaMA's and Gemma's have a BOS."""
    made = ladder_tokenizer("bloom")
    begin = [("[CLS]", 3)]
    made.backend_tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A", pair="[CLS] $A [CLS] $B", special_tokens=begin)
    return made


def with_mark_before() -> Any:
    """A tokenizer that puts its word mark before every text, as LLaMA-2's does: a word behind a space then has a mark of its own."""
    words = ["▁", "▁it", "▁was", "▁great", "▁terrible", "▁good", "▁film", "▁a"]
    letters = sorted({*"".join(words), *"abcdefghijklmnopqrstuvwxyz.,"})
    vocabulary = {piece: i for i, piece in enumerate(dict.fromkeys(["<unk>", "<s>", "</s>", *letters]))}
    merges = []
    for word in words:
        for i in range(1, len(word)):
            vocabulary.setdefault(word[: i + 1], len(vocabulary))
            merges += [(word[:i], word[i])] if (word[:i], word[i]) not in merges else []
    made = Tokenizer(models.BPE(vocab=vocabulary, merges=merges, unk_token="<unk>", fuse_unk=True))
    made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    begin = [("<s>", vocabulary["<s>"])]
    made.post_processor = processors.TemplateProcessing(single="<s> $A", pair="<s> $A <s> $B", special_tokens=begin)
    made.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    return wrapped(made, bos_token="<s>", eos_token="</s>", unk_token="<unk>")
