"""The most memory that was held: on a GPU in tensors, else by the process in all."""

from __future__ import annotations

import resource
import sys
from pathlib import Path

import torch

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def peak_bytes(device: str) -> int:
    """Return the peak since the process began, or since `reset_peak` said that it could set it back."""
    if torch.device(device).type == "cuda":
        return torch.cuda.max_memory_allocated()
    known = _high_water()
    if known is not None:
        return known
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def reset_peak(device: str) -> bool:
    """Set the peak back to what is held now; False where the system cannot (on a CPU only Linux can, and not in every container)."""
    if torch.device(device).type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        return True
    if _high_water() is None:
        return False
    try:
        CLEAR.write_text("5")
    except OSError:
        return False
    return True


def _high_water() -> int | None:
    """VmHWM of this process, which the kernel can set back, unlike the maximum that getrusage tells."""
    try:
        line = next(line for line in STATUS.read_text().splitlines() if line.startswith("VmHWM:"))
    except (OSError, StopIteration):
        return None
    return int(line.split()[1]) * 1024
