"""A generated paraphrase task: does the second sentence, whose construction always differs, have the same meaning as the first?

Example: "the route was remembered by her brother. her brother remembered the road." Every second sentence has another construction
(passive, fronting, dative, cleft). In the family "noun" a noun is also replaced, by a near-synonym or by a noun of another meaning
that fits the sentence equally well. In the family "roles" the two persons keep or swap their roles. The two rows of a pair share the
first sentence, and their second sentences have equally many words in common with it, so word overlap does not predict the label.

In validation and test the noun of the first sentence and both persons are words that training never shows. A model can only be right
on them if its pretraining has taught it that a route is a road.
"""

from __future__ import annotations

import itertools
from functools import cache
from typing import NamedTuple

import numpy as np

from apet.tasks.generated.draws import most_pairs, open_to, pairs, pick

DIFFERENT, PARAPHRASE = 0, 1

# Near-synonyms: (words of training and of all second sentences, words of the first sentences of validation and test). Every word has one
# or two tokens under the ladder's tokenizer and occurs at least 150 times in 8 million words of Wikipedia or of novels.
SYNONYMS = tuple(
    (train.split(), heldout.split())
    for train, heldout in (
        ("sorrow grief despair misery", "sadness melancholy"),
        ("battle combat attack struggle assault", "fight conflict"),
        ("house residence villa lodge", "home cottage"),
        ("road street path passage", "route highway"),
        ("picture painting image drawing sketch", "portrait"),
        ("story narrative novel romance", "tale fiction"),
        ("ship boat craft", "vessel"),
        ("king monarch prince", "sovereign emperor"),
        ("school institute university", "academy college"),
        ("law legislation code", "rule regulation"),
        ("plan project design programme", "scheme proposal"),
        ("company business enterprise", "firm corporation"),
        ("army military troops", "soldiers forces"),
        ("conversation discussion debate", "talk interview"),
        ("area district territory", "region"),
        ("growth rise expansion", "increase"),
    )
)
PEOPLE = {
    "train": "doctor lady servant student officer merchant painter nurse judge engineer",
    "held out": "physician maid professor soldier farmer actor clerk gentleman",
}

# (first sentence, second sentence) of equal meaning; {w} is the noun and {p} a person.
ALTERNATIONS = (
    ("the {w} was remembered by {p}.", "{p} remembered the {w}."),
    ("the {w} had never been forgotten by {p}.", "{p} had never forgotten the {w}."),
    ("the {w} was never mentioned by {p}.", "{p} never mentioned the {w}."),
    ("the {w} was seen by {p} in the end.", "in the end {p} saw the {w}."),
    ("the {w} surprised {p}.", "{p} was surprised by the {w}."),
    ("{p} spoke of the {w} after dinner.", "after dinner {p} spoke of the {w}."),
    ("{p} described the {w} in the letter.", "in the letter {p} described the {w}."),
    ("{p} thought about the {w}, of course.", "of course {p} thought about the {w}."),
    ("{p} asked about the {w} at once.", "at once {p} asked about the {w}."),
    ("{p} gave an account of the {w} to us.", "{p} gave us an account of the {w}."),
    ("{p} wrote a few lines about the {w} to her.", "{p} wrote her a few lines about the {w}."),
    ("we were told about the {w} by {p}.", "{p} told us about the {w}."),
)
SPEAKERS = (
    *("her brother", "the lawyer", "my uncle", "the old man", "his wife", "a neighbour", "our teacher", "the captain"),
    *("my friend", "their mother", "the young man", "his daughter", "the stranger"),
)
ROLE_VERBS = "thanked followed blamed praised helped accused watched admired"
ROLE_TIMES = ("", " that evening", " in the garden", " at last")
TURNED = ("the {b} was {v} by the {a}{t}.", "it was the {a} who {v} the {b}{t}.", "it was the {b} that the {a} {v}{t}.")

# The family "roles" is rare: its label depends on word order alone, and a model must be able to begin with the meanings of words.
TURNS = ("noun",) * 7 + ("roles",)


class Frame(NamedTuple):
    """A first and a second sentence with blanks for their nouns or persons.

    `key` is the meaning of the first sentence's noun (an index of SYNONYMS) or the first sentence's first person.
    """

    family: str
    first: str
    second: str
    key: int | str


def generate(split: str, count: int, seed: int = 0) -> list[dict]:
    """Return `count` rows {"sentence1": str, "sentence2": str, "label": 0 (different) or 1 (paraphrase)} of a split.

    `split` is "train", "validation" or "test". The rows are the same on every machine. The numbers of the two labels differ by at most
    one, and the families take turns. No pair of sentences occurs twice or in two splits, for any seeds. A smaller `count` gives another
    sample, not the beginning of a larger one.

    Raises ValueError for an unknown split or a count outside 0 to `capacity(split)`.
    """
    return [row for _, row in draw(split, count, seed)]


def capacity(split: str) -> int:
    """Return the largest `count` of `generate`, which draws two examples from each frame."""
    return most_pairs(TURNS, frames, split)


def draw(split: str, count: int, seed: int = 0) -> list[tuple[str, dict]]:
    """Return the rows of `generate` as (family, row)."""
    return pairs(TURNS, frames, _pair, split, count, seed)


@cache
def frames(split: str, family: str) -> list[Frame]:
    """Return all frames of `family` that `split` may use."""
    every = _noun_frames() if family == "noun" else _role_frames(people(split))
    return [frame for frame in every if open_to(split, f"{frame.first} {frame.second} {frame.key}")]


def people(split: str) -> list[str]:
    """Return the persons that `split` uses in the family "roles"."""
    return PEOPLE["train" if split == "train" else "held out"].split()


def _noun_frames() -> list[Frame]:
    return [
        Frame("noun", first.replace("{p}", speaker), second.replace("{p}", speaker), meaning)
        for (first, second), speaker, meaning in itertools.product(ALTERNATIONS, SPEAKERS, range(len(SYNONYMS)))
    ]


def _role_frames(persons: list[str]) -> list[Frame]:
    return [
        Frame("roles", f"the {{a}} {verb} the {{b}}{time}.", turned.replace("{v}", verb).replace("{t}", time), person)
        for turned, verb, time, person in itertools.product(TURNED, ROLE_VERBS.split(), ROLE_TIMES, persons)
    ]


def _pair(frame: Frame, split: str, rng: np.random.Generator) -> list[tuple[str, dict]]:
    """Return two rows of the frame in random order: its first sentence with a different second sentence, and with a paraphrase."""
    first, seconds = (_nouns if frame.family == "noun" else _roles)(frame, split, rng)
    rows = [(frame.family, {"sentence1": first, "sentence2": second, "label": label}) for label, second in enumerate(seconds)]
    return rows if rng.integers(2) else rows[::-1]


def _nouns(frame: Frame, split: str, rng: np.random.Generator) -> tuple[str, tuple[str, str]]:
    assert isinstance(frame.key, int)
    shown, heldout = SYNONYMS[frame.key]
    word = pick(shown if split == "train" else heldout, rng)
    others = [meaning for meaning in range(len(SYNONYMS)) if meaning != frame.key]
    same = pick([synonym for synonym in shown if synonym != word], rng)
    different = pick(SYNONYMS[pick(others, rng)][0], rng)
    return frame.first.format(w=word), (frame.second.format(w=different), frame.second.format(w=same))


def _roles(frame: Frame, split: str, rng: np.random.Generator) -> tuple[str, tuple[str, str]]:
    other = pick([person for person in people(split) if person != frame.key], rng)
    kept, swapped = {"a": frame.key, "b": other}, {"a": other, "b": frame.key}
    return frame.first.format(**kept), (frame.second.format(**swapped), frame.second.format(**kept))
