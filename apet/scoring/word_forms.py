"""The scorers of models that answer in words: encoder-decoder, causal and masked language models."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from apet.scoring.loss import IGNORED
from apet.scoring.scorer import Batch, Item, Scorer, SelectPosition, forward_arguments, last
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
        return model(**inputs).logits if self.task.generates else self._label_word_logits(model, inputs, last)

    def _write(self, model: Any, batch: Batch, tokens: int) -> Tensor:
        prefix = batch["decoder_input_ids"][:, : len(self.prefix)]
        inputs = {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"], "decoder_input_ids": prefix}
        return self._greedy(model, inputs, tokens, decoder_start_token_id=self.prefix[0])[:, len(self.prefix) :]


class Causal(Scorer):
    """Scorer of BLOOM, GPT-2 and similar models.

    Inputs are padded on the left, so that the last positions belong to the answer. Only these positions are scored.
    """

    def _tokenize(self, examples: Sequence[Example]) -> list[Item]:
        texts = [text.rstrip() for text in self._texts(examples, self.task.template.partition("{slot}")[0])]
        encoded = self.tokenizer.encode(texts, framed=False)
        return [{"input_ids": [*self.tokenizer.prefix, *item["input_ids"], *self.stem]} for item in encoded]

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
        return model(**inputs).logits[:, -keep:] if self.task.generates else self._label_word_logits(model, inputs, last)

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

    def logits(self, model: nn.Module, batch: Batch) -> Tensor:
        inputs, select = self._call(batch)
        return self._label_word_logits(model, inputs, select)

    def _call(self, batch: Batch) -> tuple[Batch, SelectPosition]:
        """Return the model's arguments, and the function that selects the position of [MASK]."""
        ids, slot = batch["input_ids"], batch["slot"]

        def at_slot(states: Tensor) -> Tensor:
            virtual = states.shape[1] - ids.shape[1]  # number of tokens of a soft prompt
            return states[torch.arange(len(states), device=states.device), virtual + slot][:, None]

        return {"input_ids": ids, "attention_mask": batch["attention_mask"]}, at_slot

    def spelling(self, label: int) -> str:
        return self.tokenizer.pretrained.decode([int(self.label_ids[label])]).strip()

    def _write(self, model: Any, batch: Batch, tokens: int) -> Tensor:
        inputs, select = self._call(batch)
        return self._logits_at(model, inputs, None, select).argmax(1, keepdim=True)

    def _end_ids(self) -> list[int]:
        return []


def _positions(model: nn.Module, batch: Batch) -> Batch:
    """Return position ids that do not count the padding, if the model accepts position ids, else {}.

    BLOOM does not: its ALiBi uses the attention mask.
    """
    if "position_ids" not in forward_arguments(model):
        return {}
    return {"position_ids": (batch["attention_mask"].cumsum(1) - 1).clamp(min=0)}
