"""Recognise vectors whose results are on disk: a resumed run requests results at the same vectors in the same order.

Sums on a GPU are not bitwise reproducible between starts. A vector is therefore identified by its position in the sequence and by a sketch:
its length and its inner product with a fixed random vector. Two vectors count as equal if their sketches agree to TOLERANCE times the
length. `name` must contain everything that determines the vectors beyond rounding: torch's version and the kind of device. Spec, weights
and data need not be in `name`, because the run's folder is named by them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

TOLERANCE = 1e-3


def sketch(vectors: Any) -> np.ndarray:
    """Return the lengths of the columns of a tensor (k, columns) and their products with a random normal vector, (2, columns)."""
    import torch

    from landscape.numerics import normal

    wide = vectors.detach().double()
    fixed = normal(0, "sketch", len(wide), wide.dtype, wide.device)
    return torch.stack([wide.norm(dim=0), fixed @ wide]).cpu().numpy()


def same(one: np.ndarray, other: np.ndarray) -> bool:
    """Return whether two sketches describe equal vectors up to rounding."""
    return one.shape == other.shape and bool((np.abs(one - other) <= TOLERANCE * other[0]).all())


def named_tensors(path: Path, name: str) -> dict[str, np.ndarray]:
    """Return the tensors of a safetensors file whose metadata has this `name`; {} if the file is missing, damaged or has another name."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "numpy") as file:
            if (file.metadata() or {}).get("name") != name:
                return {}
            names = file.keys()
            return {key: file.get_tensor(key) for key in names}
    except (OSError, SafetensorError, ValueError):
        return {}
