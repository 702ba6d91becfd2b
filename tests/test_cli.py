"""The contract of the command line: JSON objects, exit codes, errors of one line, and no partial output files."""

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cli import app

ROOT = Path(__file__).parent.parent
SMALL = ["--model", "mini-t5-240k", "--random-init"]


def call(*arguments: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, list(map(str, arguments)))
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout, result.stderr


def answer(*arguments: str) -> dict:
    code, out, err = call(*arguments, "--json")
    assert code == 0, err
    return json.loads(out)


@pytest.fixture
def train(folder, tmp_path) -> list[str]:
    return ["train", *SMALL, "--task", "sst2", "--data", folder, "--k", "50", "--steps", "20", "--batch", "8", "--out", tmp_path]


def test_train_prints_the_contracts_fields(train):
    found = answer(*train)
    assert {"accuracy", "accuracy_stderr", "chance", "k", "run_id"} <= found.keys()
    assert 0 <= found["accuracy"] <= 1
    assert found["chance"] == 0.5
    assert found["k"] == 50


def test_methods_are_listed_with_their_options_and_their_k_on_a_model():
    rows = {row["name"]: row for row in answer("methods", "--model", "mini-t5-130k")["methods"]}
    assert rows["lora"]["options"] == {"r": "8", "alpha": "16", "targets": "none"} and rows["lora"]["k_option"] == "r"
    halved = {row["name"]: row for row in answer("methods", "--model", "mini-t5-130k", "--method-option", "r=4")["methods"]}
    assert rows["lora"]["k"] == 2 * halved["lora"]["k"] > 0 and "adapter" not in halved
    assert "is not supported: it needs a task id" in rows["peft:poly"]["reason"] and rows["peft:poly"]["k"] is None
    assert all(len(line) <= 120 for line in call("methods")[1].splitlines())
    assert call("methods", "--method-option", "rr=4")[2].strip() == "error: no method has the options rr=4"


def test_a_requested_k_of_another_method_is_printed_with_the_option_that_it_sets(train):
    arguments = [*train[: train.index("--k")], "--k", "900", *train[train.index("--k") + 2 :], "--method", "lora"]
    planned, found = answer(*arguments, "--dry-run"), answer(*arguments)
    for result in (planned, found):
        assert (result["requested_k"], result["method_option"]) == (900, "r=1") and result["k"] == planned["k"] != 900
    assert "entries" not in found


def test_the_test_split_is_evaluated_where_it_has_labels(train, folder, tmp_path):
    def run_on(name: str, test: str | None) -> tuple[int, str, str]:
        data = shutil.copytree(folder, tmp_path / name)
        if test is not None:
            (data / "test.jsonl").write_text(test)
        return call(*[data if value == folder else value for value in train], "--test", "--json")

    for name, text in (("none", None), ("hidden", '{"sentence": "a film", "label": -1}\n')):
        code, _, err = run_on(name, text)
        assert code == 2 and "no labelled test split" in err
    lines = (folder / "validation.jsonl").read_text().splitlines(keepends=True)
    found = json.loads(run_on("labelled", "".join(reversed(lines)))[1])
    assert (found["test_accuracy"], found["test_accuracy_stderr"]) == (found["accuracy"], found["accuracy_stderr"])


def test_a_finished_run_is_not_computed_again_and_force_does(train, tmp_path):
    first = answer(*train)
    done = tmp_path / "train" / first["run_id"] / "DONE"
    stamp = done.stat().st_mtime_ns
    assert answer(*train) == first
    assert done.stat().st_mtime_ns == stamp
    again = answer(*train, "--force")
    assert all(again[name] == value for name, value in first.items() if name not in ("seconds", "time"))
    assert done.stat().st_mtime_ns > stamp


def test_dry_run_writes_nothing_and_names_the_run(train, tmp_path):
    planned = answer(*train, "--dry-run")
    assert not (tmp_path / "train").exists()
    assert planned["run_id"] == answer(*train)["run_id"]
    assert planned["gradient_equivalents"] == 20 * 8


def test_a_dry_run_of_a_model_too_large_for_the_machine_needs_its_shapes_alone(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    found = answer("train", "--model", "t5-xxl", "--random-init", "--task", "mini-qa", "--k", "1000000", "--dry-run", "--json")
    assert found["parameters"] == 11_135_332_352
    assert found["run_id"] is None and "peak_gb" not in found


def test_attention_by_sdpa_trains_to_the_same_loss(train):
    eager, fast = (json.loads(call(*train, "--json", "--attention", kind)[1]) for kind in ("eager", "sdpa"))
    assert fast["loss"] == pytest.approx(eager["loss"], abs=1e-4)
    assert fast["run_id"] != eager["run_id"]


def test_of_several_processes_only_the_main_one_writes_and_tells(train, tmp_path, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    assert call(*train, "--json")[:2] == (0, "")
    assert not list(tmp_path.glob("train/*/rows.jsonl"))


def test_thresholds_of_bert_are_measured_and_predicted_by_the_same_answers(folder, tmp_path):
    bert = ["--model", "mini-bert-120k", "--random-init", "--task", "sst2", "--data", folder, "--examples", "16", "--out", tmp_path]
    planned = [run["spec"] for run in answer("intrinsic-dim", *bert, "--dry-run")["runs"]]
    assert {spec["readout"] for spec in planned if spec["kind"] == "train"} == {"words"}


def test_options_beat_config_and_set_beats_options(train, tmp_path):
    config = tmp_path / "c.yaml"
    config.write_text("batch: 4\nposition_seed: 7\n")
    spec = answer(*train, "--config", config, "--set", "steps=11", "--set", "lr=3e-4", "--dry-run")["spec"]
    assert (spec["batch"], spec["position_seed"], spec["steps"], spec["lr"]) == (8, 7, 11, 3e-4)


def test_an_error_in_a_config_names_its_line(train, tmp_path):
    config = tmp_path / "c.yaml"
    config.write_text("batch: 4\nstepz: 7\n")
    found, _, err = call(*train, "--config", config)
    assert found == 2
    assert f"{config}:2: unknown field 'stepz': did you mean steps" in err


def test_seed_sets_both_seeds(train):
    spec = answer(*train, "--seed", "3", "--dry-run")["spec"]
    assert spec["position_seed"] == spec["train_seed"] == 3


@pytest.mark.parametrize(
    ("change", "code", "message"),
    [
        (["--model", "mini-t5-240q"], 2, "did you mean mini-t5-240k"),
        (["--model", "nobody/nothing"], 3, "hf download nobody/nothing"),
        (["--task", "sst-2"], 2, "did you mean sst2"),
        (["--method", "aped"], 2, "did you mean apet"),
        (["--k", "0"], 2, "k = 0 must be at least 1"),
        (["--k", "999999999"], 2, "k = 999999999 is over the"),
        (["--data", "nowhere"], 3, "no data folder nowhere"),
        (["--examples", "1000"], 2, "examples = 1000"),
        (["--lr", "-1"], 2, "lr = -1.0 must be positive"),
        (["--lr", "nan"], 2, "lr = nan must be positive"),
        (["--lr", "inf"], 2, "must be positive and finite"),
        (["--set", "clip=.nan"], 2, "clip = nan must be positive"),
        (["--set", "warmup=-1"], 2, "warmup = -1 must be at least 0"),
        (["--accumulate", "0"], 2, "accumulate = 0 must be at least 1"),
        (["--train-seed", "9999999999999999999999"], 2, "must be below 2^63"),
        (["--method", "full"], 2, "k = 50 has no effect on this train run"),
        (["--set", "samples=3"], 2, "samples = 3 has no effect on training runs: it is for spectra"),
        (["--set", "find_lr=yes"], 2, "find_lr: 'yes' is not bool: write true"),
        (["--set", "stepz=3"], 2, "unknown field 'stepz': did you mean steps"),
        (["--set", "steps=many"], 2, "'many' is not int"),
        (["--scope", "atention"], 2, "unknown scope 'atention': did you mean attention?"),
        (["--scope", "layers:9"], 2, "the scope 'layers:9' selects no parameter"),
        (["--unit", "colum"], 2, "did you mean column"),
        (["--order", "fischer"], 2, "did you mean fisher"),
        (["--operations", "add+plog"], 2, "did you mean plug"),
        (["--matched", "lora"], 2, "use --k K or --matched METHOD"),
        (["--unit", "tensor", "--scope", "weights"], 2, "k = 50 is too small for a tensor"),
        (["--device", "tpu"], 2, "unknown device 'tpu'"),
        (["--config", "nowhere.yaml"], 3, "no config file"),
    ],
)
def test_wrong_input_is_one_line_with_its_exit_code_and_writes_nothing(train, change, code, message, tmp_path):
    found, out, err = call(*train, *change, "--json")
    assert found == code
    assert out == ""
    assert message in err
    assert len(err.strip().splitlines()) == 1
    assert not list(tmp_path.glob("train/*/DONE"))


def test_a_placement_reports_what_it_really_fills(train):
    without_k = [value for value in train if value not in ("--k", "50")]
    found = answer(*without_k, "--matched", "bitfit", "--unit", "row", "--scope", "decoder")
    assert 0 < found["k"] <= found["requested_k"]
    assert sum(found["entries"]["layer"].values()) == sum(found["entries"]["kind"].values()) == found["k"]
    assert all(layer.startswith("decoder") or layer == "outside" for layer, n in found["entries"]["layer"].items() if n)


@pytest.mark.parametrize("order", ["magnitude", "gradient", "fisher", "layer", "kind"])
def test_every_order_can_be_trained_and_exported(train, order, tmp_path):
    found = answer(*train, "--order", order)
    assert found["k"] == 50
    assert answer("export", found["results"], tmp_path / "a")["k"] == 50


def test_a_tuned_model_can_be_taken_elsewhere(train, tmp_path):
    run = answer(*train, "--scope", "weights")["results"]
    made = {form: answer("export", run, tmp_path / form, "--as", form) for form in ("apet", "merged", "shira")}
    assert all(each["k"] == 50 for each in made.values())
    assert (tmp_path / "apet").stat().st_size < 3000
    assert answer("train", "--model", tmp_path / "merged", *train[4:], "--dry-run")["parameters"] == 241_248
    code, _, err = call("export", tmp_path / "none", tmp_path / "x")
    assert code == 3 and "no finished run" in err and not (tmp_path / "x").exists()


def test_a_run_of_new_parameters_goes_only_into_an_artefact(train, tmp_path):
    run = answer(*train, "--operations", "prefix+plug")["results"]
    assert answer("export", run, tmp_path / "a")["k"] == 50
    code, _, err = call("export", run, tmp_path / "m", "--as", "merged")
    assert code == 2 and "only the form apet can hold" in err and not (tmp_path / "m").exists()


def test_a_broken_line_of_data_is_named(train, folder, tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "train.jsonl").write_text('{"sentence": "fine", "label": 1}\n{broken\n')
    (tmp_path / "data" / "validation.jsonl").write_text('{"sentence": "fine", "label": 1}\n')
    code, _, err = call(*train, "--data", tmp_path / "data")
    assert code == 2
    assert "train.jsonl, line 2: not JSON" in err


def test_help_shows_the_defaults_that_a_run_fills_in():
    out = " ".join(call("train", "--help")[1].replace("│", " ").split())
    assert all(default in out for default in ("[default: mini-t5-790k]", "[default: apet]", "[default: all except token tables]"))


def test_models_and_tasks_are_listed():
    listed = answer("models")["models"]
    assert {"name", "parameters"} <= listed[0].keys()
    assert {"sst2", "mini-sentiment"} <= {row["name"] for row in answer("tasks")["tasks"]}
    for command in ("models", "tasks"):
        assert call(command)[0] == 0


def test_spectrum_prints_eigenvalues_with_residuals(folder, tmp_path):
    options = [
        "--task",
        "sst2",
        "--data",
        folder,
        "--k",
        "20",
        "--examples",
        "8",
        "--lanczos-steps",
        "20",
        "--probes",
        "2",
        "--out",
        tmp_path,
    ]
    found = answer("spectrum", *SMALL, *options)
    assert len(found["eigenvalues"]) == len(found["residuals"]) == 10
    assert found["eigenvalues"] == sorted(found["eigenvalues"], key=abs, reverse=True)
    assert found["symmetry_defect"] < 1e-3
    exact = answer("spectrum", *SMALL, *options, "--matrix", "ggn")
    assert exact["negative_mass"] < 1e-4


@pytest.fixture
def line(folder, tmp_path) -> list[str]:
    return ["slice", *SMALL, "--task", "sst2", "--data", folder, "--k", "20", "--examples", "8", "--points", "3", "--out", tmp_path]


def test_slice_says_where_it_is_and_its_rows_can_be_drawn_and_kept(line, tmp_path):
    planned = answer(*line, "--dims", "2", "--dry-run")
    assert planned["points"] == 9 and not (tmp_path / "slice").exists()
    found = answer(*line, "--dims", "2", "--metric")
    assert {"run_id", "centre_loss", "theta_norm", "gradient_norm", "lowest_loss", "highest_loss"} <= found.keys()
    assert (found["run_id"], found["points"], found["directions"]) == (answer(*line, "--dims", "2", "--metric")["run_id"], 9, "random")
    assert found["lowest_loss"] <= found["centre_loss"] + 1e-6
    drawn = answer("figures", tmp_path / "slice", "--only", "contours", "--out", tmp_path / "a")["written"]["contours"]
    rows = tmp_path / "rows.parquet"
    assert answer("table", tmp_path / "slice", "--rows", "--out", rows)["rows"] > 9 * 5
    again = answer("figures", rows, "--only", "contours", "--out", tmp_path / "b")["written"]["contours"]
    assert [Path(path).read_bytes() for path in drawn] == [Path(path).read_bytes() for path in again]
    assert call("table", tmp_path / "slice", "--rows")[0] == 2
    assert call("figures", tmp_path / "none.parquet")[0] == 3


@pytest.mark.parametrize(
    ("change", "code", "message"),
    [
        (["--points", "4"], 2, "points = 4 is even"),
        (["--directions", "eigen"], 2, "unknown directions 'eigen'"),
        (["--directions", "trajectory"], 2, "use --at RUN"),
        (["--directions", "filter"], 2, "use --unit row or --directions tensor"),
        (["--directions", "optima"], 2, "use --to RUN"),
        (["--reach", "0"], 2, "reach = 0.0 must be positive"),
        (["--dims", "2", "--points", "999"], 2, "points is over the limit of 100,000"),
        (["--at", "nowhere"], 3, "no finished run in"),
        (["--at", "a/b", "--to", "c/d", "--directions", "optima"], 2, "must be in one folder of results"),
        (["--k", "1", "--dims", "2"], 2, "dims = 2 is over the number of tuned parameters, 1"),
    ],
)
def test_what_makes_no_slice_is_one_line_with_its_exit_code(line, change, code, message, tmp_path):
    found, out, err = call(*line, *change, "--json")
    assert (found, out) == (code, "")
    assert message in err
    assert len([text for text in err.strip().splitlines() if text.startswith("error")]) == 1
    assert not list(tmp_path.glob("slice/*/DONE"))


def test_intrinsic_dim_prints_the_contracts_fields(folder, tmp_path):
    options = [
        "--task",
        "sst2",
        "--data",
        folder,
        "--examples",
        "16",
        "--steps",
        "20",
        "--runs",
        "4",
        "--fraction",
        "0.3",
        "--out",
        tmp_path,
    ]
    found = answer("intrinsic-dim", *SMALL, *options)
    wanted = {"k_star", "k_star_low", "k_star_high", "k_pred", "k_pred_low", "k_pred_high", "target", "target_definition", "runs", "chance"}
    assert wanted | {"censored", "censored_pred"} <= found.keys()
    assert found["runs"] == 4
    for name, flag in (("k_star", "censored"), ("k_pred", "censored_pred")):
        assert (found[name] is None) == (found[flag] in ("above", "below"))


@pytest.mark.long
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_run_that_is_told_to_stop_saves_and_the_same_command_goes_on(folder, tmp_path, number):
    command = [sys.executable, "cli.py", "train", *SMALL, "--task", "sst2", "--data", str(folder), "--method", "apet", "--k", "50",
               "--no-early-stop", "--batch", "8", "--steps", "1500", "--lr", "0.0001", "--schedule", "constant", "--json"]  # fmt: skip
    whole = subprocess.run([*command, "--out", str(tmp_path / "a")], cwd=ROOT, capture_output=True, check=True, text=True)
    process = subprocess.Popen(
        [*command, "--out", str(tmp_path / "b")], cwd=ROOT, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 60
    while not list((tmp_path / "b").glob("train/*/checkpoint.kernels.json")) and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(2)  # long enough for the first steps
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "resume" in err
    assert list((tmp_path / "b").glob("train/*/checkpoint.safetensors"))
    again = subprocess.run([*command, "--resume", "--out", str(tmp_path / "b")], cwd=ROOT, capture_output=True, check=True, text=True)
    results = [json.loads(run.stdout) for run in (whole, again)]
    assert {**results[0], "results": None} == {**results[1], "results": None}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--no-measure", "--runs", "5"], "have no effect with --no-measure"),
        (["--set", "k=5"], "k = 5 has no effect on intrinsic-dim, which sets k itself"),
        (["--set", "early_stop=true"], "early_stop = True has no effect on intrinsic-dim"),
        (["--set", "samples=5"], "samples = 5 has no effect on any of the runs"),
        (["--no-predict", "--path"], "path = True has no effect on any of the runs"),
        (["--no-measure", "--subspace", "fastfood"], "subspace = fastfood has no effect on any of the runs"),
        (["--k-min", "9", "--k-max", "9"], "the largest k tried (9) must be above the smallest (9)"),
    ],
)
def test_an_option_that_no_run_of_a_search_uses_is_an_error(options, message, tmp_path):
    code, out, err = call("intrinsic-dim", "--model", "mini-t5-130k", "--task", "mini-review", "--out", tmp_path, *options, "--dry-run")
    assert (code, out) == (2, "")
    assert message in err and len(err.strip().splitlines()) == 1


def test_an_option_that_a_table_or_a_figure_of_kept_rows_cannot_use_is_an_error(tmp_path):
    code, _, err = call("table", tmp_path, "--rows", "--split", "test", "--out", tmp_path / "r.parquet")
    assert code == 2 and "--split has no effect with --rows" in err
    for command in ("figures", "report"):
        code, _, err = call(command, tmp_path / "r.parquet", "--target", "fraction:0.5")
        assert code == 2 and "a target has no effect on" in err
    (tmp_path / "r.parquet").touch()
    for command in ("table", "explain"):  # of runs, whose folder is missing
        code, _, err = call(command, tmp_path / "r.parquet")
        assert code == 2 and "r.parquet is a file, and runs are stored in a folder" in err


@pytest.mark.parametrize(
    "options", [["--family", "x"], ["--size", "x"], ["--steps", "1"], ["--seed", "1e3"], ["--minutes", "soon"], ["--minutes", "nan"]]
)
def test_a_wrong_option_of_pretrain_is_a_usage_error(options, tmp_path):
    code, _, err = call("pretrain", "--corpus", tmp_path, *options, "--dry-run")
    assert code == 2 and err
