"""Choose the scorer of a model: by its form, by the positions that it has, and by what it shows of itself in a forward pass."""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import Tensor, nn

from apet.errors import UsageError
from apet.scoring.class_heads import Head, Images
from apet.scoring.scorer import MAX_TARGET, Scorer
from apet.scoring.text_tokenizer import TextTokenizer
from apet.scoring.word_forms import Causal, EncoderDecoder, Masked
from apet.tasks import Task

FORMS = {"encoder-decoder": EncoderDecoder, "causal": Causal, "masked": Masked, "head": Head}


def scorer_of(loaded: Any, task: Task, max_length: int = 128, device: str = "cpu", reserve: int = 0) -> Scorer:
    """Return the scorer of a loaded model (`apet.models.Loaded`), by the model's `form`.

    If the number of positions is limited, `max_length` is lowered to what remains beside `reserve` virtual tokens (of a prompt or prefix)
    and the answer that a causal model writes after the text. Raises UsageError if nothing remains, if the task asks for text and the model
    cannot write, if the model reads texts and the examples are images (or the reverse), if label words begin alike or the tokenizer does
    not know one, and if nothing says what a decoder begins with.
    """
    form = loaded.form
    if task.images != (form == "image"):
        reads, has = ("images", "texts") if form == "image" else ("texts", "images")
        raise UsageError(f"{loaded.name} reads {reads}, and the examples of {task.name} are {has}")
    if form == "image":
        return Images(task, None, max_length, device)  # pyright: ignore[reportArgumentType] (it has no text)
    model, config = loaded.model, loaded.model.config
    if task.generates and form in ("masked", "head"):
        raise UsageError(f"{task.name} asks for text, which {loaded.name} cannot write: take a T5 or BLOOM model")
    tokenizer = TextTokenizer(loaded.tokenizer, _rows(model))
    room = _room(loaded, reserve + (MAX_TARGET if form == "causal" and task.generates else 0))
    max_length = max_length if room is None else min(max_length, room)
    if form == "encoder-decoder":
        scorer = EncoderDecoder(task, tokenizer, _decoder_start(loaded.name, config, loaded.tokenizer), max_length, device)
    else:
        scorer = FORMS[form](task, tokenizer, max_length, device)
    _probe(scorer, model)
    return scorer


def _room(loaded: Any, taken: int) -> int | None:
    """Return how many tokens of a text have a position beside `taken` others; None: no limit. UsageError if none has."""
    positions = text_positions(loaded.model)
    if positions is None:
        return None
    room = min(positions, loaded.tokenizer.model_max_length) - taken
    if room < 1:
        raise UsageError(f"{loaded.name} has {positions} positions: {taken} virtual tokens and tokens of an answer leave none for a text")
    return room


def _rows(model: Any) -> int:
    """Return how many ids have a row in both the input and the output table."""
    tables = (model.get_input_embeddings(), model.get_output_embeddings())
    return min(len(table.weight) for table in tables if table is not None)


def _decoder_start(name: str, config: Any, tokenizer: Any) -> int:
    """Return the id that the decoder begins with; if the config names none (a pair of BERTs), the id that texts begin with."""
    known = (config.decoder_start_token_id, config.pad_token_id, tokenizer.cls_token_id, tokenizer.bos_token_id)
    start = next((id for id in known if id is not None), None)
    if start is None:
        raise UsageError(f"{name} does not say what its decoder begins with: give decoder_start_token_id in its config.json")
    return start


_POSITIONS = re.compile(r"(position_embeddings|embed_positions|positions_embed|wpe)$")


def text_positions(model: Any) -> int | None:
    """Return how many tokens have a position of their own; None if there is no limit.

    Rows of a table that no text can use do not count: RoBERTa's positions begin after the row of padding, OPT's and BART's after an
    offset. Without a table (rotary positions) the config states the number.
    """
    tables = [module for name, module in model.named_modules() if isinstance(module, nn.Embedding) and _POSITIONS.search(name)]
    if tables:
        return min(table.num_embeddings - _unused(table) for table in tables)
    stated = getattr(model.config, "max_position_embeddings", None)  # T5, BLOOM and XLNet have none
    return stated if stated is not None and stated > 0 else None


def _unused(table: Any) -> int:
    return getattr(table, "offset", 0 if table.padding_idx is None else table.padding_idx + 1)


@torch.no_grad()
def _probe(scorer: Scorer, model: nn.Module) -> None:
    """Set `reads_padding` and `whole_head` by forward passes: whether logits depend on padding, and whether the head works in part.

    Some architectures ignore an attention mask, or add something to the head's output (BART), or scale it.
    """
    fields = scorer.task.fields
    texts = [dict.fromkeys(fields, "a"), dict.fromkeys(fields, "a b a b a b a b")]
    items = [item | {"target": [0]} for item in scorer._tokenize(texts)]
    if any(p.is_meta for p in model.parameters()) or max(len(item["input_ids"]) for item in items) > scorer.max_length:
        return
    if scorer.writes_text and not scorer.task.generates:
        try:
            in_part = scorer.logits(model, scorer.collate(items[1:]))
        except RuntimeError:  # shapes that do not fit
            in_part = None
        scorer.whole_head = True
        scorer.whole_head = in_part is None or not _close(in_part, scorer.logits(model, scorer.collate(items[1:])))
    alone = torch.cat([scorer.logits(model, scorer.collate([item])) for item in items])
    scorer.reads_padding = not _close(scorer.logits(model, scorer.collate(items)), alone)


def _close(logits: Tensor, wanted: Tensor) -> bool:
    """Return whether the logits are equal up to rounding."""
    tolerance = 1e-4 if wanted.dtype.itemsize >= 4 else 3e-2
    return bool((logits - wanted).abs().max() <= tolerance * wanted.abs().max())
