"""Names that distinguish runs with different weights or different data.

Programs group runs by the model and the protocol in their rows. A run id also depends on the base model's weights and on the data, so a
store may hold runs from before and after a change of a model folder or data file. If a model name stands for several weights, its runs get
the digest of their weights: "m38 [weights 1a2b3c4d]". If a task has several data sets, its protocols get the digest of the data:
"32 examples, data 5e6f7a8b". All other names stay unchanged.
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
        """Collect the names from each run's spec and shared row columns. An unknown digest, "", does not distinguish runs."""
        weights: dict[str, dict[tuple, set[str]]] = defaultdict(lambda: defaultdict(set))
        data: dict[str, set[str]] = defaultdict(set)
        for spec, row in runs:
            weights[row["model"]][_variant(spec)].add(row["weights"])
            data[row["task"]].add(row["data"])
        changed = (model for model, by_variant in weights.items() if any(len(digests - {""}) > 1 for digests in by_variant.values()))
        return cls(frozenset(changed), frozenset(task for task, digests in data.items() if len(digests - {""}) > 1))

    def model(self, row: Columns) -> str:
        """Return the row's model, with the digest of its weights if its name stands for several weights."""
        return f"{row['model']} [weights {row['weights']}]" if row["model"] in self.models and row["weights"] else row["model"]

    def data(self, row: Columns) -> str:
        """Return the digest of the row's data if its task has several data sets, else ""."""
        return row["data"] if row["task"] in self.tasks else ""

    def protocol(self, row: Columns) -> str | None:
        """Return the row's protocol, with the digest of its data if its task has several data sets."""
        return f"{row['protocol']}, data {self.data(row)}" if self.data(row) else row["protocol"]


def _variant(spec: Spec) -> tuple:
    """Return the fields of a spec that change the fingerprint of a model: the type of its weights, and the seed of random weights."""
    return spec.get("weights", "float32"), spec.get("train_seed") if spec.get("random_init") else None


def told_apart(runs: list[Run]) -> list[Run]:
    """Return the runs with distinct models and protocols in their rows, for runs with different weights or data."""
    names = Names.of((run.spec, vars(run.rows[0])) for run in runs)

    def named(run: Run) -> Run:
        row = vars(run.rows[0])
        new = {"model": names.model(row), "protocol": names.protocol(row)}
        return run if all(row[name] == value for name, value in new.items()) else replace(run, rows=[replace(r, **new) for r in run.rows])

    return [named(run) for run in runs]
