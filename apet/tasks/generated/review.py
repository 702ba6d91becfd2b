"""A generated binary task of short, plain opinions that a model can learn from some hundred of them.

The sentences are those of `apet.tasks.generated.sentiment` without negation and contrast. All splits share their sentiment words and
differ in what is spoken of and how: whoever has learned the words is right, and nothing else predicts the label.
"""

from __future__ import annotations

import itertools
import zlib
from functools import cache

from apet.tasks.generated import sentiment
from apet.tasks.generated.draws import generator, pick
from apet.tasks.generated.sentiment import FAMILIES, MODIFIERS, NOUNS, Frame

TURNS = ("plain", "intensity")  # families of sentences
SHARES = {"validation": (0,), "test": (1,), "train": (2, 3, 4)}  # of the frames, in fifths


def generate(split: str, count: int, seed: int = 0) -> list[dict]:
    """`count` rows {"sentence": str, "label": 0 negative or 1 positive} of "train", "validation" or "test".

    The same on every machine. Labels differ by at most one; sentences are drawn in pairs that differ in their sentiment words alone, then
    shuffled. No sentence comes twice, and no two splits share a frame. A smaller `count` is another sample, not the beginning of a larger
    one. ValueError: an unknown split, or a count outside 0 to `capacity(split)`.
    """
    return [row for _, row in draw(split, count, seed)]


def draw(split: str, count: int, seed: int = 0) -> list[tuple[str, dict]]:
    """Return the rows of `generate` as (family, row)."""
    rng = generator(split, count, seed, capacity)
    found: dict[str, tuple[str, dict]] = {}
    while len(found) < count:
        frame = pick(frames(split, TURNS[len(found) // 2 % len(TURNS)]), rng)
        both = {text: (frame.family, {"sentence": text, "label": label}) for _, text, label in sentiment.pair(frame, "train", rng)}
        if not found.keys() & both.keys():
            found |= both
    rows = list(found.values())[:count]
    return [rows[i] for i in rng.permutation(count)]


def capacity(split: str) -> int:
    """Return the most sentences that `generate` gives: fewer than there are, so that new ones are found quickly."""
    return 2000 * len(SHARES[split])


@cache
def frames(split: str, family: str) -> list[Frame]:
    """Return the frames of `family` that are the split's own."""
    every = [
        Frame(family, template.replace("{np}", noun + modifier), kind)
        for template, kind in itertools.product(FAMILIES[family], NOUNS)
        for noun, modifier in itertools.product(NOUNS[kind].split(), MODIFIERS[kind])
    ]
    return [frame for frame in every if zlib.crc32(frame.text.encode()) % 5 in SHARES[split]]
