"""Images -> batches -> logits: the form "image", a network that reads bytes and has a layer of its own for the classes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from apet.scoring.scorers import Batch, Head, Item
from apet.tasks import SIDE, Example


class Images(Head):
    """Like a head on a text model it has no words, so no template and no prior; images are all of one size."""

    def encode(self, examples: Sequence[Example]) -> list[Item]:
        return [{"image": example["image"], "target": [example["label"]]} for example in examples]

    def length(self, item: Item) -> int:
        return len(item["image"])

    def collate(self, items: Sequence[Item]) -> Batch:
        """images uint8 (B, SIDE, SIDE), labels (B,)."""
        pixels = np.frombuffer(bytearray().join(item["image"] for item in items), np.uint8).reshape(-1, SIDE, SIDE)
        return {"images": torch.as_tensor(pixels, device=self.device), "labels": self._labels(items)}

    def logits(self, model: nn.Module, batch: Batch) -> Tensor:
        return model(batch["images"])
