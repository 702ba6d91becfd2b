"""Data sets of the Hub, from an artificial copy on disk in the layout of `hf download`."""

import sys
from pathlib import Path

import pytest

from apet.errors import MissingInput, UsageError
from apet.tasks.task_data import load_task
from apet.tasks.task_table import TASKS

datasets = pytest.importorskip("datasets")
SPLITS = ("train", "validation", "test")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "datasets")
    return tmp_path / "hub"


def place(cache: Path, name: str, splits: dict, card: str = "", features=None) -> Path:
    """Write the snapshot of the data set of the task `name`. `splits` maps file paths to columns."""
    hub = TASKS[name].hub
    assert hub is not None
    base, commit = cache / f"datasets--{hub.id.replace('/', '--')}", "a" * 40
    ref, snapshot = base / "refs" / (hub.revision or "main"), base / "snapshots" / commit
    for folder in (ref.parent, snapshot):
        folder.mkdir(parents=True, exist_ok=True)
    ref.write_text(commit)
    for path, columns in splits.items():
        (snapshot / path).parent.mkdir(parents=True, exist_ok=True)
        datasets.Dataset.from_dict(columns, features=features).to_parquet(str(snapshot / path))
    (snapshot / "README.md").write_text(card)
    return snapshot


def glue(configuration: str) -> str:
    files = "".join(f"  - split: {split}\n    path: {configuration}/{split}-*\n" for split in SPLITS)
    return f"---\nconfigs:\n- config_name: {configuration}\n  data_files:\n{files}---\n"


def sst2(cache: Path, labels: list[int], hidden: bool = True) -> None:
    features = datasets.Features(
        {"sentence": datasets.Value("string"), "label": datasets.ClassLabel(names=["negative", "positive"]), "idx": datasets.Value("int32")}
    )
    rows = {
        split: {"sentence": [f"{split} {i}" for i in range(len(labels))], "label": labels, "idx": list(range(len(labels)))}
        for split in SPLITS
    }
    if hidden:
        rows["test"]["label"] = [-1] * len(labels)
    place(cache, "sst2", {f"sst2/{split}-00000-of-00001.parquet": columns for split, columns in rows.items()}, glue("sst2"), features)


def test_a_configuration_is_read_with_integer_labels_and_no_other_field(cache):
    sst2(cache, [0, 1, 1])
    splits = load_task("sst2", test=True).splits
    assert splits["train"] == [{"sentence": f"train {i}", "label": label} for i, label in enumerate((0, 1, 1))]
    assert set(splits) == {"train", "validation"}  # the test split's labels are hidden


def test_a_test_split_with_labels_is_read_when_asked_for(cache):
    sst2(cache, [0, 1], hidden=False)
    assert set(load_task("sst2").splits) == {"train", "validation"}
    assert set(load_task("sst2", test=True).splits) == set(SPLITS)


def test_a_bad_row_is_named_by_split_and_row(cache):
    sst2(cache, [0, 1, -1])
    with pytest.raises(UsageError, match="nyu-mll/glue train, row 2: field label: label -1"):
        load_task("sst2")


def test_truth_values_become_labels(cache):
    columns = {"passage": ["p", "p"], "question": ["q", "r"], "label": [True, False]}
    place(cache, "boolq", {f"boolq/{split}-0.parquet": columns for split in SPLITS}, glue("boolq"))
    assert [row["label"] for row in load_task("boolq").splits["validation"]] == [1, 0]


def test_classes_of_trec_are_read_by_name_whatever_their_order(cache):
    columns = {"text": ["where", "who"], "label": [40, 12], "label_coarse": [0, 1], "label_coarse_original": ["LOC", "HUM"]}
    place(cache, "trec", {f"{split}.parquet": columns for split in ("train", "test")})
    splits = load_task("trec", test=True).splits
    assert splits == {split: [{"text": "where", "label": 4}, {"text": "who", "label": 3}] for split in SPLITS[:2]}
    for number, split in enumerate(SPLITS[:2]):  # a user's files have the task's own names
        (cache.parent / f"{split}.csv").write_text(f"text,label\nwhere,{('4', 'LOC')[number]}\n")
    assert [rows[0]["label"] for rows in load_task("trec", cache.parent).splits.values()] == [4, 4]


def test_similarities_are_numbers_and_hidden_ones_are_noticed(cache):
    columns = {"sentence1": ["a", "b"], "sentence2": ["c", "d"], "label": [3.5, 0.0]}
    files = {f"stsb/{split}-0.parquet": columns for split in SPLITS[:2]}
    place(cache, "stsb", files | {"stsb/test-0.parquet": columns | {"label": [-1.0, -1.0]}}, glue("stsb"))
    splits = load_task("stsb", test=True).splits
    assert set(splits) == {"train", "validation"}
    assert [row["label"] for row in splits["train"]] == [3.5, 0.0]


def test_a_task_file_may_hold_out_a_share_of_a_hub_data_set(cache, tmp_path):
    (tmp_path / "task.yaml").write_text(
        "name: mine\nfields: [sentence]\ntemplate: '{sentence} {slot}'\nlabel_words: [bad, good]\n"
        "source: {hub: nyu-mll/glue, configuration: sst2}\nsplits: {validation: 0.4}\n"
    )
    sst2(cache, [0, 1, 1, 0, 1])
    splits = load_task(str(tmp_path / "task.yaml")).splits
    assert {split: len(rows) for split, rows in splits.items()} == {"train": 3, "validation": 2}
    assert all(row["sentence"].startswith("train") for rows in splits.values() for row in rows)


def test_a_test_split_that_the_hub_lacks_is_left_out(cache):
    columns = {"sentence": ["a"], "label": [1]}
    configuration = "---\nconfigs:\n- config_name: sst2\n  data_files:\n"
    configuration += "".join(f"  - split: {split}\n    path: sst2/{split}-*\n" for split in SPLITS[:2]) + "---\n"
    place(cache, "sst2", {f"sst2/{split}-0.parquet": columns for split in SPLITS[:2]}, configuration)
    assert set(load_task("sst2", test=True).splits) == {"train", "validation"}


def test_the_parquet_copy_is_read_and_rows_without_a_text_are_left_out(cache):
    columns = {"document": ["one", "", None, "four"], "summary": ["a", "b", "c", "d"], "id": list("1234")}
    place(cache, "xsum", {f"default/{split}/0000.parquet": columns for split in SPLITS})
    splits = load_task("xsum", test=True).splits
    assert splits["test"] == [{"document": "one", "summary": "a"}, {"document": "four", "summary": "d"}]


def test_a_source_without_a_test_split_has_none(cache):
    place(cache, "nq_open", {f"{split}.parquet": {"question": [split], "answer": [["a", "b"]]} for split in SPLITS[:2]})
    splits = load_task("nq_open", test=True).splits
    assert splits == {split: [{"question": split, "answer": ["a", "b"]}] for split in SPLITS[:2]}


def test_what_is_not_here_is_named_with_the_command_that_brings_it():
    with pytest.raises(MissingInput, match=r"sst2 is not on .*'hf download --repo-type dataset nyu-mll/glue'"):
        load_task("sst2")
    with pytest.raises(MissingInput, match=r"dataset EdinburghNLP/xsum --revision refs/convert/parquet"):
        load_task("xsum")


def test_a_copy_that_cannot_be_read_is_named(cache):
    sst2(cache, [0, 1])
    with pytest.raises(MissingInput, match=r"the copy of nyu-mll/glue in .*cannot be read.*mnli.*hf download"):
        load_task("mnli")
    place(cache, "nq_open", {"train.parquet": {"question": ["q"], "answer": [["a"]]}})
    with pytest.raises(MissingInput, match="nq_open on this machine has no split validation, only train"):
        load_task("nq_open")


def test_without_the_package_the_error_says_so(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(MissingInput, match=r"sst2 needs the package datasets .*use data: "):
        load_task("sst2")
