"""A generated binary sentiment task, so that a demonstration needs no data files.

One rule gives every label: a word has a polarity, a negation reverses it, an intensifier keeps it, and of two
opposed words the one that carries the claim wins (after "but", outside "although", "though" and "in spite of").
Training sentences use other sentiment words than validation and test do: a model can only be right on those if
its pretraining taught it that "splendid" is good. Validation and test share their words, never a sentence frame.
"""

from __future__ import annotations

import itertools
import re
from functools import cache
from typing import NamedTuple

import numpy as np

from apet.tasks.generated.draws import most_pairs, open_to, pairs, pick

NEGATIVE, POSITIVE = 0, 1

# Which kinds of noun a word can qualify (w work, p place, e event, h human) -> words. A "!" marks the strong
# words: they take "utterly" instead of "very", and are kept out of negations because "not perfect" is no blame
# and "not awful" no praise. Every word occurs 150 times in 8 million words of Wikipedia or 10 million of novels.
# A word and its opposite by prefix (kind, unkind) stand in the same half, else one would give the other away.
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

# {main} carries the claim, {also} agrees with it, {other} is its opposite.
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
    """A sentence but for its sentiment words, its part and its intensifier."""

    family: str
    text: str
    kind: str


def generate(split: str, count: int, seed: int = 0) -> list[dict]:
    """`count` rows {"sentence": str, "label": 0 negative or 1 positive} of "train", "validation" or "test".

    The same on every machine. Labels differ by at most one; the families take turns. No sentence comes twice,
    nor in two splits, whatever the seeds. Sentences are drawn in pairs that differ in their sentiment words
    alone, so that nothing else predicts the label, then shuffled; an odd `count` leaves one unpaired.
    A smaller `count` is another sample, not the beginning of a larger one.
    ValueError: an unknown split, or more than `capacity(split)`.
    """
    return [{"sentence": sentence, "label": label} for _, sentence, label in draw(split, count, seed)]


def capacity(split: str) -> int:
    """Return the most sentences that `generate` can give: two from each frame, as many frames from every family."""
    return most_pairs(tuple(FAMILIES), frames, split)


def draw(split: str, count: int, seed: int = 0) -> list[tuple[str, str, int]]:
    """Return the rows of `generate` as (family, sentence, label)."""
    return pairs(tuple(FAMILIES), frames, pair, split, count, seed)


def words(split: str, label: int, kind: str, grade: str = "any") -> list[str]:
    """Return the split's words of polarity `label` for nouns of `kind`; `grade` is "mild", "strong" or "any"."""
    table = TRAIN_WORDS if split == "train" else HELD_OUT_WORDS
    grades = {"mild": (False,), "strong": (True,), "any": (False, True)}[grade]
    fitting = [listed for key, listed in table[label].items() if kind in key and ("!" in key) in grades]
    return " ".join(fitting).split()


@cache
def frames(split: str, family: str) -> list[Frame]:
    """Return every frame of `family` open to `split`: all for train, disjoint halves for validation and test."""
    every = [
        Frame(family, opener + template.replace("{np}", noun + modifier), kind)
        for template, opener, kind in itertools.product(FAMILIES[family], OPENERS, NOUNS)
        if kind in PARTS or "{part}" not in template
        for noun, modifier in itertools.product(NOUNS[kind].split(), MODIFIERS[kind])
    ]
    return [frame for frame in every if open_to(split, frame.text)]


def pair(frame: Frame, split: str, rng: np.random.Generator) -> list[tuple[str, str, int]]:
    """Return the frame with a negative and with a positive label, in random order; part and intensifier are shared."""
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
    """ "a" becomes "an" by sound: "an honest host", "a useless book"."""
    return re.sub(r"\ba (?=hon|(?!use)[aeiou])", "an ", text)
