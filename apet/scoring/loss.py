"""The training loss: cross-entropy over the labels that count.

`landscape` has the same loss as a criterion with closed-form curvature (`landscape.curvature`'s CrossEntropy, whose `ignored` has the
same default). The two packages do not import each other: training and evaluation use this function, curvature the criterion.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from apet.scoring.scorer import Batch

IGNORED = -100  # a label that no loss counts


def cross_entropy(logits: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
    """Return (sum of losses, total weight), 0-d each; the weight counts examples, or tokens. Their sums give an exact mean over batches."""
    logits = logits.float() if logits.dtype.itemsize < 4 else logits
    labels = batch["labels"]
    loss_sum = F.cross_entropy(logits.flatten(0, -2), labels.flatten(), ignore_index=IGNORED, reduction="sum")
    return loss_sum, (labels != IGNORED).sum()
