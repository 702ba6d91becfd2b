"""The training loss: cross-entropy over all labels except IGNORED.

`landscape.curvature.CrossEntropy` is the same loss as a criterion with closed-form curvature; its `ignored` has the same default. The two
packages do not import each other. Training and evaluation use this function, curvature uses the criterion.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from apet.scoring.scorer import Batch

IGNORED = -100  # a label that does not contribute to the loss


def cross_entropy(logits: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
    """Return the sum of the losses and the total weight, both 0-d.

    The weight is the number of examples, or of tokens for a generation task. The exact mean over several batches is the ratio of the two
    totals.
    """
    logits = logits.float() if logits.dtype.itemsize < 4 else logits
    labels = batch["labels"]
    loss_sum = F.cross_entropy(logits.flatten(0, -2), labels.flatten(), ignore_index=IGNORED, reduction="sum")
    return loss_sum, (labels != IGNORED).sum()
