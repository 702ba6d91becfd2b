"""A generated entailment task: does the word in the premise belong to the kind that the hypothesis claims?

Example: "the word on the wall was not july but grief. it named a feeling." One rule gives every label. The hypothesis is entailed if
the word that the premise affirms is of the claimed kind; a negation reverses the label. Kinds exclude each other, so a hypothesis that
is not entailed is contradicted.

Validation and test premises use words that training premises do not contain. A model can only be right on them if its pretraining has
taught it that grief is a feeling. Examples come in pairs with the same hypothesis and opposite labels. On average a word occurs
equally often in entailed and in contradicted premises.
"""

from __future__ import annotations

import itertools
from functools import cache
from typing import NamedTuple

import numpy as np

from apet.tasks.generated.draws import most_pairs, open_to, pairs, pick

ENTAILMENT, CONTRADICTION = 0, 1

# kind -> (training words, validation and test words). Every word has one or two tokens under the ladder's tokenizer and occurs at
# least 150 times in 8 million words of Wikipedia or of novels. Words of two kinds ("may", "rose") are left out.
KINDS = {
    "a month": ("january february april june september october november", "july december august"),
    "a number": ("two three four six seven ten twelve twenty thirty fifty", "five eight nine fifteen hundred"),
    "a colour": ("red blue yellow white black pink scarlet", "green brown grey"),
    "a country": (
        "england france spain italy china india scotland wales greece egypt canada mexico australia austria portugal israel iran",
        "germany russia japan ireland poland brazil norway switzerland pakistan",
    ),
    "a language": ("english french latin spanish italian chinese dutch arabic", "german greek russian hebrew japanese"),
    "a relative": ("father mother brother aunt cousin son husband", "sister uncle nephew daughter wife"),
    "a part of the body": ("hand arm leg head shoulder finger nose mouth eye cheek throat", "foot neck knee ear tongue chin"),
    "a feeling": ("joy anger sorrow despair delight jealousy shame love terror", "grief fear hatred happiness misery"),
    "a man's name": (
        "john william henry charles thomas edward richard david joseph harry philip walter",
        "james george robert arthur frederick peter",
    ),
    "a trade": (
        "doctor teacher sailor painter musician actor engineer professor merchant nurse",
        "physician soldier farmer poet architect",
    ),
}

SUBJECTS = (
    *("the word on the card", "the word on the wall", "the word under the picture", "the missing word", "the secret word"),
    *("the first word of the letter", "the last word of the song", "the answer to the riddle", "the word she whispered"),
    *("the word he forgot", "the word they sent", "the title of the poem"),
)

# {s} is a subject, {w} the word that it is, {x} a word of a third kind that it is not.
PREMISES = {
    "plain": ("{s} was {w}.", "everyone saw that {s} was {w}.", "as he told us, {s} was {w}.", "we knew that {s} was {w}."),
    "correction": (
        "{s} was not {x} but {w}.",
        "he guessed {x}, but {s} was {w}.",
        "{s} was {w}, though he had guessed {x}.",
        "{s} was {w} instead of {x}.",
    ),
}
PREMISES["negation"] = PREMISES["plain"]
AFFIRMED = ("it named {c}.", "it was a word for {c}.", "that is a word for {c}.")
DENIED = ("it did not name {c}.", "it was not a word for {c}.", "that is not a word for {c}.")

# Negations are rare. If half of the examples were negated, knowledge of the kind alone would not predict the label, and the first tuning
# steps could not lower the loss.
TURNS = ("plain", "correction", "plain", "correction", "plain", "correction", "plain", "negation")


class Frame(NamedTuple):
    """A pair of sentences with blanks for the premise's words. `kind` is the kind that the hypothesis claims or denies."""

    family: str
    premise: str
    hypothesis: str
    kind: str


def generate(split: str, count: int, seed: int = 0) -> list[dict]:
    """Return `count` rows {"premise": str, "hypothesis": str, "label": 0 (entailment) or 1 (contradiction)} of a split.

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


def words(split: str, kind: str) -> list[str]:
    """Return the split's words of `kind`."""
    return KINDS[kind][split != "train"].split()


@cache
def frames(split: str, family: str) -> list[Frame]:
    """Return all frames of `family` that `split` may use."""
    claims = DENIED if family == "negation" else AFFIRMED
    every = [
        Frame(family, premise.replace("{s}", subject), claim.format(c=kind), kind)
        for premise, subject, claim, kind in itertools.product(PREMISES[family], SUBJECTS, claims, KINDS)
    ]
    return [frame for frame in every if open_to(split, f"{frame.premise} {frame.hypothesis}")]


def _pair(frame: Frame, split: str, rng: np.random.Generator) -> list[tuple[str, dict]]:
    """Return two rows of the frame in random order: with a word of its kind, and with a word of another kind."""
    others = [kind for kind in KINDS if kind != frame.kind]
    wrong, third = (others[i] for i in rng.permutation(len(others))[:2])
    rows = []
    for kind in (frame.kind, wrong):
        premise = frame.premise.format(w=pick(words(split, kind), rng), x=pick(words(split, third), rng))
        holds = (kind == frame.kind) != (frame.family == "negation")
        label = ENTAILMENT if holds else CONTRADICTION
        rows.append((frame.family, {"premise": premise, "hypothesis": frame.hypothesis, "label": label}))
    return rows if rng.integers(2) else rows[::-1]
