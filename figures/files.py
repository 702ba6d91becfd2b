"""Files that are written completely or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

DPI = 200  # dots per inch of a PNG


@contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """Yield a temporary path beside `target` with the same suffix. It replaces `target` on success and is removed on failure."""
    target.parent.mkdir(parents=True, exist_ok=True)
    # Keep the suffix, because matplotlib chooses the format by it.
    temporary = target.with_name(f".{target.stem}.{os.getpid()}.tmp{target.suffix}")
    try:
        yield temporary
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


def save_page(text: str, folder: Path, name: str) -> Path:
    """Write NAME.html under `folder`, completely or not at all."""
    path = folder / f"{name}.html"
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return path


def save_data(rows: pd.DataFrame, folder: Path, name: str) -> Path:
    """Write `rows` without empty columns to NAME.csv under `folder`, completely or not at all."""
    text = rows.assign(further=[" ".join(map(str, position)) for position in rows["further"]])
    filled = [str(column) for column in text if not set(text[column].dropna()) <= {""}]
    path = folder / f"{name}.csv"
    with replacing(path) as temporary:
        text[filled].to_csv(temporary, index=False, lineterminator="\n")
    return path
