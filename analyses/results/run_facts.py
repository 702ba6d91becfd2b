"""Facts about runs that their rows do not hold, as plain data for the report: commands, environments, seconds and memory."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from analyses.results.study_rows import Results, rows_of
from analyses.store import DONE, FAILED, Store, frame
from analyses.thresholds import Target

if TYPE_CHECKING:
    from pandas import DataFrame

ENVIRONMENT = ("python", "torch", "transformers", "numpy", "machine", "device")  # keys of env.json that name the environment of a run


def reported(results: Path, target: Target | None) -> tuple[DataFrame, dict[str, Any]]:
    """Return all rows for the report (`rows_of`), with the rows of failed runs, and the facts of a folder's runs.

    The facts are a JSON object: source (the path), and for a folder also
    runs: {run id: {"seconds", "peak_gb"}}, None where a run does not record it.
    commands: {command line: number of the runs that it started}; "" counts the runs that do not record theirs.
    environments: a list of {"runs": number of runs, and the keys of ENVIRONMENT}, "" where a run does not record it.

    Raises as `rows_of` does, except that failed runs alone suffice.
    """
    import pandas as pd

    facts: dict[str, Any] = {"source": str(results)}
    if results.suffix == ".parquet":
        return rows_of(results, target), facts
    store = Store(results)
    failures = frame([row for name in store.run_ids(FAILED) for row in store.rows(name)])
    if len(failures) and not any(store.spec(name)["kind"] != "threshold" for name in store.run_ids()):
        return failures, facts | _facts(store)
    rows = Results.of(results, target).rows()
    return pd.concat([rows, failures], ignore_index=True) if len(failures) else rows, facts | _facts(store)


def _facts(store: Store) -> dict[str, Any]:
    envs = {name: store.env(name) for state in (DONE, FAILED) for name in store.run_ids(state)}
    envs = {name: env for name, env in envs.items() if "python" in env}  # a summary of runs has no environment
    environments = Counter(tuple(str(env.get(key, "")) for key in ENVIRONMENT) for env in envs.values())
    return {
        "runs": {name: {"seconds": env.get("seconds"), "peak_gb": env.get("peak_gb")} for name, env in envs.items()},
        "commands": dict(Counter(env.get("command", "") for env in envs.values())),
        "environments": [{"runs": count, **dict(zip(ENVIRONMENT, key, strict=True))} for key, count in environments.most_common()],
    }
