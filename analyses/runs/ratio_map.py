"""The Hessian ratio over a plane: where the loss is near convex, at every point of a coarse grid.

Each point's ratio is kept on disk as it comes, so that a job that was stopped goes on after the last whole one and ends the same.
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

NAME = "checkpoint.ratios.safetensors"  # the store removes it with the other checkpoints when the run is whole


def ratio_gradients(spec: SliceSpec, examples: int) -> int:
    """About how many example-gradients the map takes: a product is two, and a loss a third."""
    return math.ceil(examples * spec.ratio_map**2 * (2 * 2 * LANCZOS_STEPS + 1 / 3))


def ratio_map(
    spec: SliceSpec, here: Point, frame: Frame, context: Context, make: Callable[..., Row]
) -> tuple[list[Row], dict[str, np.ndarray]]:
    """Rows and arrays of |l_min / l_max| and what its residuals allow, (ratio_map, ratio_map) as 'ij', over as far as the slice reaches.

    NaN where the loss is not finite.
    """
    from landscape.surfaces import evaluate_slice, symmetric_axis

    axes = [symmetric_axis(reach, spec.ratio_map) for reach in frame.reach]
    kept = _Kept(context.folder / NAME, " ".join([settings(here), *(f"{reach:.4g}" for reach in frame.reach)]))

    def ratio(z: Any) -> np.ndarray:
        return kept.next(lambda: _ratio(spec, here, z))

    found = evaluate_slice(
        ratio, here.z, frame.directions, axes, progress=lambda done, of: context.report("Hessian ratio", done, of)
    ).numbers
    note = "|lowest / highest eigenvalue|; the error is from residuals"
    rows = [
        make("slice_hessian_ratio", found[i, j, 0], stderr=float(found[i, j, 1]), x=float(x), y=float(y), note_too=note)
        for i, x in enumerate(axes[0]) for j, y in enumerate(axes[1])
    ]  # fmt: skip
    arrays = {"hessian_ratio": found[..., 0], "hessian_ratio.stderr": found[..., 1]}
    return rows, arrays | {f"hessian_ratio.axis_{i}": each for i, each in enumerate(axes)}


def _ratio(spec: SliceSpec, here: Point, z: Any) -> tuple[float, float]:
    from landscape.surfaces import hessian_ratio

    if not math.isfinite(here.objective.loss(z)):
        return math.nan, math.nan
    with matrix_at(replace(here, z=z.clone()), "hessian") as hessian:
        return hessian_ratio(hessian, LANCZOS_STEPS, spec.train_seed)


class _Kept:
    """Pairs of numbers that are asked for in an order that does not change, those of an earlier start first."""

    def __init__(self, path: Path, name: str) -> None:
        self.path, self.name, self.asked = path, name, 0
        self.found = named_tensors(path, name).get("ratios", np.empty((0, 2)))

    def next(self, make: Callable[[], tuple[float, float]]) -> np.ndarray:
        from safetensors.numpy import save

        if self.asked == len(self.found):
            self.found = np.concatenate([self.found, np.array([make()])])
            self.path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(self.path, save({"ratios": self.found}, {"name": self.name}))
        self.asked += 1
        return self.found[self.asked - 1]
