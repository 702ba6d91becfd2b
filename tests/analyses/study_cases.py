"""A study of six small runs, for tests of what runs, keeps and resumes studies."""

from pathlib import Path
from typing import Any

from analyses.specs import Spec, spec_from
from analyses.store.run_store import Store
from analyses.studies.study_file import Stage, Study
from analyses.thresholds.measured import finished, thresholds
from analyses.thresholds.targets import Target

HALF = Target("fraction", 0.5)
BASE = {"model": "mini-t5-240k", "random_init": True, "task": "sst2", "examples": 16, "early_stop": False, "steps": 20, "batch": 8}


def spec_of(**fields: Any) -> Spec:
    """The spec of `fields` and of what else BASE sets, as far as a run of its kind uses it."""
    return spec_from({**BASE, **fields}, shared=set(BASE) - set(fields))


def small(folder: Path) -> Study:
    specs = [
        spec_of(method="full"),
        *(spec_of(k=k, position_seed=seed) for k in (5, 50) for seed in (0, 1)),
        spec_of(kind="predict"),
    ]
    return Study("small", (Stage("runs", tuple(spec.resolved() for spec in specs)),), (HALF,), {"sst2": folder})


def with_thresholds(store: Store) -> Store:
    thresholds(store, finished(store), HALF)
    return store


def rows_of(store: Store) -> dict[str, str]:
    return {name: (store.folder(name) / "rows.jsonl").read_text() for name in store.run_ids()}
