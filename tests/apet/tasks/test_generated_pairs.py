"""The generated entailment and paraphrase tasks: exact labels, held-out words, and no information in a bag of words."""

from __future__ import annotations

import re
from collections import Counter

import numpy as np
import pytest
from transformers import PreTrainedTokenizerFast

from apet.models.ladder import TOKENIZER
from apet.tasks.generated import nli, paraphrase

SPLITS = ("train", "validation", "test")
KIND = {word: kind for kind, halves in nli.KINDS.items() for half in halves for word in half.split()}
MEANING = {word: i for i, halves in enumerate(paraphrase.SYNONYMS) for half in halves for word in half}
PERSONS = {person for listed in paraphrase.PEOPLE.values() for person in listed.split()}


def tokens(text: str) -> list[str]:
    return re.findall(r"[a-z]+", text)


def entails(premise: str, hypothesis: str) -> bool:
    """Return the label by a reader's rule that uses the text alone."""
    found = [word for word in tokens(premise) if word in KIND]
    if re.search(r"though he had guessed|instead of", premise):
        found = found[:1]
    claimed = re.search(r"(a [a-z' ]+)\.$", hypothesis.replace("a word for ", ""))
    assert claimed is not None
    return (KIND[found[-1]] == claimed[1]) != bool(re.search(r"\bnot\b", hypothesis))


def means_the_same(first: str, second: str) -> bool:
    """Return the label by a reader's rule: compare subject, verb and object, or the topic, of the two sentences."""
    nouns = [[word for word in tokens(sentence) if word in MEANING] for sentence in (first, second)]
    if all(nouns):
        return MEANING[nouns[0][0]] == MEANING[nouns[1][0]]
    (doer, _), (one, two) = ([word for word in tokens(sentence) if word in PERSONS] for sentence in (first, second))
    passive_or_object_first = re.search(r" by the | that the ", second)
    return doer == (two if passive_or_object_first else one)


@pytest.mark.parametrize("split", SPLITS)
def test_every_label_is_what_a_reader_concludes(split):
    for row in nli.generate(split, 2000, seed=1):
        assert entails(row["premise"], row["hypothesis"]) == (row["label"] == nli.ENTAILMENT), row
    for row in paraphrase.generate(split, 2000, seed=1):
        assert means_the_same(row["sentence1"], row["sentence2"]) == (row["label"] == paraphrase.PARAPHRASE), row


def test_no_word_is_of_two_kinds_meanings_or_halves():
    kinds = [word for halves in nli.KINDS.values() for half in halves for word in half.split()]
    meanings = [word for halves in paraphrase.SYNONYMS for half in halves for word in half]
    persons = [person for listed in paraphrase.PEOPLE.values() for person in listed.split()]
    assert all(len(listed) == len(set(listed)) for listed in (kinds, meanings, persons))
    assert not PERSONS & set(MEANING)


def test_words_that_decide_are_one_or_two_pieces():
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(TOKENIZER))
    for word in {*KIND, *MEANING, *PERSONS}:
        assert len(tokenizer(word, add_special_tokens=False)["input_ids"]) <= 2, word


def test_premises_and_first_sentences_outside_training_have_words_that_training_never_shows():
    seen = {word for row in nli.generate("train", 4000) for word in tokens(row["premise"])}
    for split in ("validation", "test"):
        assert not seen & {word for row in nli.generate(split, 1000) for word in tokens(row["premise"]) if word in KIND}
    rows = paraphrase.generate("train", 4000)
    seen = {word for row in rows for word in tokens(row["sentence1"] + " " + row["sentence2"])}
    deciding = PERSONS | set(MEANING)
    for split in ("validation", "test"):
        rows = paraphrase.generate(split, 1000)
        assert not seen & {word for row in rows for word in tokens(row["sentence1"]) if word in deciding}


@pytest.mark.parametrize("split", SPLITS)
def test_the_shared_sentence_of_a_pair_comes_equally_often_under_both_labels(split):
    for module, field in ((nli, "hypothesis"), (paraphrase, "sentence1")):
        counts = [Counter(row[field] for row in module.generate(split, 1000) if row["label"] == label) for label in (0, 1)]
        assert counts[0] == counts[1]


@pytest.mark.parametrize("split", SPLITS)
def test_both_sentences_have_as_many_words_in_common_under_both_labels(split):
    overlaps: list[Counter] = [Counter(), Counter()]
    for row in paraphrase.generate(split, 1000):
        first, second = (set(tokens(row[field])) for field in ("sentence1", "sentence2"))
        overlaps[row["label"]][len(first & second)] += 1
    assert overlaps[0] == overlaps[1]


def ridge_accuracy(train: list[str], labels: list[int], test: list[str], truth: list[int]) -> float:
    """Return the accuracy on `test` of a ridge classifier on the presence of tokens."""
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(TOKENIZER))

    def bag(texts: list[str]) -> np.ndarray:
        present = np.zeros((len(texts), len(tokenizer)))
        for i, ids in enumerate(tokenizer(texts, add_special_tokens=False)["input_ids"]):
            present[i, ids] = 1.0
        return present

    X, y = bag(train), 2.0 * np.array(labels) - 1.0
    used = X.any(0)
    X = np.c_[X[:, used], np.ones(len(X))]
    w = np.linalg.solve(X.T @ X + np.eye(X.shape[1]), X.T @ y)
    return float(np.mean((np.c_[bag(test)[:, used], np.ones(len(test))] @ w > 0) == np.array(truth)))


@pytest.mark.parametrize(
    ("module", "fields"),
    [(nli, ("premise", "hypothesis")), (nli, ("premise",)), (nli, ("hypothesis",)), (paraphrase, ("sentence1", "sentence2"))]
    + [(paraphrase, ("sentence2",))],
    ids=lambda value: "+".join(value) if isinstance(value, tuple) else value.__name__,
)
def test_a_bag_of_pieces_is_at_chance(module, fields):
    train, test = module.generate("train", 4000), module.generate("validation", 1000)
    texts = [[" ".join(row[field] for field in fields) for row in rows] for rows in (train, test)]
    labels = [[row["label"] for row in rows] for rows in (train, test)]
    assert abs(ridge_accuracy(texts[0], labels[0], texts[1], labels[1]) - 0.5) < 0.05  # three standard errors
