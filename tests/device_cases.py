"""The allowed host reads of device values, and a mode that counts them.

On torch's meta device a tensor has no values, so an operation that reads a value or mixes devices raises an error. `HostReads` returns
substitutes (1 for a number, False for a comparison, zeros for a copy to the host) and counts the reads by the line that reads.
"""

from __future__ import annotations

import traceback
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

# The largest number of host reads of each kind of work after its setup.
ALLOWED = {
    "training step": 2,  # the loss and the gradient's norm, because a step that is not finite is not taken
    "evaluation of L-BFGS": 3,  # the loss; the gradient of each tuned tensor, which scipy needs on the host; whether z has changed
    "slice point": 4,  # the losses; whether z has changed, with its bytes and its sketch, which identify a repeated z
    "product": 0,  # with a Hessian or Gauss-Newton matrix, whether its graphs are kept or built
    "mount": 0,  # attach, bind, write and detach
    "projection": 0,  # lift and pull
    "Gram row": 0,
}
MASKS = 2  # in a forward pass, transformers checks whether a mask masks any token: once per stack, twice for a causal stack

aten = torch.ops.aten


class HostReads(TorchDispatchMode):
    """A mode in which `places` counts host reads of tensors on `device` by line. `masks` counts the reads of transformers."""

    def __init__(self, device: str = "meta"):
        super().__init__()
        self.device, self.places, self.masks = device, Counter(), 0

    @property
    def count(self) -> int:
        return sum(self.places.values())

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if not any(isinstance(each, torch.Tensor) and each.device.type == self.device for each in args):
            return func(*args, **kwargs)
        if func is aten._local_scalar_dense.default:
            return self._read(1 if args[0].dtype != torch.bool else False)
        if func is aten.equal.default:
            return self._read(False)
        if func is aten._to_copy.default and torch.device(kwargs.get("device") or self.device).type == "cpu":
            return self._read(torch.zeros(args[0].shape, dtype=kwargs.get("dtype") or args[0].dtype))
        if func is aten.copy_.default and args[0].device.type == "cpu":
            return self._read(args[0].zero_())
        return func(*args, **kwargs)

    def _read(self, answer: Any) -> Any:
        asking = next(
            f
            for f in reversed(traceback.extract_stack())
            if f.filename != __file__ and f.name != "__torch_function__" and "/torch/" not in f.filename
        )
        if asking.filename.endswith("transformers/masking_utils.py"):
            self.masks += 1
        else:
            self.places[f"{Path(asking.filename).name}:{asking.lineno} {asking.line}"] += 1
        return answer
