"""Tools of the generated tasks: splits, separate frames for validation and test, and draws without repeats."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np

from apet import random_numbers

SPLITS = ("train", "validation", "test")
CAPACITY = 8000  # largest number of examples of a task that has far more possible texts
F = TypeVar("F")
T = TypeVar("T")


def generator(split: str, count: int, seed: int, capacity: Callable[[str], int]) -> np.random.Generator:
    """Return the random generator for (split, count, seed).

    Raises ValueError for an unknown split or a `count` outside 0 to `capacity(split)`.
    """
    if split not in SPLITS:
        raise ValueError(f"unknown split '{split}': use one of {', '.join(SPLITS)}")
    if not 0 <= count <= capacity(split):
        raise ValueError(f"count = {count} is out of range: the split '{split}' can have 0 to {capacity(split)} examples")
    return random_numbers.generator(seed, SPLITS.index(split), count)


def open_to(split: str, text: str) -> bool:
    """Return whether `split` may use `text`.

    The training split may use every text. Validation and test use disjoint halves, which are the same on every machine.
    """
    return split == "train" or zlib.crc32(text.encode()) % 2 == SPLITS.index(split) - 1


def pick(options: Sequence[T], rng: np.random.Generator) -> T:
    """Return a random element of `options`. All elements are equally likely."""
    return options[int(rng.integers(len(options)))]


def pairs(
    turns: Sequence[str], frames: Callable[[str, str], Sequence[F]], fill: Callable[[F, str, np.random.Generator], list[T]],
    split: str, count: int, seed: int,
) -> list[T]:  # fmt: skip
    """Return `count` shuffled rows, two from each drawn frame. An odd count leaves one row unpaired. No frame is drawn twice.

    `turns` lists the families in the order in which they take turns (a family may occur more than once). `frames(split, family)` returns
    all frames of a family. `fill(frame, split, rng)` returns the two rows of a frame.
    """
    rng = generator(split, count, seed, lambda split: most_pairs(turns, frames, split))
    drawn = {family: iter(rng.permutation(len(frames(split, family)))) for family in dict.fromkeys(turns)}
    families = [turns[i % len(turns)] for i in range(-(-count // 2))]
    chosen = [frames(split, family)[next(drawn[family])] for family in families]
    rows = [row for frame in chosen for row in fill(frame, split, rng)]
    return [rows[i] for i in rng.permutation(count)]


def most_pairs(turns: Sequence[str], frames: Callable[[str, str], Sequence], split: str) -> int:
    """Return the largest number of rows that `pairs` can return in whole rounds of `turns`."""
    return 2 * len(turns) * min(len(frames(split, family)) // turns.count(family) for family in set(turns))


def distinct(
    turns: Sequence[str], make: Callable[[str, str, np.random.Generator], T], text: Callable[[T], str], split: str, count: int, seed: int
) -> list[tuple[str, T]]:
    """Return `count` shuffled pairs (turn, `make(turn, split, rng)`).

    A row is drawn again if its text is repeated or not open to `split`.
    """
    rng = generator(split, count, seed, lambda split: CAPACITY)
    by_text: dict[str, tuple[str, T]] = {}
    while len(by_text) < count:
        turn = turns[len(by_text) % len(turns)]
        row = make(turn, split, rng)
        if open_to(split, text(row)):
            by_text.setdefault(text(row), (turn, row))
    rows = list(by_text.values())
    return [rows[i] for i in rng.permutation(count)]
