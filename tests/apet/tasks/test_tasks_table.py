"""The table of tasks, and the reading of rows: accepted rows, refused rows, and errors with the row's location."""

import json
import string
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from apet.errors import MissingInput, UsageError
from apet.models.ladder import TOKENIZER
from apet.tasks.examples import checked
from apet.tasks.row_files import read_rows
from apet.tasks.task_data import GENERATED, load_task
from apet.tasks.task_table import TASKS

SHARED = Path(__file__).parents[4] / "shared" / "data" / "tasks"
GOOD = {"sentence": "a film", "label": 1}


def write(folder: Path, train: str | bytes, validation: str | bytes = b'{"sentence": "held out", "label": 0}') -> Path:
    for split, content in (("train", train), ("validation", validation)):
        (folder / f"{split}.jsonl").write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder


def lines(*rows: Any) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


# the table


@pytest.mark.parametrize("task", [task for task in TASKS.values() if not task.images], ids=lambda task: task.name)
def test_a_template_holds_the_fields_in_order_and_one_slot_at_its_end(task):
    names = [name for _, name, _, _ in string.Formatter().parse(task.template) if name is not None]
    assert names == [*task.fields, "slot"]
    assert task.template.rpartition("{slot}")[2] in ("", ".")


@pytest.mark.parametrize("task", TASKS.values(), ids=list(TASKS))
def test_a_task_has_label_words_or_numbers_or_texts_and_their_metric(task):
    if task.regresses:
        assert (task.classes, task.target, task.type, task.metric) == (0, "label", "regression", "pearson")
    elif task.generates:
        assert (task.classes, task.type) == (0, "generation")
        assert task.target != "label" and task.metric in ("exact_match", "rouge_l")
    else:
        assert task.classes == len(set(task.words)) >= 2
        assert (task.target, task.type) == ("label", "classification")
        assert task.metric == ("matthews" if task.name == "cola" else "accuracy")


def test_label_words_differ_in_their_first_token_under_the_ladders_tokenizer():
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(TOKENIZER))
    for task in (task for task in TASKS.values() if not task.images):
        first = [tokenizer.encode(word, add_special_tokens=False).ids[0] for word in task.words]
        assert len(set(first)) == task.classes, task.name


@pytest.mark.skipif(not SHARED.is_dir(), reason="no folder of public data beside this checkout")
@pytest.mark.parametrize("name", [name for name in TASKS if (SHARED / name).is_dir()])
def test_public_data_are_read_whole(name):
    splits = load_task(name, SHARED / name, test=True).splits
    for split, examples in splits.items():
        assert len(examples) == (SHARED / name / f"{split}.jsonl").read_bytes().count(b"\n")
    assert set(splits) == {path.stem for path in (SHARED / name).iterdir()}


# accepted rows


def test_only_the_tasks_fields_are_kept(tmp_path):
    found = load_task("sst2", write(tmp_path, lines({"idx": 7, **GOOD, "note": None})))
    assert found.splits["train"] == [GOOD]


def test_lines_end_at_line_feeds_alone(tmp_path):
    texts = ["next\u0085line", "line\u2028separator", "form\x0cfeed", "paragraph\u2029separator"]
    content = lines(*({"sentence": text, "label": 0} for text in texts)).replace("\n", "\r\n\n")
    assert [row["sentence"] for row in load_task("sst2", write(tmp_path, content)).splits["train"]] == texts


@pytest.mark.parametrize("answer", ["one text", ["several", "texts"]])
def test_an_answer_is_a_text_or_a_list_of_texts(answer, tmp_path):
    row = {"question": "what", "answer": answer}
    assert load_task("nq_open", write(tmp_path, lines(row), lines({"question": "who", "answer": ["me"]}))).splits["train"] == [row]


def test_a_text_of_100000_words_and_20000_rows_are_read_within_a_second(tmp_path):
    long = {"sentence": "é word" * 100_000, "label": 0}
    content = lines(long, *({"sentence": f"row {i}", "label": 1} for i in range(20_000)))
    start = time.process_time()
    found = load_task("sst2", write(tmp_path, content))
    assert time.process_time() - start < 1
    assert found.splits["train"][0] == long


def test_rows_that_repeat_are_counted_and_kept(tmp_path):
    again = {"sentence": "a film", "label": 0}
    found = load_task("sst2", write(tmp_path, lines(GOOD, again, GOOD), lines(GOOD, {"sentence": "new", "label": 1})))
    assert found.repeated == {"train": 2, "validation": 1}
    assert len(found.splits["train"]) == 3


def test_the_fingerprint_is_that_of_the_examples_alone(tmp_path):
    one = load_task("sst2", write(tmp_path, lines(GOOD))).fingerprint
    assert load_task("sst2", write(tmp_path, "\n" + lines({"idx": 1, **GOOD}))).fingerprint == one
    assert load_task("sst2", write(tmp_path, lines(GOOD | {"label": 0}))).fingerprint != one
    assert load_task("sst2", write(tmp_path, lines(GOOD, GOOD))).fingerprint != one


# the test split


def test_the_test_split_is_read_only_when_asked_for(tmp_path):
    write(tmp_path, lines(GOOD))
    assert set(load_task("sst2", tmp_path, test=True).splits) == {"train", "validation"}
    (tmp_path / "test.jsonl").write_text(lines(GOOD | {"sentence": "last"}))
    assert set(load_task("sst2", tmp_path).splits) == {"train", "validation"}
    assert load_task("sst2", tmp_path, test=True).splits["test"] == [GOOD | {"sentence": "last"}]
    assert {split: len(rows) for split, rows in load_task("mini-sentiment", test=True).splits.items()} == GENERATED
    assert "test" not in load_task("mini-sentiment").splits


def test_hidden_labels_are_told_by_their_value_not_their_text(tmp_path):
    write(tmp_path, lines(GOOD))
    (tmp_path / "test.jsonl").write_text('{"sentence":"x","label":-1}\n{"label"  :  -1, "sentence": "y"}\n')
    assert "test" not in load_task("sst2", tmp_path, test=True).splits
    (tmp_path / "test.jsonl").write_text(json.dumps({"sentence": 'it says "label": -1 here', "label": 1}))
    assert len(load_task("sst2", tmp_path, test=True).splits["test"]) == 1


def test_one_hidden_label_among_others_is_an_error(tmp_path):
    write(tmp_path, lines(GOOD))
    (tmp_path / "test.jsonl").write_text(lines(GOOD | {"sentence": "x"}, {"sentence": "y", "label": -1}))
    with pytest.raises(UsageError, match=r"test\.jsonl, line 2: field label: label -1 is not in 0\.\.1"):
        load_task("sst2", tmp_path, test=True)


# refused rows


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("not json", "not JSON"),
        ('{"sentence": "x", "label": 1', "not JSON"),
        ("[" * 100_000, "this JSON cannot be read"),
        ('{"sentence": "x", "label": ' + "1" * 5000 + "}", "this JSON cannot be read"),
        ("[1]", "needs an object with the fields sentence, label, not a list"),
        ('"text"', 'needs an object with the fields sentence, label, not "text"'),
        ('{"sentence": "x"}', "the field label is missing: sst2 needs an object with the fields sentence, label"),
        ('{"label": 1}', "the field sentence is missing: "),
        ('{"sentence": 3, "label": 1}', "field sentence must be text, not 3"),
        ('{"sentence": null, "label": 1}', "field sentence must be text, not null"),
        ('{"sentence": ["x"], "label": 1}', "field sentence must be text, not a list"),
        ('{"sentence": " \\n\\t", "label": 1}', "field sentence is empty"),
        ('{"sentence": "\\ud83d!", "label": 1}', "field sentence holds half a surrogate pair, \\\\ud83d"),
        (
            '{"sentence": "x", "label": "1"}',
            'field label must be an integer from 0 to 1 or the name of a class, not "1" .text.: one of terrible, great',
        ),
        (
            '{"sentence": "x", "label": 1.0}',
            "field label must be an integer from 0 to 1 or the name of a class, not 1.0 .a decimal number.: write 1",
        ),
        ('{"sentence": "x", "label": NaN}', "field label must be an integer from 0 to 1 or the name of a class, not NaN "),
        ('{"sentence": "x", "label": true}', "field label must be an integer from 0 to 1 or the name of a class, not true"),
        ('{"sentence": "x", "label": 2}', r"label 2 is not in 0\.\.1"),
        ('{"sentence": "x", "label": -1}', r"label -1 is not in 0\.\.1"),
    ],
)
def test_a_row_that_does_not_fit_is_named_by_file_and_line(line, message, tmp_path):
    with pytest.raises(UsageError, match=rf"train\.jsonl, line 3: .*{message}"):
        load_task("sst2", write(tmp_path, lines(GOOD) + "\n" + line + "\n" + lines(GOOD)))


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ([], "field answer is an empty list"),
        (["x", ""], "field answer, answer 2 is empty"),
        (["x", 3], "field answer, answer 2 must be text, not 3"),
        ("", "field answer is empty"),
        (None, "field answer must be text, not null"),
        ({"text": "x"}, "field answer must be text, not an object"),
    ],
)
def test_an_answer_without_text_is_named(answer, message, tmp_path):
    with pytest.raises(UsageError, match=rf"train\.jsonl, line 1: {message}"):
        load_task("nq_open", write(tmp_path, lines({"question": "what", "answer": answer})))


def test_a_byte_that_is_no_utf8_is_named_by_its_offset(tmp_path):
    content = lines(GOOD).encode() + b'{"sentence": "caf\xe9", "label": 1}\n'
    offset = content.index(b"\xe9")
    with pytest.raises(UsageError, match=rf"train\.jsonl, line 2: byte 0xe9 at offset {offset} of the file is not UTF-8"):
        load_task("sst2", write(tmp_path, content))


def test_a_file_without_a_row_is_refused(tmp_path):
    with pytest.raises(UsageError, match=r"train\.jsonl holds no example"):
        load_task("sst2", write(tmp_path, "\n \n"))


def test_one_file_under_two_names_is_refused(tmp_path):
    for make in (lambda: write(tmp_path, lines(GOOD), lines(GOOD)), lambda: (tmp_path / "validation.jsonl").symlink_to("train.jsonl")):
        (tmp_path / "validation.jsonl").unlink(missing_ok=True)
        make()
        with pytest.raises(UsageError, match=r"train\.jsonl and .*validation\.jsonl are duplicate files"):
            load_task("sst2", tmp_path)


def test_two_files_of_one_split_are_refused(tmp_path):
    write(tmp_path, lines(GOOD))
    (tmp_path / "train.jsonl.gz").write_bytes(b"packed")
    with pytest.raises(UsageError, match=r"train\.jsonl and .*train\.jsonl\.gz both exist"):
        load_task("sst2", tmp_path)
    (tmp_path / "train.jsonl").unlink()
    with pytest.raises(MissingInput, match=r"no file .*train\.jsonl: .*train\.jsonl\.gz is not read"):
        load_task("sst2", tmp_path)


def test_missing_data_say_what_to_do(tmp_path):
    with pytest.raises(MissingInput, match="no data folder"):
        load_task("sst2", tmp_path / "nowhere")
    with pytest.raises(
        MissingInput,
        match=r"no file .*train\.jsonl: the folder must hold a train and a validation file that end in \.jsonl, \.csv, \.tsv or \.parquet",
    ):
        load_task("sst2", tmp_path)
    with pytest.raises(UsageError, match="did you mean sst2"):
        load_task("sst-2")


def test_rows_are_checked_against_the_task_they_are_read_for(tmp_path):
    (tmp_path / "rows.jsonl").write_text(lines({"sentence": "x", "label": 2}))
    task = TASKS["sst2"]
    with pytest.raises(UsageError, match="label 2"):
        checked(read_rows(tmp_path / "rows.jsonl", ()), task)
    three = replace(task, words=("bad", "fair", "good"))
    assert checked(read_rows(tmp_path / "rows.jsonl", ()), three) == [{"sentence": "x", "label": 2}]
