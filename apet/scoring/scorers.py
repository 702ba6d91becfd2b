"""Examples -> batches -> logits, for one task and one kind of model.

Five forms, by how a model can be asked:

    encoder-decoder   "... it was <extra_id_0>." and the decoder goes on after <extra_id_0>: span corruption's own question
    causal            "... it was" and the text goes on
    masked            "... it was [MASK]."
    head              [CLS] first [SEP] second [SEP] and a linear layer of its own, which is trained along
    image             an image, and the network's own last layer (`apet.scoring.images`)

The first three answer in words, so an untuned model is already a classifier, if a poor one: class c's logit is that of the first
piece of its label word that is not every label word's, and the loss is the cross-entropy over the C label words alone; its
Gauss-Newton matrix has rank at most n (C - 1). A language model prefers some words to others whatever the input. That prior, the
untuned model's mean logits over unlabelled examples, is taken off once (calibration as in Zhao et al. 2021, arXiv 2102.09690, with
the task's own inputs): otherwise the first parameters tuned only unlearn it, and the quadratic at the pretrained point describes
little else.

Where a task asks for text (answers, summaries) the loss is over its pieces, the final </s> included, and the logits are (B, T, V).
"""

from __future__ import annotations

import inspect
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from apet.errors import UsageError
from apet.machine import in_parts
from apet.scoring.readout import only, output_head
from apet.scoring.token_ids import Pieces
from apet.subspaces import Rows
from apet.tasks import Example, Task

Item = dict[str, Any]  # one encoded example: input_ids, target (its label, or the pieces of its text), ...
Places = Callable[[Tensor], Tensor]  # (B, T, d) -> (B, 1, d)
Batch = dict[str, Any]  # input_ids and attention_mask (B, T), labels (B,) or (B, T'), ...
IGNORED = -100  # a label that no loss counts
MAX_TARGET = 64  # pieces of an answer, </s> included


class Scorer(ABC):
    """Turns examples into batches and batches into logits; see `scorer_of`.

    `prior` (C,) is subtracted from label-word logits; `max_length` is in pieces, and a longer example loses the end of its
    longest field, never the question after it. All label words begin with the pieces `stem`, which the model is given;
    `label_ids` (C,) are the pieces that follow.
    """

    writes = True  # whether it can be asked for text
    writes_on = True  # whether an answer can be more than one piece
    reads_padding = False  # whether the model's answer depends on it: then a batch holds texts of one length
    whole_head = False  # whether the model's output head must be computed as a whole

    def __init__(self, task: Task, pieces: Pieces, max_length: int = 128, device: str = "cpu"):
        self.task, self.pieces, self.max_length, self.device = task, pieces, max_length, device
        self.stem, label_ids = self._label_pieces()
        self.label_ids = torch.tensor(label_ids, device=device)  # (C,)
        self._label_rows = Rows(tuple(label_ids), self.label_ids)
        self.prior = torch.zeros(task.classes, device=device)  # (C,)

    @abstractmethod
    def _tokenize(self, examples: Sequence[Example]) -> list[Item]:
        """The inputs of every example, however long."""

    @abstractmethod
    def collate(self, items: Sequence[Item]) -> Batch:
        """Pad to the longest of these items."""

    @abstractmethod
    def logits(self, model: nn.Module, batch: Batch) -> Tensor:
        """Label-word logits less their prior (B, C), or for a task that asks for text those of its pieces (B, T', V)."""

    @abstractmethod
    def _go_on(self, model: Any, batch: Batch, pieces: int) -> Tensor:
        """Pieces that the model writes greedily, at most `pieces` (B, pieces)."""

    def encode(self, examples: Sequence[Example]) -> list[Item]:
        """Every example as an item that holds all that `collate` needs."""
        items = self._tokenize(examples)
        for i, item in enumerate(items):
            if len(item["input_ids"]) > self.max_length:
                items[i] = self._shortened(examples[i], len(item["input_ids"]))
        for item, example in zip(items, examples, strict=True):
            item["target"] = self._answer(first_answer(example, self.task)) if self.task.generates else [example["label"]]
        return items

    def length(self, item: Item) -> int:
        """How much of it is read: items of one length need no padding."""
        return len(item["input_ids"])

    def weight(self, item: Item) -> float:
        """What the item counts in a mean: an example 1, a text its pieces."""
        return float(len(item["target"])) if self.task.generates else 1.0

    def mass(self, examples: Sequence[Example]) -> float:
        """What all of them count together."""
        return sum(self.weight(item) for item in self.encode(examples))

    def batches(self, examples: Sequence[Example], size: int) -> Iterator[Batch]:
        """All examples in order, at most `size` at a time."""
        for items in self.groups(self.encode(examples), size):
            yield self.collate(items)

    def groups(self, items: Sequence[Item], size: int) -> Iterator[Sequence[Item]]:
        """All items in order, at most `size` that make a batch at a time."""
        start = 0
        while start < len(items):
            stop = start + self.together(items[start : start + size])
            yield items[start:stop]
            start = stop

    def together(self, items: Sequence[Item]) -> int:
        """Return how many of the first items make one batch. If the model reads padding, they must be of one length."""
        if not self.reads_padding:
            return len(items)
        lengths = [(self.length(item), len(item["target"])) for item in items]
        return next((i for i, each in enumerate(lengths) if each != lengths[0]), len(lengths))

    @torch.no_grad()
    def calibrate(self, model: nn.Module, examples: Sequence[Example]) -> None:
        """Measure the label words' prior under `model`, the untuned one, on `examples` (labels are not looked at)."""
        if not self.task.generates:
            encoded = self.encode(examples)
            parts = in_parts(lambda items: self.logits(model, self.collate(items)).double(), encoded, 64, self.together)
            self.prior += torch.cat(list(parts)).mean(0).to(self.prior)

    @torch.no_grad()
    def generate(self, model: nn.Module, examples: Sequence[Example], size: int = 64) -> list[str]:
        """What the model answers by greedy decoding, as text; labels and targets are not looked at."""
        longest = MAX_TARGET if self.task.generates else max(len(self._answer(word)) for word in self.task.words)
        items = [item | {"target": []} for item in self.encode(examples)]
        written = in_parts(lambda part: self._go_on(model, self.collate(part), longest).tolist(), items, size, self.together)
        ids = [[*self.stem, *each] for part in written for each in part]
        return [text.strip() for text in self.pieces.tokenizer.batch_decode(ids, skip_special_tokens=True)]

    def spelling(self, label: int) -> str:
        """What of the label's word the model can write: all of it, or at one [MASK] its first piece."""
        return self.task.words[label]

    def _label_pieces(self) -> tuple[list[int], list[int]]:
        """(the pieces with which every label word begins, each word's next one)."""
        words = [self._behind(word) for word in self.task.words]
        unknown = self.pieces.tokenizer.unk_token_id
        for word, ids in zip(self.task.words, words, strict=True):
            if not ids or unknown in ids:
                raise UsageError(f"the tokenizer does not know the label word {word!r}")
        same = 0
        while same < min(map(len, words), default=0) and len({ids[same] for ids in words}) == 1:
            same += 1
        stem, rest = words[0][:same] if words else [], [ids[same : same + 1] for ids in words]
        if [] in rest or len({ids[0] for ids in rest}) < len(rest) or (stem and not self.writes_on):
            raise UsageError(f"the label words {self.task.words} do not differ in their first piece under this tokenizer")
        return stem, [ids[0] for ids in rest]

    @property
    def lead(self) -> str:
        """The text that an answer stands behind, with a letter for every field."""
        question = self.task.template.partition("{slot}")[0]
        return question.format(**dict.fromkeys(self.task.fields, "a")).rstrip()

    def _behind(self, answer: str) -> list[int]:
        """The pieces of an answer in its place."""
        return self.pieces.behind(self.lead, answer)

    def _answer(self, answer: str) -> list[int]:
        """The answer's pieces, as many as are learnt, and </s>."""
        return [*self._behind(answer)[: MAX_TARGET - 1], *self._end()]

    def _end(self) -> list[int]:
        end = self.pieces.tokenizer.eos_token_id
        return [] if end is None else [end]

    def _shortened(self, example: Example, length: int) -> Item:
        """The example's item after its longest fields lost their ends. Cut text may come out a piece longer: so more than once."""
        while True:
            # One character may be several pieces, so that a text of fewer pieces need not be a shorter one.
            cuts = (self._cut(example, excess) for excess in range(length - self.max_length, length + 1))
            shorter = next((cut for cut in cuts if cut != example), example)
            if shorter == example:
                raise UsageError(f"max_length {self.max_length} is too short for the template of {self.task.name}")
            example = shorter
            (item,) = self._tokenize([example])
            length = len(item["input_ids"])
            if length <= self.max_length:
                return item

    def _cut(self, example: Example, excess: int) -> Example:
        cutters = {name: self.pieces.cutter(example[name]) for name in self.task.fields}
        keep = _level({name: count for name, (count, _) in cutters.items()}, excess)
        return example | {name: cutters[name][1](count) for name, count in keep.items()}

    def _texts(self, examples: Sequence[Example], template: str, slot: str = "") -> list[str]:
        fields = [{name: self.pieces.quoted(example[name]) for name in self.task.fields} for example in examples]
        return [template.format(**each, slot=slot) for each in fields]

    def _padded(self, rows: Sequence[Sequence[int]], fill: int, left: bool = False) -> Tensor:
        """int64 (B, longest row)."""
        width = max(map(len, rows))
        array = np.full((len(rows), width), fill)
        for i, row in enumerate(rows):
            array[i, width - len(row) if left else 0 : width if left else len(row)] = row
        return torch.as_tensor(array, device=self.device)

    def _inputs(self, rows: Sequence[Sequence[int]], left: bool = False) -> Batch:
        return {
            "input_ids": self._padded(rows, self.pieces.pad, left),
            "attention_mask": self._padded([[1] * len(row) for row in rows], 0, left),
        }

    def _labels(self, items: Sequence[Item]) -> Tensor:
        return torch.tensor([item["target"][0] if item["target"] else 0 for item in items], device=self.device)

    def _greedy(self, model: Any, inputs: Batch, pieces: int, **ids: int) -> Tensor:
        """The ids of the likeliest text, at most `pieces` more, whatever decoding defaults lie beside the checkpoint."""
        from transformers import GenerationConfig

        tokenizer, wrapped = self.pieces.tokenizer, getattr(model, "get_base_model", lambda: model)()
        greedy = GenerationConfig(
            do_sample=False, num_beams=1, max_new_tokens=pieces, pad_token_id=self.pieces.pad, eos_token_id=tokenizer.eos_token_id, **ids
        )
        defaults, wrapped.generation_config = wrapped.generation_config, GenerationConfig()
        try:
            return model.generate(**inputs, generation_config=greedy)
        finally:
            wrapped.generation_config = defaults

    def _words(self, model: nn.Module, inputs: Batch, places: Places) -> Tensor:
        """Logits of the label words, less their prior, at `places`, one in each text: (B, C)."""
        return self._read(model, inputs, self._label_rows, places) - self.prior

    def _read(self, model: nn.Module, inputs: Batch, rows: Rows | None, places: Places) -> Tensor:
        """Logits at `places`, one in each text, of these rows of the output head (B, C), or of all (B, V)."""
        head = None if self.whole_head else output_head(model)
        with only(head, rows, places):
            logits = model(**inputs).logits
        logits = (places(logits) if head is None else logits)[:, 0]
        return logits if head is not None or rows is None else logits[:, rows.index]


def first_answer(example: Example, task: Task) -> str:
    """The text to learn: of several right answers the first."""
    answer = example[task.target]
    return answer if isinstance(answer, str) else answer[0]


def last(states: Tensor) -> Tensor:
    """The last position of (B, T, d): (B, 1, d)."""
    return states[:, -1:]


class EncoderDecoder(Scorer):
    """T5 and its kin.

    `start` is the decoder's first piece; behind it comes the slot's, or what the tokenizer puts before every text (BART's <s>).
    """

    def __init__(self, task: Task, pieces: Pieces, start: int, max_length: int = 128, device: str = "cpu"):
        known = pieces.tokenizer.get_vocab()
        self.sentinel = "<extra_id_0>" if "<extra_id_0>" in known else ""
        self.slot = self.sentinel or pieces.tokenizer.mask_token or ""
        super().__init__(task, pieces, max_length, device)
        begun = [known[self.sentinel]] if self.sentinel else [each for each in pieces.prefix if each != start]
        self.prefix = [start, *begun, *self.stem]

    @property
    def lead(self) -> str:
        return self.sentinel

    def _tokenize(self, examples: Sequence[Example]) -> list[Item]:
        return [{"input_ids": each["input_ids"]} for each in self.pieces.of(self._texts(examples, self.task.template, self.slot))]

    def collate(self, items: Sequence[Item]) -> Batch:
        batch = self._inputs([item["input_ids"] for item in items])
        if not self.task.generates:
            prefix = torch.tensor([self.prefix], device=self.device).expand(len(items), -1)
            return batch | {"decoder_input_ids": prefix, "labels": self._labels(items)}
        known = [IGNORED] * (len(self.prefix) - 1)
        return batch | {
            "decoder_input_ids": self._padded([[*self.prefix, *item["target"][:-1]] for item in items], self.pieces.pad),
            "labels": self._padded([[*known, *item["target"]] for item in items], IGNORED),
        }

    def logits(self, model: nn.Module, batch: Batch) -> Tensor:
        inputs = {name: value for name, value in batch.items() if name != "labels"}
        return model(**inputs).logits if self.task.generates else self._words(model, inputs, last)

    def _go_on(self, model: Any, batch: Batch, pieces: int) -> Tensor:
        prefix = batch["decoder_input_ids"][:, : len(self.prefix)]
        inputs = {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"], "decoder_input_ids": prefix}
        return self._greedy(model, inputs, pieces, decoder_start_token_id=self.prefix[0])[:, len(self.prefix) :]


class Causal(Scorer):
    """BLOOM, GPT-2 and their kin. Padded on the left, so that the last positions are the answer's and no others are scored."""

    def _tokenize(self, examples: Sequence[Example]) -> list[Item]:
        texts = [text.rstrip() for text in self._texts(examples, self.task.template.partition("{slot}")[0])]
        encoded = self.pieces.of(texts, framed=False)
        return [{"input_ids": [*self.pieces.prefix, *each["input_ids"], *self.stem]} for each in encoded]

    def collate(self, items: Sequence[Item]) -> Batch:
        if not self.task.generates:
            return self._inputs([item["input_ids"] for item in items], left=True) | {"labels": self._labels(items)}
        whole = self._inputs([item["input_ids"] + item["target"][:-1] for item in items], left=True)
        return whole | {"labels": self._padded([item["target"] for item in items], IGNORED, left=True)}

    def logits(self, model: nn.Module, batch: Batch) -> Tensor:
        labels = batch["labels"]
        keep = labels.shape[1] if self.task.generates else 1
        inputs = {name: value for name, value in batch.items() if name != "labels"} | _positions(model, batch)
        inputs |= {"logits_to_keep": keep, "use_cache": False}
        return model(**inputs).logits[:, -keep:] if self.task.generates else self._words(model, inputs, last)

    def _go_on(self, model: Any, batch: Batch, pieces: int) -> Tensor:
        inputs = {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"]}
        return self._greedy(model, inputs, pieces)[:, batch["input_ids"].shape[1] :]


class Masked(Scorer):
    """BERT by the label words at [MASK]."""

    writes_on = False

    def _tokenize(self, examples: Sequence[Example]) -> list[Item]:
        encoded = self.pieces.of(self._texts(examples, self.task.template, self.pieces.tokenizer.mask_token))
        return [{"input_ids": each["input_ids"]} for each in encoded]

    def collate(self, items: Sequence[Item]) -> Batch:
        batch = self._inputs([item["input_ids"] for item in items])
        slot = (batch["input_ids"] == self.pieces.tokenizer.mask_token_id).int().argmax(1)
        return batch | {"slot": slot, "labels": self._labels(items)}

    def logits(self, model: nn.Module, batch: Batch) -> Tensor:
        inputs, places = self._asked(batch)
        return self._words(model, inputs, places)

    def _asked(self, batch: Batch) -> tuple[Batch, Places]:
        """(what the model is called with, the place of [MASK])."""
        ids, slot = batch["input_ids"], batch["slot"]

        def at_slot(states: Tensor) -> Tensor:
            virtual = states.shape[1] - ids.shape[1]  # tokens of a prompt
            return states[torch.arange(len(states), device=states.device), virtual + slot][:, None]

        return {"input_ids": ids, "attention_mask": batch["attention_mask"]}, at_slot

    def spelling(self, label: int) -> str:
        return self.pieces.tokenizer.decode([int(self.label_ids[label])]).strip()

    def _go_on(self, model: Any, batch: Batch, pieces: int) -> Tensor:
        inputs, places = self._asked(batch)
        return self._read(model, inputs, None, places).argmax(1, keepdim=True)

    def _end(self) -> list[int]:
        return []


class Head(Scorer):
    """BERT with a classification head, on the bare fields: no template and no prior."""

    writes = False

    def _label_pieces(self) -> tuple[list[int], list[int]]:
        return [], list(range(self.task.classes))

    def _tokenize(self, examples: Sequence[Example]) -> list[Item]:
        if len(self.task.fields) > 2:
            raise UsageError(f"{self.task.name} has {len(self.task.fields)} fields: a classification head reads at most two")
        texts = [[self.pieces.quoted(example[name]) for example in examples] for name in self.task.fields]
        encoded = self.pieces.of(texts[0], texts[1] if len(texts) > 1 else None)
        return [{"token_type_ids": [0] * len(each["input_ids"])} | each for each in encoded]

    def collate(self, items: Sequence[Item]) -> Batch:
        types = self._padded([item["token_type_ids"] for item in items], 0)
        return self._inputs([item["input_ids"] for item in items]) | {"token_type_ids": types, "labels": self._labels(items)}

    def calibrate(self, model: nn.Module, examples: Sequence[Example]) -> None:
        """A head has no words to prefer."""

    def logits(self, model: nn.Module, batch: Batch) -> Tensor:
        inputs = {name: value for name, value in batch.items() if name != "labels"}
        if "token_type_ids" not in _arguments(model):
            del inputs["token_type_ids"]
        return model(**inputs).logits

    def _go_on(self, model: Any, batch: Batch, pieces: int) -> Tensor:
        raise UsageError("a classification head writes no text")


FORMS = {"encoder-decoder": EncoderDecoder, "causal": Causal, "masked": Masked, "head": Head}


def scorer_of(loaded: Any, task: Task, max_length: int = 128, device: str = "cpu", reserve: int = 0) -> Scorer:
    """The scorer for a loaded model (`apet.models.loading.Loaded`), whose `form` decides how it is asked.

    Where the model has a table of positions, `max_length` is lowered to what it leaves beside `reserve` virtual tokens (those of
    a prompt or prefix) and the answer that a causal model writes behind the text. Raises UsageError where it leaves nothing, for a
    task that asks for text and a model that cannot write, for a model that reads texts where there are images (and the reverse), for
    label words that begin alike or that the tokenizer does not know, and where nothing says what a decoder begins with.
    """
    form = loaded.form
    if task.images != (form == "image"):
        reads, has = ("images", "texts") if form == "image" else ("texts", "images")
        raise UsageError(f"{loaded.name} reads {reads}, and the examples of {task.name} are {has}")
    if form == "image":
        from apet.scoring.images import Images  # which stands on this file

        return Images(task, None, max_length, device)  # pyright: ignore[reportArgumentType] (it has no text)
    model, config = loaded.model, loaded.model.config
    if task.generates and form in ("masked", "head"):
        raise UsageError(f"{task.name} asks for text, which {loaded.name} cannot write: take a T5 or BLOOM model")
    pieces = Pieces(loaded.tokenizer, _rows(model))
    positions = text_positions(model)
    if positions is not None:
        taken = reserve + (MAX_TARGET if form == "causal" and task.generates else 0)
        room = min(positions, loaded.tokenizer.model_max_length) - taken
        if room < 1:
            raise UsageError(
                f"{loaded.name} has {positions} positions: {taken} virtual tokens and pieces of an answer leave none for a text"
            )
        max_length = min(max_length, room)
    if form == "encoder-decoder":
        scorer = EncoderDecoder(task, pieces, _decoder_start(loaded.name, config, loaded.tokenizer), max_length, device)
    else:
        scorer = FORMS[form](task, pieces, max_length, device)
    _look_at(scorer, model)
    return scorer


def _rows(model: Any) -> int:
    """How many ids the model has a row for, in its input and its output."""
    tables = (model.get_input_embeddings(), model.get_output_embeddings())
    return min(len(table.weight) for table in tables if table is not None)


def _decoder_start(name: str, config: Any, tokenizer: Any) -> int:
    """The id that the decoder begins with; where the config says none (a pair of BERTs), the one that texts begin with."""
    known = (config.decoder_start_token_id, config.pad_token_id, tokenizer.cls_token_id, tokenizer.bos_token_id)
    start = next((each for each in known if each is not None), None)
    if start is None:
        raise UsageError(f"{name} does not say what its decoder begins with: give decoder_start_token_id in its config.json")
    return start


_POSITIONS = re.compile(r"(position_embeddings|embed_positions|positions_embed|wpe)$")


def text_positions(model: Any) -> int | None:
    """How many pieces have a position of their own, None where there is no limit.

    Of a table, the rows that no text can use do not count: RoBERTa's positions begin behind that of padding, OPT's and BART's after an
    offset. Without a table (rotary positions) it is the config's word.
    """
    tables = [module for name, module in model.named_modules() if isinstance(module, nn.Embedding) and _POSITIONS.search(name)]
    if tables:
        return min(each.num_embeddings - _unused(each) for each in tables)
    stated = getattr(model.config, "max_position_embeddings", None)  # T5, BLOOM and XLNet have none
    return stated if stated is not None and stated > 0 else None


def _unused(table: Any) -> int:
    return getattr(table, "offset", 0 if table.padding_idx is None else table.padding_idx + 1)


@torch.no_grad()
def _look_at(scorer: Scorer, model: nn.Module) -> None:
    """Find out whether the model reads padding, and whether its output head can be computed in part: asked of the model, not of its name.

    Some architectures take no attention mask, or add something to the head's output (BART) or scale it.
    """
    fields = scorer.task.fields
    texts = [dict.fromkeys(fields, "a"), dict.fromkeys(fields, "a b a b a b a b")]
    items = [item | {"target": [0]} for item in scorer._tokenize(texts)]
    if any(p.is_meta for p in model.parameters()) or max(len(item["input_ids"]) for item in items) > scorer.max_length:
        return
    if scorer.writes and not scorer.task.generates:
        try:
            found = scorer.logits(model, scorer.collate(items[1:]))
        except RuntimeError:  # shapes that do not fit
            found = None
        scorer.whole_head = True
        scorer.whole_head = found is None or not _close(found, scorer.logits(model, scorer.collate(items[1:])))
    alone = torch.cat([scorer.logits(model, scorer.collate([item])) for item in items])
    scorer.reads_padding = not _close(scorer.logits(model, scorer.collate(items)), alone)


def _close(found: Tensor, wanted: Tensor) -> bool:
    """Equal but for rounding."""
    tolerance = 1e-4 if wanted.dtype.itemsize >= 4 else 3e-2
    return bool((found - wanted).abs().max() <= tolerance * wanted.abs().max())


def cross_entropy(logits: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
    """(sum of losses, total weight), 0-d each: the parts of an exact mean over any batching. The weight counts examples, or tokens."""
    logits = logits.float() if logits.dtype.itemsize < 4 else logits
    labels = batch["labels"]
    loss_sum = F.cross_entropy(logits.flatten(0, -2), labels.flatten(), ignore_index=IGNORED, reduction="sum")
    return loss_sum, (labels != IGNORED).sum()


def _positions(model: nn.Module, batch: Batch) -> Batch:
    """Positions that do not count the padding, for models that take them (BLOOM's ALiBi reads the mask itself)."""
    if "position_ids" not in _arguments(model):
        return {}
    return {"position_ids": (batch["attention_mask"].cumsum(1) - 1).clamp(min=0)}


def _arguments(model: nn.Module) -> set[str]:
    base = getattr(model, "get_base_model", lambda: model)()  # a peft wrapper takes anything
    return set(inspect.signature(base.forward).parameters)


def _level(lengths: dict[str, int], excess: int) -> dict[str, int]:
    """Lengths after `excess` was cut from the longest, so that what remains is as even as can be."""
    keep = dict(lengths)
    for _ in range(excess):
        longest = max(keep, key=lambda name: keep[name])
        keep[longest] = max(0, keep[longest] - 1)
    return keep
