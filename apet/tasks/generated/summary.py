"""A generated summary task: a person has an aim, and the summary states the outcome.

Document: "it rained all day. the sailor hoped to find the island. after a long time he gave up."
Summary: "the sailor did not find the island."

The summary combines the person and the aim of one sentence with the outcome of another (success, failure, or success of another
person). The remaining sentences are irrelevant. Thus no single sentence of the document is the summary, in particular not the first.
Validation and test use people and things that training does not contain.
"""

from __future__ import annotations

import numpy as np

from apet.tasks.generated.draws import CAPACITY, distinct, pick

# split -> pronoun -> persons, all of them common words in the ladder's corpora.
PEOPLE = {
    "train": {
        "he": "sailor doctor captain merchant king teacher bishop painter engineer farmer",
        "she": "queen nurse widow lady mother",
    },
    "held out": {
        "he": "soldier professor prince priest poet father emperor architect",
        "she": "girl aunt sister maid",
    },
}
# Aims: (base form, past form, things of training, things of validation and test).
AIMS = (
    ("find", "found", "island key road letter gold child", "river ring path money"),
    ("buy", "bought", "house horse farm picture boat", "cottage ship book land"),
    ("build", "built", "church bridge tower school wall", "castle hospital chapel theatre"),
    ("sell", "sold", "estate carriage hotel painting sword", "shop house horse garden"),
    ("save", "saved", "city crew village dog family", "town castle people forest"),
    ("win", "won", "war game race election case", "battle match prize fight"),
    ("write", "wrote", "song history book story law", "novel poem play report"),
    ("open", "opened", "door school box museum shop", "gate library window theatre"),
)
WISHES = ("wanted to", "hoped to", "had decided to", "tried to")
FILLERS = (
    *("it rained all day.", "the winter was long.", "the people of the town talked about it.", "there was little to eat."),
    *("the newspapers said nothing.", "many years had passed since the war.", "the road was full of snow.", "friends came to help."),
    *("a letter arrived from london.", "the work was hard."),
)
# {he} and {him} are the pronouns of the person with the aim, {other} is another person.
OUTCOMES = {
    "done": ("after a month {he} did it.", "in the end {he} succeeded.", "to everyone's surprise it went well for {him}."),
    "not done": ("after a month {he} gave up.", "in the end {he} failed.", "to everyone's surprise it came to nothing."),
    "another": ("in the end the {other} did it first.", "after a month the {other} did it instead of {him}."),
}
SUMMARIES = {
    "done": "the {who} {past} the {thing}.",
    "not done": "the {who} did not {base} the {thing}.",
    "another": "the {other} {past} the {thing}.",
}


def generate(split: str, count: int, seed: int = 0) -> list[dict]:
    """Return `count` rows {"document": str, "summary": str} of "train", "validation" or "test".

    Documents have three to five sentences, summaries five to seven words. The rows are the same on every machine. The three outcomes take
    turns. No document occurs twice or in two splits, for any seeds. A smaller `count` gives another sample, not the beginning of a
    larger one.

    Raises ValueError for an unknown split or a count outside 0 to `capacity(split)`.
    """
    return [row for _, row in draw(split, count, seed)]


def capacity(split: str) -> int:
    """Return the largest `count` of `generate`, which is far below the number of possible examples."""
    return CAPACITY


def draw(split: str, count: int, seed: int = 0) -> list[tuple[str, dict]]:
    """Return the rows of `generate` as (outcome, row)."""
    return distinct(tuple(OUTCOMES), _report, lambda row: row["document"], split, count, seed)


def _report(kind: str, split: str, rng: np.random.Generator) -> dict:
    people = PEOPLE["train" if split == "train" else "held out"]
    he = "he" if rng.integers(3) else "she"
    who = pick(people[he].split(), rng)
    other = pick([person for listed in people.values() for person in listed.split() if person != who], rng)
    base, past, *things = pick(AIMS, rng)
    thing = pick(things[split != "train"].split(), rng)
    outcome = pick(OUTCOMES[kind], rng).format(he=he, him="him" if he == "he" else "her", other=other)
    sentences = [f"the {who} {pick(WISHES, rng)} {base} the {thing}.", outcome]
    for filler in rng.permutation(len(FILLERS))[: rng.integers(1, 4)]:
        sentences.insert(int(rng.integers(len(sentences) + 1)), FILLERS[filler])
    summary = SUMMARIES[kind].format(who=who, other=other, base=base, past=past, thing=thing)
    return {"document": " ".join(sentences), "summary": summary}
