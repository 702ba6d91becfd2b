"""Runs of tasks from YAML files: train, intrinsic-dim, spectrum, slice, tables, reports and exports, and the check of a task."""

import json
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

import cli
from analyses.runs import inputs, task_check
from analyses.specs import TrainSpec
from apet.errors import UsageError
from tests.apet.tiny_cases import saved

SUPPORT = """name: support
fields: [message]
template: "{message} this is about {slot}."
label_words: [money, delivery, quality]
classes: [billing, shipping, product]
target: topic
splits: {validation: 0.25}
"""
CAPITALS = """name: capitals
fields: [country]
template: "capital of {country}: {slot}"
target: capital
metric: rouge_l
"""
TONE = """name: tone
fields: [text]
template: "{text} it was {slot}."
label_words: [not good at all, not bad at all]
source: {files: rows}
"""
LENGTH = """name: length
fields: [text]
template: "{text} {slot}"
target: words
metric: pearson
columns: {words: count}
"""
TASKS = {"support": SUPPORT, "capitals": CAPITALS, "tone": TONE, "length": LENGTH}
METRICS = {"support": "accuracy", "capitals": "rouge_l", "tone": "accuracy", "length": "pearson"}
KINDS = ["billing", "shipping", "product"]
MODEL = ["--model", "mini-t5-130k", "--random-init"]
SHORT = ["--steps", "3", "--batch", "8", "--examples", "8"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A folder with four tasks and their data."""
    root = tmp_path_factory.mktemp("tasks")
    for name, text in TASKS.items():
        (root / name).mkdir()
        (root / name / "task.yaml").write_text(text)
    rows = "".join(f'"message {i}, about {i % 7}",{KINDS[i % 3]}\n' for i in range(40))
    (root / "support" / "train.csv").write_text("message,topic\n" + rows)
    for split, count in (("train", 12), ("validation", 6)):
        rows = "".join(f"land of {split} {i},town {i % 2}\n" for i in range(count))
        (root / "capitals" / f"{split}.csv").write_text("country,capital\n" + rows)
        texts = [" ".join(["a fine film", "a dull film"][i % 2] for _ in range(1 + i % 4)) + f" {split} {i}" for i in range(2 * count)]
        (root / "tone" / "rows").mkdir(exist_ok=True)
        labels = ["not bad at all", "not good at all"]
        lines = [json.dumps({"text": text, "label": labels[i % 2]}) for i, text in enumerate(texts)]
        (root / "tone" / "rows" / f"{split}.jsonl").write_text("\n".join(lines) + "\n")
        numbers = "".join(f"{text}\t{len(text.split()) / 2}\n" for text in texts)
        (root / "length" / f"{split}.tsv").write_text("text\tcount\n" + numbers)
    return root


def run(*arguments: str | Path, code: int = 0) -> dict:
    """Run a command with --json and return its JSON object, or {"error": the line that it printed} if it fails."""
    result = CliRunner().invoke(cli.app, [*map(str, arguments), "--json"])
    assert result.exit_code == code, result.output
    return json.loads(result.stdout) if code == 0 else {"error": result.stderr.strip()}


def train(task: Path, out: Path, *more: str) -> dict:
    return run("train", *MODEL, "--task", task, "--method", "apet", "--k", "20", "--no-early-stop", *SHORT, "--out", out, *more)


def test_moving_the_task_file_changes_no_run_and_no_row(folder, tmp_path):
    first = train(folder / "support" / "task.yaml", tmp_path)
    moved = shutil.copytree(folder / "support", tmp_path / "elsewhere" / "moved")
    again = train(moved / "task.yaml", tmp_path)
    assert (first["run_id"], first["task"]) == (again["run_id"], "support")
    assert [path.name for path in (tmp_path / "train").iterdir() if (path / "DONE").exists()] == [first["run_id"]]
    rows = [json.loads(line) for line in (tmp_path / "train" / first["run_id"] / "rows.jsonl").read_text().splitlines()]
    assert {(row["task"], row["metric"]) for row in rows} == {("support", "accuracy")}
    changed = moved / "changed.yaml"
    changed.write_text(SUPPORT.replace("this is about", "about"))
    assert train(changed, tmp_path)["run_id"] != first["run_id"]
    lines = run("table", tmp_path / "train")["table"]  # one task of two definitions: two lines, each with its data
    assert [line["task"] for line in lines] == ["support", "support"]
    assert all(line["settings"].startswith("data ") for line in lines)


def test_points_of_a_run_are_found_from_another_place_and_refused_for_another_definition(folder, tmp_path):
    made = train(folder / "support" / "task.yaml", tmp_path)
    moved = shutil.copytree(folder / "support", tmp_path / "moved") / "task.yaml"
    at = ["--at", tmp_path / "train" / made["run_id"], "--task"]
    found = run("spectrum", *at, moved, "--matrix", "ggn")
    assert (found["task"], found["k"], found["at_run"]) == ("support", 20, made["run_id"])
    assert run("slice", *at, moved, "--points", "3")["points"] == 3
    changed = moved.with_name("changed.yaml")
    changed.write_text(SUPPORT.replace("this is about", "about"))
    assert "but the present data are" in run("spectrum", *at, changed, code=2)["error"]
    out = tmp_path / "tuned.safetensors"
    exported = CliRunner().invoke(cli.app, ["export", str(tmp_path / "train" / made["run_id"]), str(out)])
    assert exported.exit_code == 0, exported.output


def test_an_export_notices_that_the_task_file_has_changed(folder, tmp_path):
    task = shutil.copytree(folder / "support", tmp_path / "support") / "task.yaml"
    made = train(task, tmp_path)
    env = tmp_path / "train" / made["run_id"] / "env.json"
    env.write_text(env.read_text().replace("this is about", "about"))  # as if the run had read another template
    refused = CliRunner().invoke(cli.app, ["export", str(tmp_path / "train" / made["run_id"]), str(tmp_path / "out")])
    assert refused.exit_code == 2
    assert "has changed since the run" in refused.stderr.replace("\n", " ")


@pytest.mark.parametrize("name", TASKS)
def test_thresholds_figures_and_reports_come_from_the_rows_alone(name, folder, tmp_path):
    task = shutil.copytree(folder / name, tmp_path / name)
    search = ["--runs", "4", "--k-min", "4", "--k-max", "64", *(["--no-predict"] if name in ("capitals", "length") else [])]
    model, target = (MODEL, "fraction:0.5") if name != "length" else (["--model", "mini-bert-120k"], "metric:0.9")
    arguments = ("intrinsic-dim", *model, "--task", task / "task.yaml", "--target", target, *SHORT, *search, "--out", tmp_path)
    found = run(*arguments)
    assert found["task"] == name and found["target_kind"] == target
    results = tmp_path / "intrinsic-dim"
    known = {line["task"]: line["metric"] for line in run("table", results)["table"]}
    assert known == {name: METRICS[name]}
    shutil.rmtree(task)  # nothing reads the task file any more
    assert {line["task"]: line["metric"] for line in run("table", results)["table"]} == known
    reported = run("report", results)
    assert name in Path(reported["report"]).read_text()
    assert run("figures", results, "--out", tmp_path / "figures", "--only", "performance")["written"]


def test_a_study_names_a_task_by_its_file_and_keeps_its_results_where_it_moves(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for place in ("one", "two"):
        shutil.copytree(folder / "support", tmp_path / place)
        (tmp_path / f"{place}.yaml").write_text(f"""name: study
defaults: {{task: {place}/task.yaml, model: mini-t5-130k, random_init: true, early_stop: false, steps: 2, batch: 8, examples: 8}}
grid:
  - {{method: apet, k: [4, 8]}}
""")
    assert (run("study", "one.yaml")["done"], run("study", "two.yaml", "--dry-run")["done"]) == (2, 2)
    (tmp_path / "one.yaml").write_text("grid: [{task: one/tusk.yaml, k: 4}]")
    assert "no task file one/tusk.yaml" in run("study", "one.yaml", code=3)["error"]
    (tmp_path / "one.yaml").write_text("grid: [{task: sst-2, k: 4}]")
    assert "one.yaml:1: unknown task 'sst-2': did you mean sst2" in run("study", "one.yaml", code=2)["error"].replace("\n", " ")


def test_the_data_of_a_study_are_found_by_the_tasks_name(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(folder / "support", tmp_path / "data" / "support")
    (tmp_path / "my.yaml").write_text(SUPPORT)
    grid = "grid: [{task: my.yaml, model: mini-t5-130k, k: 4, early_stop: false, steps: 1, batch: 4, examples: 4}]\nname: "
    (tmp_path / "one.yaml").write_text(grid + "one")
    (tmp_path / "two.yaml").write_text(grid + "two\ndata: {my.yaml: data/support}")
    assert run("study", "one.yaml", "--data", "data")["done"] == run("study", "two.yaml")["done"] == 1
    assert {path.name for path in (tmp_path / "results" / "one").iterdir() if (path / "DONE").exists()} == {
        path.name for path in (tmp_path / "results" / "two").iterdir() if (path / "DONE").exists()
    }


def test_label_words_that_share_their_first_tokens_and_numbers_are_trained_and_analysed(folder, tmp_path):
    tone = train(folder / "tone" / "task.yaml", tmp_path)
    assert 0 <= tone["accuracy"] <= 1 and tone["train_loss"] > 0
    at = ["--at", tmp_path / "train" / tone["run_id"], "--examples", "4"]
    spectrum = run("spectrum", *at, "--matrix", "ggn")
    assert spectrum["symmetry_defect"] < 1e-4 and min(spectrum["eigenvalues"]) >= 0
    assert sum(value > 1e-12 for value in spectrum["eigenvalues"]) <= 4  # n (C - 1)
    length = train(folder / "length" / "task.yaml", tmp_path, "--model", "mini-bert-120k")
    assert -1 <= length["pearson"] <= 1 and length["pearson_stderr"] > 0 and "accuracy" not in length
    refused = run("train", "--model", "mini-bert-120k", "--task", folder / "length" / "task.yaml", "--k", "4", "--readout", "words", code=2)
    assert "\n" not in refused["error"].strip() or "head" in refused["error"]
    assert "head" in refused["error"]


# the check of a task


def test_the_check_shows_what_a_model_reads(folder):
    found = task_check(str(folder / "support" / "task.yaml"), "mini-t5-130k", max_length=8)
    task = TrainSpec(task=str(folder / "support" / "task.yaml"), model="mini-t5-130k", method="full")
    tokenizer = inputs(task, None).loaded.tokenizer
    assert found["answers"][0]["split"] == "train" and sum(found["answers"][0][word] for word in ("money", "delivery", "quality")) == 30
    assert [split["examples"] for split in found["splits"]] == [30, 10]
    assert [example["answer"] for example in found["examples"]] != ["money"] * 3
    for example in found["examples"]:
        assert len(example["tokens"]) <= 8 < example["untruncated"]
        assert (
            tokenizer.convert_ids_to_tokens(tokenizer(example["text"], add_special_tokens=False).input_ids)[-4:] == example["tokens"][-4:]
        )
        assert "<extra_id_0>" in example["tokens"]
    assert found["splits"][0]["truncated"] == 30
    assert [word["class"] for word in found["label_words"]] == KINDS
    assert [word["tokens"] for word in found["label_words"]] == [tokenizer.tokenize(word) for word in ("money", "delivery", "quality")]


def test_the_check_is_printed_within_120_columns(folder):
    result = CliRunner().invoke(cli.app, ["tasks", "--check", str(folder / "capitals" / "task.yaml"), "--model", "mini-bloom-120k"])
    assert result.exit_code == 0, result.output
    assert max(map(len, result.stdout.splitlines())) <= 120
    assert "example 3: " in result.stdout and "town 0" in result.stdout
    refused = run("tasks", "--model", "mini-t5-130k", code=2)["error"]
    assert "have no effect on the list of tasks" in refused


def test_a_causal_model_refuses_a_field_after_the_slot(tmp_path):
    (tmp_path / "task.yaml").write_text(SUPPORT.replace("{message} this is about {slot}.", "about {slot}: {message}"))
    (tmp_path / "train.csv").write_text("message,topic\na,0\nb,1\nc,2\nd,0\n")
    with pytest.raises(UsageError, match=r"reads only the text before \{slot\}, but the template of support has a field after it"):
        task_check(str(tmp_path / "task.yaml"), str(saved("gpt2", tmp_path / "gpt2")))
    assert task_check(str(tmp_path / "task.yaml"), "mini-bert-120k")["examples"]
