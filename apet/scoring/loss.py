"""The training losses: cross-entropy over all labels except IGNORED, and squared error for a regression.

`landscape.curvature.CrossEntropy` and `SquaredError` are the same losses as criteria with closed-form curvature; the `ignored` label has
the same default there. The two packages do not import each other. Training and evaluation use these functions, curvature uses the criteria.
"""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor

IGNORED = -100  # a label that does not contribute to the loss


def cross_entropy(logits: Tensor, batch: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """Return the sum of the losses and the total weight, both 0-d.

    The weight is the number of examples, or of tokens for a generation task. The exact mean over several batches is the ratio of the two
    totals.
    """
    labels = batch["labels"]
    loss_sum = F.cross_entropy(_wide(logits).flatten(0, -2), labels.flatten(), ignore_index=IGNORED, reduction="sum")
    return loss_sum, (labels != IGNORED).sum()


def squared_error(outputs: Tensor, batch: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """Return the sum over examples of (output - label)^2 and the number of examples, both 0-d, for outputs (B, 1) and labels (B,)."""
    residuals = _wide(outputs)[:, 0] - batch["labels"]
    return residuals.square().sum(), residuals.new_tensor(len(residuals))


def _wide(outputs: Tensor) -> Tensor:
    return outputs.float() if outputs.dtype.itemsize < 4 else outputs
