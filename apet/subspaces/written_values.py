"""A record of the z that a model's tensors hold, which avoids comparing values: a comparison makes the host wait for the device."""

from __future__ import annotations

import torch
from torch import Tensor


class WrittenValues:
    """The last z (k,) that was written. Its values are unchanged while its memory address and its version counter are."""

    def __init__(self) -> None:
        self._z: Tensor | None = None
        self._version = -1

    def note(self, z: Tensor) -> None:
        """Keep a reference to z, not a copy. An in-place change of z raises its version counter."""
        self._z, self._version = z.detach(), z._version

    def forget(self) -> None:
        """Record that the tensors hold no complete z, for instance before a new z is written."""
        self._z = None

    def holds(self, z: Tensor) -> bool:
        """Return whether the tensors hold the values of z. Values are compared (one host read) only if z is a different tensor."""
        kept = self._z
        if kept is None or kept._version != self._version or kept.dtype != z.dtype:
            return False
        return _memory(kept) == _memory(z) or torch.equal(kept, z)


def _memory(z: Tensor) -> tuple[object, ...]:
    return z.untyped_storage()._cdata, z.storage_offset(), z.shape, z.stride()
