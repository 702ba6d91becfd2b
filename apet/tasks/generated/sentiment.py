"""A generated binary sentiment task, for use without data files.

One rule gives every label. Each sentiment word has a polarity, a negation reverses it, and an intensifier keeps it. If a sentence has
two opposed words, the label is the polarity of the word in the main claim (after "but", outside "although", "though" and "in spite of").

Validation and test use sentiment words that training does not contain. A model can only be right on them if its pretraining has taught
it that "splendid" is good. Validation and test share their sentiment words, but never a sentence frame.
"""

from __future__ import annotations

import itertools
import re
from functools import cache
from typing import NamedTuple

import numpy as np

from apet.tasks.generated.draws import most_pairs, open_to, pairs, pick

NEGATIVE, POSITIVE = 0, 1

# Kinds of noun that a word can qualify (w work, p place, e event, h human) -> words. A "!" marks strong words. They take "utterly"
# instead of "very" and do not occur in negations, because "not perfect" does not blame and "not awful" does not praise. Every word occurs
# at least 150 times in 8 million words of Wikipedia or in 10 million words of novels. A word and its opposite by prefix (kind, unkind)
# belong to the same table; otherwise one would reveal the polarity of the other.
TRAIN_WORDS = {
    POSITIVE: {
        "wpeh!": "delightful wonderful excellent outstanding admirable",
        "wpe!": "perfect beautiful",
        "wpeh": "good lovely nice interesting cheerful elegant decent",
        "weh": "successful",
        "wph": "popular",
        "wh": "clever honest sincere sweet",
        "w": "touching",
        "p": "clean comfortable neat safe sunny",
        "ph": "handsome bright",
        "eh": "happy merry jolly",
        "h": "kind gentle friendly faithful brave loyal patient polite sensible",
    },
    NEGATIVE: {
        "wpeh!": "terrible horrible awful vile intolerable miserable",
        "wpe!": "hideous",
        "weh!": "ridiculous hopeless useless",
        "h!": "cruel wicked savage",
        "wpeh": "bad",
        "wpe": "dreary",
        "weh": "silly unsuccessful",
        "wh": "foolish coarse careless offensive weak",
        "p": "damp dangerous",
        "ph": "shabby",
        "pe": "melancholy uncomfortable grim",
        "e": "painful sad",
        "eh": "unhappy",
        "h": "unkind bitter jealous ungrateful hostile impatient ignorant rough mean",
    },
}
HELD_OUT_WORDS = {
    POSITIVE: {
        "wpeh!": "splendid charming magnificent",
        "weh!": "brilliant",
        "wpe!": "exquisite glorious",
        "wpeh": "pleasant agreeable lively",
        "weh": "amusing",
        "wph": "attractive",
        "wh": "graceful noble wise",
        "pe": "peaceful",
        "p": "picturesque",
        "ph": "respectable",
        "h": "generous amiable gracious affectionate",
    },
    NEGATIVE: {
        "wpeh!": "dreadful horrid",
        "wpe!": "wretched ghastly",
        "weh!": "absurd odious",
        "wpeh": "dull unpleasant disagreeable gloomy",
        "wpe": "dismal",
        "weh": "vulgar awkward",
        "wh": "stupid feeble harsh",
        "p": "dirty ugly desolate",
        "h": "selfish rude sullen",
    },
}
NOUNS = {
    "w": "book story poem song play speech film novel",
    "p": "house cottage garden town village church school hotel",
    "e": "journey dinner party evening holiday concert visit walk",
    "h": "host doctor teacher captain servant guest neighbour lawyer",
}
MODIFIERS = {
    "w": ("", " by her brother", " by my old friend"),
    "p": ("", " by the river", " on the hill"),
    "e": ("", " in the country", " with my cousins"),
    "h": ("", " from the north", " in the black coat"),
}
PARTS = {"w": ("opening", "ending", "first half"), "p": ("north side", "older part"), "e": ("first hour", "end")}
OPENERS = ("", "that summer, ", "as my aunt said, ", "to tell the truth, ", "indeed, ")
DEGREES = {"mild": "very rather extremely", "strong": "utterly absolutely simply", "any": "really truly quite"}

# {main} is the sentiment word of the main claim, {also} has the same polarity, {other} has the opposite polarity.
FAMILIES = {
    "plain": (
        "the {np} was {main}.",
        "the {np} was {main} and {also}.",
        "the {np} was {main}, and everyone said so.",
        "everyone found the {np} {main}.",
        "my mother often spoke of a {main} {np}.",
    ),
    "intensity": (
        "the {np} was {degree} {main}.",
        "the {np} was {degree} {main}, and everyone said so.",
        "everyone found the {np} {degree} {main}.",
        "my mother often spoke of a {degree} {main} {np}.",
    ),
    "negation": (
        "the {np} was not {other} at all.",
        "the {np} was far from {other}.",
        "the {np} was hardly {other}.",
        "the {np} was never {other}.",
        "the {np} was anything but {other}.",
        "nobody found the {np} {other}.",
        "there was nothing {other} about the {np}.",
        "this was by no means a {other} {np}.",
    ),
    "contrast": (
        "although the {part} was {other}, the {np} was {main} overall.",
        "in spite of its {other} {part}, the {np} was {main}.",
        "the {np} was {main}, even though the {part} was {other}.",
        "the {np} was {main} in spite of being called {other}.",
        "the {np} seemed {other} at first but proved {main} in the end.",
        "we expected a {other} {np} but found a {main} one.",
        "the {np} that some called {other} was really {main}.",
        "the {np} was not {other} but {main}.",
    ),
}


class Frame(NamedTuple):
    """A sentence with blanks for its sentiment words, its part and its intensifier. `kind` is the kind of its noun."""

    family: str
    text: str
    kind: str


def generate(split: str, count: int, seed: int = 0) -> list[dict]:
    """Return `count` rows {"sentence": str, "label": 0 (negative) or 1 (positive)} of "train", "validation" or "test".

    The rows are the same on every machine. The numbers of the two labels differ by at most one, and the families take turns. No sentence
    occurs twice or in two splits, for any seeds. Sentences are drawn in pairs that differ only in their sentiment words, so that nothing
    else predicts the label, then shuffled. An odd `count` leaves one sentence unpaired. A smaller `count` gives another sample, not the
    beginning of a larger one.

    Raises ValueError for an unknown split or a count outside 0 to `capacity(split)`.
    """
    return [{"sentence": sentence, "label": label} for _, sentence, label in draw(split, count, seed)]


def capacity(split: str) -> int:
    """Return the largest `count` of `generate`: two sentences from each frame, with the same number of frames from every family."""
    return most_pairs(tuple(FAMILIES), frames, split)


def draw(split: str, count: int, seed: int = 0) -> list[tuple[str, str, int]]:
    """Return the rows of `generate` as (family, sentence, label)."""
    return pairs(tuple(FAMILIES), frames, pair, split, count, seed)


def words(split: str, label: int, kind: str, grade: str = "any") -> list[str]:
    """Return the sentiment words of `split` with polarity `label` for nouns of `kind`. `grade` is "mild", "strong" or "any"."""
    table = TRAIN_WORDS if split == "train" else HELD_OUT_WORDS
    grades = {"mild": (False,), "strong": (True,), "any": (False, True)}[grade]
    fitting = [listed for key, listed in table[label].items() if kind in key and ("!" in key) in grades]
    return " ".join(fitting).split()


@cache
def frames(split: str, family: str) -> list[Frame]:
    """Return all frames of `family` that `split` may use: all for training, disjoint halves for validation and test."""
    every = [
        Frame(family, opener + template.replace("{np}", noun + modifier), kind)
        for template, opener, kind in itertools.product(FAMILIES[family], OPENERS, NOUNS)
        if kind in PARTS or "{part}" not in template
        for noun, modifier in itertools.product(NOUNS[kind].split(), MODIFIERS[kind])
    ]
    return [frame for frame in every if open_to(split, frame.text)]


def pair(frame: Frame, split: str, rng: np.random.Generator) -> list[tuple[str, str, int]]:
    """Return (family, sentence, label) of the frame with a negative and a positive label, in random order.

    Both sentences have the same part and intensifier.
    """
    grade = "mild" if frame.family == "negation" else "any"
    shared = {"part": pick(PARTS.get(frame.kind, ("",)), rng)}
    if frame.family == "intensity":
        grade = pick(list(DEGREES), rng)
        shared["degree"] = pick(DEGREES[grade].split(), rng)
    labels = (NEGATIVE, POSITIVE) if rng.integers(2) else (POSITIVE, NEGATIVE)
    return [(frame.family, _fill(frame, split, label, grade, shared, rng), label) for label in labels]


def _fill(frame: Frame, split: str, label: int, grade: str, shared: dict, rng: np.random.Generator) -> str:
    """Return the sentence whose main claim has polarity `label`."""
    same, opposite = (words(split, polarity, frame.kind, grade) for polarity in (label, 1 - label))
    main = pick(same, rng)
    also = pick([word for word in same if word != main], rng)
    return _articles(frame.text.format(main=main, also=also, other=pick(opposite, rng), **shared))


def _articles(text: str) -> str:
    """Return the text with "an" for "a" before a vowel sound: "an honest host", "a useless book"."""
    return re.sub(r"\ba (?=hon|(?!use)[aeiou])", "an ", text)
