"""Sentences made from the rows: answers to the study's questions."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import pandas as pd

from analyses.findings import family
from figures.interval import Pair, Ratio
from figures.numbers import interval, number, with_error
from figures.report.by_target import on_target, pairs_by_target
from figures.report.summary_table import Best, best_scores
from figures.report.warning_list import FACTOR
from figures.words import method_name

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
    for target, found in pairs_by_target(rows).items():
        for pair in found:
            question = on_target(pair.question, target)
            if pair.measured:
                measured.setdefault((question, family(pair.model)), []).append(pair)
            if pair.measured and pair.predicted:
                predicted.setdefault(question, []).append(pair)
    scale = [_scale(question, thresholds) for (question, _), thresholds in measured.items()]
    return [*scale, *(_prediction(question, thresholds) for question, thresholds in predicted.items()), *_learned(best_scores(rows))]


def _scale(asked: str, thresholds: list[Pair]) -> Answer:
    """Compare the smallest with the largest model, by the interval of the ratio of their k*, or by known bounds if one is censored."""
    small, large = thresholds[0], thresholds[-1]
    assert small.measured
    assert large.measured
    question, on_setting = "Does k* change with scale?", f"On {asked}"
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


def _prediction(asked: str, thresholds: list[Pair]) -> Answer:
    """Judge the predictions. They hold if the whole interval of predicted / measured k* lies within FACTOR at every size."""
    question, on_setting = "Is k* predicted without training?", f"On {asked}"
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
