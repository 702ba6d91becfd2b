"""A model whose tensors in scope are pretrained values + P z, for a projection P (`apet.projections.projection_table`).

For training, the values are written in place, and the forward pass is the bare model's. When the gradient of a tensor is complete, it is
pulled back to z and freed. So memory holds the gradients of full fine-tuning one tensor at a time, the optimiser's state of z only, and a
copy of the pretrained values. Low-precision weights are rounded from that copy at each step, so small steps are not lost.

For curvature, the tensors are part of the graph of z instead, which holds all D scalars.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from apet.subspaces import NotPerExample, Resident, WrittenValues, all_names, owners_by_parameter

if TYPE_CHECKING:
    from apet.projections.projection_table import Projection


class Projected:
    """A model in a projected subspace. `z` (k,), fp32, is the trainable parameter. Call `write` after each change of z.

    A `with` statement detaches the model at its end.
    """

    def __init__(self, model: nn.Module, projection: Projection):
        parameters = all_names(model)
        if any(isinstance(p, Resident) or p._post_accumulate_grad_hooks for p in parameters.values()):
            raise RuntimeError("a subspace is already attached to this model: detach it first")
        self.projection = projection
        self._flags = [(p, p.requires_grad) for p in model.parameters()]
        model.requires_grad_(False)
        self._weights = [parameters[name] for name in projection.space.names]
        self._originals = [weight.detach().clone() for weight in self._weights]
        owners = owners_by_parameter(model)
        self._owners = [owners[id(weight)] for weight in self._weights]
        first = self._weights[0]
        self.z = nn.Parameter(torch.zeros(projection.k, dtype=torch.promote_types(first.dtype, torch.float32), device=first.device))
        self._written = WrittenValues()
        self._written.note(self.z)  # z = 0 is the pretrained model for every kind of projection
        self._hooks = [
            weight.requires_grad_(True).register_post_accumulate_grad_hook(partial(self._take, i)) for i, weight in enumerate(self._weights)
        ]

    def _take(self, i: int, weight: Tensor) -> None:
        """Pull the complete gradient of tensor i back to z, and free it."""
        gradient, weight.grad = weight.grad, None  # cleared first: if memory runs out below, another attempt must not add to the gradient
        assert gradient is not None
        pulled = self.projection.pull_one(gradient.to(self.z.dtype), i, self.z.detach())
        self.z.grad = pulled if self.z.grad is None else self.z.grad + pulled

    def bind(self, z: Tensor) -> None:
        """Make the next forward passes of the model functions of z (k,). The tensors join the graph of z if z requires a gradient.

        Raises NotPerExample for z of shape (B, k), one per example, because all examples share the tensors.
        """
        if z.dim() != 1:
            raise NotPerExample("a projected subspace moves tensors that all examples share: its gradient cannot be split by example")
        if not (z.requires_grad and torch.is_grad_enabled()):
            return self._write(z)
        for i, owners in enumerate(self._owners):
            self._assign(owners, self._moved(z, i))

    def write(self) -> None:
        """Write pretrained value + P z into the tensors."""
        self._written.forget()
        self._write(self.z.detach())

    @torch.no_grad()
    def _write(self, z: Tensor) -> None:
        for owners, weight in zip(self._owners, self._weights, strict=True):
            self._assign(owners, weight)
        if self._written.holds(z):
            return
        self._written.forget()  # until all tensors are written
        for i, weight in enumerate(self._weights):
            weight.copy_(self._moved(z, i))
        self._written.note(z)

    def _moved(self, z: Tensor, i: int) -> Tensor:
        original = self._originals[i]
        return (original.to(z.dtype) + self.projection.lift_one(z, i)).to(original.dtype)

    @staticmethod
    def _assign(owners: list[tuple[nn.Module, str]], tensor: Tensor) -> None:
        for module, name in owners:
            module._parameters[name] = tensor  # pyright: ignore[reportArgumentType] (nn.Module accepts any tensor)

    def __enter__(self) -> Projected:
        return self

    def __exit__(self, *_: object) -> None:
        self.detach()

    @torch.no_grad()
    def detach(self) -> None:
        """Restore the model bitwise: values, parameters and requires_grad flags."""
        for hook in self._hooks:
            hook.remove()
        for owners, weight, original in zip(self._owners, self._weights, self._originals, strict=True):
            self._assign(owners, weight.copy_(original))
        for parameter, flag in self._flags:
            parameter.requires_grad_(flag)
