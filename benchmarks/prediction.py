"""Predicted thresholds compared with exact ones on quadratics: T3, the formula of Larsen et al., the participation ratio, and T5 for
coordinates.

Quadratics of D = 1500 have eigenvalues i^-s and three alignments (a_i^2 proportional to l_i, to its root, to 1). The best loss in the first
k columns of a random basis is exact for every k from one QR decomposition. The exact k* is the k at which the mean of this loss over 10
seeds crosses the share rho of L0 - L*.

Subspaces are Gaussian, coordinates under one fixed Haar rotation, and coordinates of a diagonal Hessian. T5 is tested for D = 200 and
Hessians rotated part of the way from the diagonal to a Haar rotation. Cells with 8 <= k* <= D / 2 count.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
SIZE, TURNED_SIZE, SEEDS = 1500, 200, 10
DECAYS, ALIGNMENTS, RESTS = (0.75, 1.0, 1.5, 2.0), {"l": 1.0, "sqrt l": 0.5, "flat": 0.0}, (0.5, 0.2, 0.1, 0.05)
TURNS = (0.0, 0.03, 0.1, 0.3, 1.0)  # share of the way from the diagonal to a Haar rotation
FEWEST = 8


@dataclass(frozen=True)
class Cell:
    """One quadratic, kind of subspace and target: the exact k* with its standard error in log k, and the predictions."""

    subspace: str
    turn: float  # 0: diagonal, 1: Haar; NaN for Gaussian subspaces
    size: int
    decay: float
    alignment: str
    rest: float  # rho
    measured: float
    log_error: float
    predicted: dict[str, float]

    @property
    def counts(self) -> bool:
        return FEWEST <= self.measured <= self.size / 2


def excesses(root: np.ndarray, a: np.ndarray, bases: list[np.ndarray]) -> dict[str, np.ndarray]:
    """Return by alignment the rest of |a|^2 = 1 in every nested subspace: the minimum of |root B_k z + a|^2, (len(bases), columns)."""
    qs = [np.linalg.qr(root @ basis)[0] for basis in bases]
    return {name: np.stack([1 - np.cumsum((q.T @ one) ** 2) for q in qs]) for name, one in zip(ALIGNMENTS, a, strict=True)}


def crossing(left: np.ndarray, rest: float) -> tuple[float, float]:
    """Return the interpolated k at which the mean of `left` (seeds, k) equals `rest`, and the standard error of log k over seeds."""

    def of(curve: np.ndarray) -> float:
        return float(np.interp(-rest, -np.concatenate([[1.0], curve]), np.arange(len(curve) + 1)))

    logs = np.log([max(of(curve), 0.1) for curve in left])
    return of(left.mean(0)), float(logs.std(ddof=1) / math.sqrt(len(logs)))


def directions(lam: np.ndarray) -> np.ndarray:
    """Return vectors a of unit length for the alignments, (3, D)."""
    shares = np.stack([lam**power for power in ALIGNMENTS.values()])
    return np.sqrt(shares / shares.sum(1, keepdims=True))


def haar(size: int, seed: int) -> np.ndarray:
    q, r = np.linalg.qr(np.random.default_rng(seed).standard_normal((size, size)))
    q *= np.sign(np.diag(r))
    q[:, 0] *= np.sign(np.linalg.det(q))
    return q


def turned(rotation: np.ndarray, turn: float) -> np.ndarray:
    """Return the rotation's power `turn`: the planes of the rotation, with this share of their angles."""
    values, vectors = np.linalg.eig(rotation)
    return np.real((vectors * np.exp(1j * turn * np.angle(values))) @ np.linalg.inv(vectors))


def cells(subspace: str, turn: float, decay: float, root: np.ndarray, bases: list[np.ndarray], columns: np.ndarray | None) -> list[Cell]:
    """Return all alignments and targets of one Hessian root'root. `columns` are the columns of J if T5 is requested."""
    from landscape import coordinate_threshold

    size = len(root)
    lam = np.arange(1, size + 1) ** -decay
    result = []
    for a, (name, left) in zip(directions(lam), excesses(root, directions(lam), bases).items(), strict=True):
        for rest in RESTS:
            measured, error = crossing(left, rest)
            predicted = closed_forms(lam, a, rest)
            if columns is not None:
                predicted["T5"] = coordinate_threshold(columns, a, rest / 2) or math.nan
            result.append(Cell(subspace, turn, size, decay, name, rest, measured, error, predicted))
    return result


def closed_forms(lam: np.ndarray, a: np.ndarray, rest: float) -> dict[str, float]:
    from landscape import GradientSpectrum, larsen_threshold, predict_threshold

    spectrum = GradientSpectrum(lam, lam * a**2, 0.5, 10**9)
    return {
        "T3": predict_threshold(spectrum, rest / 2).k or math.nan,
        "Larsen": larsen_threshold(spectrum, rest / 2) or math.nan,
        "participation ratio": float(lam.sum() ** 2 / (lam**2).sum()),
        "D (1 - rho)": len(lam) * (1 - rest),
    }


def all_cells(size: int, turned_size: int, seeds: int, decays: tuple[float, ...]) -> list[Cell]:
    result = []
    rotation, turnable = haar(size, 0), haar(turned_size, 0)
    for decay in decays:
        scale = np.arange(1, size + 1)[:, None] ** (-decay / 2)
        gaussian = [np.random.default_rng(seed).standard_normal((size, size)) for seed in range(seeds)]
        orders = [np.eye(size)[:, np.random.default_rng(seed).permutation(size)] for seed in range(seeds)]
        result += cells("Gaussian", math.nan, decay, scale * np.eye(size), gaussian, None)
        result += cells("coordinates", 1.0, decay, scale * rotation, orders, None)
        result += cells("coordinates", 0.0, decay, scale * np.eye(size), orders, None)
        scale = np.arange(1, turned_size + 1)[:, None] ** (-decay / 2)
        orders = [np.eye(turned_size)[:, np.random.default_rng(seed).permutation(turned_size)] for seed in range(seeds)]
        for turn in TURNS:
            root = scale * turned(turnable, turn)
            result += cells("coordinates, turned", turn, decay, root, orders, root)
    return result


def errors(selected: list[Cell], method: str) -> np.ndarray:
    return np.array(
        [abs(math.log(cell.predicted[method] / cell.measured)) for cell in selected if cell.counts and method in cell.predicted]
    )


def summary(selected: list[Cell], say: bool) -> dict[str, float]:
    """Return, and with `say` print, the median and worst |log error| by subspace and method."""
    figures: dict[str, float] = {}
    for subspace, turn in dict.fromkeys((cell.subspace, str(cell.turn)) for cell in selected):
        group = [cell for cell in selected if cell.subspace == subspace and str(cell.turn) == turn]
        for method in group[0].predicted:
            log_errors = errors(group, method)
            if not len(log_errors):
                continue
            name = f"{method}, {subspace}" + ("" if turn == "nan" else f" {turn}")
            figures |= {f"median_log_error {name}": float(np.median(log_errors)), f"worst_log_error {name}": float(log_errors.max())}
            if say:
                print(f"{subspace:20} {turn:>5} {method:20} {len(log_errors):3} cells {np.median(log_errors):7.3f} {log_errors.max():7.3f}")
    return figures


def as_rows(selected: list[Cell]) -> Any:
    """Return the cells as tidy rows: per cell one row for k_star and one per prediction, with a common run id."""
    from analyses.store import Row, frame

    rows = []
    for number, cell in enumerate(selected):
        common: dict[str, Any] = {
            "run_id": f"quadratic-{number}", "subspace": cell.subspace, "target": cell.rest, "x": cell.turn,
            "note": f"i^-{cell.decay:g}; a^2 ~ {cell.alignment}",
        }  # fmt: skip
        name, size = f"quadratic of {cell.size}", cell.size
        rows.append(Row(name, size, "quadratic", "quadratic_k_star", cell.measured, stderr=cell.log_error * cell.measured, **common))
        rows += [Row(name, size, "quadratic", "quadratic_k", value, series=method, **common) for method, value in cell.predicted.items()]
    return frame(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="D = 300 and 80, 5 seeds, two spectra: less than 50 s")
    parser.add_argument("--json", action="store_true", help="print only the last line")
    parser.add_argument("--rows", type=Path, help="write the cells as rows to this .parquet file")
    options = parser.parse_args()
    import torch
    from machine import describe

    torch.set_num_threads(1)
    selected = all_cells(300, 80, 5, (1.0, 2.0)) if options.quick else all_cells(SIZE, TURNED_SIZE, SEEDS, DECAYS)
    if not options.json:
        print(f"{'subspace':20} {'turn':>5} {'method':20} {'':9} {'median':>7} {'worst':>7}  |log error| of k*")
    figures = summary(selected, not options.json)
    if options.rows:
        as_rows(selected).to_parquet(options.rows)
    print(json.dumps({"figures": figures, **describe()}))


if __name__ == "__main__":
    main()
