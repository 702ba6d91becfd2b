"""What the rows say in sentences: the answers to the study's questions, what does not fit, and what could not be checked."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd

from analyses.findings import family
from figures.interval import Pair, Ratio, pairs
from figures.numbers import interval, listed, number, with_error
from figures.report.summary_table import Best, best_accuracies
from figures.rows import in_setting, models, of_model, runs, settings
from figures.words import method_name

FACTOR = 2.0  # within which a prediction of k* is said to hold
SURE = 5.0  # standard errors above chance from which a task is said to be learned


@dataclass(frozen=True)
class Answer:
    """The answer to a question in one word, and the sentence with its numbers."""

    question: str
    word: str
    sentence: str


def answers(rows: pd.DataFrame) -> list[Answer]:
    """Whether k* changes with scale, is predicted, and the task is learned: one answer a setting to each. `rows` as from `tidy`."""
    measured: dict[tuple[str, str], list[Pair]] = {}  # by family: sizes of two are in no order
    predicted: dict[str, list[Pair]] = {}
    for pair in pairs(rows):
        if pair.measured:
            measured.setdefault((pair.question, family(pair.model)), []).append(pair)
        if pair.measured and pair.predicted:
            predicted.setdefault(pair.question, []).append(pair)
    return [*map(_scale, measured.values()), *map(_prediction, predicted.values()), *_learned(best_accuracies(rows))]


def _scale(found: list[Pair]) -> Answer:
    """From the smallest to the largest model: the interval of the ratio of their k* decides, or a bound where one is censored."""
    small, large = found[0], found[-1]
    assert small.measured
    assert large.measured
    question, where = "Does k* change with scale?", f"On {small.question}"
    if small.parameters == large.parameters:
        return Answer(question, "undecided", f"{where}, k* was measured for one size only: {_described(small)}.")
    ends = f"from {_described(small)} to {_described(large)}"
    ratio = Ratio.of(large.measured, small.measured)
    if ratio is not None:
        word = "it falls" if ratio.high < 1 else "it rises" if ratio.low > 1 else "undecided"
        what = f"measured k* changes by a factor of {_ratio(ratio)}, {ends}"
        if word != "undecided":
            return Answer(question, word, f"{where}, {what}.")
        why = "an interval end is not known" if math.isnan(ratio.low + ratio.high) else "the interval of the factor includes 1"
        return Answer(question, word, f"{where}, {what}: {why}.")
    for verb, apart in (("falls", large.measured.is_below(small.measured)), ("rises", small.measured.is_below(large.measured))):
        if apart:
            return Answer(question, f"it {verb}", f"{where}, measured k* {verb} {ends}: the bounds are disjoint.")
    return Answer(question, "undecided", f"{where}, measured k* goes {ends}: what is known of a censored k* does not tell them apart.")


def _prediction(found: list[Pair]) -> Answer:
    """A prediction holds where the whole interval of predicted over measured k lies within FACTOR at every size."""
    question, where = "Is k* predicted without training?", f"On {found[0].question}"
    known = {pair.model: ratio for pair in found if (ratio := pair.ratio) is not None}
    if not known:
        return Answer(question, "undecided", f"{where}, no model has both numbers: one of them is censored.")
    held = [ratio.is_within(FACTOR) for ratio in known.values()]
    word = "yes" if all(held) else "no" if False in held else "undecided"
    close = sum(1 / FACTOR <= ratio.value <= FACTOR for ratio in known.values())
    listing = ", ".join(f"{model} {_ratio(ratio)}" for model, ratio in known.items())
    left = len(found) - len(known)
    more = f" {left} more {'is' if left == 1 else 'are'} censored." if left else ""
    sentence = f"{where}, predicted over measured k* is {listing}: {close} of {len(known)} within a factor of {FACTOR:g}."
    reason = "" if word != "undecided" else " Not every interval lies within it."
    return Answer(question, word, sentence + reason + more)


def _learned(best: list[Best]) -> Iterator[Answer]:
    """One answer a setting: the model and method that lie the most standard errors above chance."""
    for setting in dict.fromkeys(found.setting for found in best):
        own = [found for found in best if found.setting == setting and math.isfinite(found.above)]
        if own:
            top = max(own, key=lambda found: found.above)
            what = f"{method_name(top.method)} of {top.model} (k = {top.k:,}) reaches {with_error(top.accuracy, top.error)} on validation"
            word = "yes" if top.above >= SURE else "undecided"
            sentence = f"On {setting.label}, {what}, {top.above:.1f} standard errors above chance, {number(top.chance)}."
            yield Answer("Is the task learned?", word, sentence)


def _described(pair: Pair) -> str:
    return f"{interval(pair.measured)} for {pair.model}"


def _ratio(ratio: Ratio) -> str:
    return f"{number(ratio.value)} [{number(ratio.low)}, {number(ratio.high)}]"


def misfits(rows: pd.DataFrame) -> list[str]:
    """A sentence for everything that speaks against the predictions or the runs. `rows` as from `tidy`."""
    return [*_thresholds(rows), *_training(rows)]


def unchecked(rows: pd.DataFrame) -> list[str]:
    """A sentence for everything that could not be checked because rows are absent. `rows` as from `tidy`."""
    table, found = runs(rows), pairs(rows)
    sentences = []
    alone = [_name(pair) for pair in found if not pair.measured or not pair.predicted]
    if not found:
        sentences.append("There are no thresholds, so no prediction could be compared.")
    if alone:
        sentences.append(f"Only one of measured and predicted k is there for {'; '.join(alone)}.")
    missing = {
        "whether they reached their plateau": table["plateau"].isna(),
        "whether they are above chance (accuracy, standard error or chance is absent)": (
            table[["accuracy", "accuracy_stderr", "chance"]].isna().any(axis=1)
        ),
    }
    for question, mask in missing.items():
        if count := int(mask.sum()):
            sentences.append(f"{count} of {len(table)} runs do not say {question}.")
    return sentences


def _thresholds(rows: pd.DataFrame) -> Iterator[str]:
    for pair in pairs(rows):
        measured, predicted = pair.measured, pair.predicted
        for what, found in (("measured k*", measured), ("predicted k", predicted)):
            if found and found.why_open:
                yield f"{_name(pair)}: {what} has {found.why_open}."
            elif found and found.censored:
                yield f"{_name(pair)}: {what} is {interval(found)}."
        if pair.ratio and not 1 / FACTOR <= pair.ratio.value <= FACTOR:
            yield f"{_name(pair)}: predicted over measured k is {number(pair.ratio.value)}, outside a factor of {FACTOR:g}."
        if measured and predicted and measured.is_disjoint(predicted):
            yield f"{_name(pair)}: measured {interval(measured)} and predicted {interval(predicted)} are disjoint."


def _name(pair: Pair) -> str:
    return f"{pair.model} on {pair.question}"


def _training(rows: pd.DataFrame) -> Iterator[str]:
    for setting in settings(rows):
        for model in models(rows):
            for method, table in runs(in_setting(of_model(rows, model), setting)).groupby("method"):
                yield from _runs(f"{model} on {setting.label}, {method_name(str(method))}", table)


def _runs(name: str, table: pd.DataFrame) -> Iterator[str]:
    """Runs of one method on one model: those off their plateau, and those not above chance."""
    moving = (table["plateau"] == 0).to_numpy()
    if moving.any():
        gradient = float(table["residual_gradient"].to_numpy()[moving].max())
        left = f"; largest residual gradient {number(gradient)}" if math.isfinite(gradient) else ""
        yield f"{name}: {_share(table, moving)} did not reach the plateau{left}."
    above = table["accuracy"] - table["chance"] >= 2 * table["accuracy_stderr"]
    judged = table[["accuracy", "accuracy_stderr", "chance"]].notna().all(axis=1)
    low = (judged & ~above).to_numpy()
    if low.any():
        yield f"{name}: {_share(table, low)} did not exceed chance by 2 standard errors."


def _share(table: pd.DataFrame, chosen: np.ndarray) -> str:
    k = [float(value) for value in table["k"].to_numpy()[chosen]]
    return f"{len(k)} of {len(table)} runs (k = {listed(k)})"
