"""What the generated tasks share: splits, frames that validation and test do not share, and draws without repeats."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np

SPLITS = ("train", "validation", "test")
T = TypeVar("T")


def generator(split: str, count: int, seed: int, capacity: Callable[[str], int]) -> np.random.Generator:
    """The random generator that (split, count, seed) name.

    ValueError: an unknown split, or a `count` outside 0 to `capacity(split)`.
    """
    if split not in SPLITS:
        raise ValueError(f"unknown split '{split}': one of {', '.join(SPLITS)}")
    if not 0 <= count <= capacity(split):
        raise ValueError(f"{count} examples asked of '{split}': the grammar can give 0 to {capacity(split)}")
    return np.random.default_rng([seed, SPLITS.index(split), count])


def open_to(split: str, text: str) -> bool:
    """Whether `split` may use `text`: train any, validation and test disjoint halves, the same on every machine."""
    return split == "train" or zlib.crc32(text.encode()) % 2 == SPLITS.index(split) - 1


def pick(options: Sequence[T], rng: np.random.Generator) -> T:
    """One of `options`, each as likely."""
    return options[int(rng.integers(len(options)))]


def in_turn(turns: Sequence[str], frames: Callable[[str], Sequence[T]], count: int, rng: np.random.Generator) -> list[T]:
    """`count` different frames, their families as `turns` has them, over and over (a family may stand in it more than once)."""
    families = [turns[i % len(turns)] for i in range(count)]
    drawn = {family: iter(rng.permutation(len(frames(family)))) for family in dict.fromkeys(turns)}
    return [frames(family)[next(drawn[family])] for family in families]


def pairs_in(turns: Sequence[str], frames: Callable[[str], Sequence]) -> int:
    """The most frames that `in_turn` can give in whole rounds."""
    return len(turns) * min(len(frames(family)) // turns.count(family) for family in set(turns))


def distinct(make: Callable[[int], T], text: Callable[[T], str], split: str, count: int) -> list[T]:
    """`make(0)`, `make(1)`, ... each tried again until its text is open to `split` and new."""
    found: dict[str, T] = {}
    while len(found) < count:
        row = make(len(found))
        if open_to(split, text(row)):
            found.setdefault(text(row), row)
    return list(found.values())
