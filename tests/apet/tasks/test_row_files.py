"""Files of rows: every format against pandas, locations of rows, and files that are refused."""

import json
import re
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from apet.errors import MissingInput, UsageError
from apet.tasks import load_task
from apet.tasks.row_files import read_rows

TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00\r\n")) | st.sampled_from(
    ['a "quoted" word', '"', "a, b", "two\nlines", "tab\tinside", "é", "", "\u2028", "1", "NA", " spaces "]
)
GOOD = "sentence,label\na film,1\n"


def write(folder: Path, content: str | bytes, name: str = "train.csv") -> Path:
    folder.mkdir(exist_ok=True)
    (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    if not (folder / "validation.jsonl").exists():
        (folder / "validation.jsonl").write_text('{"sentence": "held out", "label": 0}')
    return folder


def refused(folder: Path, content: str | bytes, message: str, name: str = "train.csv") -> None:
    with pytest.raises(UsageError, match=message) as error:
        load_task("sst2", write(folder, content, name))
    assert "\n" not in str(error.value)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=5))
def test_every_format_gives_the_texts_that_pandas_wrote(tmp_path_factory, rows):
    folder = tmp_path_factory.mktemp("rows")
    table = pd.DataFrame(rows, columns=["one", "two"])
    table.to_csv(folder / "rows.csv", index=False)
    table.to_csv(folder / "rows.tsv", index=False, sep="\t")
    table.to_parquet(folder / "rows.parquet", index=False)
    table.to_json(folder / "rows.jsonl", orient="records", lines=True)
    for name in ("rows.csv", "rows.tsv", "rows.parquet", "rows.jsonl"):
        found = [row for _, row in read_rows(folder / name, ("one", "two"))]
        assert found == table.to_dict("records"), name


def test_only_the_columns_asked_for_are_kept(tmp_path):
    (tmp_path / "rows.csv").write_text("id,text,,\n1,a,x,y\n")
    assert [row for _, row in read_rows(tmp_path / "rows.csv", ("text",))] == [{"text": "a"}]


def test_a_record_is_located_at_its_first_line(tmp_path):
    (tmp_path / "rows.csv").write_bytes(b'\xef\xbb\xbftext,label\r\n\r\n"two\r\nlines",0\r\n\nlast,1\r\n')
    rows = list(read_rows(tmp_path / "rows.csv", ("text", "label")))
    assert [(place.rpartition(", ")[2], row["text"]) for place, row in rows] == [("line 3", "two\r\nlines"), ("line 6", "last")]


def test_texts_longer_than_the_limit_of_the_csv_module_are_read(tmp_path):
    long = "word " * 100_000
    assert load_task("sst2", write(tmp_path, f'sentence,label\n"{long}",1\n')).splits["train"][0]["sentence"] == long


def test_labels_are_read_from_numbers_and_names(tmp_path):
    content = "sentence,label\na,0\nb,great\nc, 1 \nd,terrible\n"
    assert [row["label"] for row in load_task("sst2", write(tmp_path, content)).splits["train"]] == [0, 1, 1, 0]


def test_truth_values_of_a_parquet_file_are_labels(tmp_path):
    write(tmp_path, b"")
    (tmp_path / "train.csv").unlink()
    pd.DataFrame({"sentence": ["a", "b"], "label": [True, False]}).to_parquet(tmp_path / "train.parquet")
    assert [row["label"] for row in load_task("sst2", tmp_path).splits["train"]] == [1, 0]


def test_the_same_rows_have_one_fingerprint_in_every_format(tmp_path):
    rows = pd.DataFrame({"sentence": ["a, b", 'say "x"'], "label": [0, 1]})
    rows.to_csv(write(tmp_path / "csv", "") / "train.csv", index=False)
    rows.to_parquet(write(tmp_path / "parquet", "", "train.parquet") / "train.parquet")
    rows.to_json(write(tmp_path / "jsonl", "", "train.jsonl") / "train.jsonl", orient="records", lines=True)
    prints = {load_task("sst2", tmp_path / name).fingerprint for name in ("csv", "parquet", "jsonl")}
    assert len(prints) == 1


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", r"train\.csv holds no example: write one example per row"),
        ("sentence,label\n", r"train\.csv holds no example"),
        ("dull,0\nfine,1\n", r"train\.csv, line 1: the header has no column 'sentence': one of dull, 0"),
        ("sentense,label\na,0\n", r"line 1: the header has no column 'sentence': did you mean sentense\?"),
        ("sentence;label\na;0\n", r"line 1: the header 'sentence;label' is a single column: separate the columns by commas"),
        ("sentence,label,label\na,0,1\n", r"line 1: the column 'label' occurs twice in the header: rename one of them"),
        (GOOD + "one, two,0\n", r"line 3: 3 values, but the header names 2 columns: put quotes around a text that contains commas"),
        (GOOD + "one\n", r"line 3: 1 values, but the header names 2 columns"),
        (GOOD + '"open,0\nnext,1\n', r"line 3: the quotes of this record are not valid \(unexpected end of data\): put quotes"),
        (GOOD + '"a" b,0\n', r"line 3: the quotes of this record are not valid \(',' expected after '\"'\)"),
        (GOOD + " ,0\n", r"line 3: field sentence is empty: write a text, or remove the example"),
        (GOOD + ",0\n", r"line 3: field sentence is empty"),
        (GOOD + "x,2\n", r"line 3: field label: label 2 is not in 0\.\.1"),
        (GOOD + "x,-1\n", r"line 3: field label: label -1 is not in 0\.\.1"),
        (GOOD + "x,1.0\n", r"line 3: field label must be an integer from 0 to 1 or the name of a class, not 1\.0 .*: write 1$"),
        (GOOD + "x,\n", r'line 3: field label must be an integer from 0 to 1 or the name of a class, not "" \(text\)'),
        (GOOD + "x,grate\n", r'line 3: field label must be an integer .*, not "grate" \(text\): did you mean great\?'),
        (GOOD.encode() + b"caf\xe9,0\n", r"line 3: byte 0xe9 at offset 27 of the file is not UTF-8: save the file as UTF-8"),
        (GOOD.encode("utf-16"), r"line 1: byte 0xff at offset 0 of the file is not UTF-8"),
    ],
)
def test_a_csv_file_that_does_not_fit_is_refused_by_line(content, message, tmp_path):
    refused(tmp_path, content, message)


def test_a_tsv_file_names_its_separator(tmp_path):
    refused(tmp_path, "sentence,label\na,0\n", "separate the columns by tabs", "train.tsv")
    refused(tmp_path / "more", "sentence\tlabel\na\tb\t0\n", "put quotes around a text that contains tabs", "train.tsv")


def test_a_parquet_file_that_does_not_fit_is_refused(tmp_path):
    refused(tmp_path / "one", b"text", r"train\.parquet is not a readable parquet file \(.*\): write it again", "train.parquet")
    for number, (columns, message) in enumerate([
        ({"text": ["a"], "label": [0]}, r"train\.parquet: the header has no column 'sentence': one of text, label"),
        ({"sentence": ["a", None], "label": [0, 1]}, r"train\.parquet, row 1: field sentence must be text, not null"),
        ({"sentence": ["a"], "label": [1.0]}, r"row 0: field label must be an integer .*, not 1\.0 .*: write 1$"),
        ({"sentence": [pd.Timestamp(0)], "label": [1]}, r"row 0: field sentence must be text, not \"1970"),
    ]):  # fmt: skip
        folder = write(tmp_path / str(number), b"", "train.parquet")
        pd.DataFrame(columns).to_parquet(folder / "train.parquet")
        with pytest.raises(UsageError, match=message):
            load_task("sst2", folder)


def test_two_formats_of_one_split_are_refused(tmp_path):
    write(tmp_path, GOOD)
    (tmp_path / "train.tsv").write_text(GOOD.replace(",", "\t"))
    with pytest.raises(UsageError, match=r"train\.csv and .*train\.tsv both exist: keep only one of them"):
        load_task("sst2", tmp_path)


def test_a_missing_validation_file_says_how_to_do_without(tmp_path):
    (tmp_path / "train.csv").write_text(GOOD)
    with pytest.raises(MissingInput, match=re.escape("validation.jsonl: the folder must hold a train and a validation file")) as error:
        load_task("sst2", tmp_path)
    assert "'splits: {validation: 0.1}'" in str(error.value)


def test_hidden_labels_of_a_csv_file_are_noticed(tmp_path):
    write(tmp_path, GOOD)
    (tmp_path / "test.csv").write_text("sentence,label\nx,-1\ny,-1\n")
    assert "test" not in load_task("sst2", tmp_path, test=True).splits
    (tmp_path / "test.csv").write_text("sentence,label\nx,-1\ny,1\n")
    with pytest.raises(UsageError, match=r"test\.csv, line 2: field label: label -1"):
        load_task("sst2", tmp_path, test=True)


def test_an_answer_in_a_csv_file_is_one_text(tmp_path):
    (tmp_path / "train.csv").write_text("question,answer\nhow many,12\n")
    (tmp_path / "validation.jsonl").write_text(json.dumps({"question": "who", "answer": ["me"]}))
    assert load_task("nq_open", tmp_path).splits["train"] == [{"question": "how many", "answer": "12"}]
