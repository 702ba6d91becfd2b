"""What the generated tasks share: splits, frames that validation and test do not share, and draws without repeats."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np

from apet import random_numbers

SPLITS = ("train", "validation", "test")
CAPACITY = 8000  # of a task whose texts are too many to count
F = TypeVar("F")
T = TypeVar("T")


def generator(split: str, count: int, seed: int, capacity: Callable[[str], int]) -> np.random.Generator:
    """Return the random generator that (split, count, seed) name.

    ValueError: an unknown split, or a `count` outside 0 to `capacity(split)`.
    """
    if split not in SPLITS:
        raise ValueError(f"unknown split '{split}': one of {', '.join(SPLITS)}")
    if not 0 <= count <= capacity(split):
        raise ValueError(f"{count} examples asked of '{split}': the grammar can give 0 to {capacity(split)}")
    return random_numbers.generator(seed, SPLITS.index(split), count)


def open_to(split: str, text: str) -> bool:
    """Return whether `split` may use `text`: train any, validation and test disjoint halves, the same on every machine."""
    return split == "train" or zlib.crc32(text.encode()) % 2 == SPLITS.index(split) - 1


def pick(options: Sequence[T], rng: np.random.Generator) -> T:
    """One of `options`, each as likely."""
    return options[int(rng.integers(len(options)))]


def pairs(
    turns: Sequence[str], frames: Callable[[str, str], Sequence[F]], fill: Callable[[F, str, np.random.Generator], list[T]],
    split: str, count: int, seed: int,
) -> list[T]:  # fmt: skip
    """`count` rows, shuffled: two from each of different frames, whose families take turns; an odd count leaves one unpaired.

    `turns` names the families (one may stand in it more than once), `frames(split, family)` all there are, `fill` makes of a
    frame its two rows.
    """
    rng = generator(split, count, seed, lambda split: most_pairs(turns, frames, split))
    drawn = {family: iter(rng.permutation(len(frames(split, family)))) for family in dict.fromkeys(turns)}
    families = [turns[i % len(turns)] for i in range(-(-count // 2))]
    chosen = [frames(split, family)[next(drawn[family])] for family in families]
    rows = [row for frame in chosen for row in fill(frame, split, rng)]
    return [rows[i] for i in rng.permutation(count)]


def most_pairs(turns: Sequence[str], frames: Callable[[str, str], Sequence], split: str) -> int:
    """Return the most rows that `pairs` can give in whole rounds."""
    return 2 * len(turns) * min(len(frames(split, family)) // turns.count(family) for family in set(turns))


def distinct(
    turns: Sequence[str], make: Callable[[str, str, np.random.Generator], T], text: Callable[[T], str], split: str, count: int, seed: int
) -> list[tuple[str, T]]:
    """`count` rows (turn, `make(turn, split, rng)`), shuffled, each tried again until its text is open to `split` and new."""
    rng = generator(split, count, seed, lambda split: CAPACITY)
    found: dict[str, tuple[str, T]] = {}
    while len(found) < count:
        turn = turns[len(found) % len(turns)]
        row = make(turn, split, rng)
        if open_to(split, text(row)):
            found.setdefault(text(row), (turn, row))
    rows = list(found.values())
    return [rows[i] for i in rng.permutation(count)]
