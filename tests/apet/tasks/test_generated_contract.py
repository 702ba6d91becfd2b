"""Properties of every generated task: sizes, reproducibility, disjoint splits, and short texts of known words."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter

import pytest
from transformers import PreTrainedTokenizerFast

from apet.models.ladder import TOKENIZER
from apet.tasks.generated import GENERATORS, nli, paraphrase, qa, review, summary

SPLITS = ("train", "validation", "test")
MODULES = {"mini-review": review, "mini-nli": nli, "mini-paraphrase": paraphrase, "mini-qa": qa, "mini-summary": summary}
SIZES = {"train": 4000, "validation": 1000, "test": 1000}

each = pytest.mark.parametrize("module", MODULES.values(), ids=MODULES)


def text(row: dict) -> str:
    return " ".join(value for name, value in row.items() if name not in ("label", "answer"))


def identity(row: dict) -> str:
    return row["document"] if "document" in row else text(row)


def test_every_generator_has_its_name():
    assert {name: GENERATORS[name] for name in MODULES} == {name: module.generate for name, module in MODULES.items()}
    assert set(GENERATORS) == {"mini-sentiment", *MODULES}


@each
@pytest.mark.parametrize("count", [0, 1, 7, 64])
def test_count_is_exact_and_labels_are_balanced(module, count):
    for split in SPLITS:
        rows = module.generate(split, count, seed=2)
        assert len(rows) == count
        labels = [row["label"] for row in rows if "label" in row]
        assert abs(labels.count(0) - labels.count(1)) <= 1


@each
def test_no_text_comes_twice_nor_in_two_splits_even_at_capacity_with_other_seeds(module):
    drawn = [identity(row) for seed, split in enumerate(SPLITS) for row in module.generate(split, module.capacity(split), seed)]
    assert len(drawn) == len(set(drawn)) == sum(module.capacity(split) for split in SPLITS)


@each
def test_capacity_is_enough_and_more_is_refused_with_the_numbers(module):
    assert all(module.capacity(split) >= size for split, size in SIZES.items())
    most = module.capacity("test")
    with pytest.raises(ValueError, match=f"{most + 1}.*{most}"):
        module.generate("test", most + 1)
    with pytest.raises(ValueError, match="-1"):
        module.generate("train", -1)
    with pytest.raises(ValueError, match="'dev'.*validation"):
        module.generate("dev", 1)


@each
def test_same_seed_same_rows_other_seed_other_rows(module):
    assert module.generate("train", 50, seed=5) == module.generate("train", 50, seed=5)
    assert module.generate("train", 50, seed=5) != module.generate("train", 50, seed=6)


DIGESTS = {
    "mini-review": "8273854fee35aeb2",
    "mini-nli": "67576fa7e892a3c0",
    "mini-paraphrase": "46e64becec2ed9d9",
    "mini-qa": "3d5ae7b4998cc475",
    "mini-summary": "a40e3e07db3ed746",
}


@pytest.mark.parametrize("name", MODULES)
def test_rows_are_the_same_on_every_machine(name):
    rows = [row for split in SPLITS for row in GENERATORS[name](split, 200)]
    assert hashlib.sha256(json.dumps(rows).encode()).hexdigest()[:16] == DIGESTS[name]


@each
def test_families_take_turns_and_each_is_balanced(module):
    drawn = [(family, row.get("label")) for family, row in module.draw("train", 480, seed=3)]
    turns = getattr(module, "TURNS", None) or tuple(module.FAMILIES if module is qa else module.OUTCOMES)
    labels = (0, 1) if "label" in module.generate("train", 1)[0] else (None,)
    share = 480 // len(turns) // len(labels)
    assert Counter(drawn) == {(family, label): share * turns.count(family) for family in turns for label in labels}


@each
def test_texts_are_lower_case_finished_and_at_most_60_pieces(module):
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(TOKENIZER))
    for split in SPLITS:
        texts = [text(row) for row in module.generate(split, 500)]
        assert all(re.fullmatch(r"[a-z']+(,? [a-z']+)*[.?]( [a-z']+(,? [a-z']+)*[.?])*", one) for one in texts)
        assert max(map(len, tokenizer(texts)["input_ids"])) <= 60
