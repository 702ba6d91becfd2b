"""The kinds of targets, one record each. To add a kind, write the function that computes its value and an entry of TARGET_KINDS."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import mean
from typing import TYPE_CHECKING

from analyses.runs import by_name
from analyses.store import quantities

if TYPE_CHECKING:
    from analyses.thresholds.targets import Run


@dataclass(frozen=True)
class TargetKind:
    """A kind of score that runs must reach: a training loss (`on_loss`), or the task's metric on the validation split."""

    name: str
    quantity: str  # name of its threshold in rows
    help: str  # description in the command's help
    words: str  # description in figures, with the placeholders {amount}, {percent} and {examples}
    value: Callable[[float, Sequence[Run], str], float]  # (amount, runs, metric) -> score; `runs` are full fine-tuning if `needs_full`
    on_loss: bool = False
    needs_full: bool = True
    part: bool = True  # whether the amount lies between 0 and 1; otherwise it is any positive number
    zero: bool = False  # whether the amount may be 0


def _fraction(amount: float, full: Sequence[Run], metric: str) -> float:
    initial = mean(run.value("initial_loss", "train") for run in full)
    return initial - amount * (initial - mean(run.value("loss", "train") for run in full))


def _of_full(amount: float, full: Sequence[Run], metric: str) -> float:
    return amount * mean(run.value(metric, "validation") for run in full)


def _below_full(amount: float, full: Sequence[Run], metric: str) -> float:
    return mean(run.value(metric, "validation") for run in full) - amount


def _above_chance(amount: float, runs: Sequence[Run], metric: str) -> float:
    chance = runs[0].value("chance", "validation")
    return chance + amount * (1 - chance)


TARGET_KINDS = by_name(
    [
        TargetKind(
            "fraction", quantities.K_STAR, "fraction:.9 (this share of full fine-tuning's improvement)",
            "training loss that makes {percent} % of the improvement of full fine-tuning over the untuned model, "
            "on the same {examples} fixed examples",
            _fraction, on_loss=True,
        ),
        TargetKind(
            "loss", quantities.K_LOSS, "loss:.35 (this loss)", "training loss of {amount} on {examples} fixed examples",
            lambda amount, runs, metric: amount, on_loss=True, needs_full=False, part=False,
        ),
        TargetKind(
            "of_full", quantities.K_PART, "of-full:.9 (this share of full fine-tuning's metric)",
            "{percent} % of the validation metric of full fine-tuning", _of_full,
        ),
        TargetKind(
            "below_full", quantities.K_HIGH, "below-full:.01 (full fine-tuning's metric less this margin, the high threshold)",
            "validation metric of full fine-tuning less {amount}", _below_full, zero=True,
        ),
        TargetKind(
            "above_chance", quantities.K_LOW, "above-chance:.1 (chance plus this share of the distance to 1, the low threshold)",
            "validation metric of chance plus {percent} % of the distance to 1", _above_chance, needs_full=False, zero=True,
        ),
        TargetKind(
            "metric", quantities.K_METRIC, "metric:.8 (this value)", "validation metric of {amount}",
            lambda amount, runs, metric: amount, needs_full=False,
        ),
    ],
    unique=("quantity", "words"),
)  # fmt: skip


def targets_help() -> str:
    """Return the help text of --target."""
    of_loss, of_metric = (", ".join(kind.help for kind in TARGET_KINDS.values() if kind.on_loss == on_loss) for on_loss in (True, False))
    return f"Score to reach. A training loss: {of_loss}. Or a validation metric: {of_metric}."
