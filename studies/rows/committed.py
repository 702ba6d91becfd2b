"""The committed tables beside this file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

Tree = dict[str, Any]


def read(name: str) -> Any:
    """Return a committed table. pandas' own types say little about what indexing returns, so it is typed as anything."""
    return pd.read_parquet(Path(__file__).parent / f"{name}.parquet")
