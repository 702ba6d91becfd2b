"""What was computed at vectors, one after another, and is on the disk: used again where a run that was stopped asks the same in order.

On a GPU sums are not bitwise the same from one start to the next, so a vector is known by its number and a sketch: its length, and its
product with a fixed random vector. It is the same one where the two agree to TOLERANCE of its length. Whatever decides the vectors
beyond rounding (spec, weights and data by the run's id, which is the folder; torch's version, the kind of device) must be in `name`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

TOLERANCE = 1e-3


def sketch(vectors: Any) -> np.ndarray:
    """(2, columns): the length of each column of a tensor (k, columns), and its product with a random vector of about that length."""
    import torch

    from landscape.numerics import normal

    wide = vectors.detach().double()
    fixed = normal(0, "sketch", len(wide), wide.dtype, wide.device)
    return torch.stack([wide.norm(dim=0), fixed @ wide]).cpu().numpy()


def same(one: np.ndarray, other: np.ndarray) -> bool:
    """Whether two sketches are of the same vectors but for rounding."""
    return one.shape == other.shape and bool((np.abs(one - other) <= TOLERANCE * other[0]).all())


def named_tensors(path: Path, name: str) -> dict[str, np.ndarray]:
    """The tensors of a safetensors file that was written under `name`; none where there is no such file, or a damaged one."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "numpy") as file:
            if (file.metadata() or {}).get("name") != name:
                return {}
            names = file.keys()
            return {key: file.get_tensor(key) for key in names}
    except (OSError, SafetensorError, ValueError):
        return {}
