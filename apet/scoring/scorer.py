"""Turn examples into batches, and batches into logits, for one task and one kind of model.

There are five forms, one for each kind of model input:

    encoder-decoder   "... it was <extra_id_0>."; the decoder continues after <extra_id_0>, as in span corruption
    causal            "... it was"; the model continues the text
    masked            "... it was [MASK]."
    head              [CLS] first [SEP] second [SEP]; a new linear layer gives the logits and is trained as well
    image             an image; the network's last layer gives the logits

Models of the first three forms (`apet.scoring.word_forms`) answer in words, so an untuned model is already a classifier, although a poor
one. The logit of class c is the logit of one token of its label word: the first token that the label words do not share. If this token
does not distinguish the words, or if the task asks for whole words, the logit is the mean log-probability of the word's tokens, without a
token for its end. The loss is the cross-entropy over the C label words alone, so its Gauss-Newton matrix has rank at most n (C - 1) for n
examples.

A language model prefers some words to others for any input. This prior, the mean of the untuned model's logits over unlabelled
examples, is subtracted from the logits (calibration as in Zhao et al. 2021, arXiv 2102.09690, but on the inputs of the task).
Otherwise the first tuned parameters would only unlearn the prior, and the quadratic model at the initial point would describe little else.

The last two forms are in `apet.scoring.class_heads`. A regression needs a head, whose only output predicts the target, standardised by the
mean and standard deviation of the training examples. For generation tasks (answers, summaries), the loss is over all target tokens
including the final </s>, and the logits have shape (B, T, V).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from apet.errors import UsageError
from apet.machine import in_parts
from apet.scoring.answers import first_answer, label_tokens, mean_log_probabilities
from apet.scoring.loss import cross_entropy, squared_error
from apet.scoring.readout import output_head, restricted
from apet.scoring.text_tokenizer import TextTokenizer
from apet.scoring.truncation import shortened
from apet.subspaces import Rows
from apet.tasks import Example, Task

Item = dict[str, Any]  # one encoded example: input_ids, target (the label, or the tokens of the text), ...
SelectPositions = Callable[[Tensor], Tensor]  # (B, T, d) -> (B, L, d)
Batch = dict[str, Any]  # input_ids and attention_mask (B, T), labels (B,) or (B, T'), ...
Report = Callable[[int, int], None]  # (number of examples done, total number)
SILENT: Report = lambda done, total: None  # noqa: E731
MAX_TARGET = 64  # tokens of an answer, </s> included


class Scorer(ABC):
    """Turn examples into batches and batches into logits. `scorer_of` chooses the subclass.

    `prior` (C,) is subtracted from the label-word logits. `max_length` is a number of tokens. A longer example loses the end of its
    longest field, but never the question after this field. All label words begin with the tokens `stem`, which are part of the model's
    input. `label_tokens` are the scored tokens of each label word: the one after the stem, or all of them if `whole` (the stem is then
    empty). `label_ids` (C,) are their first tokens. `scale` is the mean and standard deviation of a regression's training targets.
    """

    writes_text = True  # whether the model can generate text
    multi_token_answers = True  # whether an answer can have more than one token
    reads_padding = False  # whether the logits depend on padding; if so, all texts of a batch have the same length
    whole_head = False  # whether the model's output head must be computed as a whole

    def __init__(self, task: Task, tokenizer: TextTokenizer, max_length: int = 128, device: str = "cpu"):
        self.task, self.tokenizer, self.max_length, self.device = task, tokenizer, max_length, device
        self.stem, self.label_tokens, self.whole = self._label_tokens()
        first = [tokens[0] for tokens in self.label_tokens]
        self.label_ids = torch.tensor(first, device=device)  # (C,)
        self._label_rows = Rows(tuple(first), self.label_ids)
        self.prior = torch.zeros(task.classes, device=device)  # (C,)
        self.prior_stderr = float("nan")  # the largest of all classes, of logits less their mean over the classes
        self.scale = (0.0, 1.0)

    @abstractmethod
    def _tokenize(self, examples: Sequence[Example]) -> list[Item]:
        """Return the inputs of every example before shortening to `max_length`."""

    @abstractmethod
    def collate(self, items: Sequence[Item]) -> Batch:
        """Return one batch, with all items padded to the longest item."""

    @abstractmethod
    def logits(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the label-word logits minus the prior (B, C).

        For a regression, return the predicted standardised targets (B, 1). For a generation task, return the logits of the target tokens
        (B, T', V).
        """

    @abstractmethod
    def _write(self, model: Any, batch: Batch, tokens: int) -> Tensor:
        """Return the ids of greedy decoding, at most `tokens` per example: (B, tokens)."""

    def loss(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return the sum of the training losses and the total weight of a batch, both 0-d."""
        return (squared_error if self.task.regresses else cross_entropy)(self.logits(model, batch), batch)

    def encode(self, examples: Sequence[Example]) -> list[Item]:
        """Return one item per example, with the inputs, shortened to `max_length`, and the target."""
        items = self._tokenize(examples)
        for i, item in enumerate(items):
            if len(item["input_ids"]) > self.max_length:
                items[i] = shortened(examples[i], item, self.max_length, self.task, self.tokenizer, self._tokenize)
        for item, example in zip(items, examples, strict=True):
            item["target"] = self._target_ids(first_answer(example, self.task)) if self.task.generates else [self._label(example)]
        return items

    def standardise(self, examples: Sequence[Example]) -> None:
        """Set `scale` to the mean and standard deviation of the targets of `examples`. Raises UsageError if all targets are equal."""
        targets = np.array([example[self.task.target] for example in examples], np.float64)
        if np.ptp(targets) == 0:
            raise UsageError(
                f"all {len(targets)} training examples of {self.task.name} have the target {targets[0]:g}: use more or other examples"
            )
        self.scale = float(targets.mean()), float(targets.std())

    def _label(self, example: Example) -> float:
        """Return the label of an example, or the standardised target of a regression."""
        mean, deviation = self.scale
        answer = example[self.task.target]
        return (answer - mean) / deviation if self.task.regresses else answer

    def length(self, item: Item) -> int:
        """Return the number of tokens that the model reads. Items of equal length need no padding."""
        return len(item["input_ids"])

    def weight(self, item: Item) -> float:
        """Return the item's weight in a mean: 1 for a label, or the number of target tokens for a text."""
        return float(len(item["target"])) if self.task.generates else 1.0

    def total_weight(self, examples: Sequence[Example]) -> float:
        """Return the sum of the examples' weights."""
        return sum(self.weight(item) for item in self.encode(examples))

    def batches(self, examples: Sequence[Example], size: int) -> Iterator[Batch]:
        """Yield all examples in order, in batches of at most `size`."""
        for items in self.groups(self.encode(examples), size):
            yield self.collate(items)

    def groups(self, items: Sequence[Item], size: int) -> Iterator[Sequence[Item]]:
        """Yield all items in order, in groups of at most `size`. Each group is one batch."""
        start = 0
        while start < len(items):
            stop = start + self.together(items[start : start + size])
            yield items[start:stop]
            start = stop

    def together(self, items: Sequence[Item]) -> int:
        """Return how many of the first items form one batch. If the model reads padding, the items of a batch have equal length."""
        if not self.reads_padding:
            return len(items)
        lengths = [(self.length(item), len(item["target"])) for item in items]
        return next((i for i, length in enumerate(lengths) if length != lengths[0]), len(lengths))

    @torch.no_grad()
    def calibrate(self, model: nn.Module, examples: Sequence[Example], within: float = 0.0, report: Report = SILENT) -> None:
        """Add the mean label-word logits of the untuned `model` on `examples` to `prior`, and set `prior_stderr`. Labels are not used.

        Examples after the first 64 are used only until the standard error is at most `within`.
        """
        if self.task.generates:
            return
        logits = torch.zeros(0, self.task.classes, device=self.device, dtype=torch.float64)
        items = self.encode(examples)
        for part in in_parts(lambda some: self.logits(model, self.collate(some)).double(), items, 64, self.together, report):
            logits = torch.cat([logits, part])
            if len(logits) >= 64 and _stderr(logits) <= within:
                break
        self.prior += logits.mean(0).to(self.prior)
        self.prior_stderr = _stderr(logits)

    @torch.no_grad()
    def generate(self, model: nn.Module, examples: Sequence[Example], size: int = 64, report: Report = SILENT) -> list[str]:
        """Return the model's answers as text, by greedy decoding. Labels and targets are not used."""
        longest = MAX_TARGET if self.task.generates else max(len(self._target_ids(word)) for word in self.task.words)
        items = [item | {"target": []} for item in self.encode(examples)]
        written = in_parts(lambda part: self._write(model, self.collate(part), longest).tolist(), items, size, self.together, report)
        ids = [[*self.stem, *answer] for part in written for answer in part]
        return [text.strip() for text in self.tokenizer.pretrained.batch_decode(ids, skip_special_tokens=True)]

    def spelling(self, label: int) -> str:
        """Return the part of the label word that the model can write: the whole word, or only its first token for one [MASK]."""
        return self.task.words[label]

    @property
    def answer_room(self) -> int:
        """Number of positions that the answer takes in addition to the text."""
        return 0

    def _label_tokens(self) -> tuple[list[int], list[list[int]], bool]:
        """Return the stem, the scored tokens of each label word, and whether they are whole words."""
        words = [self._answer_ids(word) for word in self.task.words]
        return label_tokens(self.task, words, self.tokenizer.pretrained.unk_token_id, self.multi_token_answers)

    @property
    def has_prior(self) -> bool:
        """Whether a prior is subtracted from the logits, which belong to label words."""
        return self.writes_text and bool(self.task.words)

    @property
    def lead(self) -> str:
        """The text before an answer, with a letter in place of every field."""
        question = self.task.template.partition("{slot}")[0]
        return question.format(**dict.fromkeys(self.task.fields, "a")).rstrip()

    def _answer_ids(self, answer: str) -> list[int]:
        """Return the tokens of an answer after `lead`."""
        return self.tokenizer.continuation(self.lead, answer)

    def _target_ids(self, answer: str) -> list[int]:
        """Return the answer's tokens, at most MAX_TARGET including </s>."""
        return [*self._answer_ids(answer)[: MAX_TARGET - 1], *self._end_ids()]

    def _end_ids(self) -> list[int]:
        end = self.tokenizer.pretrained.eos_token_id
        return [] if end is None else [end]

    def _texts(self, examples: Sequence[Example], template: str, slot: str = "") -> list[str]:
        fields = [{name: self.tokenizer.escaped(example[name]) for name in self.task.fields} for example in examples]
        return [template.format(**texts, slot=slot) for texts in fields]

    def _padded(self, rows: Sequence[Sequence[int]], fill: int, left: bool = False) -> Tensor:
        """Return the rows padded with `fill`, int64 (B, length of the longest row)."""
        width = max(map(len, rows))
        array = np.full((len(rows), width), fill)
        for i, row in enumerate(rows):
            array[i, width - len(row) if left else 0 : width if left else len(row)] = row
        return torch.as_tensor(array, device=self.device)

    def _inputs(self, rows: Sequence[Sequence[int]], left: bool = False) -> Batch:
        return {
            "input_ids": self._padded(rows, self.tokenizer.pad, left),
            "attention_mask": self._padded([[1] * len(row) for row in rows], 0, left),
        }

    def _labels(self, items: Sequence[Item]) -> Tensor:
        dtype = torch.float32 if self.task.regresses else torch.int64
        return torch.tensor([item["target"][0] if item["target"] else 0 for item in items], dtype=dtype, device=self.device)

    def _greedy(self, model: Any, inputs: Batch, tokens: int, **ids: int) -> Tensor:
        """Return the inputs' ids continued by greedy decoding with at most `tokens` ids.

        The decoding defaults of the checkpoint have no effect.
        """
        from transformers import GenerationConfig

        tokenizer, wrapped = self.tokenizer.pretrained, getattr(model, "get_base_model", lambda: model)()
        greedy = GenerationConfig(
            do_sample=False, num_beams=1, max_new_tokens=tokens, pad_token_id=self.tokenizer.pad, eos_token_id=tokenizer.eos_token_id, **ids
        )
        defaults, wrapped.generation_config = wrapped.generation_config, GenerationConfig()
        try:
            return model.generate(**inputs, generation_config=greedy)
        finally:
            wrapped.generation_config = defaults

    def _label_word_logits(self, model: nn.Module, inputs: Batch, select: SelectPositions) -> Tensor:
        """Return the logits of the first tokens minus the prior, at the position that `select` picks in each text: (B, C)."""
        return self._logits_at(model, inputs, self._label_rows, select)[:, 0] - self.prior

    def _word_score(self, model: nn.Module, inputs: Batch, words: Sequence[Sequence[int]], select: SelectPositions) -> Tensor:
        """Return the mean log-probability of the tokens of each of `words` (all of length L), (B, number of words).

        `select` picks the L positions that predict the tokens.
        """
        return mean_log_probabilities(self._logits_at(model, inputs, None, select), words)

    def _scores_in_turn(self, model: nn.Module, inputs_of: Callable[[list[int]], Batch]) -> Tensor:
        """Return the scores of whole label words minus the prior, (B, C), from one forward pass per word.

        The inputs of a word end with all its tokens except the last one, which the model need not read.
        """
        scores = [self._word_score(model, inputs_of(word), [word], last(len(word))) for word in self.label_tokens]
        return torch.cat(scores, dim=1) - self.prior

    def _logits_at(self, model: nn.Module, inputs: Batch, rows: Rows | None, select: SelectPositions) -> Tensor:
        """Return the logits at the positions that `select` picks: of `rows` of the output head (B, L, C), or of all rows (B, L, V)."""
        head = None if self.whole_head else output_head(model)
        with restricted(head, rows, select):
            logits = model(**inputs).logits
        if head is not None:
            return logits
        return select(logits) if rows is None else select(logits)[..., rows.index]


def _stderr(logits: Tensor) -> float:
    """Return the largest standard error of the mean of centred logits (n, C) over examples."""
    centred = logits - logits.mean(1, keepdim=True)
    return float(centred.std(0).max() / len(logits) ** 0.5) if len(logits) > 1 else float("nan")


def last(count: int) -> SelectPositions:
    """Return the function that selects the last `count` positions."""
    return lambda states: states[:, -count:]
