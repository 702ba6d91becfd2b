"""The linter for English finds the habits that it is for, and leaves good sentences alone."""

from pathlib import Path

import pytest
from prose import Text, faults, texts_of

BAD = [
    "What is of slices alone has no part in another kind's, nor has a field that came later where it is at its default.",
    "{method} tunes entries that the model itself has not: it ends at no point of the model's own entries",
    "{run_id} is no run of apet in words: only of those the optimum is a point of this subspace",
    "eager, or sdpa: faster, but curvature is not to be had of it.",
    "Examples a step.",
    "The share of entries that the outputs depend on: of another one every derivative is zero, of which nothing is known.",
    "Started again it goes on where it was killed.",
    "The same of the loss itself, from below.",
    "A batch is worked off in two parts.",
    "Those of a projection are not placed.",
]
GOOD = [
    "Return the gradient g (k,) at z (k,).",
    "{method} adds parameters that the base model does not have, so the run has no end point in the base model's parameter space.",
    "Batch size (examples per optimisation step).",
    "There is no closed form, so the sum is estimated from 8 probes.",
    "What is k*?",
    "The loss at which full fine-tuning crosses the target.",
]


def faults_of(sentence: str, sort: str = "docstring") -> list[str]:
    return list(faults(Text(Path("x.py"), 1, sort, sentence)))


@pytest.mark.parametrize("sentence", BAD)
def test_a_bad_sentence_is_found(sentence):
    assert faults_of(sentence)


@pytest.mark.parametrize("sentence", GOOD)
def test_a_good_sentence_passes(sentence):
    assert not faults_of(sentence)


def test_long_sentences_and_docstrings_without_a_verb_are_found():
    assert "36 words" in faults_of("word " * 36)[0]
    assert not faults_of("word " * 36, "comment")
    assert "begin with a verb" in faults_of("The mean loss.", "function")[0]
    assert not faults_of("The mean loss.")


def test_all_sorts_of_text_are_read(tmp_path):
    source = '''"""Module."""
LIMIT = 3  # a comment


def command(value=option("Panel", 1, "Help one."), other=Option(help="Help two.")):
    """Do it."""
    raise UsageError(f"value = {value} is wrong", value=1)
'''
    page = "# Head\n\nA `code` word.\n\n```\ncode\n```\n\n| cell one | cell two |\n|---|---|\n"
    (tmp_path / "x.py").write_text(source)
    (tmp_path / "x.md").write_text(page)
    texts = {(text.sort, text.text) for text in texts_of(tmp_path / "x.py")}
    expected = {("docstring", "Module."), ("comment", "a comment"), ("help", "Help one."), ("help", "Help two."), ("function", "Do it."),
                ("error", "value = CODE is wrong")}  # fmt: skip
    assert texts == expected
    blocks = [text.text.strip() for text in texts_of(tmp_path / "x.md")]
    assert blocks[:2] == ["Head", "A `code` word."] and not any("\ncode" in block for block in blocks)
