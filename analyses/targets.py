"""What a threshold is the threshold of: the score that a run must reach, and how far a run is from it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import mean
from typing import Any

from analyses.store import Row, Store
from apet.errors import UsageError, one_of


@dataclass(frozen=True)
class Run:
    """A finished run: its id, spec and rows."""

    id: str
    spec: dict
    rows: list[Row]

    @classmethod
    def of(cls, store: Store, run_id: str) -> Run:
        """The whole run of this id."""
        return cls(run_id, store.spec(run_id), store.rows(run_id))

    def tuned_by(self, method: str) -> bool:
        """Whether it is a training run of this method; within a subspace of what the method tunes, only apet is itself."""
        whole = method == "apet" or self.subspace == "coordinates"
        return self.spec["kind"] == "train" and self.spec["method"] == method and whole

    @property
    def subspace(self) -> str:
        return self.spec.get("subspace", "coordinates")

    @property
    def k(self) -> int:
        """How many parameters it tuned, its head left out."""
        return self.spec["k"] if self.rows[0].k is None else self.rows[0].k

    def value(self, quantity: str, split: str | None = None) -> float:
        return next(row.value for row in self.rows if row.quantity == quantity and row.split == split)

    def has(self, quantity: str, split: str | None = None) -> bool:
        return any(row.quantity == quantity and row.split == split for row in self.rows)


# kind of target -> what its threshold is called in rows
QUANTITIES = {"fraction": "k_star", "below_full": "k_high", "above_chance": "k_low"}


@dataclass(frozen=True)
class Target:
    """A score on one model and task, by `kind`:

    fraction: the training loss that makes this part (0..1) of full fine-tuning's improvement over the untuned model;
    below_full: full fine-tuning's main metric on the validation split less `amount` (0..1), the paper's high threshold;
    above_chance: chance plus this part (0..1) of what is missing to 1, the low threshold.
    Scores of several full fine-tuning runs (train seeds) are averaged.
    """

    kind: str
    amount: float

    def __post_init__(self) -> None:
        one_of(QUANTITIES, self.kind, "target")
        if not 0 <= self.amount < 1 or (self.kind == "fraction" and self.amount == 0):
            raise UsageError(f"a target's {self.kind} of {self.amount} is not between 0 and 1")

    @property
    def quantity(self) -> str:
        return QUANTITIES[self.kind]

    @property
    def on_loss(self) -> bool:
        """Whether it is a training loss, of which a prediction can be made; else a metric on the validation split."""
        return self.kind == "fraction"

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    def definition(self, examples: int | None) -> str:
        """In words, for figures and pages."""
        return {
            "fraction": f"training loss that makes {100 * self.amount:g} % of the improvement of full fine-tuning over the untuned model, "
            f"on the same {examples or 'all'} fixed examples",
            "below_full": f"validation metric of full fine-tuning less {self.amount:g}",
            "above_chance": f"validation metric of chance plus {100 * self.amount:g} % of what is missing to 1",
        }[self.kind]

    def value(self, full: Sequence[Run], metric: str) -> float:
        """The score itself; `full` are full fine-tuning runs (for above_chance any of the task's), `metric` the task's main one."""
        if self.on_loss:
            initial = mean(run.value("initial_loss", "train") for run in full)
            return initial - self.amount * (initial - mean(run.value("loss", "train") for run in full))
        if self.kind == "below_full":
            return mean(run.value(metric, "validation") for run in full) - self.amount
        chance = full[0].value("chance", "validation")
        return chance + self.amount * (1 - chance)

    def gap(self, run: Run, value: float, metric: str) -> float:
        """How far `run` is beyond the target, positive where it is reached: in log loss, or in the metric's logit; nan where that
        cannot be said (a run that diverged, a target outside the score's range)."""
        from landscape.threshold import gap_of_accuracy, gap_of_loss

        reached = run.value("loss", "train") if self.on_loss else run.value(metric, "validation")
        try:
            return gap_of_loss(reached, value) if self.on_loss else gap_of_accuracy(reached, value)
        except ValueError:
            return math.nan

    def counts(self, run: Run) -> bool:
        """Whether a run says something of the target. For one on the loss: of the function that a prediction speaks of, its minimum,
        in words, by the weights as they are."""
        if run.spec["kind"] == "predict":
            return self.on_loss
        if run.spec["kind"] != "train" or run.has("diverged"):
            return False
        plain = run.spec.get("weights", "float32") == "float32" and run.spec.get("attention", "eager") == "eager"
        return not self.on_loss or (plain and not run.spec["early_stop"] and not run.has("k_head"))

    def measures(self, run: Run) -> bool:
        """Whether `run` is one that the target is taken from."""
        return self.counts(run) and run.tuned_by("full")

    def group(self, run: Run) -> tuple:
        """What runs must have in common to be measured by each other, whatever is tuned."""
        early = bool(run.spec["kind"] == "train" and run.spec["early_stop"] and not self.on_loss)
        return (*(run.spec[name] for name in ("model", "random_init", "task", "examples", "max_length")), early, run.has("k_head"))
