"""JSON objects that the commands print for a finished run."""

from __future__ import annotations

from typing import Any

from analyses.store import Row, Store

SHARE_OF_STEPS = 0.6
PARTS = {  # parts of a run's time in addition to the steps, and what changes them
    "prior": "is measured once per model and task: prior_stderr sets how precisely",
    "before": "is evaluated once per model and task: eval_examples sets on how many examples",
    "monitoring": "evaluates the monitored loss: eval_examples sets on how many examples",
    "after": "evaluates the tuned model: eval_examples sets on how many examples",
    "other": "places the tuned parameters and encodes the texts",
}


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
        requested = by_key["requested_k", None]
        out |= {
            "requested_k": int(requested.value),
            **({"method_option": requested.group} if requested.group else {"entries": _entries(rows)}),
        }
    for (quantity, split), row in measured.items():
        key = quantity if split == "validation" else f"{split}_{quantity}"
        out |= {key: row.value, f"{key}_stderr": row.stderr}
    return out | {
        "train_loss": by_key["loss", "train"].value,
        "learning_rate": by_key["learning_rate", None].value if ("learning_rate", None) in by_key else None,
        "steps": int(by_key["steps", None].value),
        "plateau": bool(by_key["plateau", None].value),
        "diverged": int(diverged.value) if diverged else None,
        **_time(store.env(name)),
        "results": str(store.folder(name)),
    }


def _time(env: dict[str, Any]) -> dict[str, Any]:
    """Return the seconds of the run's parts, with a sentence on the largest other part if the steps took less than SHARE_OF_STEPS."""
    if "parts" not in env:  # a run of an earlier version
        return {}
    seconds = {part: round(value, 2) for part, value in env["parts"].items()}
    seconds["other"] = round(max(0.0, env["seconds"] - sum(seconds.values())), 2)
    share = seconds["steps"] / max(env["seconds"], 1e-9)
    if share >= SHARE_OF_STEPS:
        return {"seconds": seconds}
    largest = max((part for part in seconds if part != "steps"), key=seconds.__getitem__)
    return {"seconds": seconds, "time": f"{share:.0%} in steps; the largest other part, {largest}, {PARTS[largest]}"}


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
