"""Examples -> batches -> logits, for one task and one kind of model.

Five forms, by how a model can be asked:

    encoder-decoder   "... it was <extra_id_0>." and the decoder goes on after <extra_id_0>: span corruption's own question
    causal            "... it was" and the text goes on
    masked            "... it was [MASK]."
    head              [CLS] first [SEP] second [SEP] and a linear layer of its own, which is trained along
    image             an image, and the network's own last layer (`apet.images`)

The first three answer in words, so an untuned model is already a classifier, if a poor one: class c's logit is that of the first
piece of its label word, and the loss is the cross-entropy over the C label words alone; its Gauss-Newton matrix has rank at most
n (C - 1). A language model prefers some words to others whatever the input. That prior, the untuned model's mean logits over
unlabelled examples, is taken off once (calibration as in Zhao et al. 2021, arXiv 2102.09690, with the task's own inputs):
otherwise the first parameters tuned only unlearn it, and the quadratic at the pretrained point describes little else.

Where a task asks for text (answers, summaries) the loss is over its pieces, the final </s> included, and the logits are (B, T, V).
"""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from apet.errors import UsageError
from apet.memory import in_parts
from apet.tasks import Example, Task

Item = dict[str, Any]  # one encoded example: input_ids, target (its label, or the pieces of its text), ...
Batch = dict[str, Tensor]  # input_ids and attention_mask (B, T), labels (B,) or (B, T'), ...
IGNORED = -100  # a label that no loss counts
MAX_TARGET = 64  # pieces of an answer, </s> included


class Scorer(ABC):
    """Turns examples into batches and batches into logits; see `scorer_of`.

    `prior` (C,) is subtracted from label-word logits; `max_length` is in pieces, and a longer example loses the end of its
    longest field, never the question after it.
    """

    writes = True  # whether it can be asked for text

    def __init__(self, task: Task, tokenizer: Any, max_length: int = 128, device: str = "cpu"):
        self.task, self.tokenizer, self.max_length, self.device = task, tokenizer, max_length, device
        self.label_ids = torch.tensor(self._label_ids(), device=device)  # (C,)
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
            item["target"] = self._pieces(first_answer(example, self.task)) if self.task.generates else [example["label"]]
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
        """All examples in order, `size` at a time; the last batch may be smaller."""
        items = self.encode(examples)
        for start in range(0, len(items), size):
            yield self.collate(items[start : start + size])

    @torch.no_grad()
    def calibrate(self, model: nn.Module, examples: Sequence[Example]) -> None:
        """Measure the label words' prior under `model`, the untuned one, on `examples` (labels are not looked at)."""
        if not self.task.generates:
            parts = in_parts(lambda items: self.logits(model, self.collate(items)).double(), self.encode(examples), 64)
            self.prior += torch.cat(list(parts)).mean(0).to(self.prior)

    @torch.no_grad()
    def generate(self, model: nn.Module, examples: Sequence[Example], size: int = 64) -> list[str]:
        """What the model answers by greedy decoding, as text; labels and targets are not looked at."""
        longest = MAX_TARGET if self.task.generates else max(len(self._pieces(word)) for word in self.task.words)
        items = [item | {"target": []} for item in self.encode(examples)]
        written = in_parts(lambda part: self._go_on(model, self.collate(part), longest), items, size)
        return [text.strip() for part in written for text in self.tokenizer.batch_decode(part, skip_special_tokens=True)]

    def spelling(self, label: int) -> str:
        """What of the label's word the model can write: all of it, or at one [MASK] its first piece."""
        return self.task.words[label]

    def _label_ids(self) -> list[int]:
        first = [self._pieces(word)[0] for word in self.task.words]
        if len(set(first)) < len(first):
            raise UsageError(f"the label words {self.task.words} do not differ in their first piece under this tokenizer")
        return first

    def _pieces(self, answer: str) -> list[int]:
        """The answer's pieces and </s>; a space before it, because it stands within a text."""
        ids = self.tokenizer(" " + answer.strip(), add_special_tokens=False, truncation=True, max_length=MAX_TARGET - 1)["input_ids"]
        return [*ids, *self._end()]

    def _end(self) -> list[int]:
        return [] if self.tokenizer.eos_token_id is None else [self.tokenizer.eos_token_id]

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
        options = {"add_special_tokens": False, "return_offsets_mapping": True, "verbose": False}
        ends = {name: [end for _, end in self.tokenizer(example[name], **options)["offset_mapping"]] for name in self.task.fields}
        keep = _level({name: len(each) for name, each in ends.items()}, excess)
        return example | {name: example[name][: ends[name][n - 1] if n else 0] for name, n in keep.items()}

    def _texts(self, examples: Sequence[Example], slot: str) -> list[str]:
        return [self.task.template.format(**{name: example[name] for name in self.task.fields}, slot=slot) for example in examples]

    def _padded(self, rows: Sequence[Sequence[int]], fill: int, left: bool = False) -> Tensor:
        """int64 (B, longest row)."""
        width = max(map(len, rows))
        array = np.full((len(rows), width), fill)
        for i, row in enumerate(rows):
            array[i, width - len(row) if left else 0 : width if left else len(row)] = row
        return torch.as_tensor(array, device=self.device)

    def _inputs(self, rows: Sequence[Sequence[int]], left: bool = False) -> Batch:
        return {
            "input_ids": self._padded(rows, self.tokenizer.pad_token_id, left),
            "attention_mask": self._padded([[1] * len(row) for row in rows], 0, left),
        }

    def _labels(self, items: Sequence[Item]) -> Tensor:
        return torch.tensor([item["target"][0] if item["target"] else 0 for item in items], device=self.device)

    def _decoding(self) -> dict[str, Any]:
        return {
            "do_sample": False,
            "num_beams": 1,
            "pad_token_id": self.tokenizer.pad_token_id,
            "eos_token_id": self.tokenizer.eos_token_id,
        }


def first_answer(example: Example, task: Task) -> str:
    """The text to learn: of several right answers the first."""
    answer = example[task.target]
    return answer if isinstance(answer, str) else answer[0]


class EncoderDecoder(Scorer):
    """T5 and its kin; `start` is the decoder's first piece."""

    def __init__(self, task: Task, tokenizer: Any, start: int, max_length: int = 128, device: str = "cpu"):
        known = tokenizer.get_vocab()
        self.slot = "<extra_id_0>" if "<extra_id_0>" in known else tokenizer.mask_token or ""
        self.prefix = [start] + ([known["<extra_id_0>"]] if "<extra_id_0>" in known else [])
        super().__init__(task, tokenizer, max_length, device)

    def _tokenize(self, examples: Sequence[Example]) -> list[Item]:
        encoded = self.tokenizer(self._texts(examples, self.slot), verbose=False)
        return [{"input_ids": ids} for ids in encoded["input_ids"]]

    def collate(self, items: Sequence[Item]) -> Batch:
        batch = self._inputs([item["input_ids"] for item in items])
        if not self.task.generates:
            prefix = torch.tensor([self.prefix], device=self.device).expand(len(items), -1)
            return batch | {"decoder_input_ids": prefix, "labels": self._labels(items)}
        known = [IGNORED] * (len(self.prefix) - 1)
        return batch | {
            "decoder_input_ids": self._padded([[*self.prefix, *item["target"][:-1]] for item in items], self.tokenizer.pad_token_id),
            "labels": self._padded([[*known, *item["target"]] for item in items], IGNORED),
        }

    def logits(self, model: nn.Module, batch: Batch) -> Tensor:
        logits = model(**{name: value for name, value in batch.items() if name != "labels"}).logits
        return logits if self.task.generates else logits[:, -1, self.label_ids] - self.prior

    def _go_on(self, model: Any, batch: Batch, pieces: int) -> Tensor:
        prefix = batch["decoder_input_ids"][:, : len(self.prefix)]
        inputs = {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"], "decoder_input_ids": prefix}
        return model.generate(**inputs, max_new_tokens=pieces, **self._decoding())[:, len(self.prefix) :]


class Causal(Scorer):
    """BLOOM, GPT-2 and their kin. Padded on the left, so that the last positions are the answer's and no others are scored."""

    def _tokenize(self, examples: Sequence[Example]) -> list[Item]:
        question = self.task.template.partition("{slot}")[0]
        texts = [question.format(**{name: example[name] for name in self.task.fields}).rstrip() for example in examples]
        encoded = self.tokenizer(texts, add_special_tokens=False, verbose=False)
        return [{"input_ids": ids} for ids in encoded["input_ids"]]

    def collate(self, items: Sequence[Item]) -> Batch:
        if not self.task.generates:
            return self._inputs([item["input_ids"] for item in items], left=True) | {"labels": self._labels(items)}
        whole = self._inputs([item["input_ids"] + item["target"][:-1] for item in items], left=True)
        return whole | {"labels": self._padded([item["target"] for item in items], IGNORED, left=True)}

    def logits(self, model: nn.Module, batch: Batch) -> Tensor:
        labels = batch["labels"]
        inputs = {name: value for name, value in batch.items() if name != "labels"}
        keep = labels.shape[1] if self.task.generates else 1
        logits = model(**inputs, **_positions(model, batch), logits_to_keep=keep, use_cache=False).logits[:, -keep:]
        return logits if self.task.generates else logits[:, -1, self.label_ids] - self.prior

    def _go_on(self, model: Any, batch: Batch, pieces: int) -> Tensor:
        inputs = {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"]}
        return model.generate(**inputs, max_new_tokens=pieces, **self._decoding())[:, batch["input_ids"].shape[1] :]


class Masked(Scorer):
    """BERT by the label words at [MASK]."""

    def _tokenize(self, examples: Sequence[Example]) -> list[Item]:
        encoded = self.tokenizer(self._texts(examples, self.tokenizer.mask_token), verbose=False)
        return [{"input_ids": ids} for ids in encoded["input_ids"]]

    def collate(self, items: Sequence[Item]) -> Batch:
        batch = self._inputs([item["input_ids"] for item in items])
        masks = batch["input_ids"] == self.tokenizer.mask_token_id
        slot = masks.shape[1] - 1 - masks.flip(1).int().argmax(1)  # the last [MASK]: a text may hold one of its own
        return batch | {"slot": slot, "labels": self._labels(items)}

    def logits(self, model: nn.Module, batch: Batch) -> Tensor:
        return self._at_slot(model, batch)[:, self.label_ids] - self.prior

    def _at_slot(self, model: nn.Module, batch: Batch) -> Tensor:
        logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
        before = logits.shape[1] - batch["input_ids"].shape[1]  # virtual tokens of a prompt
        return logits[torch.arange(len(logits), device=logits.device), before + batch["slot"]]

    def spelling(self, label: int) -> str:
        return self.tokenizer.decode([int(self.label_ids[label])]).strip()

    def _go_on(self, model: Any, batch: Batch, pieces: int) -> Tensor:
        return self._at_slot(model, batch).argmax(1, keepdim=True)

    def _end(self) -> list[int]:
        return []


class Head(Scorer):
    """BERT with a classification head, on the bare fields: no template and no prior."""

    writes = False

    def _label_ids(self) -> list[int]:
        return list(range(self.task.classes))

    def _tokenize(self, examples: Sequence[Example]) -> list[Item]:
        if len(self.task.fields) > 2:
            raise UsageError(f"{self.task.name} has {len(self.task.fields)} fields: a classification head reads at most two")
        encoded = self.tokenizer(*([example[name] for example in examples] for name in self.task.fields), verbose=False)
        types = encoded.get("token_type_ids", [[0] * len(ids) for ids in encoded["input_ids"]])
        return [{"input_ids": ids, "token_type_ids": kinds} for ids, kinds in zip(encoded["input_ids"], types, strict=True)]

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
    """The scorer for a loaded model (`apet.models.Loaded`), whose `form` decides how it is asked.

    Where the model has a table of positions, `max_length` is lowered to what it leaves beside `reserve` virtual tokens (those of
    a prompt or prefix) and the answer that a causal model writes behind the text. Raises UsageError where it leaves nothing, for a
    task that asks for text and a model that cannot write, for a model that reads texts where there are images (and the reverse), and
    for label words that begin alike.
    """
    form = loaded.form
    if task.images != (form == "image"):
        reads, has = ("images", "texts") if form == "image" else ("texts", "images")
        raise UsageError(f"{loaded.name} reads {reads}, and the examples of {task.name} are {has}")
    if form == "image":
        from apet.images import Images  # which stands on this file

        return Images(task, None, max_length, device)
    config = loaded.model.config
    if task.generates and form in ("masked", "head"):
        raise UsageError(f"{task.name} asks for text, which {loaded.name} cannot write: take a T5 or BLOOM model")
    positions = getattr(config, "max_position_embeddings", None)  # also GPT-2's n_positions; T5 and BLOOM have no such table
    if positions is not None:
        taken = reserve + (MAX_TARGET if form == "causal" and task.generates else 0)
        room = min(positions, loaded.tokenizer.model_max_length) - taken  # RoBERTa's table has two rows that no text can use
        if room < 1:
            raise UsageError(
                f"{loaded.name} has {positions} positions: {taken} virtual tokens and pieces of an answer leave none for a text"
            )
        max_length = min(max_length, room)
    if form == "encoder-decoder":
        start = config.decoder_start_token_id
        return EncoderDecoder(task, loaded.tokenizer, config.pad_token_id if start is None else start, max_length, device)
    return FORMS[form](task, loaded.tokenizer, max_length, device)


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
