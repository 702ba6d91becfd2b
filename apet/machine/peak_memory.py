"""Peak memory: the tensors on a GPU, or the whole process on a CPU."""

from __future__ import annotations

import resource
import sys
from pathlib import Path

import torch

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def peak_bytes(device: str) -> int:
    """Return the peak memory in bytes since the process began, or since the last successful `reset_peak`."""
    if torch.device(device).type == "cuda":
        return torch.cuda.max_memory_allocated()
    peak = _high_water()
    if peak is not None:
        return peak
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def reset_peak(device: str) -> bool:
    """Reset the peak to the current memory, and return whether that succeeded.

    On a CPU only Linux can reset it, and not in every container.
    """
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
    """Return VmHWM of this process in bytes, or None if it is not available. Unlike getrusage's maximum, the kernel can reset it."""
    try:
        line = next(line for line in STATUS.read_text().splitlines() if line.startswith("VmHWM:"))
    except (OSError, StopIteration):
        return None
    return int(line.split()[1]) * 1024
