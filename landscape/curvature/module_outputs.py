"""The outputs of any PyTorch module as a function of z, so that an `Objective` can be made of it."""

from collections.abc import Callable, Collection
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call


class ModuleOutputs:
    """outputs(z, batch): the module's outputs with z added to some of its parameters, entry by entry.

    The module itself does not change. It must be deterministic: call `module.eval()` first if it has dropout. `parameters` are names from
    `module.named_parameters()`, all by default. `entries` (k,) are positions in the concatenation of these parameters, flattened, all by
    default. `inputs(batch)` returns the module's positional arguments; by default, the first item of an (inputs, labels) pair. `size` is k,
    the length of z. Raises ValueError for an unknown parameter, and for a position that is given twice or lies outside the parameters.
    """

    def __init__(
        self,
        module: nn.Module,
        parameters: Collection[str] | None = None,
        entries: Tensor | None = None,
        inputs: Callable[[Any], tuple[Any, ...]] = lambda batch: (batch[0],),
    ) -> None:
        known = dict(module.named_parameters())
        names = list(known) if parameters is None else list(parameters)
        if unknown := [name for name in names if name not in known]:
            raise ValueError(f"the module has no parameter {unknown[0]!r}; it has {', '.join(known)}")
        self._module, self._inputs = module, inputs
        self._tensors = {name: known[name].detach() for name in names}
        total = sum(tensor.numel() for tensor in self._tensors.values())
        if entries is not None:
            ascending = entries.sort()[0]
            if (ascending[1:] == ascending[:-1]).any() or not ((entries >= 0) & (entries < total)).all():
                raise ValueError(f"entries must be different positions from 0 to {total - 1:,}")
        self._entries, self._total = entries, total
        self.size = total if entries is None else len(entries)

    def __call__(self, z: Tensor, batch: Any) -> Tensor:
        """Return the outputs at z (k,)."""
        added = z if self._entries is None else z.new_zeros(self._total).index_put((self._entries.to(z.device),), z)
        parts = torch.split(added, [tensor.numel() for tensor in self._tensors.values()])
        tensors = {name: tensor + part.view_as(tensor) for (name, tensor), part in zip(self._tensors.items(), parts, strict=True)}
        return functional_call(self._module, tensors, self._inputs(batch))
