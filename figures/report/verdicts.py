"""Sentences made from the rows: answers to the study's questions, misfits, and checks that could not be made."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd

from analyses.findings import family
from figures.interval import Pair, Ratio, pairs
from figures.numbers import interval, listed, number, with_error
from figures.report.summary_table import Best, best_scores
from figures.rows import in_setting, models, of_model, runs, settings
from figures.words import method_name

FACTOR = 2.0  # a prediction of k* holds within this factor
SURE = 5.0  # number of standard errors above chance from which a task counts as learned


@dataclass(frozen=True)
class Answer:
    """The answer to a question in a word or two, and a sentence with its numbers."""

    question: str
    word: str
    sentence: str


def answers(rows: pd.DataFrame) -> list[Answer]:
    """Return answers to three questions per setting: does k* change with scale, is k* predicted, and is the task learned?

    `rows` come from `tidy`.
    """
    measured: dict[tuple[str, str], list[Pair]] = {}  # by question and family, since sizes are compared within a family only
    predicted: dict[str, list[Pair]] = {}
    for pair in pairs(rows):
        if pair.measured:
            measured.setdefault((pair.question, family(pair.model)), []).append(pair)
        if pair.measured and pair.predicted:
            predicted.setdefault(pair.question, []).append(pair)
    return [*map(_scale, measured.values()), *map(_prediction, predicted.values()), *_learned(best_scores(rows))]


def _scale(thresholds: list[Pair]) -> Answer:
    """Compare the smallest with the largest model, by the interval of the ratio of their k*, or by known bounds if one is censored."""
    small, large = thresholds[0], thresholds[-1]
    assert small.measured
    assert large.measured
    question, on_setting = "Does k* change with scale?", f"On {small.question}"
    if small.parameters == large.parameters:
        return Answer(question, "undecided", f"{on_setting}, k* was measured for one size only: {_described(small)}.")
    ends = f"from {_described(small)} to {_described(large)}"
    ratio = Ratio.of(large.measured, small.measured)
    if ratio is not None:
        word = "it falls" if ratio.high < 1 else "it rises" if ratio.low > 1 else "undecided"
        change = f"measured k* changes by a factor of {_ratio(ratio)}, {ends}"
        if word != "undecided":
            return Answer(question, word, f"{on_setting}, {change}.")
        reason = "an interval end is unknown" if math.isnan(ratio.low + ratio.high) else "the interval of the factor includes 1"
        return Answer(question, word, f"{on_setting}, {change}: {reason}.")
    for verb, disjoint in (("falls", large.measured.is_below(small.measured)), ("rises", small.measured.is_below(large.measured))):
        if disjoint:
            return Answer(question, f"it {verb}", f"{on_setting}, measured k* {verb} {ends}: the known bounds are disjoint.")
    return Answer(question, "undecided", f"{on_setting}, measured k* goes {ends}: the known bounds do not separate these values.")


def _prediction(thresholds: list[Pair]) -> Answer:
    """Judge the predictions. They hold if the whole interval of predicted / measured k* lies within FACTOR at every size."""
    question, on_setting = "Is k* predicted without training?", f"On {thresholds[0].question}"
    ratios = {pair.model: ratio for pair in thresholds if (ratio := pair.ratio) is not None}
    if not ratios:
        return Answer(
            question, "undecided", f"{on_setting}, no model has both a measured and a predicted value: one of the two is censored."
        )
    within = [ratio.is_within(FACTOR) for ratio in ratios.values()]
    word = "yes" if all(within) else "no" if False in within else "undecided"
    close = sum(1 / FACTOR <= ratio.value <= FACTOR for ratio in ratios.values())
    listing = ", ".join(f"{_ratio(ratio)} for {model}" for model, ratio in ratios.items())
    censored = len(thresholds) - len(ratios)
    rest = f" {censored} more {'model is' if censored == 1 else 'models are'} censored." if censored else ""
    sentence = f"{on_setting}, predicted k / measured k* is {listing}: {close} of {len(ratios)} within a factor of {FACTOR:g}."
    reason = "" if word != "undecided" else " Not every interval lies within this factor."
    return Answer(question, word, sentence + reason + rest)


def _learned(best: list[Best]) -> Iterator[Answer]:
    """Yield one answer per setting, for the model and method with the most standard errors above chance."""
    for setting in dict.fromkeys(candidate.setting for candidate in best):
        candidates = [candidate for candidate in best if candidate.setting == setting and math.isfinite(candidate.above)]
        if candidates:
            top = max(candidates, key=lambda candidate: candidate.above)
            score = with_error(top.score, top.error)
            result = f"{method_name(top.method)} of {top.model} (k = {top.k:,}) reaches a validation {top.metric} of {score}"
            word = "yes" if top.above >= SURE else "undecided"
            sentence = f"On {setting.label}, {result}, {top.above:.1f} standard errors above chance ({number(top.chance)})."
            yield Answer("Is the task learned?", word, sentence)


def _described(pair: Pair) -> str:
    return f"{interval(pair.measured)} for {pair.model}"


def _ratio(ratio: Ratio) -> str:
    return f"{number(ratio.value)} [{number(ratio.low)}, {number(ratio.high)}]"


def misfits(rows: pd.DataFrame) -> list[str]:
    """Return a sentence for every number that contradicts the predictions or casts doubt on the runs. `rows` come from `tidy`."""
    return [*_thresholds(rows), *_training(rows)]


def unchecked(rows: pd.DataFrame) -> list[str]:
    """Return a sentence for every check that was impossible because rows are missing. `rows` come from `tidy`."""
    table, thresholds = runs(rows), pairs(rows)
    sentences = []
    incomplete = [_name(pair) for pair in thresholds if not pair.measured or not pair.predicted]
    if not thresholds:
        sentences.append("The rows hold no threshold, so no prediction could be compared.")
    if incomplete:
        sentences.append(f"The rows hold only one of measured and predicted k for {'; '.join(incomplete)}.")
    missing = {
        "whether they reached their plateau": table["plateau"].isna(),
        "whether they are above chance (score, standard error or chance is missing)": (
            table[["score", "score_stderr", "chance"]].isna().any(axis=1)
        ),
    }
    for question, mask in missing.items():
        if count := int(mask.sum()):
            sentences.append(f"{count} of {len(table)} runs do not state {question}.")
    return sentences


def _thresholds(rows: pd.DataFrame) -> Iterator[str]:
    for pair in pairs(rows):
        measured, predicted = pair.measured, pair.predicted
        for name, threshold in (("measured k*", measured), ("predicted k", predicted)):
            if threshold and threshold.why_open:
                yield f"{_name(pair)}: {name} has {threshold.why_open}."
            elif threshold and threshold.censored:
                yield f"{_name(pair)}: {name} is {interval(threshold)}."
        if pair.ratio and not 1 / FACTOR <= pair.ratio.value <= FACTOR:
            yield f"{_name(pair)}: predicted k / measured k* is {number(pair.ratio.value)}, outside a factor of {FACTOR:g}."
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
    """Yield sentences on runs of one method on one model that did not reach their plateau or are not above chance."""
    moving = (table["plateau"] == 0).to_numpy()
    if moving.any():
        gradient = float(table["residual_gradient"].to_numpy()[moving].max())
        left = f"; largest residual gradient {number(gradient)}" if math.isfinite(gradient) else ""
        yield f"{name}: {_share(table, moving)} did not reach the plateau{left}."
    above = table["score"] - table["chance"] >= 2 * table["score_stderr"]
    judged = table[["score", "score_stderr", "chance"]].notna().all(axis=1)
    low = (judged & ~above).to_numpy()
    if low.any():
        yield f"{name}: {_share(table, low)} did not exceed chance by 2 standard errors."


def _share(table: pd.DataFrame, chosen: np.ndarray) -> str:
    k = [float(value) for value in table["k"].to_numpy()[chosen]]
    return f"{len(k)} of {len(table)} runs (k = {listed(k)})"
