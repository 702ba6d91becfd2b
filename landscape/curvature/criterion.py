"""Criteria with a closed form of what curvature needs of them: the middle of J' M J, where J is the outputs' Jacobian.

Any callable (outputs, batch) -> (loss sum, weight) is a criterion; one that has `curvature` as well saves a double backward
through the loss, and one that has `losses` or `roots` can be asked for Fisher matrices or exact Gauss-Newton spectra.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from landscape.numerics import Stream, eigh

Middle = Callable[[Tensor], Tensor]  # u, shaped like the outputs -> M u


class CrossEntropy:
    """Softmax cross-entropy over the last dimension of the outputs.

    labels(batch) is (B,) for outputs (B, C), or (B, T) for (B, T, V); the label `ignored` counts nothing. The weight is the number
    of labels that count, so the mean is over examples, or over the pieces of a text.
    """

    def __init__(self, labels: Callable[[Any], Tensor] = lambda batch: batch["labels"], ignored: int = -100) -> None:
        self.labels, self.ignored = labels, ignored

    def __call__(self, outputs: Tensor, batch: Any) -> tuple[Tensor, Tensor]:
        """(sum of losses, number of labels that count)."""
        labels = self.labels(batch)
        loss_sum = F.cross_entropy(_rows(outputs), labels.reshape(-1), ignore_index=self.ignored, reduction="sum")
        return loss_sum, (labels != self.ignored).sum()

    def losses(self, outputs: Tensor, batch: Any) -> Tensor:
        """Each example's sum of losses, (B,)."""
        labels = self.labels(batch)
        each = F.cross_entropy(_rows(outputs), labels.reshape(-1), ignore_index=self.ignored, reduction="none")
        return each.view(len(labels), -1).sum(1)

    def curvature(self, outputs: Tensor, batch: Any) -> Middle:
        """u -> (diag(p) - pp') u at every label that counts, p = softmax(outputs).

        It is the same for u less any constant: for w, u less its value at the likeliest class. Then that class, whose p may be 1 but for
        rounding, has no part in p'w, and p (w - p'w) needs no more digits than p has.
        """
        p = self._counted(outputs, batch).softmax(-1) * self._mask(batch)
        likeliest = p.argmax(-1, keepdim=True)

        def middle(u: Tensor) -> Tensor:
            w = u - u.gather(-1, likeliest)
            return (p * (w - (p * w).sum(-1, keepdim=True))).to(u)

        return middle

    def sampled_curvature(self, outputs: Tensor, batch: Any, samples: int, random: Stream) -> Middle:
        """An unbiased draw of `curvature`: the mean over `samples` labels y from p of (p - e_y)(p - e_y)' u."""
        p, drawn = self._drawn(outputs, batch, samples, random)
        mask = self._mask(batch)

        def middle(u: Tensor) -> Tensor:
            along = _along(u, p, drawn) / samples * mask
            return (p * along.sum(-1, keepdim=True) - torch.zeros_like(p).scatter_add_(-1, drawn, along)).to(u)

        return middle

    def sampled_forms(self, outputs: Tensor, batch: Any, samples: int, random: Stream) -> Callable[[Tensor], Tensor]:
        """u -> the sum of ((p - e_y)'u)^2 for each of the same draws, (samples,)."""
        p, drawn = self._drawn(outputs, batch, samples, random)
        mask = self._mask(batch)
        return lambda u: ((_along(u, p, drawn) * mask) ** 2).reshape(-1, samples).sum(0)

    def _drawn(self, outputs: Tensor, batch: Any, samples: int, random: Stream) -> tuple[Tensor, Tensor]:
        """p, and labels drawn from it (..., samples) through its distribution function, so that no device changes a draw."""
        p = self._counted(outputs, batch).double().softmax(-1)
        uniform = torch.as_tensor(random.random((*p.shape[:-1], samples))).to(p)
        return p, torch.searchsorted(p.cumsum(-1), uniform).clamp_(max=p.shape[-1] - 1)

    def roots(self, outputs: Tensor, batch: Any) -> list[Tensor]:
        """C - 1 tensors like outputs (B, C), whose outer products sum to the curvature of each example. ValueError for texts."""
        if outputs.dim() != 2:
            raise ValueError(f"roots are for outputs (B, C), one label an example, got shape {tuple(outputs.shape)}")
        p = self._counted(outputs, batch).double().softmax(-1) * self._mask(batch)
        values, vectors = eigh(torch.diag_embed(p) - p[:, :, None] * p[:, None, :])
        found = vectors * values.clamp(min=0).sqrt()[:, None, :]
        return [found[..., i].to(outputs) for i in range(1, outputs.shape[1])]  # the smallest eigenvalue is zero

    def _counted(self, outputs: Tensor, batch: Any) -> Tensor:
        """Outputs in the shape of the labels and one dimension more."""
        return outputs.detach().view(*self.labels(batch).shape, outputs.shape[-1])

    def _mask(self, batch: Any) -> Tensor:
        return (self.labels(batch) != self.ignored).unsqueeze(-1)


def _along(u: Tensor, p: Tensor, drawn: Tensor) -> Tensor:
    """(p - e_y)'u for every drawn y, (..., samples)."""
    u = u.double()
    return (p * u).sum(-1, keepdim=True) - u.gather(-1, drawn)


def _rows(outputs: Tensor) -> Tensor:
    wide = outputs.float() if outputs.dtype.itemsize < 4 else outputs
    return wide.flatten(0, -2)
