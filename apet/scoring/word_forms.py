"""The scorers of models that answer in words: encoder-decoder, causal and masked language models.

If whole label words are scored, a causal model or a decoder reads each word in one forward pass, in which no position depends on the other
words. A masked model has as many [MASK] tokens as the word has tokens, predicts all of them in one pass, and needs one pass per number of
tokens. The rows of a pass are the examples of the batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from apet.scoring.chat import space_before_answer, user_turn
from apet.scoring.loss import IGNORED
from apet.scoring.readout import forward_arguments
from apet.scoring.scorer import MAX_TARGET, Batch, Item, Scorer, SelectPositions, last
from apet.scoring.text_tokenizer import TextTokenizer
from apet.tasks import Example, Task


class EncoderDecoder(Scorer):
    """Scorer of T5, BART and similar models.

    `start` is the decoder's first token. The next tokens are the slot's token or, if the tokenizer has no <extra_id_0>, the tokens that
    the tokenizer puts before every text (BART's <s>).
    """

    def __init__(self, task: Task, tokenizer: TextTokenizer, start: int, max_length: int = 128, device: str = "cpu"):
        known = tokenizer.pretrained.get_vocab()
        self.sentinel = "<extra_id_0>" if "<extra_id_0>" in known else ""
        self.slot = self.sentinel or tokenizer.pretrained.mask_token or ""
        super().__init__(task, tokenizer, max_length, device)
        begun = [known[self.sentinel]] if self.sentinel else [id for id in tokenizer.prefix if id != start]
        self.prefix = [start, *begun, *self.stem]

    @property
    def lead(self) -> str:
        return self.sentinel

    def _tokenize(self, examples: Sequence[Example]) -> list[Item]:
        encoded = self.tokenizer.encode(self._texts(examples, self.task.template, self.slot))
        return [{"input_ids": item["input_ids"]} for item in encoded]

    def collate(self, items: Sequence[Item]) -> Batch:
        batch = self._inputs([item["input_ids"] for item in items])
        if not self.task.generates:
            prefix = torch.tensor([self.prefix], device=self.device).expand(len(items), -1)
            return batch | {"decoder_input_ids": prefix, "labels": self._labels(items)}
        known = [IGNORED] * (len(self.prefix) - 1)
        return batch | {
            "decoder_input_ids": self._padded([[*self.prefix, *item["target"][:-1]] for item in items], self.tokenizer.pad),
            "labels": self._padded([[*known, *item["target"]] for item in items], IGNORED),
        }

    def logits(self, model: nn.Module, batch: Batch) -> Tensor:
        inputs = {name: value for name, value in batch.items() if name != "labels"}
        if self.whole:
            encoded = _encoded(model, inputs)
            return self._scores_in_turn(model, lambda word: _extended(encoded, "decoder_input_ids", word))
        return model(**inputs).logits if self.task.generates else self._label_word_logits(model, inputs, last(1))

    def _write(self, model: Any, batch: Batch, tokens: int) -> Tensor:
        prefix = batch["decoder_input_ids"][:, : len(self.prefix)]
        inputs = {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"], "decoder_input_ids": prefix}
        return self._greedy(model, inputs, tokens, decoder_start_token_id=self.prefix[0])[:, len(self.prefix) :]


class Causal(Scorer):
    """Scorer of BLOOM, GPT-2 and similar models.

    Inputs are padded on the left, so that the last positions belong to the answer. Only these positions are scored. With `chat`, the text
    before the slot is a user's message in the tokenizer's chat template, and the answer begins the model's turn.
    """

    def __init__(self, task: Task, tokenizer: TextTokenizer, max_length: int = 128, device: str = "cpu", chat: bool = False):
        self.chat = chat
        super().__init__(task, tokenizer, max_length, device)

    @property
    def before(self) -> list[int]:
        """The ids before every text. A chat template writes these ids itself."""
        return [] if self.chat else self.tokenizer.prefix

    @property
    def lead(self) -> str:
        return user_turn(self.tokenizer.pretrained, super().lead) if self.chat else super().lead

    def _answer_ids(self, answer: str) -> list[int]:
        return self.tokenizer.continuation(self.lead, answer, space_before_answer(self.tokenizer.pretrained) if self.chat else " ")

    def _tokenize(self, examples: Sequence[Example]) -> list[Item]:
        texts = [text.rstrip() for text in self._texts(examples, self.task.template.partition("{slot}")[0])]
        if self.chat:
            texts = [user_turn(self.tokenizer.pretrained, text) for text in texts]
        encoded = self.tokenizer.encode(texts, framed=False)
        return [{"input_ids": [*self.before, *item["input_ids"], *self.stem]} for item in encoded]

    def collate(self, items: Sequence[Item]) -> Batch:
        if not self.task.generates:
            return self._inputs([item["input_ids"] for item in items], left=True) | {"labels": self._labels(items)}
        whole = self._inputs([item["input_ids"] + item["target"][:-1] for item in items], left=True)
        return whole | {"labels": self._padded([item["target"] for item in items], IGNORED, left=True)}

    @property
    def answer_room(self) -> int:
        return MAX_TARGET if self.task.generates else max(map(len, self.label_tokens)) - 1

    def logits(self, model: nn.Module, batch: Batch) -> Tensor:
        texts = {name: value for name, value in batch.items() if name != "labels"}
        if self.task.generates:
            keep = batch["labels"].shape[1]
            return model(**_call(model, texts, keep)).logits[:, -keep:]
        if not self.whole:
            return self._label_word_logits(model, _call(model, texts, 1), last(1))
        return self._scores_in_turn(model, lambda word: _call(model, _continued(texts, word), len(word)))

    def _write(self, model: Any, batch: Batch, tokens: int) -> Tensor:
        inputs = {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"]}
        return self._greedy(model, inputs, tokens)[:, batch["input_ids"].shape[1] :]


class Masked(Scorer):
    """Scorer of BERT and similar models with label words at [MASK]."""

    multi_token_answers = False

    def _tokenize(self, examples: Sequence[Example]) -> list[Item]:
        encoded = self.tokenizer.encode(self._texts(examples, self.task.template, self.tokenizer.pretrained.mask_token))
        return [{"input_ids": item["input_ids"]} for item in encoded]

    def collate(self, items: Sequence[Item]) -> Batch:
        batch = self._inputs([item["input_ids"] for item in items])
        slot = (batch["input_ids"] == self.tokenizer.pretrained.mask_token_id).int().argmax(1)
        return batch | {"slot": slot, "labels": self._labels(items)}

    @property
    def answer_room(self) -> int:
        return max(map(len, self.label_tokens)) - 1

    def logits(self, model: nn.Module, batch: Batch) -> Tensor:
        if not self.whole:
            return self._label_word_logits(model, *self._call(batch, 1))
        scores: dict[int, Tensor] = {}  # number of the label word -> its scores (B,)
        for length in sorted(set(map(len, self.label_tokens))):
            numbers = [c for c, word in enumerate(self.label_tokens) if len(word) == length]
            inputs, select = self._call(batch, length)
            of_length = self._word_score(model, inputs, [self.label_tokens[c] for c in numbers], select)
            scores |= dict(zip(numbers, of_length.unbind(1), strict=True))
        return torch.stack([scores[c] for c in range(self.task.classes)], dim=1) - self.prior

    def _call(self, batch: Batch, masks: int) -> tuple[Batch, SelectPositions]:
        """Return the model's arguments with [MASK] repeated `masks` times, and the function that selects the positions of [MASK]."""
        slot = batch["slot"][:, None]
        positions = torch.arange(batch["input_ids"].shape[1] + masks - 1, device=slot.device)
        source = torch.minimum(positions, torch.maximum(slot, positions - (masks - 1)))  # (B, T + masks - 1)

        def at_slot(states: Tensor) -> Tensor:
            virtual = states.shape[1] - len(positions)  # number of tokens of a soft prompt
            chosen = virtual + slot + torch.arange(masks, device=states.device)
            return states[torch.arange(len(states), device=states.device)[:, None], chosen]

        return {name: batch[name].gather(1, source) for name in ("input_ids", "attention_mask")}, at_slot

    def spelling(self, label: int) -> str:
        return super().spelling(label) if self.whole else self.tokenizer.pretrained.decode(self.label_tokens[label]).strip()

    def _write(self, model: Any, batch: Batch, tokens: int) -> Tensor:
        inputs, select = self._call(batch, 1 + self.answer_room)
        return self._logits_at(model, inputs, None, select).argmax(-1)

    def _end_ids(self) -> list[int]:
        return []


def _extended(inputs: Batch, name: str, values: Sequence[int]) -> Batch:
    """Return `inputs` with all `values` except the last one appended to each row of `inputs[name]`."""
    rows = inputs[name]
    return inputs | {name: torch.cat([rows, rows.new_tensor(values[:-1]).expand(len(rows), -1)], dim=1)}


def _continued(texts: Batch, word: Sequence[int]) -> Batch:
    return _extended(_extended(texts, "input_ids", word), "attention_mask", [1] * len(word))


def _encoded(model: Any, inputs: Batch) -> Batch:
    """Return `inputs` with the encoder's output in place of the text, so that all label words share one pass of the encoder.

    A wrapper of a tuning method may change the encoder's input, so a wrapped model encodes the text for every word.
    """
    if hasattr(model, "get_base_model"):
        return inputs
    mask = inputs["attention_mask"]
    states = model.get_encoder()(input_ids=inputs["input_ids"], attention_mask=mask)
    return {"encoder_outputs": states, "attention_mask": mask, "decoder_input_ids": inputs["decoder_input_ids"]}


def _call(model: nn.Module, texts: Batch, keep: int) -> Batch:
    """Return the arguments of a causal model that computes logits for the last `keep` positions of `texts` (input ids and mask)."""
    return texts | _positions(model, texts) | {"logits_to_keep": keep, "use_cache": False}


def _positions(model: nn.Module, batch: Batch) -> Batch:
    """Return position ids that do not count the padding, if the model accepts position ids, else {}.

    BLOOM does not: its ALiBi uses the attention mask.
    """
    if "position_ids" not in forward_arguments(model):
        return {}
    return {"position_ids": (batch["attention_mask"].cumsum(1) - 1).clamp(min=0)}
