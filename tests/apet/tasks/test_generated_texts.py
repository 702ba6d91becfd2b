"""The generated question and summary tasks: a reader finds the answers, and simple guesses do not."""

from __future__ import annotations

import re

import numpy as np
import pytest

from apet.tasks.generated import qa, summary

SPLITS = ("train", "validation", "test")
PAST = {aim[0]: aim[1] for aim in summary.AIMS}


def state(context: str) -> tuple[dict[str, str], dict[str, str]]:
    """Return the places of all persons and things, and the owners of things, after reading the story sentence by sentence."""
    where: dict[str, str] = {}
    holder: dict[str, str] = {}
    last = ""
    for sentence in context.split(". "):
        sentence = sentence.rstrip(".").removeprefix("then ")
        if move := re.fullmatch(r"(\w+) (?:went|walked|ran|came) to the (\w+)", sentence):
            where[move[1]] = move[2]
        elif put := re.fullmatch(r"\w+ (?:left|put|took) the (\w+) (?:in|from) the (\w+)", sentence):
            last = put[1]
            where[last] = put[2]
        elif carried := re.fullmatch(r"\w+ carried it to the (\w+)", sentence):
            where[last] = carried[1]
        elif found := re.fullmatch(r"(\w+) (?:found|had) the (\w+)", sentence):
            last = found[2]
            holder[last] = found[1]
        elif given := re.fullmatch(r"\w+ gave it to (\w+)", sentence):
            holder[last] = given[1]
    return where, holder


def read(context: str, question: str) -> str:
    where, holder = state(context)
    if asked := re.fullmatch(r"where is (?:the )?(\w+)\?", question):
        return where[asked[1]]
    if asked := re.fullmatch(r"who has the (\w+)\?", question):
        return holder[asked[1]]
    asked = re.fullmatch(r"when was it that (\w+) (.+)\?", question)
    assert asked is not None
    told = re.search(rf"{asked[1]} {asked[2]} in (\w+)|in (\w+) {asked[1]} {asked[2]}", context)
    assert told is not None
    return told[1] or told[2]


@pytest.mark.parametrize("split", SPLITS)
def test_every_answer_is_what_a_reader_finds(split):
    for row in qa.generate(split, 2000, seed=1):
        assert row["answer"][0] == read(row["context"], row["question"]), row


@pytest.mark.parametrize("split", SPLITS)
def test_every_answer_has_one_or_two_words_and_the_first_stands_in_the_context(split):
    for row in qa.generate(split, 1000):
        assert all(1 <= len(answer.split()) <= 2 for answer in row["answer"])
        assert row["answer"][0] in re.findall(r"\w+", row["context"])


@pytest.mark.parametrize("guess", [0, -1], ids=["first", "last"])
def test_neither_the_first_nor_the_last_word_of_the_right_sort_is_mostly_right(guess):
    hits: dict[str, list[bool]] = {family: [] for family in qa.FAMILIES}
    sorts = {"place": qa.PLACES, "thing": qa.PLACES, "owner": qa.PEOPLE, "month": qa.MONTHS}
    for family, row in qa.draw("validation", 1000):
        fitting = sorts[family]["held out"].split(", ")
        named = [word for word in re.findall(r"\w+", row["context"]) if word in fitting]
        hits[family].append(named[guess] == row["answer"][0])
    assert all(np.mean(found) < 0.75 for found in hits.values())


def test_people_things_and_places_of_training_do_not_come_back():
    for table in (qa.PEOPLE, qa.PLACES, qa.THINGS, qa.MONTHS, qa.EVENTS):
        assert not set(table["train"].split(", ")) & set(table["held out"].split(", "))
    heldout = {word for table in (qa.PEOPLE, qa.PLACES, qa.THINGS, qa.MONTHS) for word in table["held out"].split(", ")}
    for row in qa.generate("train", 1000):
        assert not heldout & set(re.findall(r"\w+", row["context"]))


def concluded(document: str) -> str:
    """Return a reader's summary, which uses the text alone."""
    wish = re.search(r"the (\w+) (?:wanted to|hoped to|had decided to|tried to) (\w+) the (\w+)\.", document)
    assert wish is not None
    who, verb, thing = wish.groups()
    if another := re.search(r"the (\w+) did it", document):
        who = another[1]
    elif re.search(r"gave up|failed|came to nothing", document):
        return f"the {who} did not {verb} the {thing}."
    return f"the {who} {PAST[verb]} the {thing}."


@pytest.mark.parametrize("split", SPLITS)
def test_every_summary_is_what_a_reader_concludes(split):
    for row in summary.generate(split, 2000, seed=1):
        assert row["summary"] == concluded(row["document"]), row
        assert row["summary"] not in row["document"]


@pytest.mark.parametrize("split", SPLITS)
def test_documents_have_three_to_five_sentences_and_summaries_four_to_eight_words(split):
    for row in summary.generate(split, 1000):
        assert 3 <= row["document"].count(".") <= 5
        assert 4 <= len(row["summary"].split()) <= 8


def test_people_and_the_things_of_an_aim_differ_between_training_and_the_rest():
    people = [{p for listed in summary.PEOPLE[half].values() for p in listed.split()} for half in ("train", "held out")]
    assert not people[0] & people[1]
    assert not any(set(train.split()) & set(heldout.split()) for *_, train, heldout in summary.AIMS)


def rouge_l(candidate: str, reference: str) -> float:
    """Return the F1 of the longest common subsequence of words (Lin 2004)."""
    a, b = candidate.split(), reference.split()
    table = np.zeros((len(a) + 1, len(b) + 1), dtype=int)
    for i, x in enumerate(a):
        for j, y in enumerate(b):
            table[i + 1, j + 1] = table[i, j] + 1 if x == y else max(table[i, j + 1], table[i + 1, j])
    return 2 * float(table[-1, -1]) / (len(a) + len(b))


def test_no_sentence_of_its_document_is_nearly_the_summary():
    rows = summary.generate("validation", 300)
    lead, best = [], []
    for row in rows:
        scores = [rouge_l(sentence.rstrip(".") + ".", row["summary"]) for sentence in row["document"].split(". ")]
        lead.append(scores[0])
        best.append(max(scores))
    assert np.mean(lead) < 0.5 and np.mean(best) < 0.75
