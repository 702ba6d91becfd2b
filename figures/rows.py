"""Functions that read tidy rows: their models, settings and runs, and means over a run's seeds.

The module computes only means and their standard errors. The analyses have computed all other numbers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, cast

import pandas as pd

from analyses.store import QUANTITIES, completed

IDENTITY = ("model", "parameters", "task", "protocol", "method", "subspace", "placement", "k", "position_seed", "train_seed")
SETTING = ("protocol", "subspace", "placement")  # columns that distinguish the settings of a task
ASKING = ("train", "threshold")  # kinds of rows that define the settings of a task
ORDER = ["parameters", "model", "task", "method", "k", "run_id", "quantity", "split", "x", "y", "series", "group", "further", "status"]
# Column of the wide table of training runs -> (quantity, split); split "" matches any split.
MAIN = "main metric"  # stands for the task's main metric, which the column `metric` names
RUN_QUANTITIES = {
    "score": (MAIN, "validation"),
    "train_loss": ("loss", "train"),
    "validation_loss": ("loss", "validation"),
    "chance": ("chance", ""),
    "plateau": ("plateau", ""),
    "residual_gradient": ("residual_gradient", ""),
    "example_gradients": ("example_gradients", ""),
}


class CannotDraw(ValueError):
    """The rows do not hold what a figure or table needs. The message names the missing or ambiguous part."""


@dataclass(frozen=True)
class Setting:
    """A task, with protocol, subspace and placement if the rows hold several of them. Different settings must not be pooled.

    "" stands for a column that all rows of the task share.
    """

    task: str
    protocol: str = ""
    subspace: str = ""
    placement: str = ""

    @property
    def label(self) -> str:
        return ", ".join(part for part in (self.task, self.protocol, self.subspace, self.placement) if part)


Panel = tuple[Setting, str]  # a setting and a family of models, which share a panel


def panel_title(panel: Panel, panels: list[Panel]) -> str:
    """Return what distinguishes a panel from the others of its figure, in lines: the setting, the family, or nothing."""
    setting, family = panel
    parts = [setting.label] if len({other for other, _ in panels}) > 1 else []
    return "\n".join(parts + ([family] if len({other for _, other in panels}) > 1 else []))


def tidy(rows: pd.DataFrame) -> pd.DataFrame:
    """Return `rows` without exact duplicates, in a fixed order, with every column of `analyses.store.Row`.

    The fixed order makes sums and files independent of the order in which runs finished. Raises CannotDraw if a column without a default is
    missing.
    """
    try:
        rows = completed(rows)
    except ValueError as error:
        raise CannotDraw(str(error)) from None
    rows = rows.drop(columns=["weights", "data"]).drop_duplicates()  # names already distinguish everything that digests do
    return rows.sort_values(ORDER, kind="stable", ignore_index=True)


def where(rows: pd.DataFrame, mask: Any) -> pd.DataFrame:
    """Return `rows[mask]` with its type (pandas types it as Any)."""
    return cast(pd.DataFrame, rows.loc[mask])


def models(rows: pd.DataFrame) -> dict[str, int]:
    """Return a dictionary from model name to number of parameters, smallest first."""
    rows = _of_models(rows)
    sizes = sorted({(int(size), str(name)) for name, size in zip(rows["model"], rows["parameters"], strict=True)})
    return {name: size for size, name in sizes}


def _of_models(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the rows about a model and a task. Findings about families or several tasks have no number of parameters."""
    return where(rows, rows["parameters"] > 0)


def settings(rows: pd.DataFrame) -> list[Setting]:
    """Return the settings in `rows`, sorted. Protocol, subspace and placement are named only if a task has several of them.

    Training runs and thresholds define the settings. A spectrum or a slice on other examples does not add one.
    """
    rows = _of_models(rows)
    asked = where(rows, rows["kind"].isin(ASKING))
    result: list[Setting] = []
    for task in sorted(set(rows["task"])):
        of_task = where(asked, asked["task"] == task)
        tuned = where(of_task, (of_task["method"] == "apet") & (of_task["subspace"] != ""))
        combined = {tuple(map(str, line)) for line in tuned[list(SETTING)].drop_duplicates().to_numpy()}
        combined |= {(protocol, "", "") for protocol in set(of_task["protocol"]) - {protocol for protocol, *_ in combined}}
        varies = [len({values[i] for values in combined} - {""}) > 1 for i in range(len(SETTING))]
        named = {Setting(task, *(value if several else "" for value, several in zip(values, varies, strict=True))) for values in combined}
        result += sorted(named, key=lambda setting: setting.label) or [Setting(task)]
    return result


def in_setting(rows: pd.DataFrame, setting: Setting) -> pd.DataFrame:
    """Return the rows of the setting's task and protocol. APET rows must also have its subspace and placement, or leave them empty."""
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
    """Return the rows of one quantity, and of one split if given."""
    chosen = rows["quantity"] == quantity
    return where(rows, chosen & (rows["split"] == split) if split else chosen)


def of(rows: pd.DataFrame, *names: str) -> pd.DataFrame:
    """Return the rows of the quantities `names`."""
    return where(rows, rows["quantity"].isin(names))


def run_rows(rows: pd.DataFrame, *columns: str) -> pd.DataFrame:
    """Return the rows of training runs that `runs` reads for the named columns (by default: all columns)."""
    chosen = pd.Series(False, index=rows.index)
    for quantity, split in (RUN_QUANTITIES[column] for column in columns or RUN_QUANTITIES):
        named = rows["quantity"] == (_main_metrics(rows) if quantity == MAIN else quantity)
        chosen |= named & (rows["split"] == split) if split else named
    return where(rows, chosen & (rows["kind"] == "train"))


def runs(rows: pd.DataFrame) -> pd.DataFrame:
    """Return a table with one line per training run: its identity, the columns of RUN_QUANTITIES and `<column>_stderr`.

    Raises CannotDraw if one run id holds several values of a quantity.
    """
    rows = where(rows, rows["kind"] == "train")
    parts = []
    for column, (quantity, split) in RUN_QUANTITIES.items():
        chosen = where(rows, rows["quantity"] == _main_metrics(rows)) if quantity == MAIN else pick(rows, quantity)
        part = (where(chosen, chosen["split"] == split) if split else chosen).set_index("run_id")
        if part.index.has_duplicates:
            twice = part.index[part.index.duplicated()][0]
            raise CannotDraw(f"run {twice!r} has several rows of {quantity} {split}".rstrip())
        parts.append(part[["value", "stderr"]].set_axis([column, f"{column}_stderr"], axis=1))
    table = pd.concat(parts, axis=1)
    # Keep evaluated runs only: an id that only states a chance level is not a run.
    table = where(table, table[["score", "train_loss", "validation_loss"]].notna().any(axis=1))
    stated = where(
        rows, rows["quantity"].isin([quantity for quantity, _ in RUN_QUANTITIES.values()]) | (rows["quantity"] == _main_metrics(rows))
    )
    identity = stated.drop_duplicates("run_id").set_index("run_id")[list(IDENTITY)]
    table = identity.loc[table.index].join(table)
    return table.rename_axis("run_id").sort_values(by=["parameters", "model", "method", "k", "run_id"])


def _main_metrics(rows: pd.DataFrame) -> pd.Series:
    """Return the main metric of each row's task. Rows of older versions do not name it; it is the accuracy."""
    return cast(pd.Series, rows["metric"].replace("", "accuracy"))


def metric_label(rows: pd.DataFrame) -> str:
    """Return the label of the main metric of training runs on one task, for axes and sentences."""
    named = sorted(set(_main_metrics(where(rows, rows["kind"] == "train"))))
    return QUANTITIES[named[0]].label if named else QUANTITIES["accuracy"].label


def means(table: pd.DataFrame, column: str) -> pd.DataFrame:
    """Return a table by k: mean of `column` over the runs in `table` (from `runs`), its standard error, and the number of runs n.

    The standard error is sd / sqrt(n) over runs (position and train seeds). A single run keeps its own standard error.
    """
    lines = []
    for k, group in table.dropna(subset=[column]).groupby("k"):
        n = len(group)
        spread = group[column].std(ddof=1) / math.sqrt(n) if n > 1 else group[f"{column}_stderr"].iloc[0]
        lines.append((k, group[column].mean(), spread, n))
    return pd.DataFrame(lines, columns=["k", "mean", "stderr", "n"])


def chance(table: pd.DataFrame) -> float:
    """Return the chance level that the runs in `table` state, NaN if they state none. Raises CannotDraw for several levels."""
    levels = sorted(set(table["chance"].dropna()))
    if len(levels) > 1:
        raise CannotDraw(f"runs of one task state different chance levels: {levels}")
    return float(levels[0]) if levels else math.nan


def records(rows: pd.DataFrame) -> list[Any]:
    """Return the rows as named tuples with one attribute per column (pandas types them as plain tuples)."""
    return list(rows.itertuples(index=False))
