"""Names that tell apart runs of other weights or other data.

Whoever reads runs groups them by the model and the protocol of their rows. A run's id follows from its base model's weights and its
data as well, so that a store still holds the runs of a model folder or a data file as it was before it changed. Where a model name
stands for several weights its runs say theirs, "m38 [weights 1a2b3c4d]"; where a task has several data sets protocols say theirs,
"32 examples, data 5e6f7a8b". Everything else keeps its name.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from analyses.thresholds.targets import Run

Spec = Mapping[str, Any]  # as a store holds it
Columns = Mapping[str, Any]  # of a row


@dataclass(frozen=True)
class Names:
    """The models that stand for several weights, and the tasks that have several data sets."""

    models: frozenset[str]
    tasks: frozenset[str]

    @classmethod
    def of(cls, runs: Iterable[tuple[Spec, Columns]]) -> Names:
        """From each run's spec and the columns that its rows share. A digest that is not known, "", tells nothing apart."""
        weights: dict[str, dict[tuple, set[str]]] = defaultdict(lambda: defaultdict(set))
        data: dict[str, set[str]] = defaultdict(set)
        for spec, row in runs:
            weights[row["model"]][_variant(spec)].add(row["weights"])
            data[row["task"]].add(row["data"])
        changed = (model for model, by_variant in weights.items() if any(len(found - {""}) > 1 for found in by_variant.values()))
        return cls(frozenset(changed), frozenset(task for task, found in data.items() if len(found - {""}) > 1))

    def model(self, row: Columns) -> str:
        return f"{row['model']} [weights {row['weights']}]" if row["model"] in self.models and row["weights"] else row["model"]

    def data(self, row: Columns) -> str:
        """The digest of the row's data where its task has several data sets, else ""."""
        return row["data"] if row["task"] in self.tasks else ""

    def protocol(self, row: Columns) -> str | None:
        return f"{row['protocol']}, data {self.data(row)}" if self.data(row) else row["protocol"]


def _variant(spec: Spec) -> tuple:
    """What of a spec changes the fingerprint of one and the same model: the type it is held in, and the seed of drawn weights."""
    return spec.get("weights", "float32"), spec.get("train_seed") if spec.get("random_init") else None


def told_apart(runs: list[Run]) -> list[Run]:
    """The runs, with the model and the protocol in their rows named apart where that is needed."""
    names = Names.of((run.spec, vars(run.rows[0])) for run in runs)

    def named(run: Run) -> Run:
        row = vars(run.rows[0])
        new = {"model": names.model(row), "protocol": names.protocol(row)}
        return run if all(row[name] == value for name, value in new.items()) else replace(run, rows=[replace(r, **new) for r in run.rows])

    return [named(run) for run in runs]
