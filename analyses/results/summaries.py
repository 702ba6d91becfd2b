"""A finished run as the JSON object that its command prints."""

from __future__ import annotations

from typing import Any

from analyses.store import Row, Store


def train_summary(name: str, store: Store) -> dict[str, Any]:
    """The command's JSON object: the task's metrics, what they are compared with, and how the run went."""
    rows = store.rows(name)
    found = {(row.quantity, row.split): row for row in rows}
    splits = [split for split in ("validation", "test") if ("loss", split) in found]
    measured = {(q, split): row for (q, split), row in found.items() if split in splits}
    loss, k_head, diverged = found["loss", "validation"], found.get(("k_head", None)), found.get(("diverged", None))
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
    if ("requested_k", None) in found:
        out |= {"requested_k": int(found["requested_k", None].value), "entries": _entries(rows)}
    for (quantity, split), row in measured.items():
        key = quantity if split == "validation" else f"{split}_{quantity}"
        out |= {key: row.value, f"{key}_stderr": row.stderr}
    return out | {
        "train_loss": found["loss", "train"].value,
        "learning_rate": found["learning_rate", None].value if ("learning_rate", None) in found else None,
        "steps": int(found["steps", None].value),
        "plateau": bool(found["plateau", None].value),
        "diverged": int(diverged.value) if diverged else None,
        "results": str(store.folder(name)),
    }


def _entries(rows: list[Row]) -> dict[str, dict[str, int]]:
    """Where the tuned entries are: {"layer": {"encoder 0": ...}, "kind": {"attention": ...}}."""
    counts: dict[str, dict[str, int]] = {}
    for row in rows:
        if row.quantity == "entries":
            counts.setdefault(row.series, {})[row.group] = int(row.value)
    return counts


def spectrum_summary(name: str, store: Store) -> dict[str, Any]:
    """Eigenvalues with residuals, what is estimated from them with standard errors, and where the run lies."""
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
    """The command's JSON object: where the slice is, its extremes, and the numbers of the point."""
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
