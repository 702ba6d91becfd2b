"""Scores of free text: exact match and F1 as for SQuAD, ROUGE-L. All in [0, 1], one number an example."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalised(text: str) -> str:
    """Lower case without punctuation, articles and superfluous space (Rajpurkar et al. 2016, arXiv 1606.05250)."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def exact_match(found: str, answers: Sequence[str]) -> float:
    """1 where `found` is one of `answers` after normalisation, else 0."""
    return float(normalised(found) in {normalised(answer) for answer in answers})


def f1(found: str, answers: Sequence[str]) -> float:
    """Return the best harmonic mean of word precision and recall over `answers`."""
    return max(_word_f1(normalised(found).split(), normalised(answer).split()) for answer in answers)


def _word_f1(found: list[str], answer: list[str]) -> float:
    if not found or not answer:
        return float(found == answer)
    common = (Counter(found) & Counter(answer)).total()
    return 2 * common / (len(found) + len(answer))


def rouge_l(found: str, answers: Sequence[str]) -> float:
    """F-measure of the longest common subsequence of stemmed words (Lin 2004), the best over `answers`; rouge-score's."""
    return max(_rouge().score(answer, found)["rougeL"].fmeasure for answer in answers)


@cache
def _rouge() -> Any:
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer(["rougeL"], use_stemmer=True)


# What is reported of a task by its metric; the first is the one that targets are set on.
METRICS: dict[str, dict[str, Callable[[str, Sequence[str]], float]]] = {
    "exact_match": {"exact_match": exact_match, "f1": f1},
    "rouge_l": {"rouge_l": rouge_l},
}
