"""The generated sentiment task: exact labels, exact balance, held-out words, and no other information about the label."""

from __future__ import annotations

import hashlib
import re
from collections import Counter

import numpy as np
import pytest

from apet.tasks.generated.draws import SPLITS
from apet.tasks.generated.sentiment import (
    FAMILIES,
    HELD_OUT_WORDS,
    NEGATIVE,
    NOUNS,
    POSITIVE,
    TRAIN_WORDS,
    capacity,
    draw,
    generate,
    words,
)

SIZES = {"train": 4000, "validation": 1000, "test": 1000}
NEGATIONS = ("not", "far from", "hardly", "never", "anything but", "nobody", "nothing", "by no means")


def listed(table: dict, label: int) -> list[str]:
    return [word for group in table[label].values() for word in group.split()]


POLARITY = {word: label for table in (TRAIN_WORDS, HELD_OUT_WORDS) for label in (0, 1) for word in listed(table, label)}


def tokens(sentence: str) -> list[str]:
    return re.findall(r"[a-z]+", sentence)


def polarities(sentence: str) -> list[int]:
    return [POLARITY[word] for word in tokens(sentence) if word in POLARITY]


def read(sentence: str) -> int:
    """Return the label by a reader's rule that uses the text alone. The rule is independent of the generator's code."""
    found = polarities(sentence)
    if len(set(found)) == 2:
        main_first = re.search(r"even though|\S+ in spite of being", sentence)
        return found[0] if main_first else found[-1]
    negated = any(re.search(rf"\b{negation}\b", sentence) for negation in NEGATIONS)
    return 1 - found[0] if negated else found[0]


@pytest.mark.parametrize("split", SPLITS)
def test_every_label_is_what_a_reader_concludes(split):
    assert all(read(row["sentence"]) == row["label"] for row in generate(split, SIZES[split], seed=1))


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("count", [0, 1, 7, 64, 1000])
def test_count_and_balance_are_exact(split, count):
    labels = [row["label"] for row in generate(split, count, seed=2)]
    assert len(labels) == count
    assert abs(labels.count(POSITIVE) - labels.count(NEGATIVE)) <= 1


@pytest.mark.parametrize("split", SPLITS)
def test_every_family_is_balanced_and_has_its_share(split):
    seen = Counter((family, label) for family, _, label in draw(split, 800, seed=3))
    assert seen == {(family, label): 100 for family in FAMILIES for label in (0, 1)}


@pytest.mark.parametrize("split", SPLITS)
def test_no_sentence_comes_twice_even_at_capacity(split):
    rows = generate(split, capacity(split))
    assert len({row["sentence"] for row in rows}) == len(rows)


def test_splits_share_no_sentence_whatever_their_seeds():
    drawn = {s: {row["sentence"] for row in generate(s, capacity(s), seed)} for seed, s in enumerate(SPLITS)}
    assert sum(map(len, drawn.values())) == len(set.union(*drawn.values()))


def test_capacity_is_enough_and_more_is_refused_with_the_numbers():
    assert capacity("train") >= 4000 and capacity("test") >= 1000
    with pytest.raises(ValueError, match=f"{capacity('test') + 1}.*{capacity('test')}"):
        generate("test", capacity("test") + 1)


def test_an_unknown_split_and_a_negative_count_are_refused():
    with pytest.raises(ValueError, match="'dev'.*validation"):
        generate("dev", 1)
    with pytest.raises(ValueError, match="-1"):
        generate("train", -1)


def test_same_seed_same_rows_other_seed_other_rows():
    assert generate("train", 50, seed=5) == generate("train", 50, seed=5)
    assert generate("train", 50, seed=5) != generate("train", 50, seed=6)


def test_rows_are_the_same_on_every_machine():
    text = "\n".join(f"{row['label']} {row['sentence']}" for split in SPLITS for row in generate(split, 200))
    assert hashlib.sha256(text.encode()).hexdigest()[:16] == "110b0054a09a182f"


def test_sentiment_words_of_training_are_held_out_elsewhere():
    train, heldout = ({w for label in (0, 1) for w in listed(t, label)} for t in (TRAIN_WORDS, HELD_OUT_WORDS))
    assert not train & heldout
    used = {s: {w for row in generate(s, SIZES[s]) for w in tokens(row["sentence"])} for s in SPLITS}
    assert not used["train"] & heldout
    assert not (used["validation"] | used["test"]) & train


def test_no_word_gives_its_prefixed_opposite_away_across_splits():
    train, heldout = ({w for label in (0, 1) for w in listed(t, label)} for t in (TRAIN_WORDS, HELD_OUT_WORDS))
    prefixed = {prefix + word for word in train | heldout for prefix in ("un", "dis", "im", "in")}
    for word in prefixed & (train | heldout):
        assert (word in train) == (re.sub("^(un|dis|im|in)", "", word) in train)


@pytest.mark.parametrize(("table", "least"), [(TRAIN_WORDS, 40), (HELD_OUT_WORDS, 20)])
@pytest.mark.parametrize("label", [NEGATIVE, POSITIVE])
def test_word_lists_are_long_and_without_repeats(table, least, label):
    found = listed(table, label)
    assert len(found) == len(set(found)) >= least
    assert not set(found) & set(listed(table, 1 - label))


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("kind", NOUNS)
def test_every_noun_has_a_choice_of_words_of_every_grade(split, kind):
    assert all(len(words(split, label, kind, grade)) >= 3 for label in (0, 1) for grade in ("mild", "strong"))


def test_every_train_and_held_out_word_is_used():
    used = {w for s in SPLITS for row in generate(s, SIZES[s]) for w in tokens(row["sentence"])}
    assert set(POLARITY) <= used


def test_negations_take_no_strong_words():
    strong = {w for t in (TRAIN_WORDS, HELD_OUT_WORDS) for g in t.values() for k in g if "!" in k for w in g[k].split()}
    negations = [text for split in SPLITS for family, text, _ in draw(split, 1000) if family == "negation"]
    assert len(negations) == 750 and not any(strong & set(tokens(text)) for text in negations)


@pytest.mark.parametrize("split", SPLITS)
def test_other_words_are_equally_frequent_under_both_labels(split):
    counts = [Counter(), Counter()]
    for row in generate(split, 1000):
        counts[row["label"]].update(set(tokens(row["sentence"])) - set(POLARITY) - {"a", "an"})
    assert counts[0] == counts[1]


def bag(rows: list[dict], vocabulary: list[str]) -> np.ndarray:
    """Return word presence (rows, words + 1). The last column is the intercept."""
    sets = [set(tokens(row["sentence"])) for row in rows]
    return np.array([[word in present for word in vocabulary] + [True] for present in sets], dtype=float)


def ridge_accuracy(train: list[dict], test: list[dict], vocabulary: list[str]) -> float:
    X, y = bag(train, vocabulary), np.array([2 * row["label"] - 1 for row in train])
    w = np.linalg.solve(X.T @ X + np.eye(X.shape[1]), X.T @ y)
    return float(np.mean((bag(test, vocabulary) @ w > 0) == [row["label"] for row in test]))


def test_a_bag_of_the_other_words_is_at_chance():
    train, test = generate("train", 4000), generate("test", 1000)
    others = sorted({w for row in train for w in tokens(row["sentence"])} - set(POLARITY))
    assert abs(ridge_accuracy(train, test, others) - 0.5) < 0.05  # three standard errors; "a" and "an" are kept


def test_a_bag_of_all_words_cannot_do_the_composition():
    train, fresh = generate("train", 4000, seed=0), generate("train", 1000, seed=1)
    every = sorted({w for row in train for w in tokens(row["sentence"])})
    assert 0.5 < ridge_accuracy(train, fresh, every) < 0.75


def test_articles_are_right():
    text = "\n".join(row["sentence"] for split in SPLITS for row in generate(split, SIZES[split]))
    assert {"a useless", "an honest", "an unkind", "an utterly"} <= set(re.findall(r"\ban? \w+", text))
    vowel = set(re.findall(r"\ban (\w+)", text))
    consonant = set(re.findall(r"\ba (\w+)", text))
    assert all(word[0] in "aeiou" or word == "honest" for word in vowel) and "useless" not in vowel
    assert all(word[0] not in "aeiou" or word == "useless" for word in consonant) and "honest" not in consonant


@pytest.mark.parametrize("split", SPLITS)
def test_sentences_are_short_lower_case_and_finished(split):
    sentences = [row["sentence"] for row in generate(split, 1000)]
    assert all(re.fullmatch(r"[a-z]+(,? [a-z]+)*\.", sentence) for sentence in sentences)
    lengths = np.array([len(sentence.split()) for sentence in sentences])
    assert lengths.min() >= 4 and lengths.max() <= 20
    assert np.mean((lengths >= 6) & (lengths <= 16)) > 0.85
