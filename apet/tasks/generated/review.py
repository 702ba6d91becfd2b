"""A generated binary sentiment task of short, plain opinions, which a model can learn from a few hundred examples.

The sentences are built as in `apet.tasks.generated.sentiment`, without negation and contrast. All splits share their sentiment words;
their topics and sentence patterns differ. A model that has learned the words gives the right labels, and nothing else predicts them.
"""

from __future__ import annotations

import itertools
import zlib
from functools import cache

from apet.tasks.generated import sentiment
from apet.tasks.generated.draws import generator, pick
from apet.tasks.generated.sentiment import FAMILIES, MODIFIERS, NOUNS, Frame

TURNS = ("plain", "intensity")  # families of sentences
SHARES = {"validation": (0,), "test": (1,), "train": (2, 3, 4)}  # fifths of the frames that each split uses


def generate(split: str, count: int, seed: int = 0) -> list[dict]:
    """Return `count` rows {"sentence": str, "label": 0 (negative) or 1 (positive)} of "train", "validation" or "test".

    The rows are the same on every machine. The numbers of the two labels differ by at most one. Sentences are drawn in pairs that differ
    only in their sentiment words, then shuffled. No sentence occurs twice, and no two splits share a frame. A smaller `count` gives
    another sample, not the beginning of a larger one.

    Raises ValueError for an unknown split or a count outside 0 to `capacity(split)`.
    """
    return [row for _, row in draw(split, count, seed)]


def draw(split: str, count: int, seed: int = 0) -> list[tuple[str, dict]]:
    """Return the rows of `generate` as (family, row)."""
    rng = generator(split, count, seed, capacity)
    by_text: dict[str, tuple[str, dict]] = {}
    while len(by_text) < count:
        frame = pick(frames(split, TURNS[len(by_text) // 2 % len(TURNS)]), rng)
        both = {text: (frame.family, {"sentence": text, "label": label}) for _, text, label in sentiment.pair(frame, "train", rng)}
        if not by_text.keys() & both.keys():
            by_text |= both
    rows = list(by_text.values())[:count]
    return [rows[i] for i in rng.permutation(count)]


def capacity(split: str) -> int:
    """Return the largest `count` of `generate`, less than the number of possible sentences so that new ones are drawn quickly."""
    return 2000 * len(SHARES[split])


@cache
def frames(split: str, family: str) -> list[Frame]:
    """Return the frames of `family` that belong to `split`."""
    every = [
        Frame(family, template.replace("{np}", noun + modifier), kind)
        for template, kind in itertools.product(FAMILIES[family], NOUNS)
        for noun, modifier in itertools.product(NOUNS[kind].split(), MODIFIERS[kind])
    ]
    return [frame for frame in every if zlib.crc32(frame.text.encode()) % 5 in SHARES[split]]
