"""A generated entailment task: does a word that a first sentence names belong to the kind that a second one claims?

"the word on the wall was not july but grief. it named a feeling." One rule gives every label: the hypothesis is
entailed if the word that the premise settles on is of the kind named, and a negation reverses that. Kinds exclude each
other, so what is not entailed is contradicted. Training premises use other words than those of validation and test: a
model can only be right on those if its pretraining taught it that grief is a feeling. Examples come in pairs with
the same hypothesis and opposite labels; over many, a word is as often in entailed premises as in contradicted ones.
"""

from __future__ import annotations

import itertools
from functools import cache
from typing import NamedTuple

import numpy as np

from apet.tasks.generated.draws import most_pairs, open_to, pairs, pick

ENTAILMENT, CONTRADICTION = 0, 1

# kind -> (words of training, words of validation and test). Every word is one or two tokens of the ladder's tokenizer
# and occurs 150 times in 8 million words of Wikipedia or of novels; none belongs to a second kind ("may", "rose").
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

# {w} is the word that {s} is, {x} one of a third kind that it is not.
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

# Negations are few: were they half, knowing the kind alone would not pay, and the first steps of tuning would have nothing to gain.
TURNS = ("plain", "correction", "plain", "correction", "plain", "correction", "plain", "negation")


class Frame(NamedTuple):
    """A pair of sentences but for the premise's words; `kind` is what the hypothesis claims or denies."""

    family: str
    premise: str
    hypothesis: str
    kind: str


def generate(split: str, count: int, seed: int = 0) -> list[dict]:
    """`count` rows {"premise": str, "hypothesis": str, "label": 0 entailment or 1 contradiction} of "train", "validation" or "test".

    The same on every machine. Labels differ by at most one; the families take turns. No pair of sentences comes twice,
    nor in two splits, whatever the seeds. A smaller `count` is another sample, not the beginning of a larger one.
    ValueError: an unknown split, or more than `capacity(split)`.
    """
    return [row for _, row in draw(split, count, seed)]


def capacity(split: str) -> int:
    """Return the most examples that `generate` can give: two from each frame."""
    return most_pairs(TURNS, frames, split)


def draw(split: str, count: int, seed: int = 0) -> list[tuple[str, dict]]:
    """Return the rows of `generate` with their families."""
    return pairs(TURNS, frames, _pair, split, count, seed)


def words(split: str, kind: str) -> list[str]:
    """Return the split's words of `kind`."""
    return KINDS[kind][split != "train"].split()


@cache
def frames(split: str, family: str) -> list[Frame]:
    """Return every frame of `family` open to `split`."""
    claims = DENIED if family == "negation" else AFFIRMED
    every = [
        Frame(family, premise.replace("{s}", subject), claim.format(c=kind), kind)
        for premise, subject, claim, kind in itertools.product(PREMISES[family], SUBJECTS, claims, KINDS)
    ]
    return [frame for frame in every if open_to(split, f"{frame.premise} {frame.hypothesis}")]


def _pair(frame: Frame, split: str, rng: np.random.Generator) -> list[tuple[str, dict]]:
    """Return the frame with a word of its kind and with one of another kind, in random order."""
    others = [kind for kind in KINDS if kind != frame.kind]
    wrong, third = (others[i] for i in rng.permutation(len(others))[:2])
    rows = []
    for kind in (frame.kind, wrong):
        premise = frame.premise.format(w=pick(words(split, kind), rng), x=pick(words(split, third), rng))
        holds = (kind == frame.kind) != (frame.family == "negation")
        label = ENTAILMENT if holds else CONTRADICTION
        rows.append((frame.family, {"premise": premise, "hypothesis": frame.hypothesis, "label": label}))
    return rows if rng.integers(2) else rows[::-1]
