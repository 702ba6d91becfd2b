"""Rows: tidy observations of one number each, and tables of rows."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import MISSING, asdict, dataclass, fields
from typing import Any

from analyses.store.quantities import QUANTITIES
from analyses.store.statuses import STATUSES


@dataclass(frozen=True)
class Row:
    """One tidy observation.

    NaN, None, "" and () mean "does not apply". A NaN in `value` means that the number is censored or unknown; `status` names the case.
    Programs read every column except `note`, which is for people.

    Columns that identify the row
        model, parameters, task: the name and size of the model, and the task.
        run_id, kind: the run that made the row and its kind; "threshold" for a summary of runs, "" for a row without a run.
        metric: the main metric of the task; "" in rows of older versions, which have only built-in tasks (see `main_metric`).
        protocol, method, subspace, placement: the setting. Rows with equal settings answer the same question.
        k, position_seed, train_seed, split, target: number of tuned entries, seeds, split of the data, and the score (or radius) to reach.
        at_run, at_step: the training run and the step at which the point was recorded; "" for the initial point, None for the final point.
        matrix, samples: the curvature matrix (hessian, ggn, fisher), and the number of labels sampled for it; None for the exact matrix.
        directions: the kind of directions of a slice.
        other_model: the smaller model of a pair; `model` is the larger one.
        weights, data: first hex digits of the fingerprints of the base model, and of the training and validation examples; "" if unknown.

    Columns of the number
        quantity: a name in `analyses.store.quantities`, which defines `value`, `stderr`, `low` and `high`.
        series: one of several series of the quantity (m0, m1, gm; measured, predicted; line, curve; rank, eigenvalue; layer, kind; an
            algorithm).
        group: the member of the series, for instance a layer's label; the target of a threshold, for instance "below-full:0.01".
        x, y, further: the position on a curve (x), on a surface (x, y), or on a slice with more axes (`further` from the third axis on).
        status: "" for an ordinary value, else one of `analyses.store.statuses`.
        dof, p: degrees of freedom and two-sided p value of a test against zero.
        note: a remark for people.

    Raises ValueError for an unknown quantity or status.
    """

    model: str
    parameters: int
    task: str
    quantity: str
    value: float
    run_id: str = ""
    kind: str = ""
    protocol: str | None = None
    split: str | None = None
    method: str | None = None
    subspace: str | None = None
    placement: str | None = None
    k: int | None = None
    position_seed: int | None = None
    train_seed: int | None = None
    target: float = math.nan
    x: float = math.nan
    y: float = math.nan
    stderr: float = math.nan
    low: float = math.nan
    high: float = math.nan
    note: str = ""
    weights: str = ""
    data: str = ""
    matrix: str = ""
    samples: int | None = None
    directions: str = ""
    at_run: str = ""
    at_step: int | None = None
    series: str = ""
    group: str = ""
    further: tuple[float, ...] = ()
    status: str = ""
    dof: int | None = None
    p: float = math.nan
    other_model: str = ""
    metric: str = ""

    def __post_init__(self) -> None:
        if self.quantity not in QUANTITIES:
            raise ValueError(f"the quantity of a row must be registered in analyses.store.quantities (got: {self.quantity!r})")
        if self.status not in STATUSES:
            raise ValueError(f"the status of a row must be one of {STATUSES} (got: {self.status!r})")

    @property
    def is_scalar(self) -> bool:
        """Whether the row is a single number of its run, not a point of a curve or a member of a series."""
        return math.isnan(self.x) and not self.series


COLUMNS = tuple(field.name for field in fields(Row))
REQUIRED = tuple(field.name for field in fields(Row) if field.default is MISSING)
WORDS = tuple(field.name for field in fields(Row) if field.type in ("str", "str | None"))
NUMBERS = tuple(name for name in COLUMNS if name not in (*WORDS, "further"))
# Columns that differ between the rows of one run.
VARYING = ("quantity", "split", "value", "stderr", "low", "high", "target", "x", "y", "further", "status", "dof", "p", "note")
_FLOATS = tuple(field.name for field in fields(Row) if field.type == "float")


def to_json(row: Row) -> dict[str, Any]:
    """Return the columns of a row as a JSON object. JSON has no NaN, so null replaces it."""
    return {name: None if isinstance(value, float) and not math.isfinite(value) else value for name, value in asdict(row).items()}


def from_json(columns: dict[str, Any]) -> Row:
    """Return the row that `to_json` wrote. Columns that the object lacks get their defaults. Raises TypeError for an unknown column."""
    missing = {name: math.nan for name in _FLOATS if columns.get(name) is None}
    return Row(**{**columns, **missing, "further": tuple(columns.get("further", ()))})


def frame(rows: Iterable[Row]) -> Any:
    """Return the rows as a pandas DataFrame with one column per field of `Row`."""
    import pandas as pd

    return pd.DataFrame([vars(row) for row in rows], columns=list(COLUMNS))


def completed(table: Any) -> Any:
    """Return a DataFrame of rows, from this version or an older one, with all columns of `Row`.

    Missing values become "", NaN or (). Raises ValueError if a column without a default is missing.
    """
    import pandas as pd

    missing = [name for name in REQUIRED if name not in table.columns]
    if missing:
        raise ValueError(f"the rows lack the columns {', '.join(missing)}")
    table = table.reindex(columns=list(COLUMNS))
    texts = list(WORDS)
    table[texts] = table[texts].astype(object).where(table[texts].notna(), "")
    for name in NUMBERS:
        table[name] = pd.to_numeric(table[name])
    table["further"] = [tuple(position) if hasattr(position, "__len__") else () for position in table["further"]]
    return table
