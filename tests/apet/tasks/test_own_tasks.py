"""Tasks from YAML files: what they describe, their data and fingerprints, and the line of every fault."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from apet.errors import MissingInput, UsageError
from apet.tasks import KEYS, TASKS, load_task, task_named
from apet.tasks.own_tasks import read_task
from apet.tasks.task_table import Files, Hub

SUPPORT = {
    "name": "support", "fields": ["message"], "template": "{message} this is about {slot}.",
    "label_words": ["money", "delivery", "quality"], "classes": ["billing", "shipping", "product"], "target": "topic",
}  # fmt: skip
ROWS = "message,topic\ncharged twice,billing\nnever came,delivery\nthe handle broke,2\n"
OTHERS = "message,topic\nrefund me,0\n"


def described(folder: Path, content: dict[str, Any] | str, name: str = "task.yaml", **files: str) -> str:
    """Write a task file and files of data into `folder`, and return the path of the task file. In names of files _ stands for a dot."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(content if isinstance(content, str) else yaml.safe_dump(content, sort_keys=False))
    for file, text in files.items():
        (folder / file.replace("_", ".")).write_text(text)
    return str(folder / name)


# four tasks


def test_three_classes_from_a_csv_file(tmp_path):
    path = described(tmp_path, SUPPORT, train_csv=ROWS, validation_csv=OTHERS)
    task, data = task_named(path), load_task(path)
    assert (task.type, task.classes, task.metric, task.target) == ("classification", 3, "accuracy", "label")
    texts = ("charged twice", "never came", "the handle broke")
    assert data.splits["train"] == [{"message": text, "label": label} for label, text in enumerate(texts)]


def test_label_words_of_several_tokens_from_json_lines(tmp_path):
    words = ["very bad", "very good"]
    content = {"name": "films", "fields": ["text"], "template": "{text} {slot}", "label_words": words, "score": "whole", "metric": "f1"}
    rows = "".join(json.dumps({"text": f"film {i}", "label": words[i % 2]}) + "\n" for i in range(4))
    path = described(tmp_path, content | {"columns": {"text": "text"}}, train_jsonl=rows, validation_jsonl=rows.replace("film", "plot"))
    task = task_named(path)
    assert (task.words, task.scoring, task.metric) == (tuple(words), "whole", "f1")
    assert [row["label"] for row in load_task(path).splits["train"]] == [0, 1, 0, 1]


def test_answers_in_text(tmp_path):
    content = {"name": "capitals", "fields": ["country"], "template": "capital of {country}: {slot}", "target": "capital"}
    path = described(tmp_path, content, train_csv="country,capital\nFrance,Paris\n", validation_csv="country,capital\nItaly,Rome\n")
    task = task_named(path)
    assert (task.type, task.target, task.metric) == ("generation", "capital", "exact_match")
    assert load_task(path).splits["train"] == [{"country": "France", "capital": "Paris"}]


def test_numbers(tmp_path):
    content = {"name": "stars", "fields": ["review"], "template": "{review} {slot}", "target": "rating", "metric": "spearman"}
    path = described(tmp_path, content, train_csv="review,rating\nfine,4\ngood,4.5e0\n", validation_jsonl='{"review": "bad", "rating": 1}')
    task = task_named(path)
    assert (task.type, task.metric, task.target) == ("regression", "spearman", "label")
    assert load_task(path).splits["train"] == [{"review": "fine", "label": 4.0}, {"review": "good", "label": 4.5}]
    assert type(load_task(path).splits["validation"][0]["label"]) is float
    for number, value in enumerate(("nan", "inf", "1e999", "1_0", "4,5", "four")):
        path = described(tmp_path / str(number), content, train_csv=f'review,rating\nfine,"{value}"\n', validation_csv="")
        with pytest.raises(UsageError, match=r"train\.csv, line 2: field rating must be a finite number, not "):
            load_task(path)


# names of classes


def test_whole_numbers_as_names_are_names_and_never_positions(tmp_path):
    content = SUPPORT | {"label_words": ["bad", "fair", "good"], "classes": ["1", "2", "3"]}
    path = described(tmp_path, content, train_csv="message,topic\na,1\nb,3\n", validation_jsonl='{"message": "c", "topic": 2}')
    splits = load_task(path).splits
    assert [row["label"] for row in splits["train"] + splits["validation"]] == [0, 2, 1]
    path = described(tmp_path / "more", content, train_csv="message,topic\na,0\n", validation_csv="")
    with pytest.raises(UsageError, match=r"line 2: field topic must be the name of a class, not 0 .*: one of bad, fair, good, 1, 2, 3"):
        load_task(path)


def test_an_unknown_name_of_a_class_gets_a_suggestion(tmp_path):
    path = described(tmp_path, SUPPORT, train_csv="message,topic\na,Billing\n", validation_csv=OTHERS)
    with pytest.raises(UsageError, match=r'train\.csv, line 2: field topic .*, not "Billing" \(text\): did you mean billing'):
        load_task(path)


# sources


def test_columns_and_files_have_names_of_their_own(tmp_path):
    content = SUPPORT | {"source": {"files": "data"}, "splits": {"train": "a.csv", "validation": "b.tsv", "test": "c.jsonl"}}
    content |= {"columns": {"message": "Message Text", "topic": "Topic"}}
    path = described(tmp_path, content)
    described(tmp_path / "data", "", a_csv="Topic,Message Text\n1,where is it\n", b_tsv="Message Text\tTopic\nlost\t1\n")
    (tmp_path / "data" / "c.jsonl").write_text('{"Message Text": "ugly", "Topic": "product"}')
    splits = load_task(path, test=True).splits
    assert [splits[split][0] for split in ("train", "validation", "test")] == [
        {"message": "where is it", "label": 1}, {"message": "lost", "label": 1}, {"message": "ugly", "label": 2},
    ]  # fmt: skip


def test_a_folder_of_data_replaces_the_source(tmp_path):
    path = described(tmp_path, SUPPORT | {"source": {"hub": "someone/something"}})
    described(tmp_path / "data", "", train_csv=ROWS, validation_csv=OTHERS)
    assert len(load_task(path, tmp_path / "data").splits["train"]) == 3
    named = described(tmp_path, SUPPORT | {"splits": {"train": "rows.csv"}}, "named.yaml")
    with pytest.raises(MissingInput, match=r"no file .*data/rows\.csv, which the task support names as its train split"):
        load_task(named, tmp_path / "data")
    with pytest.raises(MissingInput, match=r"support is not on this machine.*hf download --repo-type dataset someone/something"):
        load_task(path)


def test_a_hub_data_set_has_a_configuration_a_revision_and_names_of_splits(tmp_path):
    source = {"hub": "a/b", "configuration": "c", "revision": "d"}
    task = task_named(described(tmp_path, SUPPORT | {"source": source, "splits": {"validation": "dev", "test": "eval"}}))
    assert (task.hub, task.files) == (Hub("a/b", "c", validation="dev", test="eval", revision="d"), None)
    assert task_named(described(tmp_path, SUPPORT, "other.yaml")).files == Files(tmp_path)


def test_a_share_of_the_training_examples_is_held_out(tmp_path):
    rows = "message,topic\n" + "".join(f"message {i},{i % 3}\n" for i in range(40))
    path = described(tmp_path, SUPPORT | {"splits": {"validation": 0.25}}, train_csv=rows)
    splits = load_task(path).splits
    texts = {split: [row["message"] for row in rows] for split, rows in splits.items()}
    assert {split: len(found) for split, found in texts.items()} == {"train": 30, "validation": 10}
    assert sorted(texts["train"] + texts["validation"]) == sorted(f"message {i}" for i in range(40))
    assert texts["validation"] != [f"message {i}" for i in range(10)]  # not the first ones
    assert load_task(described(tmp_path / "again", SUPPORT | {"splits": {"validation": 0.25}}, train_csv=rows)).splits == splits
    (tmp_path / "validation.csv").write_text(OTHERS)
    with pytest.raises(UsageError, match=r"validation\.csv exists, but support holds out a share .*: keep only one"):
        load_task(path)
    path = described(tmp_path / "few", SUPPORT | {"splits": {"validation": 0.5}}, train_csv="message,topic\na,1\n")
    with pytest.raises(UsageError, match=r"support has 1 training examples: too few to hold out 0\.5 of them"):
        load_task(path)


# identity


def test_the_fingerprint_is_that_of_the_definition_and_the_examples(tmp_path):
    data = {"train_csv": ROWS, "validation_csv": OTHERS}
    one = load_task(described(tmp_path / "one", SUPPORT, **data)).fingerprint
    same = SUPPORT | {"about": "messages", "classes": ["billing", "shipping", "product"], "metric": "accuracy", "score": "auto"}
    assert load_task(described(tmp_path / "two" / "deep", same, "other.yml", **data)).fingerprint == one
    changes: list[dict[str, Any]] = [{"template": "{message} {slot}"}, {"label_words": ["cash", "delivery", "quality"]},
                                     {"metric": "f1"}, {"score": "whole"}]  # fmt: skip
    for number, change in enumerate(changes):
        other = described(tmp_path / str(number), SUPPORT | change, **data)
        assert load_task(other).fingerprint != one, change


def test_built_in_tasks_keep_their_fingerprints(tmp_path):
    (tmp_path / "train.jsonl").write_text('{"sentence": "a film", "label": 1}\n')
    (tmp_path / "validation.jsonl").write_text('{"sentence": "held out", "label": 0}')
    assert load_task("sst2", tmp_path).fingerprint == "f4ca056c281b59e56852f7b174919d0c7a24b89a47a7e758ed8b4b64230f054f"


def test_the_name_of_a_built_in_task_needs_its_definition(tmp_path):
    sst2 = TASKS["sst2"]
    content = {"name": "sst2", "fields": ["sentence"], "template": sst2.template, "label_words": list(sst2.words)}
    data = {"train_csv": "text,sentiment\nfine,1\n", "validation_csv": "text,sentiment\ndull,0\n"}
    path = described(tmp_path, content | {"columns": {"sentence": "text", "label": "sentiment"}}, **data)
    described(tmp_path / "plain", "", train_csv="sentence,label\nfine,1\n", validation_csv="sentence,label\ndull,0\n")
    assert load_task(path).fingerprint == load_task("sst2", tmp_path / "plain").fingerprint
    other = described(tmp_path, content | {"label_words": ["bad", "good"]}, "other.yaml")
    with pytest.raises(UsageError, match=r"other\.yaml:1: name: 'sst2' is a built-in task with another definition: choose another name"):
        read_task(Path(other))


# faults


def test_every_key_is_read(tmp_path):
    full = SUPPORT | {"about": "messages", "metric": "f1", "score": "first", "source": {"files": "x"}, "splits": {"test": "t.csv"},
                      "columns": {"message": "m"}}  # fmt: skip
    assert set(full) == set(KEYS)
    task = read_task(Path(described(tmp_path, full)))
    plain = read_task(Path(described(tmp_path, SUPPORT, "plain.yaml")))
    changed = replace(
        plain, about="messages", metric="f1", scoring="first", files=Files(tmp_path / "x", test="t.csv"),
        columns=(("message", "m"), ("label", "topic")),
    )  # fmt: skip
    assert task == changed


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": None}, r":1: name: null is not a text"),
        ({"name": 7}, r':1: name: 7 is not a text: write "7"'),
        ({"name": "a b"}, r":1: name: use letters, digits, .* \(got: a b\)"),
        ({"labelwords": ["a", "b"]}, r":14: unknown key 'labelwords': did you mean label_words"),
        ({"fields": "message"}, r':2: fields: "message" is not a list of texts: write fields: \[first, second\]'),
        ({"fields": []}, r":2: fields: \[\] is not a list"),
        ({"fields": ["message", "message"]}, r":2: fields: 'message' occurs twice"),
        ({"fields": ["the message"]}, r":2: fields: 'the message' cannot stand in a template: use a name .* map it with columns"),
        ({"fields": ["slot"]}, r":2: fields: 'slot' cannot stand in a template"),
        ({"fields": ["label"], "template": "{label} {slot}"}, r":2: fields: 'label' is the name of every label: rename the field"),
        ({"fields": ["message", "topic"]}, r"target: 'topic' is one of the fields"),
        ({"template": ""}, r'template: "" is not a text'),
        ({"template": "{message}"}, r":4: template: \{slot\} must occur once, where the answer belongs \(found: 0\)"),
        ({"template": "{message} {slot} {slot}"}, r":4: template: \{slot\} must occur once, .*\(found: 2\)"),
        ({"template": "{{slot}} {message} {slot}"}, r":4: template: \{slot\} must occur once"),
        ({"template": "{slot}"}, r":4: template: the field \{message\} is missing: add it, or remove it from fields"),
        ({"template": "{mesage} {slot}"}, r":4: template: \{mesage\} is not a field: did you mean message\?"),
        ({"template": "{} {message} {slot}"}, r":4: template: \{\} is not a field: one of message, slot"),
        ({"template": "{message!r} {slot}"}, r":4: template: \{message\} must not have a format or a conversion: write \{message\}"),
        ({"template": "{message:>9} {slot}"}, r":4: template: \{message\} must not have a format"),
        ({"template": "{message {slot}"}, r":4: template: (the braces do not match|\{message \{slot\} is not a field)"),
        ({"label_words": ["yes"]}, r":5: label_words: a single class leaves nothing to learn: list at least two label words"),
        ({"label_words": [True, False]}, r':5: label_words: true is not a text: put it in quotes, "true"'),
        ({"label_words": [1, 2]}, r':5: label_words: 1 is not a text: put it in quotes, "1"'),
        ({"label_words": ["a", "b", "a"]}, r":5: label_words: 'a' occurs twice: the names must be distinct"),
        ({"label_words": ["a", " b", "c"]}, r':5: label_words: " b" is empty or has spaces at its ends'),
        ({"label_words": ["a", "", "c"]}, r':5: label_words: "" is empty'),
        ({"classes": ["a", "b"]}, r":9: classes: 2 names for 3 label words: list one name per label word"),
        ({"classes": ["a", "money", "c"]}, r":9: classes: 'money' is the label word of another class"),
        ({"target": "the topic"}, r":13: target: 'the topic' is not a name of letters"),
        ({"metric": "acuracy"}, r":14: metric: 'acuracy' is not a metric of tasks with label words: one of accuracy, f1, matthews"),
        ({"metric": "pearson"}, r":14: metric: 'pearson' is not a metric of tasks with label words"),
        ({"score": "all"}, r":14: score: 'all' is unknown: one of auto, first, whole"),
        ({"columns": {"text": "Text"}}, r":15: unknown key 'text': did you mean|:15: unknown key 'text': one of message, topic"),
        ({"columns": {"message": 3}}, r":15: columns: message: 3 is not the name of a column"),
        ({"columns": {"message": "topic"}}, r":14: columns: two fields have the column 'topic'"),
        ({"columns": "message"}, r":14: columns: 'message' is not a mapping"),
        ({"source": {"files": "a", "hub": "b"}}, r":15: source: files and hub exclude each other: keep one of them"),
        ({"source": {"revision": "main"}}, r":15: source: configuration and revision belong to a Hub data set: add hub: ID"),
        ({"source": {"file": "a"}}, r":15: unknown key 'file': did you mean files"),
        ({"source": {"files": 1}}, r":15: source: files: 1 is not a text"),
        ({"splits": {"validation": 1}}, r":15: splits: validation: the share 1 is not between 0 and 1"),
        ({"splits": {"validation": True}}, r":15: splits: validation: the share true is not between 0 and 1"),
        ({"splits": {"test": 0.1}}, r":15: splits: test: 0\.1 is not the name of a file or of a split"),
        ({"splits": {"train": "rows.txt"}}, r":15: splits: train: 'rows\.txt' must end in \.jsonl, \.csv, \.tsv, \.parquet"),
        ({"splits": {"dev": "rows.csv"}}, r":15: unknown key 'dev'"),
    ],
)  # fmt: skip
def test_a_fault_is_named_by_its_line(change, message, tmp_path):
    with pytest.raises(UsageError, match=message) as error:
        read_task(Path(described(tmp_path, SUPPORT | change)))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("key", ["name", "fields", "template"])
def test_a_missing_key_is_named(key, tmp_path):
    content = {name: value for name, value in SUPPORT.items() if name != key}
    with pytest.raises(UsageError, match=rf"task\.yaml:1: the key '{key}' is missing: {KEYS[key][:9]}"):
        read_task(Path(described(tmp_path, content)))


def test_scoring_and_classes_need_label_words(tmp_path):
    content = {"name": "text", "fields": ["a"], "template": "{a} {slot}", "target": "b"}
    with pytest.raises(UsageError, match=r":6: score: it has no effect without label_words"):
        read_task(Path(described(tmp_path, content | {"score": "whole"})))
    with pytest.raises(UsageError, match=r"classes: 2 names for 0 label words"):
        read_task(Path(described(tmp_path, content | {"classes": ["x", "y"]})))
    with pytest.raises(UsageError, match=r"metric: 'accuracy' is not a metric of tasks without label words: one of exact_match, rouge_l"):
        read_task(Path(described(tmp_path, content | {"metric": "accuracy"})))


def test_a_file_that_is_missing_or_no_mapping_is_one_line(tmp_path):
    with pytest.raises(MissingInput, match=r"no task file .*nowhere\.yaml"):
        task_named(str(tmp_path / "nowhere.yaml"))
    for content, message in (
        ("[1]", "must hold a mapping"),
        ("name: [", "not valid YAML"),
        ("name: a\nname: b", ":2: the key 'name'"),
    ):
        with pytest.raises(UsageError, match=message):
            read_task(Path(described(tmp_path, content)))
