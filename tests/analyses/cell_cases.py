"""Rows of thresholds with their predictions, as cells are made of."""

import math

import pandas as pd

from analyses.store import COLUMNS


def threshold_rows(run: str, share: float, k_star: float, predicted: dict[str, float], **columns) -> list[dict]:
    """The rows of one threshold; `predicted` by quantity."""
    common = {"model": "mini-t5-130k", "parameters": 126368, "task": "sst2", "target": 0.3, "run_id": run, "method": "apet", **columns}
    values = {"k_star": k_star, "target_share": share, **predicted}
    rows = [{**common, "quantity": name, "value": value} for name, value in values.items()]
    rows += [{**common, "quantity": "k_bracket_path", "value": 10.0, "low": 5.0, "high": 20.0}]
    return rows + [{**common, "quantity": "gap", "x": 3.0, "value": 0.1}]


def frame(*rows: list[dict]) -> pd.DataFrame:
    return pd.DataFrame([row for each in rows for row in each]).reindex(columns=list(COLUMNS))


ROWS = frame(
    threshold_rows("a", 0.5, 10.0, {"k_m1": 20.0}),
    threshold_rows("b", 0.75, 12.0, {"k_m1": math.nan, "k_m1_over_rank": 6.0}, subspace="fastfood"),
    threshold_rows("c", 0.9, math.nan, {"k_m1": 9.0}),
    threshold_rows("d", 0.5, 4.0, {"k_pred": 4.0}, task="mini-qa"),
)
