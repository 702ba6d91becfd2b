"""Choose the scorer of a model by its form, its number of positions, and the results of test forward passes."""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import Tensor, nn

from apet.errors import UsageError
from apet.models import pretrained_form
from apet.scoring.class_heads import Head, Images
from apet.scoring.scorer import Item, Scorer
from apet.scoring.text_tokenizer import TextTokenizer
from apet.scoring.truncation import shortened
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
    - the model is causal and the template has a field after the slot,
    - the model reads texts and the examples are images, or the reverse,
    - the task asks for a number and the model has no head,
    - `chat` is set and the model is not causal, or its tokenizer has no chat template,
    - the tokens of the label words do not differ, or the tokenizer does not know one of them,
    - a classification head cannot find the token that it reads (`_reading_position`),
    - neither config nor tokenizer names a first token of the decoder.
    """
    form = loaded.form
    if task.images != (form == "image"):
        inputs, examples = ("images", "texts") if form == "image" else ("texts", "images")
        raise UsageError(f"{loaded.name} reads {inputs}, but the examples of {task.name} are {examples}: choose another model or task")
    if form == "image":
        return Images(task, None, max_length, device)  # pyright: ignore[reportArgumentType] (images need no tokenizer)
    if form == "causal" and any(f"{{{field}}}" in task.template.partition("{slot}")[2] for field in task.fields):
        raise UsageError(
            f"{loaded.name} reads only the text before {{slot}}, but the template of {task.name} has a field after it: end it with {{slot}}"
        )
    model, config = loaded.model, loaded.model.config
    if task.generates and form in ("masked", "head"):
        raise UsageError(
            f"{task.name} asks for text, which {loaded.name} cannot generate: choose an encoder-decoder or a causal language model"
        )
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
    if form == "head":
        _reading_position(scorer, loaded, reserve)
    _probe(scorer, model)
    return scorer


def _reading_position(scorer: Scorer, loaded: Any, reserve: int) -> None:
    """Prepare a classification head to find the token that it reads.

    An encoder's head needs nothing. A causal model's head reads the last token that is not the padding id of the config, so the config
    gets the id with which this scorer pads. With virtual tokens the model gets embeddings instead of ids and its head reads the last
    position, so all texts of a batch must have the same length. An encoder-decoder's head reads the last end token.
    """
    name, config, tokenizer = loaded.name, loaded.model.config, loaded.tokenizer
    if config.is_encoder_decoder:
        item = scorer._tokenize([dict.fromkeys(scorer.task.fields, "a")])[0]
        if item["input_ids"][-1] != config.eos_token_id or scorer.tokenizer.pad == config.eos_token_id:
            raise UsageError(
                f"the classification head of {name} reads the end token (eos_token_id {config.eos_token_id} in config.json), which its "
                "tokenizer does not put after a text", readout="words",
            )  # fmt: skip
        if reserve:
            raise UsageError(f"the classification head of {name}, an encoder-decoder, cannot read virtual tokens", readout="words")
    elif pretrained_form(config) == "causal":
        if tokenizer.pad_token_id is None and tokenizer.eos_token_id is None:
            raise UsageError(
                f"the tokenizer of {name} has neither a padding nor an end token, so its classification head cannot find the last token "
                "of a text: set pad_token in tokenizer_config.json"
            )
        config.get_text_config().pad_token_id = scorer.tokenizer.pad
        scorer.reads_padding = reserve > 0


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
    scorer.reads_padding |= _reads_padding(scorer, model, items)


@torch.no_grad()
def check_padding(scorer: Scorer, model: nn.Module) -> None:
    """Set `reads_padding` if the logits of `model`, the scorer's model behind virtual tokens, depend on padding.

    Padding between virtual tokens and a text moves the text for models with windows, recurrences or relative positions. The two texts
    are the shortest and the longest of the scorer, so that every window that matters is seen.
    """
    short, long = dict.fromkeys(scorer.task.fields, "a"), dict.fromkeys(scorer.task.fields, "a b " * scorer.max_length)
    items = scorer._tokenize([short, long])
    items[1] = shortened(long, items[1], scorer.max_length, scorer.task, scorer.tokenizer, scorer._tokenize) | {"target": [0]}
    scorer.reads_padding |= _reads_padding(scorer, model, [items[0] | {"target": [0]}, items[1]])


def _reads_padding(scorer: Scorer, model: nn.Module, items: list[Item]) -> bool:
    """Return whether the logits of items of different lengths depend on padding."""
    alone = torch.cat([scorer.logits(model, scorer.collate([item])) for item in items])
    return not _close(scorer.logits(model, scorer.collate(items)), alone)


def _close(logits: Tensor, expected: Tensor) -> bool:
    """Return whether the logits are equal up to rounding."""
    tolerance = 1e-4 if expected.dtype.itemsize >= 4 else 3e-2
    return bool((logits - expected).abs().max() <= tolerance * expected.abs().max())
