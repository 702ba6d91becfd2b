"""A small study of every kind of run: output and report list each model and setting once, with the number of runs."""

import json
import re
from collections import Counter
from html import unescape
from pathlib import Path

import pandas as pd
import pytest
from typer.testing import CliRunner

from cli import app
from figures import FIGURES
from figures.report.summary_table import summary_table
from figures.rows import settings, tidy

MODELS = ("mini-bloom-120k", "mini-bloom-400k")
DRAWN = ("performance", "thresholds", "spectra")
STUDY = """
name: kinds
defaults: {model: [mini-bloom-120k, mini-bloom-400k], task: sst2, examples: 16, early_stop: false, batch: 8, steps: 12}
stages:
  trained:
    grid:
      - {kind: train, method: [full, lora]}
      - {kind: train, method: apet, k: [4, 16], position_seed: [0, 1], optimizer: lbfgs, batch: 16}
      - {kind: predict}
      - {kind: spectrum, k: 12, examples: 4, lanczos_steps: 4, probes: 2}
      - {kind: slice, k: 12, examples: 4, points: 3}
threshold: {fraction: 0.25}
"""


def output(*arguments: object) -> str:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.stderr
    return result.stdout


@pytest.fixture(scope="module")
def results(folder, tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("kinds")
    (root / "kinds.yaml").write_text(STUDY)
    data = root / "data"
    data.mkdir()
    (data / "sst2").symlink_to(folder)
    output("study", root / "kinds.yaml", "--data", data, "--out", root, "--json")
    return root / "kinds"


@pytest.fixture(scope="module")
def reported(results) -> tuple[dict, str, str]:
    """Return the report command's JSON, its printed text, and the HTML page."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("figures.FIGURES", {name: FIGURES[name] for name in DRAWN})
        found = json.loads(output("report", results, "--json"))
        patch.setattr("figures.FIGURES", {})  # the second call draws no figures
        printed = output("report", results, "--out", results / "again.html")
    return found, printed, (results / "report.html").read_text()


def counted(results: Path) -> Counter:
    """Return the number of runs in the store by (model, kind of run, method)."""
    specs = [json.loads(path.read_text()) for path in results.glob("*/spec.json")]
    return Counter((spec["model"], spec["kind"], spec.get("method")) for spec in specs if spec["kind"] != "threshold")


def tables(page: str) -> dict[str, list[list[str]]]:
    """Return the lines of the table below each heading."""
    found = {}
    for heading, table in re.findall(r"<h3>([^<]*)</h3>\s*<div class=\"wide\"><table>(.*?)</table>", page, flags=re.S):
        body = table.partition("<tbody>")[2]
        found[heading] = [[unescape(cell) for cell in re.findall(r"<td[^>]*>(.*?)</td>", line)] for line in body.split("</tr>")[:-1]]
    return found


def test_the_printed_table_has_a_line_a_model_and_every_question_one_answer(reported):
    found, text, _ = reported
    assert [line["model"] for line in found["table"]] == list(MODELS)
    assert {line["setting"] for line in found["table"]} == {"sst2"}
    lines = [line.split()[0] for line in text.splitlines() if line.split() and line.split()[0] in MODELS and "±" in line]
    assert lines == list(MODELS)
    asked = [each["question"] for each in found["answers"]]
    assert asked == ["Does k* change with scale?", "Is k* predicted without training?", "Is the task learned?"]
    assert [text.count(question) for question in asked] == [1, 1, 1]


def test_the_pages_tables_have_a_line_for_each_model_and_what_was_done_with_it(reported):
    found = tables(reported[2])
    assert [line[:2] for line in found["Thresholds"]] == [["sst2", model] for model in MODELS]
    methods = [("sst2", model, method) for model in MODELS for method in ("APET", "full fine-tuning", "LoRA")]
    assert [tuple(line[:3]) for line in found["Best score on validation"]] == methods
    assert [line[1] for line in found["Curvature at the pretrained point"]] == list(MODELS)


def test_the_pages_counts_are_those_of_the_store(results, reported):
    runs, page = counted(results), reported[2]
    apet, full, lora = (sum(n for (_, kind, m), n in runs.items() if (kind, m) == ("train", method)) for method in ("apet", "full", "lora"))
    text = " ".join(unescape(re.sub(r"<[^>]+>", " ", page)).split())
    assert f"{apet + full + lora} training runs: {apet} APET, {full} full fine-tuning, {lora} LoRA." in text
    others = {kind: sum(n for (_, each, _), n in runs.items() if each == kind) for kind in ("predict", "spectrum", "slice")}
    assert others == {"predict": 2, "spectrum": 2, "slice": 2}
    assert "2 predictions, 2 spectra, 2 slices" in text
    assert "APET tuned k = 4 to 16 parameters" in text


def test_no_text_of_the_page_comes_twice(reported):
    body = re.sub(r"<style>.*?</style>|data:[^\"]*", "", reported[2], flags=re.S)
    sentences = [" ".join(each.split()) for each in re.findall(r"<(?:p|li|figcaption)[^>]*>(.*?)</(?:p|li|figcaption)>", body, flags=re.S)]
    assert [text for text, times in Counter(sentences).items() if times > 1] == []


def test_the_table_of_runs_has_a_line_a_method_and_k(results):
    lines = json.loads(output("table", results, "--json"))["table"]
    keys = [(line["model"], line["method"], line["k"]) for line in lines]
    assert len(keys) == len(set(keys)) == 2 * 4
    assert sum(line["seeds"] for line in lines) == sum(n for (_, kind, _), n in counted(results).items() if kind == "train")


@pytest.fixture(scope="module")
def rows(results) -> pd.DataFrame:
    output("table", results, "--rows", "--out", results / "rows.parquet")
    return pd.read_parquet(results / "rows.parquet")


def test_legends_name_each_model_once(rows):
    for name in DRAWN:
        drawn = FIGURES[name](rows)
        texts = [text.get_text() for legend in drawn.legends for text in legend.get_texts()]
        assert len(texts) == len(set(texts)), name
        assert name != "performance" or len(drawn.axes) == 2 * len(MODELS)


def test_two_sets_of_examples_are_two_settings(rows):
    other = rows[rows["kind"].isin(["train", "threshold"])].assign(protocol="8 examples")
    other["run_id"] += "-other"
    both = pd.concat([rows, other])
    assert [setting.label for setting in settings(tidy(both))] == ["sst2, 16 examples", "sst2, 8 examples"]
    assert len(summary_table(both)) == 2 * len(MODELS)
