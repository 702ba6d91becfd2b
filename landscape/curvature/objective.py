"""A loss as a function of the k tunable coordinates z, and its gradient.

The loss is sum(loss sums) / sum(weights) over fixed batches, so batch size, order, a ragged last batch and the number of
processes change it by rounding only. Derivatives are plain reverse mode, one vector at a time: the nested torch.func
routes (jvp of jacrev, hessian, ...) are silently wrong on LayerNorm when its input and its weight both depend on z (pytorch
issue 196700), and fused attention has no double backward, hence the MATH back end around every call.
"""

from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import contextmanager
from typing import Generic, TypeVar

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

Batch = TypeVar("Batch")
Term = tuple[Tensor, Tensor | float]  # a sum over a batch, and the weight that it is summed over


class Objective(Generic[Batch]):
    """z -> loss, an exact weighted mean over fixed batches.

    outputs(z, batch) gives the model's outputs, a tensor of any shape; criterion(outputs, batch) gives (loss_sum, weight): the
    0-d sum of the losses and what it is summed over (examples, tokens), see `landscape.curvature.criterion`. Both must be
    deterministic (no dropout). `size` is k, the length of z. z is cast to `dtype` and `device`, and vectors come back
    in them; sums over batches are kept in float64. Where several processes hold a part of the batches each, `total`
    returns the sum of a tensor over them (torch.distributed.all_reduce), and all get the same results. Raises ValueError
    without batches.
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
        self._weighed = False  # whether the batches' weights are known to sum to a positive number

    def loss(self, z: Tensor) -> float:
        """The mean loss at z, shape (k,)."""
        z = self.vector(z, "z")
        return float(self.mean(self._loss(z, batch) for batch in self.batches))

    def batch_losses(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Loss sums and weights of each batch of this process at z, both (batches,) float64; loss(z) is the ratio of their sums."""
        z = self.vector(z, "z")
        with derivatives():
            terms = [self._loss(z, batch) for batch in self.batches]
        sums, weights = (torch.stack([torch.as_tensor(x, device=self.device).double() for x in each]) for each in zip(*terms, strict=True))
        return sums.cpu(), weights.cpu()

    def gradient(self, z: Tensor) -> Tensor:
        """The gradient g at z, shape (k,)."""
        z = self.vector(z, "z")
        return self.mean(self._gradient(leaf(z), batch) for batch in self.batches).to(self.dtype)

    def loss_and_gradient(self, z: Tensor) -> tuple[float, Tensor]:
        """Both at z, shape (k,), from one forward pass."""
        z = self.vector(z, "z")
        both = self.mean(self._loss_and_gradient(leaf(z), batch) for batch in self.batches)
        return float(both[0]), both[1:].to(self.dtype)

    def vector(self, vector: Tensor, name: str) -> Tensor:
        """`vector` detached, in the objective's dtype and device; ValueError unless its shape is (k,)."""
        if vector.shape != (self.size,):
            raise ValueError(f"{name} must have shape ({self.size},), got {tuple(vector.shape)}")
        return vector.detach().to(device=self.device, dtype=self.dtype)

    def mean(self, terms: Iterable[Term]) -> Tensor:
        """sum(values) / sum(weights) over the batches of all processes, in float64; `terms` has an item a batch.

        It stays on the device: NaN where the weights sum to nothing, except the first time, which raises ValueError.
        """
        value = mass = torch.zeros((), dtype=torch.float64, device=self.device)
        with derivatives():
            for term, weight in terms:
                value, mass = value + term.detach().double(), mass + weight
        together = self.total(torch.cat([value.reshape(-1), mass.reshape(1)]))
        if not self._weighed:
            total = float(together[-1])
            if not total > 0:
                raise ValueError(f"the batches' weights must sum to a positive number, got {total}")
            self._weighed = True
        return together[:-1].view(value.shape) / together[-1]

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
def derivatives() -> Generator[None]:
    """Where outputs are differentiated: gradients on, attention that can be differentiated twice."""
    with sdpa_kernel(SDPBackend.MATH), torch.enable_grad():
        yield


def leaf(z: Tensor) -> Tensor:
    """z, in the same memory, as a tensor that a graph begins at; a fresh one for each batch, so that graphs live apart."""
    return z.detach().requires_grad_()


def vjp(outputs: Tensor, inputs: Tensor, vector: Tensor | None = None, *, differentiable: bool = False, keep: bool = False) -> Tensor:
    """(d outputs / d inputs)' vector; zero where outputs do not depend on inputs (a linear loss has no curvature).

    `keep` leaves the graph for the next vector; `differentiable` makes the result part of one.
    """
    if not outputs.requires_grad:
        return torch.zeros_like(inputs)
    (found,) = torch.autograd.grad(
        outputs, inputs, vector, retain_graph=keep or differentiable, create_graph=differentiable, allow_unused=True, materialize_grads=True
    )
    return found


def jvp(outputs: Tensor, inputs: Tensor) -> Callable[[Tensor], Tensor]:
    """v -> J v in reverse mode only, J = d outputs / d inputs: J'u is linear in u, and the transpose of its derivative is J."""
    dummy = torch.zeros_like(outputs).requires_grad_()
    back = vjp(outputs, inputs, dummy, differentiable=True)
    return lambda v: vjp(back, dummy, v, keep=True)
