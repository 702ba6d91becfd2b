"""Choose the scorer of a model by its form, its number of positions, and the results of test forward passes."""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import Tensor, nn

from apet.errors import UsageError
from apet.scoring.class_heads import Head, Images
from apet.scoring.scorer import Scorer
from apet.scoring.text_tokenizer import TextTokenizer
from apet.scoring.word_forms import Causal, EncoderDecoder, Masked
from apet.tasks import Task

FORMS = {"masked": Masked, "head": Head}


def scorer_of(loaded: Any, task: Task, max_length: int = 128, device: str = "cpu", reserve: int = 0, chat: bool = False) -> Scorer:
    """Return the scorer of a loaded model (`apet.models.Loaded`) for a task.

    If the number of positions is limited, `max_length` is lowered to the number of positions without the `reserve` virtual tokens (of a
    prompt or prefix) and without the answer (`Scorer.answer_room`). With `chat`, a causal model reads each text as a user's message in the
    tokenizer's chat template.

    Raises UsageError if

    - no position remains for a text,
    - the task asks for text and the model cannot generate text,
    - the model reads texts and the examples are images, or the reverse,
    - the task asks for a number and the model has no head,
    - `chat` is set and the model is not causal, or its tokenizer has no chat template,
    - the tokens of the label words do not differ, or the tokenizer does not know one of them,
    - neither config nor tokenizer names a first token of the decoder.
    """
    form = loaded.form
    if task.images != (form == "image"):
        inputs, examples = ("images", "texts") if form == "image" else ("texts", "images")
        raise UsageError(f"{loaded.name} reads {inputs}, but the examples of {task.name} are {examples}: choose another model or task")
    if form == "image":
        return Images(task, None, max_length, device)  # pyright: ignore[reportArgumentType] (images need no tokenizer)
    model, config = loaded.model, loaded.model.config
    if task.generates and form in ("masked", "head"):
        raise UsageError(f"{task.name} asks for text, which {loaded.name} cannot generate: choose a T5 or BLOOM model")
    if chat and (form != "causal" or not loaded.tokenizer.chat_template):
        reason = "its tokenizer has no chat template" if form == "causal" else f"it was loaded as a model of the form {form}, not causal"
        raise UsageError(f"{loaded.name} cannot answer chat prompts: {reason}", prompt="plain")
    if task.regresses and form != "head":
        raise UsageError(f"{task.name} asks for a number, which needs a head, but {loaded.name} does not have one: use another model")
    tokenizer = TextTokenizer(loaded.tokenizer, _rows(model))
    if form == "encoder-decoder":
        scorer = EncoderDecoder(task, tokenizer, _decoder_start(loaded.name, config, loaded.tokenizer), max_length, device)
    elif form == "causal":
        scorer = Causal(task, tokenizer, max_length, device, chat)
    else:
        scorer = FORMS[form](task, tokenizer, max_length, device)
    room = _room(loaded, reserve + scorer.answer_room)
    scorer.max_length = max_length if room is None else min(max_length, room)
    _probe(scorer, model)
    return scorer


def _room(loaded: Any, taken: int) -> int | None:
    """Return how many positions remain for a text beside `taken` other tokens (None: no limit). Raises UsageError if none remains."""
    positions = text_positions(loaded.model)
    if positions is None:
        return None
    room = min(positions, loaded.tokenizer.model_max_length) - taken
    if room < 1:
        raise UsageError(
            f"{loaded.name} has {positions} positions, but virtual tokens and answer take {taken}, which leaves none for a text: "
            "use fewer virtual tokens or a model with more positions"
        )
    return room


def _rows(model: Any) -> int:
    """Return the number of rows that both the input and the output embedding have."""
    tables = (model.get_input_embeddings(), model.get_output_embeddings())
    return min(len(table.weight) for table in tables if table is not None)


def _decoder_start(name: str, config: Any, tokenizer: Any) -> int:
    """Return the id of the decoder's first token.

    If the config does not have one (a pair of BERTs), return the id with which the tokenizer begins texts. Raises UsageError if there is
    no such id either.
    """
    known = (config.decoder_start_token_id, config.pad_token_id, tokenizer.cls_token_id, tokenizer.bos_token_id)
    start = next((id for id in known if id is not None), None)
    if start is None:
        raise UsageError(f"the config of {name} does not name the decoder's first token: set decoder_start_token_id in config.json")
    return start


_POSITIONS = re.compile(r"(position_embeddings|embed_positions|positions_embed|wpe)$")


def text_positions(model: Any) -> int | None:
    """Return the number of positions for tokens of a text (None: no limit).

    Rows of a position table that no text can use do not count. RoBERTa's positions begin after the padding row, OPT's and BART's after an
    offset. Without a table (rotary positions) the number is the config's `max_position_embeddings`.
    """
    tables = [module for name, module in model.named_modules() if isinstance(module, nn.Embedding) and _POSITIONS.search(name)]
    if tables:
        return min(table.num_embeddings - _unused(table) for table in tables)
    stated = getattr(model.config, "max_position_embeddings", None)  # T5, BLOOM and XLNet do not have this field
    return stated if stated is not None and stated > 0 else None


def _unused(table: Any) -> int:
    return getattr(table, "offset", 0 if table.padding_idx is None else table.padding_idx + 1)


@torch.no_grad()
def _probe(scorer: Scorer, model: nn.Module) -> None:
    """Set `reads_padding` and `whole_head` by test forward passes.

    `reads_padding` is set if the logits depend on padding: some architectures ignore the attention mask. `whole_head` is set if the head
    restricted to the label words gives other logits: some architectures add a term to the head's output (BART) or scale it.
    """
    fields = scorer.task.fields
    texts = [dict.fromkeys(fields, "a"), dict.fromkeys(fields, "a b a b a b a b")]
    items = [item | {"target": [0]} for item in scorer._tokenize(texts)]
    if any(p.is_meta for p in model.parameters()) or max(len(item["input_ids"]) for item in items) > scorer.max_length:
        return
    if scorer.writes_text and not scorer.task.generates:
        try:
            in_part = scorer.logits(model, scorer.collate(items[1:]))
        except RuntimeError:  # shapes that do not match
            in_part = None
        scorer.whole_head = True
        scorer.whole_head = in_part is None or not _close(in_part, scorer.logits(model, scorer.collate(items[1:])))
    alone = torch.cat([scorer.logits(model, scorer.collate([item])) for item in items])
    scorer.reads_padding = not _close(scorer.logits(model, scorer.collate(items)), alone)


def _close(logits: Tensor, expected: Tensor) -> bool:
    """Return whether the logits are equal up to rounding."""
    tolerance = 1e-4 if expected.dtype.itemsize >= 4 else 3e-2
    return bool((logits - expected).abs().max() <= tolerance * expected.abs().max())
