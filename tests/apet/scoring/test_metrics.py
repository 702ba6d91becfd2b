"""Scores of free text, compared with values computed by hand and with reference implementations."""

import numpy as np
import pytest
from rouge_score.rouge_scorer import RougeScorer
from scipy.stats import binomtest

from apet.scoring import stderr_of_mean
from apet.scoring.metrics import TEXT_METRICS, exact_match, f1, normalised, rouge_l
from apet.scoring.sampling_errors import Z


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The Eiffel Tower!", "eiffel tower"),
        ("an  apple,\ta pear\nand the rest", "apple pear and rest"),
        ("U.S.A.", "usa"),
        ("a.b the-end", "ab theend"),  # punctuation is removed first, which joins its neighbours
        ("theatre another", "theatre another"),  # only whole words are articles
        ("the", ""),
        ("«été» 3.5 %", "«été» 35"),  # only ASCII punctuation is removed
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
        ("no no no", ["no"], 2 * (1 / 3) * 1 / (1 / 3 + 1)),  # each word of the answer counts once
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
        ("mat the on", "on the mat", 1 / 3),  # order matters
        ("she walks", "She walked home!", 2 * 1 * (2 / 3) / (1 + 2 / 3)),  # words are stemmed
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
    for name, group in TEXT_METRICS.items():
        assert next(iter(group)) == name
        assert all(metric("some words, here", ["other", "some words, here"]) == 1.0 for metric in group.values())


@pytest.mark.parametrize(("right", "n"), [(0, 1), (1, 1), (6, 6), (0, 6), (3, 10), (19, 20), (870, 1000)])
def test_the_interval_of_a_share_holds_wilsons(right: int, n: int):
    """Agresti and Coull's interval has Wilson's centre, and is never shorter (Brown, Cai and DasGupta 2001)."""
    wilson = binomtest(right, n).proportion_ci(0.95, method="wilson")
    centre, half = (wilson.high + wilson.low) / 2, (wilson.high - wilson.low) / 2
    assert (right + Z**2 / 2) / (n + Z**2) == pytest.approx(centre, abs=1e-4)
    assert 0.9999 * half <= Z * stderr_of_mean([1.0] * right + [0.0] * (n - right)) <= 1.4 * half


def test_scores_that_are_all_alike_have_an_error_that_falls_with_their_number():
    for score in (0.0, 0.4, 1.0):
        errors = [float(stderr_of_mean([score] * n)) for n in (1, 6, 60, 600)]
        assert errors == sorted(errors, reverse=True) and 0 < errors[-1] < 5 / 600


def test_many_scores_have_the_ordinary_error_and_points_of_a_grid_their_own():
    scores = np.random.default_rng(0).beta(2, 3, size=(3, 4000))
    assert stderr_of_mean(scores) == pytest.approx(scores.std(axis=1, ddof=1) / 4000**0.5, rel=5e-3)
