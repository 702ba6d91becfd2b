"""Coordinates: the subspace of k single entries of the model's tensors, which is APET.

z holds the displacements of the chosen entries from their pretrained values, in fp32. Attached, the values live in
the model's own tensors (resident weights): the forward pass is the frozen model's, and after a step the k entries
are rewritten from the fp32 z, so low-precision weights do not swallow small steps.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from apet.space import ParameterSpace


@dataclass(frozen=True)
class _Entries:
    name: str
    which: Tensor  # (n,) positions in z
    flat: Tensor  # (n,) flat indices into the tensor


class Coordinates:
    """The linear map z (k,) -> perturbation of the parameters, and its adjoint.

    `index` (k,) are distinct global integers of `space`. `lift`, `pull` and `perturbed` are differentiable and leave
    the model alone; `attach` mounts z for training and `detach` restores every tensor bitwise.
    """

    def __init__(self, space: ParameterSpace, index: np.ndarray, device: torch.device | str = "cpu"):
        self.space, self.index, self.k = space, index, len(index)
        self._parts = [
            _Entries(name, torch.as_tensor(which, device=device), torch.as_tensor(flat, device=device))
            for name, which, flat in space.locate(index)
        ]
        self._shapes = dict(space.tensors)
        self._attached: _Attachment | None = None

    def lift(self, z: Tensor) -> dict[str, Tensor]:
        """z (k,) -> dense perturbation of each touched tensor."""
        return {name: self._scatter(torch.zeros(self._shapes[name], dtype=z.dtype, device=z.device), z, part)
                for part in self._parts for name in [part.name]}  # fmt: skip

    def pull(self, tensors: dict[str, Tensor]) -> Tensor:
        """The adjoint of `lift`: entries of `tensors` (by name) at the chosen places, as one vector (k,)."""
        first = tensors[self._parts[0].name]
        z = torch.zeros(self.k, dtype=first.dtype, device=first.device)
        for part in self._parts:
            z[part.which] = tensors[part.name].flatten()[part.flat]
        return z

    def perturbed(self, model: nn.Module, z: Tensor) -> dict[str, Tensor]:
        """The touched tensors of `model` moved by z, for torch.func.functional_call; differentiable in z any number of times."""
        parameters = dict(model.named_parameters())
        return {part.name: self._scatter(parameters[part.name].detach(), z, part) for part in self._parts}

    @staticmethod
    def _scatter(base: Tensor, z: Tensor, part: _Entries) -> Tensor:
        moved = base.flatten().index_add(0, part.flat, z[part.which].to(base.dtype))
        return moved.view(base.shape)

    def attach(self, model: nn.Module) -> nn.Parameter:
        """Freeze `model` except the k entries and return z = 0 (k,), whose gradient every backward pass fills.

        After changing z call `write`. One attachment at a time; `detach` ends it.
        """
        if self._attached is not None:
            raise RuntimeError("these coordinates are attached already: detach them first")
        self._attached = _Attachment(model, self._parts, self.k)
        return self._attached.z

    def write(self) -> None:
        """Rewrite the k entries of the model as pretrained value + z."""
        self._mounted().write()

    def detach(self) -> None:
        """Restore the model bitwise, values and requires_grad flags."""
        self._mounted().restore()
        self._attached = None

    def _mounted(self) -> _Attachment:
        if self._attached is None:
            raise RuntimeError("these coordinates are not attached to a model: call attach first")
        return self._attached


class _Attachment:
    """Resident weights: z, the original k values, and the hooks that gather gradients of the k entries."""

    def __init__(self, model: nn.Module, parts: list[_Entries], k: int):
        parameters = dict(model.named_parameters())
        self._flags = [(p, p.requires_grad) for p in parameters.values()]
        self._parts = [(parameters[part.name], part) for part in parts]
        self._original = [p.detach().flatten()[part.flat].clone() for p, part in self._parts]
        model.requires_grad_(False)
        self.z = nn.Parameter(torch.zeros(k, dtype=torch.float32, device=next(model.parameters()).device))
        self._hooks = []
        for parameter, part in self._parts:
            parameter.requires_grad_(True)
            self._hooks.append(parameter.register_post_accumulate_grad_hook(self._gather(part)))

    def _gather(self, part: _Entries):
        def hook(parameter: Tensor) -> None:
            if self.z.grad is None:
                self.z.grad = torch.zeros_like(self.z)
            assert parameter.grad is not None
            self.z.grad[part.which] += parameter.grad.flatten()[part.flat].float()
            parameter.grad = None  # the dense gradient lives for one tensor at a time

        return hook

    @torch.no_grad()
    def write(self) -> None:
        for (parameter, part), original in zip(self._parts, self._original, strict=True):
            parameter.view(-1)[part.flat] = (original.float() + self.z[part.which]).to(parameter.dtype)

    @torch.no_grad()
    def restore(self) -> None:
        for hook in self._hooks:
            hook.remove()
        for (parameter, part), original in zip(self._parts, self._original, strict=True):
            parameter.view(-1)[part.flat] = original
            parameter.grad = None
        for parameter, flag in self._flags:
            parameter.requires_grad_(flag)
