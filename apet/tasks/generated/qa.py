"""A generated question task: short stories about people, places, things and dates. The answer is in the story.

Four families of questions take turns:

place  where a person is now; the person may have moved twice
thing  where a thing is; a person carried it along or left it behind
owner  who has a thing; it may have been passed on
month  when an event happened; another event happened in another month

Stories of validation and test use people, things and places that training does not contain. The sentence with the answer is not always
the last sentence. The answer is not always the last word of its kind (for instance the last place).
"""

from __future__ import annotations

import numpy as np

from apet.tasks.generated.draws import CAPACITY, distinct, pick

# Words of training, and of validation and test. All are common in the ladder's corpora and have one or two tokens under its tokenizer.
PEOPLE = {
    "train": "john, mary, william, elizabeth, george, anne, charles, jane, thomas, margaret, edward, helen, robert, alice",
    "held out": "james, sarah, henry, catherine, richard, rachel, david, lucy, arthur, ellen",
}
PLACES = {
    "train": "kitchen, garden, church, school, library, forest, village, station, hall, market, river, tower",
    "held out": "castle, office, hotel, hospital, theatre, museum, cottage, street, chapel, field",
}
THINGS = {
    "train": "key, letter, book, lamp, bottle, sword, picture, basket, watch",
    "held out": "ring, knife, box, paper, clock, candle, map",
}
MONTHS = {
    "train": "january, february, april, june, july, september, november",
    "held out": "march, august, october, december",
}
EVENTS = {
    "train": "was born, left the town, bought a house, learned to swim, fell ill, sold the farm",
    "held out": "came home, lost the race, wrote a play, found a friend, joined the army",
}
WENT = ("went to", "walked to", "ran to", "came to")
FILLERS = ("it was a cold day.", "the sun was low.", "nobody said a word.", "a dog slept by the door.", "it had rained all night.")
FAMILIES = ("place", "thing", "owner", "month")


def generate(split: str, count: int, seed: int = 0) -> list[dict]:
    """Return `count` rows {"context": str, "question": str, "answer": [str, ...]} of "train", "validation" or "test".

    `answer` lists the right answers, the shortest first. Each is a text of one or two words that occurs in the context. The rows are the
    same on every machine. The families take turns. No story occurs with the same question twice or in two splits, for any seeds. A smaller
    `count` gives another sample, not the beginning of a larger one.

    Raises ValueError for an unknown split or a count outside 0 to `capacity(split)`.
    """
    return [row for _, row in draw(split, count, seed)]


def capacity(split: str) -> int:
    """Return the largest `count` of `generate`, which is far below the number of possible examples."""
    return CAPACITY


def draw(split: str, count: int, seed: int = 0) -> list[tuple[str, dict]]:
    """Return the rows of `generate` as (family, row)."""
    return distinct(FAMILIES, _story, lambda row: f"{row['context']} {row['question']}", split, count, seed)


def _story(family: str, split: str, rng: np.random.Generator) -> dict:
    return STORIES[family](split, rng)


def _some(table: dict[str, str], split: str, count: int, rng: np.random.Generator) -> list[str]:
    """Return `count` different words of the split's list."""
    words = table["train" if split == "train" else "held out"].split(", ")
    return [words[i] for i in rng.permutation(len(words))[:count]]


def _row(sentences: list[str], question: str, answer: list[str], rng: np.random.Generator) -> dict:
    """Return the row, with an irrelevant sentence at a random position of the story."""
    sentences.insert(int(rng.integers(len(sentences) + 1)), pick(FILLERS, rng))
    return {"context": " ".join(sentences), "question": question, "answer": answer}


def _mixed(first: list[str], second: list[str], rng: np.random.Generator) -> list[str]:
    """Return a random interleaving of two lists that keeps the order of each."""
    turns = rng.permutation([0] * len(first) + [1] * len(second))
    rest = [iter(first), iter(second)]
    return [next(rest[turn]) for turn in turns]


def _place(split: str, rng: np.random.Generator) -> dict:
    a, b = _some(PEOPLE, split, 2, rng)
    before, now, other = _some(PLACES, split, 3, rng)
    moves = [f"{a} {pick(WENT, rng)} the {place}." for place in ([before, now] if rng.integers(2) else [now])]
    sentences = _mixed(moves, [f"{b} {pick(WENT, rng)} the {other}."], rng)
    return _row(sentences, f"where is {a}?", [now, f"the {now}"], rng)


def _thing(split: str, rng: np.random.Generator) -> dict:
    a, b = _some(PEOPLE, split, 2, rng)
    thing, other = _some(THINGS, split, 2, rng)
    start, end, elsewhere = _some(PLACES, split, 3, rng)
    left = bool(rng.integers(2))
    carried = f"{a} left the {thing} in the {start}." if left else f"{a} took the {thing} from the {start}."
    moved = f"then {a} {pick(WENT, rng)} the {end}." if left else f"{a} carried it to the {end}."
    sentences = _mixed([f"{carried} {moved}"], [f"{b} put the {other} in the {elsewhere}."], rng)
    place = start if left else end
    return _row(sentences, f"where is the {thing}?", [place, f"the {place}"], rng)


def _owner(split: str, rng: np.random.Generator) -> dict:
    a, b, c = _some(PEOPLE, split, 3, rng)
    thing, other = _some(THINGS, split, 2, rng)
    passed = [f"{a} found the {thing}."] + ([f"{a} gave it to {b}."] if rng.integers(2) else [])
    sentences = _mixed([" ".join(passed)], [f"{c} had the {other}."], rng)
    return _row(sentences, f"who has the {thing}?", [a if len(passed) == 1 else b], rng)


def _month(split: str, rng: np.random.Generator) -> dict:
    a, b = _some(PEOPLE, split, 2, rng)
    event, other = _some(EVENTS, split, 2, rng)
    month, wrong = _some(MONTHS, split, 2, rng)
    who = a if rng.integers(2) else b  # the same person may have both events
    events = [f"{a} {event} in {month}.", f"in {wrong} {who} {other}."]
    if rng.integers(2):
        events = [f"in {month} {a} {event}.", f"{who} {other} in {wrong}."]
    sentences = [events[i] for i in rng.permutation(2)]
    return _row(sentences, f"when was it that {a} {event}?", [month, f"in {month}"], rng)


STORIES = {"place": _place, "thing": _thing, "owner": _owner, "month": _month}
