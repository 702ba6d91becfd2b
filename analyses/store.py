"""The store: one folder a run, rows as JSON lines, arrays as safetensors, and a DONE file with their checksums.

    results/<study>/<run id>/  spec.json  env.json  rows.jsonl  arrays.safetensors  checkpoint.safetensors  DONE

A run counts only with a DONE whose checksums hold, and DONE is written last, by a rename: whatever is killed leaves
either a whole run or one that is done again. Timings go to env.json, never into rows, so rows compare bitwise.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from analyses.spec import Spec
from apet.files import atomic_path

_FILES = ("spec.json", "rows.jsonl", "arrays.safetensors")


@dataclass(frozen=True)
class Row:
    """One tidy observation; NaN and None mean "does not apply" (value NaN: censored, `note` says how)."""

    model: str
    parameters: int
    task: str
    quantity: str
    value: float
    run_id: str = ""
    split: str | None = None
    method: str | None = None
    subspace: str | None = None
    placement: str | None = None
    k: int | None = None
    position_seed: int | None = None
    train_seed: int | None = None
    target: float = math.nan
    x: float = math.nan
    stderr: float = math.nan
    low: float = math.nan
    high: float = math.nan
    note: str = ""


class Store:
    """The runs of one study under `root`."""

    def __init__(self, root: Path):
        self.root = root

    def folder(self, run_id: str) -> Path:
        return self.root / run_id

    def done(self, run_id: str) -> bool:
        """Whether the run is whole: DONE is there and every checksum in it holds."""
        try:
            sums = json.loads((self.folder(run_id) / "DONE").read_text())
            return all(_checksum(self.folder(run_id) / name) == sums[name] for name in _FILES)
        except (OSError, KeyError, json.JSONDecodeError):
            return False

    def commit(self, run_id: str, spec: dict, rows: list[Row], arrays: dict[str, np.ndarray], env: dict) -> None:
        """Write a run's files, then DONE; an older state of the same run is replaced."""
        from safetensors.numpy import save_file

        folder = self.folder(run_id)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "DONE").unlink(missing_ok=True)
        _write(folder / "spec.json", json.dumps(spec, indent=1))
        _write(folder / "env.json", json.dumps(env, indent=1))
        _write(folder / "rows.jsonl", "".join(json.dumps(_plain(row)) + "\n" for row in rows))
        with atomic_path(folder / "arrays.safetensors") as path:
            save_file({name: np.ascontiguousarray(a) for name, a in arrays.items()}, path)
        _write(folder / "DONE", json.dumps({name: _checksum(folder / name) for name in _FILES}, indent=1))
        for path in folder.glob("checkpoint*.safetensors"):
            path.unlink()

    def forget(self, run_id: str) -> None:
        shutil.rmtree(self.folder(run_id), ignore_errors=True)

    def rows(self, run_id: str) -> list[Row]:
        lines = (self.folder(run_id) / "rows.jsonl").read_text().splitlines()
        return [_row(json.loads(line)) for line in lines]

    def arrays(self, run_id: str) -> dict[str, np.ndarray]:
        from safetensors.numpy import load_file

        return load_file(self.folder(run_id) / "arrays.safetensors")

    def spec(self, run_id: str) -> dict:
        return json.loads((self.folder(run_id) / "spec.json").read_text())

    def run_ids(self) -> list[str]:
        """Whole runs, sorted."""
        if not self.root.is_dir():
            return []
        return sorted(p.name for p in self.root.iterdir() if p.is_dir() and self.done(p.name))


_FLOATS = ("value", "target", "x", "stderr", "low", "high")


def _row(fields: dict[str, Any]) -> Row:
    missing = {name: math.nan for name in _FLOATS if fields[name] is None}
    return Row(**{**fields, **missing})


def frame(rows: list[Row]) -> Any:
    """Rows as a pandas DataFrame."""
    import pandas as pd

    return pd.DataFrame([asdict(row) for row in rows], columns=list(Row.__dataclass_fields__))


def _plain(row: Row) -> dict:
    """JSON has no NaN: null stands for it, and is read back as NaN."""
    return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in asdict(row).items()}


def _write(path: Path, text: str) -> None:
    with atomic_path(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def _checksum(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def spec_dict(spec: Spec) -> dict:
    return asdict(spec.resolved())
