"""A loss as a function of the k tunable coordinates z, with exact first and second derivatives.

The loss is sum(loss sums) / sum(weights) over fixed batches, so batch size, order and a ragged last batch change it by
rounding only. Derivatives are plain reverse mode, one vector at a time: the nested torch.func routes (jvp of jacrev,
hessian, ...) are silently wrong on LayerNorm when its input and its weight both depend on z (pytorch issue 196700), and
fused attention has no double backward, hence the MATH back end around every call.
"""

from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

Batch = TypeVar("Batch")


class Objective(Generic[Batch]):
    """z -> loss, an exact weighted mean over fixed batches.

    outputs(z, batch) gives the model's outputs, a tensor of any shape; criterion(outputs, batch) gives
    (loss_sum, weight): the 0-d sum of the losses and what it is summed over (examples, tokens). Both must be
    deterministic (no dropout). `size` is k, the length of z. z is cast to `dtype` and `device`, and vectors come back
    in them; sums over batches are kept in float64. Raises ValueError without batches.
    """

    def __init__(
        self,
        outputs: Callable[[Tensor, Batch], Tensor],
        criterion: Callable[[Tensor, Batch], tuple[Tensor, float]],
        batches: Sequence[Batch],
        size: int,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        if not batches:
            raise ValueError("an objective needs at least one batch, got none")
        self.outputs = outputs
        self.criterion = criterion
        self.batches = batches
        self.size = size
        self.dtype = dtype
        self.device = torch.device(device)

    def loss(self, z: Tensor) -> float:
        """The mean loss at z, shape (k,)."""
        return float(self._mean(z, self._loss))

    def batch_losses(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Loss sums and weights of each batch at z, both (batches,) float64; loss(z) is the ratio of their sums."""
        z = self.vector(z, "z")
        with sdpa_kernel(SDPBackend.MATH):
            terms = [self._loss(z, batch) for batch in self.batches]
        sums, weights = zip(*((float(loss_sum), float(weight)) for loss_sum, weight in terms), strict=True)
        return torch.tensor(sums, dtype=torch.float64), torch.tensor(weights, dtype=torch.float64)

    def gradient(self, z: Tensor) -> Tensor:
        """The gradient g at z, shape (k,)."""
        return self._mean(z, self._gradient).to(self.dtype)

    def hvp(self, z: Tensor, v: Tensor) -> Tensor:
        """The Hessian at z times v, shape (k,), by double backward."""
        v = self.vector(v, "v")

        def term(z: Tensor, batch: Batch) -> tuple[Tensor, float]:
            loss_sum, weight = self.criterion(self.outputs(z, batch), batch)
            return _vjp(_vjp(loss_sum, z, keep=True), z, v), weight

        return self._mean(z, term).to(self.dtype)

    def ggnvp(self, z: Tensor, v: Tensor) -> Tensor:
        """The Gauss-Newton matrix J' H_out J at z times v, shape (k,).

        J is the Jacobian of the outputs in z, H_out the criterion's Hessian in the outputs (Schraudolph 2002).
        """
        v = self.vector(v, "v")

        def term(z: Tensor, batch: Batch) -> tuple[Tensor, float]:
            outputs = self.outputs(z, batch)
            leaf = outputs.detach().requires_grad_()
            loss_sum, weight = self.criterion(leaf, batch)
            curved = _vjp(_vjp(loss_sum, leaf, keep=True), leaf, _jvp(outputs, z, v))
            return _vjp(outputs, z, curved), weight

        return self._mean(z, term).to(self.dtype)

    def vector(self, vector: Tensor, name: str) -> Tensor:
        """`vector` detached, in the objective's dtype and device; ValueError unless its shape is (k,)."""
        if vector.shape != (self.size,):
            raise ValueError(f"{name} must have shape ({self.size},), got {tuple(vector.shape)}")
        return vector.detach().to(device=self.device, dtype=self.dtype)

    def _loss(self, z: Tensor, batch: Batch) -> tuple[Tensor, float]:
        with torch.no_grad():
            return self.criterion(self.outputs(z, batch), batch)

    def _gradient(self, z: Tensor, batch: Batch) -> tuple[Tensor, float]:
        loss_sum, weight = self.criterion(self.outputs(z, batch), batch)
        return _vjp(loss_sum, z), weight

    def _mean(self, z: Tensor, term: Callable[[Tensor, Batch], tuple[Tensor, float]]) -> Tensor:
        """sum(values) / sum(weights) over the batches, in float64."""
        z = self.vector(z, "z")
        total, mass = torch.zeros((), dtype=torch.float64, device=self.device), 0.0
        with sdpa_kernel(SDPBackend.MATH), torch.enable_grad():
            for batch in self.batches:
                # A fresh leaf for each batch, so that no graph outlives it.
                value, weight = term(z.clone().requires_grad_(), batch)
                total, mass = total + value.detach().double(), mass + float(weight)
        if not mass > 0:
            raise ValueError(f"the batches' weights must sum to a positive number, got {mass}")
        return total / mass


def _vjp(outputs: Tensor, inputs: Tensor, vector: Tensor | None = None, *, keep: bool = False) -> Tensor:
    """(d outputs / d inputs)' vector; zero where outputs do not depend on inputs (a linear loss has no curvature)."""
    if not outputs.requires_grad:
        return torch.zeros_like(inputs)
    return torch.autograd.grad(outputs, inputs, vector, create_graph=keep, allow_unused=True, materialize_grads=True)[0]


def _jvp(outputs: Tensor, inputs: Tensor, vector: Tensor) -> Tensor:
    """(d outputs / d inputs) vector in reverse mode only: J'u is linear in u, and its derivative's transpose is J."""
    dummy = torch.zeros_like(outputs).requires_grad_()
    return _vjp(_vjp(outputs, inputs, dummy, keep=True), dummy, vector)
