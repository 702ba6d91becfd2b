"""Scorers of models with an output layer for the classes: text models with a classification head, and networks for images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from apet.errors import UsageError
from apet.scoring.readout import forward_arguments
from apet.scoring.scorer import SILENT, Batch, Item, Report, Scorer
from apet.tasks import IMAGE_SIDE, Example


class Head(Scorer):
    """A language model with a classification head. It reads the fields without a template, and there is no prior.

    Texts are padded on the right. A head on an encoder reads the first token or the mean, a head on a causal model the last token before
    the padding, a head on an encoder-decoder the last end token. The tokenizer joins the two texts of a pair.
    """

    writes_text = False

    def _label_tokens(self) -> tuple[list[int], list[list[int]], bool]:
        return [], [[label] for label in range(self.task.classes)], False

    def _tokenize(self, examples: Sequence[Example]) -> list[Item]:
        if len(self.task.fields) > 2:
            fields = len(self.task.fields)
            raise UsageError(f"{self.task.name} has {fields} fields, but a classification head reads at most two: use label words")
        texts = [[self.tokenizer.escaped(example[name]) for example in examples] for name in self.task.fields]
        encoded = self.tokenizer.encode(texts[0], texts[1] if len(texts) > 1 else None)
        return [{"token_type_ids": [0] * len(item["input_ids"])} | item for item in encoded]

    def collate(self, items: Sequence[Item]) -> Batch:
        types = self._padded([item["token_type_ids"] for item in items], 0)
        return self._inputs([item["input_ids"] for item in items]) | {"token_type_ids": types, "labels": self._labels(items)}

    def calibrate(self, model: nn.Module, examples: Sequence[Example], within: float = 0.0, report: Report = SILENT) -> None:
        """Do nothing: a classification head has no label words and therefore no prior."""

    def logits(self, model: nn.Module, batch: Batch) -> Tensor:
        inputs = {name: value for name, value in batch.items() if name != "labels"}
        if not _tells_texts_apart(model):
            del inputs["token_type_ids"]
        return model(**inputs).logits

    def _write(self, model: Any, batch: Batch, tokens: int) -> Tensor:
        raise UsageError("a classification head cannot generate text: use a model that answers in words")


def _tells_texts_apart(model: Any) -> bool:
    """Return whether the model has embeddings of several token types. GPT-2 would read types as tokens, RoBERTa has one type only."""
    base = getattr(model, "get_base_model", lambda: model)()
    return "token_type_ids" in forward_arguments(base) and (getattr(base.config, "type_vocab_size", None) or 0) > 1


class Images(Head):
    """A network for images (form "image"). Like a classification head it has no template and no prior. All images have the same size."""

    def encode(self, examples: Sequence[Example]) -> list[Item]:
        return [{"image": example["image"], "target": [self._label(example)]} for example in examples]

    def length(self, item: Item) -> int:
        return len(item["image"])

    def collate(self, items: Sequence[Item]) -> Batch:
        """Return images, uint8 (B, IMAGE_SIDE, IMAGE_SIDE), and labels (B,)."""
        pixels = np.frombuffer(bytearray().join(item["image"] for item in items), np.uint8).reshape(-1, IMAGE_SIDE, IMAGE_SIDE)
        return {"images": torch.as_tensor(pixels, device=self.device), "labels": self._labels(items)}

    def logits(self, model: nn.Module, batch: Batch) -> Tensor:
        return model(batch["images"])
