"""The scores of training runs, one line per run, from rows."""

from __future__ import annotations

from typing import Any

from analyses.thresholds import main_metric

Frame = Any  # a pandas DataFrame; pandas' own types say little about what indexing returns
SETTING = ("task", "protocol", "subspace", "placement")  # runs of one setting differ in model, k and seeds
HEAD = ", readout head"  # suffix of a protocol: runs with a trained classification head
ENTRIES = "coordinates"  # the subspace of tuned entries


def scores(rows: Frame) -> Frame:
    """Return a line per training run that did not diverge: its identity, and the main metric on the validation set with its error."""
    runs = rows[rows["kind"] == "train"]
    diverged = set(runs.loc[runs["quantity"] == "diverged", "run_id"])
    metrics = [main_metric(metric, task) for metric, task in zip(runs["metric"], runs["task"], strict=True)]
    chosen = runs[(runs["quantity"] == metrics) & (runs["split"] == "validation") & ~runs["run_id"].isin(diverged)]
    columns = ["run_id", "model", "parameters", *SETTING, "method", "k", "position_seed", "train_seed", "value", "stderr"]
    return chosen.drop_duplicates("run_id")[columns].reset_index(drop=True)


def readouts_apart(rows: Frame) -> Frame:
    """Return the rows with the protocol of runs with a trained classification head marked, because they do not compare with other runs."""
    heads = rows["run_id"].isin(rows.loc[rows["quantity"] == "k_head", "run_id"])
    return rows.assign(protocol=rows["protocol"].where(~heads, rows["protocol"] + HEAD))


def space(subspace: str | None) -> str:
    """Return a subspace in words."""
    return "entries" if subspace in (None, "", ENTRIES) else "random directions"


def apet_entries(lines: Frame) -> Frame:
    """Return the scores of runs that tune entries by APET. Runs in random directions have no positions."""
    return lines[(lines["method"] == "apet") & lines["subspace"].isin(["", ENTRIES])]


def other_methods(lines: Frame) -> Frame:
    """Return the scores of parameter-efficient methods in their own parameters, not in a random projection of them."""
    own = (lines["subspace"] == lines["method"]) | (lines["subspace"] == "")
    return lines[~lines["method"].isin(["apet", "full"]) & own]


def sizes(rows: Frame) -> dict[str, int]:
    """Return model -> number of parameters."""
    return {str(model): int(size) for model, size in zip(rows["model"], rows["parameters"], strict=True)}


def sizes_without_embeddings(rows: Frame) -> dict[str, int]:
    """Return model -> number of parameters without embeddings, for models whose training runs recorded it."""
    stated = rows[rows["quantity"] == "without_embeddings"]
    return {str(model): int(value) for model, value in zip(stated["model"], stated["value"], strict=True)}
