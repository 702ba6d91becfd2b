"""Scores of free text against values worked out by hand and the library that defined them."""

import numpy as np
import pytest
from rouge_score.rouge_scorer import RougeScorer

from apet.metrics import METRICS, exact_match, f1, normalised, rouge_l


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The Eiffel Tower!", "eiffel tower"),
        ("an  apple,\ta pear\nand the rest", "apple pear and rest"),
        ("U.S.A.", "usa"),
        ("a.b the-end", "ab theend"),  # punctuation goes first, and joins what it stood between
        ("theatre another", "theatre another"),  # articles are whole words
        ("the", ""),
        ("«été» 3.5 %", "«été» 35"),  # ASCII's punctuation only
        ("", ""),
    ],
)
def test_normalisation_is_squads(text, expected):
    assert normalised(text) == expected


@pytest.mark.parametrize(
    ("found", "answers", "expected"),
    [
        ("the Beatles.", ["Beatles"], 1.0),
        ("beatles", ["Rolling Stones", "The Beatles"], 1.0),
        ("beatles band", ["The Beatles"], 0.0),
        ("", ["The"], 1.0),
        ("", ["something"], 0.0),
    ],
)
def test_exact_match_is_with_any_answer_after_normalisation(found, answers, expected):
    assert exact_match(found, answers) == expected


@pytest.mark.parametrize(
    ("found", "answers", "expected"),
    [
        ("in Paris", ["Paris"], 2 * (1 / 2) * 1 / (1 / 2 + 1)),
        ("the city of Paris, France", ["Paris", "Paris France"], 2 * (2 / 4) * 1 / (2 / 4 + 1)),
        ("no no no", ["no"], 2 * (1 / 3) * 1 / (1 / 3 + 1)),  # each word of the answer is found once
        ("no", ["no no no"], 0.5),
        ("Rome", ["Paris"], 0.0),
        ("", ["a"], 1.0),
        ("", ["Paris"], 0.0),
        ("the", ["Paris"], 0.0),
    ],
)
def test_f1_is_the_best_harmonic_mean_of_precision_and_recall(found, answers, expected):
    assert f1(found, answers) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("found", "answer", "expected"),
    [
        ("the cat sat on the mat", "the cat was on the mat", 5 / 6),
        ("mat the on", "on the mat", 1 / 3),  # order counts
        ("she walks", "She walked home!", 2 * 1 * (2 / 3) / (1 + 2 / 3)),  # stems
        ("", "something", 0.0),
    ],
)
def test_rouge_l_is_the_f_measure_of_the_longest_common_subsequence(found, answer, expected):
    assert rouge_l(found, [answer]) == pytest.approx(expected)


def test_rouge_l_is_the_librarys_best_over_the_answers():
    random, words = np.random.default_rng(0), ["a", "man", "went", "to", "the", "old", "town", "and", "told", "his", "story", "running"]
    texts = [" ".join(random.choice(words, size=random.integers(1, 12))) for _ in range(40)]
    scorer = RougeScorer(["rougeL"], use_stemmer=True)
    for found, first, second in zip(texts, texts[1:], texts[2:], strict=False):
        expected = scorer.score_multi([first, second], found)["rougeL"].fmeasure
        assert rouge_l(found, [first, second]) == pytest.approx(expected)


def test_every_metric_is_one_for_the_answer_itself_and_first_of_its_group():
    for name, group in METRICS.items():
        assert next(iter(group)) == name
        assert all(metric("some words, here", ["other", "some words, here"]) == 1.0 for metric in group.values())
