"""Map of the Hessian ratio over a plane: a coarse grid that shows in which regions the loss is nearly convex.

Each ratio is written to disk as soon as it is computed. A stopped job resumes after the last complete point, with the same result.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from analyses.runs.evaluation_point import Point
from analyses.runs.matrices import matrix_at, settings
from analyses.runs.point_statistics import LANCZOS_STEPS
from analyses.runs.replay import named_tensors
from analyses.runs.run_inputs import Context
from analyses.runs.slice_directions import Frame
from analyses.specs import SliceSpec
from analyses.store import Row
from apet.files import write_whole

NAME = "checkpoint.ratios.safetensors"  # the store removes it with the other checkpoints when the run is complete


def ratio_gradients(spec: SliceSpec, examples: int) -> int:
    """Return about how many example-gradients the map takes. A product counts as two, a loss as a third."""
    return math.ceil(examples * spec.ratio_map**2 * (2 * 2 * LANCZOS_STEPS + 1 / 3))


def ratio_map(
    spec: SliceSpec, point: Point, frame: Frame, context: Context, make: Callable[..., Row]
) -> tuple[list[Row], dict[str, np.ndarray]]:
    """Return rows and arrays of |l_min / l_max| and its error from residuals on a grid (ratio_map, ratio_map), indexed 'ij'.

    The grid covers the slice. Values are NaN at points where the loss is not finite.
    """
    from landscape.surfaces import evaluate_slice, symmetric_axis

    axes = [symmetric_axis(reach, spec.ratio_map) for reach in frame.reach]
    saved = _Saved(context.folder / NAME, " ".join([settings(point), *(f"{reach:.4g}" for reach in frame.reach)]))

    def ratio(z: Any) -> np.ndarray:
        return saved.next(lambda: _ratio(spec, point, z))

    grid = evaluate_slice(
        ratio, point.z, frame.directions, axes, progress=lambda done, of: context.report("Hessian ratio", done, of)
    ).numbers
    note = "|lowest / highest eigenvalue|; error: from residuals"
    rows = [
        make("slice_hessian_ratio", grid[i, j, 0], stderr=float(grid[i, j, 1]), x=float(x), y=float(y), note_too=note)
        for i, x in enumerate(axes[0]) for j, y in enumerate(axes[1])
    ]  # fmt: skip
    arrays = {"hessian_ratio": grid[..., 0], "hessian_ratio.stderr": grid[..., 1]}
    return rows, arrays | {f"hessian_ratio.axis_{i}": axis for i, axis in enumerate(axes)}


def _ratio(spec: SliceSpec, point: Point, z: Any) -> tuple[float, float]:
    from landscape.surfaces import hessian_ratio

    if not math.isfinite(point.objective.loss(z)):
        return math.nan, math.nan
    with matrix_at(replace(point, z=z.clone()), "hessian") as hessian:
        return hessian_ratio(hessian, LANCZOS_STEPS, spec.train_seed)


class _Saved:
    """Pairs of numbers that are requested in a fixed order. The pairs of an earlier start are returned first."""

    def __init__(self, path: Path, name: str) -> None:
        self.path, self.name, self.requested = path, name, 0
        self.pairs = named_tensors(path, name).get("ratios", np.empty((0, 2)))

    def next(self, make: Callable[[], tuple[float, float]]) -> np.ndarray:
        from safetensors.numpy import save

        if self.requested == len(self.pairs):
            self.pairs = np.concatenate([self.pairs, np.array([make()])])
            self.path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(self.path, save({"ratios": self.pairs}, {"name": self.name}))
        self.requested += 1
        return self.pairs[self.requested - 1]
