"""Slices read from rows: the loss over lines and planes, the marked points on them, and the quadratic model."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd

from analyses import runs
from figures.rows import CannotDraw, of, pick, where
from figures.style import short_name


@dataclass(frozen=True)
class Place:
    """A marked point of a slice: a recorded state of a trajectory (`step`), or the final point of a run.

    `loss` is the loss of that state itself, which lies off the slice; NaN if unknown.
    """

    x: float
    y: float
    step: float
    loss: float = math.nan


@dataclass(frozen=True)
class Grid:
    """A slice of one run: `loss` (x,) or (x, y) over displacements `x`, `y`, NaN where unknown.

    `norm` is |theta| of the tuned entries. `directions` is the kind of directions. `at` is the run whose final point the slice passes
    through ("": the pretrained point). `stderr`, `validation` and `quadratic` are shaped like `loss`, or None.
    """

    run_id: str
    model: str
    parameters: int
    task: str
    k: int
    directions: str
    at: str
    norm: float
    x: np.ndarray
    y: np.ndarray | None
    loss: np.ndarray
    stderr: np.ndarray
    validation: np.ndarray | None
    quadratic: np.ndarray | None
    explained: tuple[float, ...]  # share of a trajectory's variance, by direction
    places: tuple[Place, ...]
    off: float  # largest |loss of a marked state - loss of its projection|, NaN if unknown

    @property
    def taken(self) -> str:
        return "tuned" if self.at else "pretrained"

    def label(self, axis: int, short: bool = False) -> str:
        """Return the name of the direction on the axis (0 or 1), with its share of the variance if the directions explain one."""
        direction = runs.DIRECTIONS.get(self.directions)
        name = direction.axes[axis] if direction else ("first direction", "second direction")[axis]
        share = f" ({100 * self.explained[axis]:.0f} %{'' if short else ' of variance'})" if len(self.explained) > axis else ""
        return f"{name}{share}"

    @property
    def title(self) -> str:
        return short_name(self.model)


def slice_rows(rows: pd.DataFrame, *dims: int) -> pd.DataFrame:
    """Return the rows that `grids` reads for slices of the numbers of dimensions `dims` (1 and 2)."""
    rows = where(rows, ~_elsewhere(rows))
    losses = pick(rows, "slice_loss", "train")
    planes = set(where(losses, losses["y"].notna())["run_id"])
    chosen = [run for run in set(losses["run_id"]) if (2 if run in planes else 1) in dims]
    drawn = of(rows, "slice_loss", "slice_quadratic", "theta_norm", "explained_variance", "slice_place", "slice_place_loss", "off_plane")
    return where(drawn, drawn["run_id"].isin(chosen))


def grids(rows: pd.DataFrame, dims: int) -> list[Grid]:
    """Return the slices of `dims` (1 or 2) dimensions in `rows` (from `tidy`), by task, size, directions and run.

    A slice in more than two dimensions gives the plane of its first two directions through the centre. Raises CannotDraw without slices.
    """
    rows = where(rows, ~_elsewhere(rows))
    losses = pick(rows, "slice_loss", "train")
    losses = where(losses, losses["y"].notna() if dims == 2 else losses["y"].isna())
    slices = [_grid(str(run), where(rows, rows["run_id"] == run), dims) for run in dict.fromkeys(losses["run_id"])]
    slices = [grid for grid in slices if np.isfinite(grid.loss).any()]
    if not slices:
        raise CannotDraw(f"no slice_loss over {'a plane' if dims == 2 else 'a line'} in the rows")
    return sorted(slices, key=lambda grid: (grid.task, grid.parameters, grid.model, grid.directions, grid.at != "", grid.run_id))


def _elsewhere(rows: pd.DataFrame) -> np.ndarray:
    """Return a mask of the rows whose point a further axis moves off the plane of the first two. Marked points are projected, so they are
    kept.
    """
    off_plane = np.array([any(place) for place in rows["further"]], bool)
    return off_plane & ~rows["quantity"].isin(["slice_place", "slice_place_loss"]).to_numpy()


def _grid(run_id: str, rows: pd.DataFrame, dims: int) -> Grid:
    train = pick(rows, "slice_loss", "train")
    first = train.iloc[0]
    x, y = np.unique(train["x"].to_numpy(float)), np.unique(train["y"].to_numpy(float)) if dims == 2 else None

    def table(part: pd.DataFrame, column: str = "value") -> np.ndarray | None:
        """Return a column as an array over the grid. Rows that were not finite are NaN."""
        if part.empty:
            return None
        values = np.full((len(x),) if y is None else (len(x), len(y)), np.nan)
        at_x = np.searchsorted(x, part["x"].to_numpy(float))
        values[at_x if y is None else (at_x, np.searchsorted(y, part["y"].to_numpy(float)))] = part[column].to_numpy(float)
        return values

    loss, stderr = table(train), table(train, "stderr")
    assert loss is not None
    assert stderr is not None
    norm = pick(rows, "theta_norm")["value"]
    shares = pick(rows, "explained_variance").sort_values("x")["value"]
    places = pick(rows, "slice_place").sort_values("value")
    loss_at = {(x, y): loss for x, y, loss in pick(rows, "slice_place_loss")[["x", "y", "value"]].to_numpy(float)}
    off = pick(rows, "off_plane")["value"]
    return Grid(
        run_id, str(first["model"]), int(first["parameters"]), str(first["task"]), int(first["k"]), str(first["directions"]),
        str(first["at_run"]), float(norm.iloc[0]) if len(norm) else float("nan"), x, y, loss, stderr,
        table(pick(rows, "slice_loss", "validation")), table(pick(rows, "slice_quadratic")), tuple(map(float, shares)),
        tuple(Place(x, y, step, loss_at.get((x, y), math.nan)) for x, y, step in places[["x", "y", "value"]].to_numpy(float)),
        abs(float(off.iloc[0])) if len(off) else math.nan,
    )  # fmt: skip
