"""Reading tidy rows: which models and settings they hold, which runs, and the mean over a run's seeds.

Nothing is estimated here beyond a mean and its standard error: the analyses have computed the rest.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, cast

import pandas as pd

from analyses.store import completed

IDENTITY = ("model", "parameters", "task", "protocol", "method", "subspace", "placement", "k", "position_seed", "train_seed")
SETTING = ("protocol", "subspace", "placement")  # columns that tell the settings of a task apart
ASKING = ("train", "threshold")  # kinds of rows that say which settings there are
ORDER = ["parameters", "model", "task", "method", "k", "run_id", "quantity", "split", "x", "y", "series", "group", "further", "status"]
# What a training run reports: column of the wide table -> (quantity, split); split "" takes any.
RUN_QUANTITIES = {
    "accuracy": ("accuracy", "validation"),
    "train_loss": ("loss", "train"),
    "validation_loss": ("loss", "validation"),
    "chance": ("chance", ""),
    "plateau": ("plateau", ""),
    "residual_gradient": ("residual_gradient", ""),
    "example_gradients": ("example_gradients", ""),
}


class CannotDraw(ValueError):
    """The rows do not hold what a figure or table needs; the message says what is missing or ambiguous."""


@dataclass(frozen=True)
class Setting:
    """A task, with protocol, subspace and placement where the rows hold several of them: what must not be pooled.

    "" stands for a column that all rows of the task share.
    """

    task: str
    protocol: str = ""
    subspace: str = ""
    placement: str = ""

    @property
    def label(self) -> str:
        return ", ".join(part for part in (self.task, self.protocol, self.subspace, self.placement) if part)


def tidy(rows: pd.DataFrame) -> pd.DataFrame:
    """Return `rows` without exact duplicates, in an order of their own, with every column of `analyses.store.Row`.

    The order makes every sum and every file independent of the order in which runs finished. Raises CannotDraw if a column without a
    default is missing.
    """
    try:
        rows = completed(rows)
    except ValueError as error:
        raise CannotDraw(str(error)) from None
    rows = rows.drop(columns=["weights", "data"]).drop_duplicates()  # digests tell nothing apart that names do not
    return rows.sort_values(ORDER, kind="stable", ignore_index=True)


def where(rows: pd.DataFrame, mask: Any) -> pd.DataFrame:
    """`rows[mask]`, which pandas types as anything at all."""
    return cast(pd.DataFrame, rows.loc[mask])


def models(rows: pd.DataFrame) -> dict[str, int]:
    """Model name -> parameters, smallest first."""
    sizes = sorted({(int(size), str(name)) for name, size in zip(rows["model"], rows["parameters"], strict=True)})
    return {name: size for size, name in sizes}


def settings(rows: pd.DataFrame) -> list[Setting]:
    """The settings in `rows`, sorted. Protocol, subspace and placement are named only where a task has several of them.

    Training runs and thresholds say which there are; a spectrum or a slice on other examples makes no further setting.
    """
    asked = where(rows, rows["kind"].isin(ASKING))
    found: list[Setting] = []
    for task in sorted(set(rows["task"])):
        own = where(asked, asked["task"] == task)
        tuned = where(own, (own["method"] == "apet") & (own["subspace"] != ""))
        combined = {tuple(map(str, line)) for line in tuned[list(SETTING)].drop_duplicates().to_numpy()}
        combined |= {(protocol, "", "") for protocol in set(own["protocol"]) - {protocol for protocol, *_ in combined}}
        varies = [len({each[i] for each in combined} - {""}) > 1 for i in range(len(SETTING))]
        named = {Setting(task, *(value if some else "" for value, some in zip(each, varies, strict=True))) for each in combined}
        found += sorted(named, key=lambda setting: setting.label) or [Setting(task)]
    return found


def in_setting(rows: pd.DataFrame, setting: Setting) -> pd.DataFrame:
    """Return the rows of the setting's task and protocol. APET rows must also have its subspace and placement, or name none."""
    chosen = rows["task"] == setting.task
    if setting.protocol:
        chosen &= rows["protocol"].isin([setting.protocol, ""])
    for column, wanted in (("subspace", setting.subspace), ("placement", setting.placement)):
        if wanted:
            chosen &= (rows["method"] != "apet") | rows[column].isin([wanted, ""])
    return where(rows, chosen)


def at_pretrained(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of exact curvature matrices at the pretrained point."""
    return where(rows, (rows["matrix"] != "") & (rows["at_run"] == "") & rows["samples"].isna())


def of_model(rows: pd.DataFrame, model: str) -> pd.DataFrame:
    return where(rows, rows["model"] == model)


def pick(rows: pd.DataFrame, quantity: str, split: str = "") -> pd.DataFrame:
    """Rows of one quantity (and split, if given)."""
    chosen = rows["quantity"] == quantity
    return where(rows, chosen & (rows["split"] == split) if split else chosen)


def runs(rows: pd.DataFrame) -> pd.DataFrame:
    """One line per training run: its identity, the columns of RUN_QUANTITIES and `<column>_stderr`.

    Raises CannotDraw where one run id holds two values of the same quantity.
    """
    rows = where(rows, rows["kind"] == "train")
    parts = []
    for column, (quantity, split) in RUN_QUANTITIES.items():
        part = pick(rows, quantity, split).set_index("run_id")
        if part.index.has_duplicates:
            twice = part.index[part.index.duplicated()][0]
            raise CannotDraw(f"run {twice!r} has several rows of {quantity} {split}".rstrip())
        parts.append(part[["value", "stderr"]].set_axis([column, f"{column}_stderr"], axis=1))
    table = pd.concat(parts, axis=1)
    # A run is what was evaluated: an id that only states a chance level is not one.
    table = where(table, table[["accuracy", "train_loss", "validation_loss"]].notna().any(axis=1))
    stated = where(rows, rows["quantity"].isin([quantity for quantity, _ in RUN_QUANTITIES.values()]))
    identity = stated.drop_duplicates("run_id").set_index("run_id")[list(IDENTITY)]
    table = identity.loc[table.index].join(table)
    return table.rename_axis("run_id").sort_values(by=["parameters", "model", "method", "k", "run_id"])


def means(table: pd.DataFrame, column: str) -> pd.DataFrame:
    """Per k: mean of `column` over the runs in `table` (from `runs`), its standard error, and the number of runs n.

    The standard error is sd / sqrt(n) over runs (position and train seeds); a single run keeps its own.
    """
    lines = []
    for k, group in table.dropna(subset=[column]).groupby("k"):
        n = len(group)
        spread = group[column].std(ddof=1) / math.sqrt(n) if n > 1 else group[f"{column}_stderr"].iloc[0]
        lines.append((k, group[column].mean(), spread, n))
    return pd.DataFrame(lines, columns=["k", "mean", "stderr", "n"])


def chance(table: pd.DataFrame) -> float:
    """The chance level the runs in `table` state; NaN where none does. Raises CannotDraw where they disagree."""
    levels = sorted(set(table["chance"].dropna()))
    if len(levels) > 1:
        raise CannotDraw(f"runs of one task state different chance levels: {levels}")
    return float(levels[0]) if levels else math.nan
