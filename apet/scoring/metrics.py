"""Scores of free text in [0, 1], one per example: exact match and F1 as for SQuAD, and ROUGE-L."""

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
    """Return the text in lower case without punctuation, articles and extra spaces (Rajpurkar et al. 2016, arXiv 1606.05250)."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def exact_match(text: str, answers: Sequence[str]) -> float:
    """Return 1 if `text` equals one of `answers` after normalisation, else 0."""
    return float(normalised(text) in {normalised(answer) for answer in answers})


def f1(text: str, answers: Sequence[str]) -> float:
    """Return the harmonic mean of word precision and word recall, for the best of `answers`."""
    return max(_word_f1(normalised(text).split(), normalised(answer).split()) for answer in answers)


def _word_f1(words: list[str], answer: list[str]) -> float:
    if not words or not answer:
        return float(words == answer)
    common = (Counter(words) & Counter(answer)).total()
    return 2 * common / (len(words) + len(answer))


def rouge_l(text: str, answers: Sequence[str]) -> float:
    """Return the F-measure of the longest common subsequence of stemmed words (Lin 2004), for the best of `answers`.

    The package rouge-score computes it.
    """
    return max(_rouge().score(answer, text)["rougeL"].fmeasure for answer in answers)


@cache
def _rouge() -> Any:
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer(["rougeL"], use_stemmer=True)


# metric of a task -> reported metrics. The first is the main metric, which targets refer to.
METRICS: dict[str, dict[str, Callable[[str, Sequence[str]], float]]] = {
    "exact_match": {"exact_match": exact_match, "f1": f1},
    "rouge_l": {"rouge_l": rouge_l},
}
