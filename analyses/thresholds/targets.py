"""Targets: the score that a run must reach, and the gap between a run and the target."""

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
from apet.scoring import lowest

Tuned = tuple[str | None, str | None]  # subspace and placement


@dataclass(frozen=True)
class Run:
    """A finished run: its id, spec and rows."""

    id: str
    spec: dict
    rows: list[Row]

    @classmethod
    def of(cls, store: Store, run_id: str) -> Run:
        """Return the complete run with this id. Its spec names the task as its rows do, not by the place of a task file."""
        rows = store.rows(run_id)
        return cls(run_id, store.spec(run_id) | {"task": rows[0].task}, rows)

    def tuned_by(self, method: str) -> bool:
        """Return whether the run is a training run of `method`. A method other than apet does not count within a random subspace."""
        unrestricted = method == "apet" or self.subspace == "coordinates"
        return self.spec["kind"] == "train" and self.spec["method"] == method and unrestricted

    @property
    def subspace(self) -> str:
        """The subspace of the run's spec."""
        return self.spec.get("subspace", "coordinates")

    @property
    def tuned(self) -> Tuned:
        """The subspace and the placement, which do not depend on k and the seeds."""
        return self.subspace, self.rows[0].placement

    @property
    def k(self) -> int:
        """Number of tuned parameters without a classification head."""
        return self.spec["k"] if self.rows[0].k is None else self.rows[0].k

    @property
    def setting(self) -> tuple[str, str, str | None]:
        """Model, task and protocol by their names in the rows (`analyses.thresholds.disambiguation`). Only runs of one setting compare."""
        row = self.rows[0]
        return row.model, row.task, row.protocol

    def but(self, *names: str) -> str:
        """Return setting and spec without the fields `names` as JSON; runs that differ only in these fields have equal texts."""
        return json.dumps([self.setting, {name: value for name, value in self.spec.items() if name not in names}], sort_keys=True)

    def value(self, quantity: str, split: str | None = None) -> float:
        """Return the value of the first row of this quantity and split. Raises StopIteration if the run lacks such a row."""
        return next(row.value for row in self.rows if row.quantity == quantity and row.split == split)

    def has(self, quantity: str, split: str | None = None) -> bool:
        """Return whether the run has a row of this quantity and split."""
        return any(row.quantity == quantity and row.split == split for row in self.rows)


def longest(runs: Sequence[Run]) -> list[Run]:
    """Return the runs whose specs have the most steps."""
    most = max(run.spec.get("steps", 0) for run in runs)
    return [run for run in runs if run.spec.get("steps", 0) == most]


@dataclass(frozen=True)
class Target:
    """A score to reach on one model and task, by `kind`:

    fraction: the training loss that makes the share `amount` (0..1) of full fine-tuning's improvement over the untuned model.
    loss: the training loss `amount` (> 0).
    of_full: the share `amount` (0..1) of full fine-tuning's main metric on the validation split, not of its improvement.
    below_full: full fine-tuning's main metric less `amount` (0..1), the paper's high threshold.
    above_chance: chance plus the share `amount` (0..1) of the distance to 1, the paper's low threshold.
    metric: the main metric `amount` (0..1) on the validation split.

    Scores of several full fine-tuning runs (train seeds) are averaged. Only the runs with the most steps count.
    """

    kind: str
    amount: float

    def __post_init__(self) -> None:
        one_of(TARGET_KINDS, self.kind, "target")
        if not self.of.part and not 0 < self.amount < math.inf:
            raise UsageError(f"the target {self} must have a finite amount above 0")
        if self.of.part and (not 0 <= self.amount < 1 or (self.amount == 0 and not self.of.zero)):
            raise UsageError(f"the target {self} must have an amount {'of at least' if self.of.zero else 'above'} 0 and below 1")

    @property
    def of(self) -> TargetKind:
        """The record of the target's kind."""
        return TARGET_KINDS[self.kind]

    @classmethod
    def parse(cls, text: str) -> Target:
        """Return the target of a text KIND:AMOUNT, for instance fraction:.9. Raises UsageError for an invalid text."""
        kind, _, amount = text.partition(":")
        one_of(TARGET_KINDS, kind.replace("-", "_"), "target")
        try:
            return cls(kind.replace("-", "_"), float(amount))
        except ValueError:
            raise UsageError(f"the target {text} does not have the form KIND:AMOUNT, for instance fraction:.9 or below-full:.01") from None

    @property
    def quantity(self) -> str:
        """The quantity of the target's threshold, for instance k_star."""
        return self.of.quantity

    @property
    def on_loss(self) -> bool:
        """Whether the target is a training loss, which can be predicted, and not a metric on the validation split."""
        return self.of.on_loss

    @property
    def needs_full(self) -> bool:
        """Whether the target depends on full fine-tuning."""
        return self.of.needs_full

    def as_dict(self) -> dict[str, Any]:
        """Return kind and amount as a JSON object."""
        return asdict(self)

    def __str__(self) -> str:
        return f"{self.kind.replace('_', '-')}:{self.amount:g}"

    def definition(self, examples: int | None) -> str:
        """Return the target in words, for figures and pages."""
        return self.of.words.format(amount=f"{self.amount:g}", percent=f"{100 * self.amount:g}", examples=examples or "all")

    def value(self, full: Sequence[Run], metric: str) -> float:
        """Return the score to reach.

        `full` are full fine-tuning runs (any runs of the task unless `needs_full`), `metric` is the task's main metric.
        """
        return self.of.value(self.amount, longest(full) if self.needs_full else full, metric)

    def share(self, full: Sequence[Run], metric: str) -> float | None:
        """Return the target as a share of full fine-tuning's improvement over the untuned model, in the same score; None if unknown."""
        name, split = ("loss", "train") if self.on_loss else (metric, "validation")
        full = [run for run in longest(full) if run.tuned_by("full") and run.has(f"initial_{name}", split)]
        if not full:
            return None
        initial, final = (mean(run.value(prefix + name, split) for run in full) for prefix in ("initial_", ""))
        return (self.value(full, metric) - initial) / (final - initial) if final != initial else None

    def settled(self, runs: Sequence[Run], metric: str) -> NoValue | None:
        """Return the reason why no search for k is needed, or None.

        The reasons are: full fine-tuning does not improve or does not beat chance, the target lies outside the range of the score, or the
        untuned model reaches the target. `runs` are the runs that determine the target.
        """
        value = self.value(runs, metric)
        name, split = ("loss", "train") if self.on_loss else (metric, "validation")
        initial = [run.value(f"initial_{name}", split) for run in runs if run.has(f"initial_{name}", split)]
        if self.kind == "above_chance" and value >= 1:
            return NoValue(statuses.UNDECIDED, f"answers without a model already have {metric} 1: no target lies above chance")
        if self.kind == "of_full" and value <= 0:
            return NoValue(statuses.UNDECIDED, f"full fine-tuning does not reach a positive {metric}: a share of it is not a target")
        if not self.on_loss and not lowest(metric) <= value <= 1:
            return NoValue(statuses.UNDECIDED, f"the target, {metric} of {value:.4g}, is outside {lowest(metric):g}..1")
        if self.kind == "below_full" and runs[0].has("chance", "validation") and value <= runs[0].value("chance", "validation"):
            reason = f"full fine-tuning does not beat chance by more than {self.amount:g}, so no k matches what it has learned"
            return NoValue(statuses.UNDECIDED, reason)
        if self.kind == "fraction" and value >= mean(initial):
            reason = f"full fine-tuning does not improve on the untuned model's training loss of {mean(initial):.4g}"
            return NoValue(statuses.UNDECIDED, reason)
        if initial and (value >= mean(initial) if self.on_loss else value <= mean(initial)):
            return NoValue(statuses.BELOW, f"the untuned model already reaches the target: {mean(initial):.4g}")
        return None

    def gap(self, run: Run, value: float, metric: str) -> float:
        """Return the distance of `run` beyond the target, in log loss or in the logit of the metric; positive if the target is reached.

        The gap is NaN if it is not defined: for a run that diverged, or a target outside the range of the score.
        """
        return self.gap_of(run.value("loss", "train") if self.on_loss else run.value(metric, "validation"), value, metric)

    def gap_of(self, score: float, value: float, metric: str) -> float:
        """Return the gap of a score (a loss or `metric`) beyond the target's value, as `gap` does."""
        from landscape.measurement import accuracy_gap, loss_gap

        try:
            return loss_gap(score, value) if self.on_loss else accuracy_gap(score, value, lowest=lowest(metric))
        except ValueError:
            return math.nan

    def counts(self, run: Run) -> bool:
        """Return whether a run counts for the target.

        For a target on the loss, a training run must minimise the function that predictions describe: no early stopping, no classification
        head, float32 weights, eager attention.
        """
        if run.spec["kind"] == "predict":
            return self.on_loss
        if run.spec["kind"] != "train" or run.has("diverged"):
            return False
        plain = run.spec.get("weights", "float32") == "float32" and run.spec.get("attention", "eager") == "eager"
        return not self.on_loss or (plain and not run.spec["early_stop"] and not run.has("k_head"))

    def measures(self, run: Run) -> bool:
        """Return whether `run` is a full fine-tuning run that determines the target."""
        return self.counts(run) and run.tuned_by("full")

    def like(self, spec: Any, run: Run) -> bool:
        """Return whether a future run of `spec` (`analyses.specs.Spec`) will be in the group of `run`."""
        same = all(getattr(spec, name) == run.spec[name] for name in ("model", "random_init", "examples", "max_length", "readout"))
        same = same and spec.task_name == run.spec["task"]
        same = same and spec.prompt == run.spec.get("prompt", "plain")
        return same and (self.on_loss or spec.early_stop == run.spec["early_stop"])
