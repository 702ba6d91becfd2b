"""The kinds of targets, a record each. To add one, write the function that gives its value and one entry of TARGET_KINDS."""

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
    """A score that a run can be asked to reach: a training loss (`on_loss`), or the task's metric on the validation split.

    `value(amount, runs, metric)` is the score, from runs of full fine-tuning, or of any method where `needs_full` is False. `words` (for
    figures) and `help` (for the command) say what it is; {amount}, {percent} and {examples} in `words` are filled in.
    """

    name: str
    quantity: str  # what its threshold is called in rows
    help: str
    words: str
    value: Callable[[float, Sequence[Run], str], float]
    on_loss: bool = False
    needs_full: bool = True
    part: bool = True  # whether the amount lies between 0 and 1; else it is any positive number
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
            "fraction", quantities.K_STAR, "fraction:.9 (this part of full fine-tuning's improvement of the training loss)",
            "training loss that makes {percent} % of the improvement of full fine-tuning over the untuned model, "
            "on the same {examples} fixed examples",
            _fraction, on_loss=True,
        ),
        TargetKind(
            "loss", quantities.K_LOSS, "loss:.35 (this training loss)", "training loss of {amount} on {examples} fixed examples",
            lambda amount, runs, metric: amount, on_loss=True, needs_full=False, part=False,
        ),
        TargetKind(
            "of_full", quantities.K_PART, "of-full:.9 (this part of full fine-tuning's)",
            "{percent} % of the validation metric of full fine-tuning", _of_full,
        ),
        TargetKind(
            "below_full", quantities.K_HIGH, "below-full:.01 (this much less, the high threshold)",
            "validation metric of full fine-tuning less {amount}", _below_full, zero=True,
        ),
        TargetKind(
            "above_chance", quantities.K_LOW, "above-chance:.1 (chance and this part of what is missing to 1, the low threshold)",
            "validation metric of chance plus {percent} % of what is missing to 1", _above_chance, needs_full=False, zero=True,
        ),
    ],
    unique=("quantity", "words"),
)  # fmt: skip


def targets_help() -> str:
    """What --target takes, for the command's help."""
    of_loss, of_metric = (", ".join(kind.help for kind in TARGET_KINDS.values() if kind.on_loss == on_loss) for on_loss in (True, False))
    return f"What k* shall reach. {of_loss}; of the validation metric: {of_metric}."
