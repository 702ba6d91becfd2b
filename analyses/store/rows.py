"""Rows: tidy observations, one number each, and tables of them."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import MISSING, asdict, dataclass, fields
from typing import Any

from analyses.store.quantities import QUANTITIES
from analyses.store.statuses import STATUSES


@dataclass(frozen=True)
class Row:
    """One tidy observation; NaN, None, "" and () mean "does not apply" (a value of NaN: censored or unknown, `status` says which).

    Programs read every column but `note`, which is for people.

    What the row is of
        model, parameters, task: the model's name and size, and the task.
        run_id, kind: the run that made the row and its kind; "threshold" for a summary of runs, "" where no run did.
        protocol, method, subspace, placement: the setting. Rows that differ in none of them answer one question.
        k, position_seed, train_seed, split, target: number of tuned entries, seeds, split of the data, and the score (or radius) aimed at.
        at_run, at_step: the training run, and its step, that a point was taken from; "" for the pretrained point, None for a run's end.
        matrix, samples: the curvature matrix (hessian, ggn, fisher), and how many labels were sampled for it; None for the exact matrix.
        directions: the kind of a slice's directions.
        other_model: the smaller model of a pair, where `model` is the larger.
        weights, data: first hex digits of the fingerprints of the base model, and of the training and validation examples; "" if unknown.

    The number
        quantity: a name of `analyses.store.quantities`, which says what `value` means and what `stderr`, `low` and `high` are of.
        series, group: which of several series of the quantity (m0, m1, gm; measured, predicted; line, curve; rank, eigenvalue; layer,
            kind; an algorithm), and the member of that series (a layer's label).
        x, y, further: the place on a curve (x), on a surface (x, y), or on a slice of more axes (`further` from the third on).
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

    def __post_init__(self) -> None:
        if self.quantity not in QUANTITIES:
            raise ValueError(f"a row's quantity must be registered in analyses.store.quantities (got: {self.quantity!r})")
        if self.status not in STATUSES:
            raise ValueError(f"a row's status must be one of {STATUSES} (got: {self.status!r})")

    @property
    def is_scalar(self) -> bool:
        """Whether the run has one such number: the row is no point of a curve and no member of a series."""
        return math.isnan(self.x) and not self.series


COLUMNS = tuple(field.name for field in fields(Row))
REQUIRED = tuple(field.name for field in fields(Row) if field.default is MISSING)
WORDS = tuple(field.name for field in fields(Row) if field.type in ("str", "str | None"))
NUMBERS = tuple(name for name in COLUMNS if name not in (*WORDS, "further"))
VARYING = ("quantity", "split", "value", "stderr", "low", "high", "target", "x", "y", "further", "status", "dof", "p", "note")  # in a run
_FLOATS = tuple(field.name for field in fields(Row) if field.type == "float")


def to_json(row: Row) -> dict[str, Any]:
    """Return the row as JSON can hold it: JSON has no NaN, and null stands for it."""
    return {name: None if isinstance(value, float) and not math.isfinite(value) else value for name, value in asdict(row).items()}


def from_json(columns: dict[str, Any]) -> Row:
    """Return the row that `to_json` wrote; columns that came later have their defaults. Raises TypeError for a column that no row has."""
    missing = {name: math.nan for name in _FLOATS if columns.get(name) is None}
    return Row(**{**columns, **missing, "further": tuple(columns.get("further", ()))})


def frame(rows: Iterable[Row]) -> Any:
    """Return the rows as a pandas DataFrame with a column for every field of `Row`."""
    import pandas as pd

    return pd.DataFrame([vars(row) for row in rows], columns=list(COLUMNS))


def completed(table: Any) -> Any:
    """Return a DataFrame of rows, of this version or an older one, with every column: "", NaN or () where the row says nothing.

    Raises ValueError if a column without a default is missing.
    """
    import pandas as pd

    lacking = [name for name in REQUIRED if name not in table.columns]
    if lacking:
        raise ValueError(f"rows lack the columns {', '.join(lacking)}")
    table = table.reindex(columns=list(COLUMNS))
    words = list(WORDS)
    table[words] = table[words].astype(object).where(table[words].notna(), "")
    for name in NUMBERS:
        table[name] = pd.to_numeric(table[name])
    table["further"] = [tuple(place) if hasattr(place, "__len__") else () for place in table["further"]]
    return table
