"""One small random model of every form, and each asked by hand: one example at a time, no padding, no cache."""

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from transformers import GPT2Config, GPT2LMHeadModel

from apet.models.loading import Loaded, load_model
from apet.tasks.task_table import TASKS

WRITING = ("t5", "bloom", "gpt2")  # GPT-2 is the one with absolute positions that is padded on the left
MODELS = (*WRITING, "bert", "classifier")
REVIEWS = [
    {"sentence": text, "label": i % 2}
    for i, text in enumerate(["a lovely film", "a horrible , sad and very long story about nothing at all", "fun", "it is great music ."])
]
CHATS = [
    {"dialogue": text, "summary": summary}
    for text, summary in [
        ("hello there", "a greeting"),
        ("one man told the other a very long story about the war", "a man told a story of the war and the other one heard it"),
        ("no", "no"),
        ("where are you ? at home .", "she is at home"),
    ]
]


def fresh(name: str, positions: int = 300) -> Loaded:
    """A new copy. Weights are large enough for every logit to depend on the text."""
    if name == "gpt2":
        tokenizer = load_model("mini-bloom-120k", random_init=True, shapes_only=True).tokenizer
        config = GPT2Config(
            vocab_size=4096, n_embd=32, n_layer=2, n_head=2, n_positions=positions, initializer_range=0.3,
            bos_token_id=1, eos_token_id=1, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
        )  # fmt: skip
        with torch.random.fork_rng():
            torch.manual_seed(3)
            return Loaded("gpt2", GPT2LMHeadModel(config).eval(), tokenizer, 0, 0, "", "causal")
    known = {"t5": "mini-t5-240k", "bloom": "mini-bloom-120k", "bert": "mini-bert-120k", "classifier": "mini-bert-120k"}
    loaded = load_model(known[name], random_init=True, classes=2 if name == "classifier" else None)
    with torch.no_grad():
        for parameter in loaded.model.parameters():
            if parameter.dim() > 1:
                parameter *= 3 if name == "t5" else 12
    return loaded


@lru_cache
def ready(name: str) -> Loaded:
    """A copy that no test changes."""
    return fresh(name)


def first_pieces(loaded: Loaded, words: tuple[str, ...]) -> list[int]:
    return [loaded.tokenizer(word, add_special_tokens=False)["input_ids"][0] for word in words]


def asked_by_hand(loaded: Loaded, sentence: str, model: nn.Module | None = None) -> Tensor:
    """Logits of "terrible" and "great" (of the two classes) for one review of SST-2 (2,)."""
    model, tokenizer = model or loaded.model, loaded.tokenizer
    words = first_pieces(loaded, TASKS["sst2"].words)
    with torch.no_grad():
        if loaded.form == "encoder-decoder":
            decoder = torch.tensor([[0, tokenizer.convert_tokens_to_ids("<extra_id_0>")]])
            return model(**inputs(tokenizer(f"{sentence} it was <extra_id_0>.")), decoder_input_ids=decoder).logits[0, 1, words]
        if loaded.form == "causal":
            return model(**inputs(tokenizer(f"{sentence} it was", add_special_tokens=False))).logits[0, -1, words]
        if loaded.form == "masked":
            ids = tokenizer(f"{sentence} it was [MASK].")
            logits = model(**inputs(ids)).logits[0]
            virtual = len(logits) - len(ids["input_ids"])
            return logits[virtual:][ids["input_ids"].index(tokenizer.mask_token_id), words]
        return model(**inputs(tokenizer(sentence))).logits[0]


def inputs(encoded: Any) -> dict[str, Tensor]:
    return {name: torch.tensor([encoded[name]]) for name in ("input_ids", "attention_mask")}


def written_by_hand(loaded: Loaded, text: str, pieces: int, model: nn.Module | None = None, end: int = 1) -> list[int]:
    """The most likely next piece, again and again, each time from the whole text, up to `end`."""
    model, tokenizer, found = model or loaded.model, loaded.tokenizer, []
    while len(found) < pieces:
        if loaded.form == "encoder-decoder":
            decoder = torch.tensor([[0, tokenizer.convert_tokens_to_ids("<extra_id_0>"), *found]])
            given = inputs(tokenizer(f"{text} <extra_id_0>")) | {"decoder_input_ids": decoder}
        else:
            ids = tokenizer(text, add_special_tokens=False)["input_ids"] + found
            given = inputs({"input_ids": ids, "attention_mask": [1] * len(ids)})
        with torch.no_grad():
            found.append(int(model(**given, use_cache=False).logits[0, -1].argmax()))
        if found[-1] == end:
            break
    return found
