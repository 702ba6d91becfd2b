"""JSON objects that the commands print for a finished run."""

from __future__ import annotations

from typing import Any

from analyses.store import Row, Store


def train_summary(name: str, store: Store) -> dict[str, Any]:
    """Return the JSON object of a training run: the task's metrics with their baselines, and facts about the run."""
    rows = store.rows(name)
    by_key = {(row.quantity, row.split): row for row in rows}
    splits = [split for split in ("validation", "test") if ("loss", split) in by_key]
    measured = {(q, split): row for (q, split), row in by_key.items() if split in splits}
    loss, k_head, diverged = by_key["loss", "validation"], by_key.get(("k_head", None)), by_key.get(("diverged", None))
    out: dict[str, Any] = {
        "run_id": name,
        "model": loss.model,
        "parameters": loss.parameters,
        "task": loss.task,
        "method": loss.method,
        "k": loss.k,
    }
    if k_head:
        out["k_head"] = int(k_head.value)
    if ("requested_k", None) in by_key:
        out |= {"requested_k": int(by_key["requested_k", None].value), "entries": _entries(rows)}
    for (quantity, split), row in measured.items():
        key = quantity if split == "validation" else f"{split}_{quantity}"
        out |= {key: row.value, f"{key}_stderr": row.stderr}
    return out | {
        "train_loss": by_key["loss", "train"].value,
        "learning_rate": by_key["learning_rate", None].value if ("learning_rate", None) in by_key else None,
        "steps": int(by_key["steps", None].value),
        "plateau": bool(by_key["plateau", None].value),
        "diverged": int(diverged.value) if diverged else None,
        "results": str(store.folder(name)),
    }


def _entries(rows: list[Row]) -> dict[str, dict[str, int]]:
    """Return the numbers of tuned entries by layer and kind of tensor: {"layer": {"encoder 0": ...}, "kind": {"attention": ...}}."""
    counts: dict[str, dict[str, int]] = {}
    for row in rows:
        if row.quantity == "entries":
            counts.setdefault(row.series, {})[row.group] = int(row.value)
    return counts


def spectrum_summary(name: str, store: Store) -> dict[str, Any]:
    """Return the JSON object of a spectrum: eigenvalues with residuals, estimates with standard errors, and the run's folder."""
    rows = store.rows(name)
    single = {row.quantity: row for row in rows if row.x != row.x}
    numbers = ("trace", "negative_mass", "effective_rank", "participation_ratio", "outliers", "decay_exponent")
    return {
        "run_id": name, "model": rows[0].model, "task": rows[0].task, "matrix": rows[0].matrix,
        "samples": rows[0].samples, "at_run": rows[0].at_run or None, "at_step": rows[0].at_step, "k": rows[0].k,
        "algorithm": single["products"].series,
        "eigenvalues": [row.value for row in rows if row.quantity == "eigenvalue"],
        "residuals": [row.stderr for row in rows if row.quantity == "eigenvalue"],
        **{f"{name}{suffix}": value for name in numbers if name in single
           for suffix, value in (("", single[name].value), ("_stderr", single[name].stderr))},
        "symmetry_defect": single["symmetry_defect"].value, "results": str(store.folder(name)),
    }  # fmt: skip


def slice_summary(name: str, store: Store) -> dict[str, Any]:
    """Return the JSON object of a slice: its position, its lowest and highest loss, and the numbers of its centre."""
    rows = store.rows(name)
    losses = [row for row in rows if row.quantity == "slice_loss" and row.split == "train"]
    finite = [row.value for row in losses if row.value == row.value]
    single = {
        row.quantity + ("_of_curve" if row.series == "curve" else "") + ("" if row.split == "train" else f"_{row.split}"): row
        for row in rows if row.x != row.x
    }  # fmt: skip
    numbers = {
        f"{quantity}{suffix}": value
        for quantity, row in single.items()
        for suffix, value in (("", row.value), *([("_stderr", row.stderr)] if row.stderr == row.stderr else []))
    }
    return {
        "run_id": name, "model": rows[0].model, "task": rows[0].task, "k": rows[0].k, "directions": rows[0].directions,
        "at_run": rows[0].at_run or None, "at_step": rows[0].at_step, "points": len(losses),
        "lowest_loss": min(finite, default=None), "highest_loss": max(finite, default=None), "not_finite": len(losses) - len(finite),
        "explained_variance": [row.value for row in rows if row.quantity == "explained_variance"],
        **numbers, "results": str(store.folder(name)),
    }  # fmt: skip
