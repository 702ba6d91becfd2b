"""What a threshold is the threshold of: the score that a run must reach, and how far a run is from it."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import mean
from typing import Any

from analyses.store import NoValue, Row, Store, statuses
from analyses.thresholds.target_kinds import TARGET_KINDS, TargetKind
from apet.errors import UsageError, one_of

Tuned = tuple[str | None, str | None]  # subspace and placement


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
    def tuned(self) -> Tuned:
        """What was tuned, whatever k and the seeds: the subspace and the placement."""
        return self.subspace, self.rows[0].placement

    @property
    def k(self) -> int:
        """How many parameters it tuned, its head left out."""
        return self.spec["k"] if self.rows[0].k is None else self.rows[0].k

    @property
    def setting(self) -> tuple[str, str, str | None]:
        """The model, the task and the protocol by the names that its rows have (`analyses.thresholds.disambiguation`): runs are compared
        within one."""
        row = self.rows[0]
        return row.model, row.task, row.protocol

    def but(self, *names: str) -> str:
        """Its setting, and its spec without these fields: the same for runs that differ in nothing else."""
        return json.dumps([self.setting, {name: value for name, value in self.spec.items() if name not in names}], sort_keys=True)

    def value(self, quantity: str, split: str | None = None) -> float:
        return next(row.value for row in self.rows if row.quantity == quantity and row.split == split)

    def has(self, quantity: str, split: str | None = None) -> bool:
        return any(row.quantity == quantity and row.split == split for row in self.rows)


def longest(runs: Sequence[Run]) -> list[Run]:
    """Those of the runs that were given the most steps."""
    most = max(run.spec.get("steps", 0) for run in runs)
    return [run for run in runs if run.spec.get("steps", 0) == most]


@dataclass(frozen=True)
class Target:
    """A score on one model and task, by `kind`:

    fraction: the training loss that makes this part (0..1) of full fine-tuning's improvement over the untuned model;
    loss: this training loss (> 0);
    of_full: this part (0..1) of full fine-tuning's main metric on the validation split, which is more of its improvement;
    below_full: that metric less `amount` (0..1), the paper's high threshold;
    above_chance: chance plus this part (0..1) of what is missing to 1, the low threshold.
    Scores of several full fine-tuning runs (train seeds) are averaged; of those that took fewer steps none counts.
    """

    kind: str
    amount: float

    def __post_init__(self) -> None:
        one_of(TARGET_KINDS, self.kind, "target")
        if not self.of.part and not 0 < self.amount < math.inf:
            raise UsageError(f"a target's {self.kind} of {self.amount} is not above 0")
        if self.of.part and (not 0 <= self.amount < 1 or (self.amount == 0 and not self.of.zero)):
            raise UsageError(f"a target's {self.kind} of {self.amount} is not between 0 and 1")

    @property
    def of(self) -> TargetKind:
        return TARGET_KINDS[self.kind]

    @classmethod
    def parse(cls, text: str) -> Target:
        """The target that KIND:AMOUNT names, for instance fraction:.9; UsageError for what is no target."""
        kind, _, amount = text.partition(":")
        one_of(TARGET_KINDS, kind.replace("-", "_"), "target")
        try:
            return cls(kind.replace("-", "_"), float(amount))
        except ValueError:
            raise UsageError(f"the target {text} is no KIND:AMOUNT, for instance fraction:.9 or below-full:.01") from None

    @property
    def quantity(self) -> str:
        return self.of.quantity

    @property
    def on_loss(self) -> bool:
        """Whether it is a training loss, of which a prediction can be made; else a metric on the validation split."""
        return self.of.on_loss

    @property
    def needs_full(self) -> bool:
        """Whether it is taken from full fine-tuning."""
        return self.of.needs_full

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    def __str__(self) -> str:
        return f"{self.kind.replace('_', '-')}:{self.amount:g}"

    def definition(self, examples: int | None) -> str:
        """In words, for figures and pages."""
        return self.of.words.format(amount=f"{self.amount:g}", percent=f"{100 * self.amount:g}", examples=examples or "all")

    def value(self, full: Sequence[Run], metric: str) -> float:
        """The score itself; `full` are full fine-tuning runs (any of the task's where none is needed), `metric` the task's main one."""
        return self.of.value(self.amount, longest(full) if self.needs_full else full, metric)

    def share(self, full: Sequence[Run], metric: str) -> float | None:
        """What part of full fine-tuning's improvement over the untuned model the target is, in its own score; None if not known."""
        name, split = ("loss", "train") if self.on_loss else (metric, "validation")
        full = [run for run in longest(full) if run.tuned_by("full") and run.has(f"initial_{name}", split)]
        if not full:
            return None
        initial, final = (mean(run.value(prefix + name, split) for run in full) for prefix in ("initial_", ""))
        return (self.value(full, metric) - initial) / (final - initial) if final != initial else None

    def settled(self, runs: Sequence[Run], metric: str) -> NoValue | None:
        """Why no k need be looked for, or None: full fine-tuning gains nothing, the target lies outside the score's range, or the untuned
        model meets it. `runs` are those the target is taken from."""
        value = self.value(runs, metric)
        name, split = ("loss", "train") if self.on_loss else (metric, "validation")
        initial = [run.value(f"initial_{name}", split) for run in runs if run.has(f"initial_{name}", split)]
        if self.kind == "above_chance" and value >= 1:
            return NoValue(statuses.UNDECIDED, f"answers without a model reach {metric} 1 here: nothing lies above chance")
        if not self.on_loss and not 0 <= value <= 1:
            return NoValue(statuses.UNDECIDED, f"{metric} of {value:.4g} is outside 0..1")
        if self.kind == "fraction" and value >= mean(initial):
            reason = f"full fine-tuning does not improve on the untuned model's training loss of {mean(initial):.4g}"
            return NoValue(statuses.UNDECIDED, reason)
        if initial and (value >= mean(initial) if self.on_loss else value <= mean(initial)):
            return NoValue(statuses.BELOW, f"the untuned model meets it: {mean(initial):.4g}")
        return None

    def gap(self, run: Run, value: float, metric: str) -> float:
        """How far `run` is beyond the target, positive where it is reached: in log loss, or in the metric's logit; nan where that
        cannot be said (a run that diverged, a target outside the score's range)."""
        return self.gap_of(run.value("loss", "train") if self.on_loss else run.value(metric, "validation"), value)

    def gap_of(self, score: float, value: float) -> float:
        """The gap of a score to the target's value."""
        from landscape.measurement import accuracy_gap, loss_gap

        try:
            return loss_gap(score, value) if self.on_loss else accuracy_gap(score, value)
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

    def like(self, spec: Any, run: Run) -> bool:
        """Whether a run of `spec` (analyses.specs.spec.Spec), not made yet, will be in the group of `run`."""
        same = all(getattr(spec, name) == run.spec[name] for name in ("model", "random_init", "task", "examples", "max_length", "readout"))
        return same and (self.on_loss or spec.early_stop == run.spec["early_stop"])
