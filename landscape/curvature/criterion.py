"""Criteria: the loss of a model's outputs, and its Hessian M in the outputs, the middle of a curvature matrix J' M J.

J is the Jacobian of the outputs in z. Any callable (outputs, batch) -> (sum of losses, weight) is a criterion. Further methods are
optional:

- `curvature` saves a double backward through the loss;
- `losses` is required for empirical Fisher matrices;
- `sampled_curvature` and `sampled_forms` are required for Monte Carlo Fisher matrices;
- `roots` is required for exact Gauss-Newton spectra.
"""

from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor

from landscape.numerics import Stream, eigh

OutputProduct = Callable[[Tensor], Tensor]  # u -> M u, both shaped like the outputs


@runtime_checkable
class HasCurvature(Protocol):
    """A criterion with a closed form of its Hessian M in the outputs."""

    def curvature(self, outputs: Tensor, batch: Any) -> OutputProduct: ...


@runtime_checkable
class HasSampledCurvature(Protocol):
    """A criterion whose Hessian M can be estimated from labels drawn from the model."""

    def sampled_curvature(self, outputs: Tensor, batch: Any, samples: int, random: Stream) -> OutputProduct: ...
    def sampled_forms(self, outputs: Tensor, batch: Any, samples: int, random: Stream) -> OutputProduct: ...


@runtime_checkable
class HasLosses(Protocol):
    """A criterion that returns the loss of each example."""

    def losses(self, outputs: Tensor, batch: Any) -> Tensor: ...


@runtime_checkable
class HasRoots(Protocol):
    """A criterion that factorises each example's Hessian M into outer products."""

    def roots(self, outputs: Tensor, batch: Any) -> list[Tensor]: ...


class CrossEntropy:
    """Softmax cross-entropy over the last dimension of the outputs.

    labels(batch) returns labels (B,) for outputs (B, C), or (B, T) for outputs (B, T, V). Labels equal to `ignored` do not count. The
    weight is the number of labels that count, so the mean loss is per example, or per token of a text.
    """

    def __init__(self, labels: Callable[[Any], Tensor] = lambda batch: batch["labels"], ignored: int = -100) -> None:
        self.labels, self.ignored = labels, ignored

    def __call__(self, outputs: Tensor, batch: Any) -> tuple[Tensor, Tensor]:
        """Return the sum of the losses and the number of labels that count, both 0-d."""
        labels = self.labels(batch)
        loss_sum = F.cross_entropy(_rows(outputs), labels.reshape(-1), ignore_index=self.ignored, reduction="sum")
        return loss_sum, (labels != self.ignored).sum()

    def losses(self, outputs: Tensor, batch: Any) -> Tensor:
        """Return the loss of each example, (B,), summed over the example's labels."""
        labels = self.labels(batch)
        token_losses = F.cross_entropy(_rows(outputs), labels.reshape(-1), ignore_index=self.ignored, reduction="none")
        return token_losses.view(len(labels), -1).sum(1)

    def curvature(self, outputs: Tensor, batch: Any) -> OutputProduct:
        """Return u -> (diag(p) - p p') u at every label that counts, with p = softmax(outputs) and u shaped like the outputs.

        The computation differs from the textbook product in one step: it replaces u by w, which is u less its value at the likeliest class.
        The product is unchanged, because it is zero for a constant u. The likeliest class, whose p may be 1 up to rounding, then does not
        enter p'w, and p (w - p'w) keeps all digits of p.
        """
        p = self._counted(outputs, batch).softmax(-1) * self._mask(batch)
        likeliest = p.argmax(-1, keepdim=True)

        def middle(u: Tensor) -> Tensor:
            w = u - u.gather(-1, likeliest)
            return (p * (w - (p * w).sum(-1, keepdim=True))).to(u)

        return middle

    def sampled_curvature(self, outputs: Tensor, batch: Any, samples: int, random: Stream) -> OutputProduct:
        """Return an unbiased estimate of `curvature`: u -> the mean of (p - e_y)(p - e_y)' u over `samples` labels y drawn from p."""
        p, drawn = self._drawn(outputs, batch, samples, random)
        mask = self._mask(batch)

        def middle(u: Tensor) -> Tensor:
            along = _along(u, p, drawn) / samples * mask
            return (p * along.sum(-1, keepdim=True) - torch.zeros_like(p).scatter_add_(-1, drawn, along)).to(u)

        return middle

    def sampled_forms(self, outputs: Tensor, batch: Any, samples: int, random: Stream) -> OutputProduct:
        """Return u -> quadratic forms (samples,): for each draw of `sampled_curvature`, the sum over labels of ((p - e_y)'u)^2."""
        p, drawn = self._drawn(outputs, batch, samples, random)
        mask = self._mask(batch)
        return lambda u: ((_along(u, p, drawn) * mask) ** 2).reshape(-1, samples).sum(0)

    def _drawn(self, outputs: Tensor, batch: Any, samples: int, random: Stream) -> tuple[Tensor, Tensor]:
        """Return p and labels (..., samples) drawn from p, by inversion of its distribution function, so every device draws the same
        labels.
        """
        p = self._counted(outputs, batch).double().softmax(-1)
        uniform = torch.as_tensor(random.random((*p.shape[:-1], samples))).to(p)
        return p, torch.searchsorted(p.cumsum(-1), uniform).clamp_(max=p.shape[-1] - 1)

    def roots(self, outputs: Tensor, batch: Any) -> list[Tensor]:
        """Return C - 1 tensors (B, C) whose outer products sum, for each example, to the curvature diag(p) - p p'.

        Raises ValueError unless the outputs have shape (B, C) (texts have one label per token).
        """
        if outputs.dim() != 2:
            raise ValueError(f"outputs must have shape (B, C), one label per example, got {tuple(outputs.shape)}")
        p = self._counted(outputs, batch).double().softmax(-1) * self._mask(batch)
        values, vectors = eigh(torch.diag_embed(p) - p[:, :, None] * p[:, None, :])
        roots = vectors * values.clamp(min=0).sqrt()[:, None, :]
        return [roots[..., i].to(outputs) for i in range(1, outputs.shape[1])]  # the smallest eigenvalue is zero

    def _counted(self, outputs: Tensor, batch: Any) -> Tensor:
        """Return the outputs in the shape of the labels with one more dimension for the classes."""
        return outputs.detach().view(*self.labels(batch).shape, outputs.shape[-1])

    def _mask(self, batch: Any) -> Tensor:
        return (self.labels(batch) != self.ignored).unsqueeze(-1)


class SquaredError:
    """Squared error (output - label)^2 of outputs (B, 1), for labels(batch) of shape (B,). The weight is the number of examples.

    Up to a constant, the loss is the negative log-likelihood of a normal distribution around the output, with variance 1/2. Monte Carlo
    Fisher matrices draw labels from this distribution.
    """

    def __init__(self, labels: Callable[[Any], Tensor] = lambda batch: batch["labels"]) -> None:
        self.labels = labels

    def __call__(self, outputs: Tensor, batch: Any) -> tuple[Tensor, Tensor]:
        """Return the sum of the losses and the number of examples, both 0-d."""
        losses = self.losses(outputs, batch)
        return losses.sum(), losses.new_tensor(len(losses))

    def losses(self, outputs: Tensor, batch: Any) -> Tensor:
        """Return the loss of each example, (B,)."""
        return (_rows(outputs)[:, 0] - self.labels(batch)).square()

    def curvature(self, outputs: Tensor, batch: Any) -> OutputProduct:
        """Return u -> 2 u."""
        return lambda u: 2 * u

    def sampled_curvature(self, outputs: Tensor, batch: Any, samples: int, random: Stream) -> OutputProduct:
        """Return an unbiased estimate of `curvature`: u -> the mean of g^2 u over `samples` gradients g of the loss of a drawn label."""
        squares = self._drawn(outputs, samples, random).square().mean(1, keepdim=True)
        return lambda u: (squares * u.double()).to(u)

    def sampled_forms(self, outputs: Tensor, batch: Any, samples: int, random: Stream) -> OutputProduct:
        """Return u -> quadratic forms (samples,): for each draw of `sampled_curvature`, the sum over examples of (g u)^2."""
        gradients = self._drawn(outputs, samples, random)
        return lambda u: (gradients * u.double()).square().sum(0)

    def roots(self, outputs: Tensor, batch: Any) -> list[Tensor]:
        """Return one tensor (B, 1) whose square is, for each example, the curvature 2."""
        return [torch.full_like(outputs.detach(), 2**0.5)]

    def _drawn(self, outputs: Tensor, samples: int, random: Stream) -> Tensor:
        """Return gradients g = 2 (output - label) for drawn labels, float64 (B, samples): normal numbers of variance 2."""
        return 2**0.5 * torch.as_tensor(random.standard_normal((len(outputs), samples)), device=outputs.device)


def _along(u: Tensor, p: Tensor, drawn: Tensor) -> Tensor:
    """Return (p - e_y)'u for every drawn label y, (..., samples)."""
    u = u.double()
    return (p * u).sum(-1, keepdim=True) - u.gather(-1, drawn)


def _rows(outputs: Tensor) -> Tensor:
    """Return outputs (..., C) as rows (N, C), in float32 or wider."""
    wide = outputs.float() if outputs.dtype.itemsize < 4 else outputs
    return wide.flatten(0, -2)
