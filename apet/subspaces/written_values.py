"""Which z a model's tensors hold, known without reading either: a comparison of values makes the host wait for the device."""

from __future__ import annotations

import torch
from torch import Tensor


class WrittenValues:
    """The z (k,) that was written last. While its memory and its version counter are the same, so are its values."""

    def __init__(self) -> None:
        self._z: Tensor | None = None
        self._version = -1

    def note(self, z: Tensor) -> None:
        """Keep z, no copy of it: whoever changes it in place raises its version."""
        self._z, self._version = z.detach(), z._version

    def forget(self) -> None:
        """Say that the tensors hold no z as a whole, for instance because one is about to be written."""
        self._z = None

    def holds(self, z: Tensor) -> bool:
        """Return whether the tensors hold the values of z. They are compared, which is one host read, only where z is another tensor."""
        kept = self._z
        if kept is None or kept._version != self._version or kept.dtype != z.dtype:
            return False
        return _memory(kept) == _memory(z) or torch.equal(kept, z)


def _memory(z: Tensor) -> tuple[object, ...]:
    return z.untyped_storage()._cdata, z.storage_offset(), z.shape, z.stride()
