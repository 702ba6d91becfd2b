"""A loss as a function of the k tuned coordinates z, and its gradient.

The loss is sum(loss sums) / sum(weights) over fixed batches. Batch size, order, an incomplete last batch and the number of processes
therefore change the loss only by rounding.

Derivatives use plain reverse mode, one vector at a time. The nested torch.func transforms (jvp of jacrev, hessian, ...) give silently wrong
results for LayerNorm when its input and its weight both depend on z (pytorch issue 196700). Fused attention has no double backward, so
every call uses the MATH attention backend.
"""

from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import contextmanager
from typing import Generic, TypeVar

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

Batch = TypeVar("Batch")
Term = tuple[Tensor, Tensor | float]  # a sum over a batch, and the batch's weight


class Objective(Generic[Batch]):
    """The mean loss L(z) = sum of the batches' loss sums / sum of their weights, over fixed batches.

    The callable outputs(z, batch) returns the model's outputs, a tensor of any shape. The callable criterion(outputs, batch) returns
    (loss_sum, weight): the 0-d sum of the losses and the number of terms (examples or tokens), see `landscape.curvature.criterion`. Both
    must be deterministic (no dropout). `size` is k, the length of z. Vectors are cast to `dtype` and `device` and are returned in them.
    Sums over batches are kept in float64.

    If each of several processes holds a part of the batches, total(tensor) must return the sum over the processes
    (torch.distributed.all_reduce). All processes then get equal results. Raises ValueError for an empty list of batches.
    """

    def __init__(
        self,
        outputs: Callable[[Tensor, Batch], Tensor],
        criterion: Callable[[Tensor, Batch], Term],
        batches: Sequence[Batch],
        size: int,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        total: Callable[[Tensor], Tensor] = lambda tensor: tensor,
    ) -> None:
        if not batches:
            raise ValueError("an objective needs at least one batch, got none")
        self.outputs = outputs
        self.criterion = criterion
        self.batches = batches
        self.size = size
        self.dtype = dtype
        self.device = torch.device(device)
        self.total = total
        self._weights_checked = False  # True once the weights are known to sum to a positive number

    def loss(self, z: Tensor) -> float:
        """Return the mean loss at z (k,)."""
        z = self.vector(z, "z")
        return float(self.mean(self._loss(z, batch) for batch in self.batches))

    def batch_losses(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Return the loss sums and the weights of this process's batches at z (k,), both (batches,) float64.

        loss(z) is the ratio of their totals.
        """
        z = self.vector(z, "z")
        with twice_differentiable():
            terms = [self._loss(z, batch) for batch in self.batches]
        columns = ([torch.as_tensor(x, device=self.device).double() for x in column] for column in zip(*terms, strict=True))
        sums, weights = map(torch.stack, columns)
        return sums.cpu(), weights.cpu()

    def gradient(self, z: Tensor) -> Tensor:
        """Return the gradient g (k,) at z (k,)."""
        z = self.vector(z, "z")
        return self.mean(self._gradient(leaf(z), batch) for batch in self.batches).to(self.dtype)

    def loss_and_gradient(self, z: Tensor) -> tuple[float, Tensor]:
        """Return the loss and the gradient (k,) at z (k,), from one forward pass."""
        z = self.vector(z, "z")
        both = self.mean(self._loss_and_gradient(leaf(z), batch) for batch in self.batches)
        return float(both[0]), both[1:].to(self.dtype)

    def vector(self, vector: Tensor, name: str) -> Tensor:
        """Return `vector` detached, in the objective's dtype and on its device. Raises ValueError unless its shape is (k,)."""
        if vector.shape != (self.size,):
            raise ValueError(f"{name} must have shape ({self.size},), got {tuple(vector.shape)}")
        return vector.detach().to(device=self.device, dtype=self.dtype)

    def mean(self, terms: Iterable[Term]) -> Tensor:
        """Return sum(values) / sum(weights) over the batches of all processes, in float64; `terms` has one (value, weight) per batch.

        The result stays on the device. The first call raises ValueError unless the weights sum to a positive number. Later calls do not
        check, because the check synchronises with the device; they return NaN.
        """
        value = total_weight = torch.zeros((), dtype=torch.float64, device=self.device)
        with twice_differentiable():
            for term, weight in terms:
                value, total_weight = value + term.detach().double(), total_weight + weight
        sums = self.total(torch.cat([value.reshape(-1), total_weight.reshape(1)]))
        if not self._weights_checked:
            if not float(sums[-1]) > 0:
                raise ValueError(f"the batches' weights must sum to a positive number, got {float(sums[-1])}")
            self._weights_checked = True
        return sums[:-1].view(value.shape) / sums[-1]

    def _loss(self, z: Tensor, batch: Batch) -> Term:
        with torch.no_grad():
            return self.criterion(self.outputs(z, batch), batch)

    def _gradient(self, z: Tensor, batch: Batch) -> Term:
        loss_sum, weight = self.criterion(self.outputs(z, batch), batch)
        return vjp(loss_sum, z), weight

    def _loss_and_gradient(self, z: Tensor, batch: Batch) -> Term:
        loss_sum, weight = self.criterion(self.outputs(z, batch), batch)
        return torch.cat([loss_sum.detach().reshape(1).to(z.dtype), vjp(loss_sum, z)]), weight


@contextmanager
def twice_differentiable() -> Generator[None]:
    """Enable gradients and use an attention kernel that has a double backward."""
    with sdpa_kernel(SDPBackend.MATH), torch.enable_grad():
        yield


def leaf(z: Tensor) -> Tensor:
    """Return z as a leaf of autograd that shares z's memory. Every batch takes a new leaf, so the graphs of batches are independent."""
    return z.detach().requires_grad_()


def vjp(outputs: Tensor, inputs: Tensor, vector: Tensor | None = None, *, differentiable: bool = False, keep: bool = False) -> Tensor:
    """Return (d outputs / d inputs)' vector, shaped like `inputs`; zero if the outputs do not depend on the inputs.

    `keep` keeps the graph for the next vector. `differentiable` makes the result part of a graph.
    """
    if not outputs.requires_grad:
        return torch.zeros_like(inputs)
    (product,) = torch.autograd.grad(
        outputs, inputs, vector, retain_graph=keep or differentiable, create_graph=differentiable, allow_unused=True, materialize_grads=True
    )
    return product


def jvp(outputs: Tensor, inputs: Tensor) -> Callable[[Tensor], Tensor]:
    """Return v -> J v with J = d outputs / d inputs, in reverse mode only: u -> J'u is linear, and J is the transpose of its derivative."""
    dummy = torch.zeros_like(outputs).requires_grad_()
    back = vjp(outputs, inputs, dummy, differentiable=True)
    return lambda v: vjp(back, dummy, v, keep=True)
