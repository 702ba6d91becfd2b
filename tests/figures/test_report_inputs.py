"""The report of unusual rows: findings, several targets, failed runs, older versions, one size, seed or task, and nothing at all."""

from __future__ import annotations

import math
import re
from html import unescape
from pathlib import Path

import pandas as pd
import pytest

from figures.report import drawn_report
from figures.report.page import write_report
from figures.report.summary_table import summary_table
from figures.rows import CannotDraw
from tests.figures.synthetic import MODELS, ONE, TWO, change, claims, study
from tests.figures.test_figures_report import words

SMALL, LARGE = "mini-t5-240k", "mini-t5-6m"


def text(rows: pd.DataFrame, out: Path, facts: dict | None = None) -> str:
    """Write a report without figures and return its visible text."""
    return words(write_report(rows, out, "Study", {}, facts=facts))


def lines(page: Path, heading: str) -> list[list[str]]:
    """Return the cells of the table below a heading."""
    table = re.search(rf"<h3>{heading}</h3>.*?<tbody>(.*?)</tbody>", page.read_text(), flags=re.S)
    assert table is not None
    return [[unescape(cell) for cell in re.findall(r"<td[^>]*>(.*?)</td>", line)] for line in table[1].split("</tr>")[:-1]]


def test_claims_come_first_with_verdict_numbers_and_the_data_that_would_decide_them(tmp_path: Path, pngs: dict[str, Path]):
    path = write_report(pd.concat([study(TWO), claims()]), tmp_path, "Study", pngs)
    page, found = path.read_text(), words(path)
    assert page.index('id="findings"') < page.index('id="answers"') < page.index('id="warnings"') < page.index('id="figures"')
    for expected in (
        "F1: the spread over positions of the tuned entries falls with model size Supported in 2 of 3 cases, undecided in 1.",
        "✓ supported all families, all tasks, spread over positions estimate -0.2 [-0.35, -0.05], p = 0.02",
        "? undecided mini-bert, sst2, spread over positions estimate 0.01 [-0.4, 0.45], p = 0.9 "
        "it moves. The verdict is undecided. About 8 times as many placements.",
        "✗ not supported mini-t5-6m, all tasks, spread over positions estimate 4.2 [3.1, 6], p = 1e-05",
    ):
        assert expected in found
    assert found.index("all families, all tasks") < found.index("mini-bert, sst2")  # pooled cases first
    assert found.count("About 8 times") == 1
    number = re.search(r'See <a href="#figure-thresholds">figure (\d+), thresholds</a>', page)
    assert number is not None and f"Figure {number[1]}, thresholds." in found
    assert "2 models on sst2" in found  # pools of models are not models


def test_rows_without_findings_say_so(tmp_path: Path):
    assert "The rows hold no findings" in text(study(ONE), tmp_path)
    assert "The rows hold no findings" not in text(claims(), tmp_path)


def test_a_table_has_a_line_for_every_training_run_with_its_seconds(tmp_path: Path):
    rows = study(TWO)
    run = f"{SMALL}-sst2-apet-4-0"
    diverged = rows[(rows["run_id"] == run) & (rows["quantity"] == "plateau")].assign(quantity="diverged", value=12.0)
    environment = {
        "runs": 36,
        "python": "3.11.7",
        "torch": "2.13.0",
        "transformers": "5",
        "numpy": "2",
        "machine": "x86_64",
        "device": "cpu",
    }
    facts = {
        "source": "results/two", "runs": {run: {"seconds": 3.21, "peak_gb": 0.5}}, "commands": {"python cli.py study two.yaml": 36},
        "environments": [environment],
    }  # fmt: skip
    path = write_report(pd.concat([rows, diverged]), tmp_path, "Study", {}, facts=facts)
    table = lines(path, "Training runs")
    assert len(table) == rows[rows["kind"] == "train"]["run_id"].nunique() == 36
    accuracy, loss = (rows[(rows["run_id"] == run) & (rows["quantity"] == name)]["value"].iloc[0] for name in ("accuracy", "loss"))
    assert table[0][:5] == [SMALL, "sst2", "APET", "4", "0, 0"]
    assert (table[0][5].split()[0], float(table[0][7])) == (f"{accuracy:.4f}", pytest.approx(loss, rel=1e-2))
    assert table[0][8:] == ["yes", "76,800", "3.2", "diverged at step 12"]
    assert table[1][10:] == ["not recorded", "finished"]
    assert [row[4:] for row in lines(path, "Cost of the results") if row[:4] == ["training", SMALL, "sst2", "APET"]] == [
        ["12", f"{12 * 76_800:,}", "3.2", "0.50"]
    ]
    for expected in ("python cli.py report results/two", "python cli.py study two.yaml", "36 runs.", "3.11.7", "1 training run diverged"):
        assert expected in words(path)


def test_a_file_of_rows_does_not_know_how_it_was_made(tmp_path: Path):
    found = text(study(ONE), tmp_path, {"source": "rows.parquet"})
    assert "Commands, versions, machine, device, seconds and memory are not recorded" in found


def test_warnings_are_counted_and_folded_and_defects_are_among_them(tmp_path: Path):
    rows = change(change(study(TWO), LARGE, "symmetry_defect", value=3e-3), SMALL, "determinism_defect", value=2e-7)
    path = write_report(rows, tmp_path, "Study", {})
    titles = [unescape(title) for title in re.findall(r"<summary>(.*?)</summary>", path.read_text())]
    assert titles == [
        "2 training runs did not reach the plateau", "1 training run did not exceed chance by 2 standard errors",
        "1 spectrum with a symmetry defect above 0.0001", "1 spectrum with products that differ when repeated",
    ]  # fmt: skip
    assert f"{LARGE} on sst2, Gauss-Newton, k = 4,096 (run {LARGE}-sst2-ggn): symmetry defect 0.003." in words(path)


def test_several_targets_have_lines_and_answers_of_their_own(tmp_path: Path):
    rows = study(TWO)
    other = rows[rows["kind"] == "threshold"].assign(group="fraction:0.5")
    other = other.assign(
        run_id=other["run_id"] + "-half", target=0.4, value=other["value"] / 2, low=other["low"] / 2, high=other["high"] / 2
    )
    rows.loc[rows["kind"] == "threshold", "group"] = "fraction:0.9"
    both = pd.concat([rows, other])
    path = write_report(both, tmp_path, "Study", {})
    table = lines(path, "Thresholds")
    assert [line[:2] for line in table] == [[f"sst2, target fraction:{share}", model] for share in (0.5, 0.9) for model in TWO]
    assert [line[4].split()[0] for line in table] == ["48", "10.5", "96", "21"]
    assert words(path).count("measured k* changes by a factor of 0.219") == 2
    assert [line["k_star"] for line in summary_table(both)] == [48.0, 10.5, 96.0, 21.0]


def test_targets_of_older_rows_are_named_by_their_notes(tmp_path: Path):
    rows = study(ONE)
    other = rows[rows["kind"] == "threshold"].assign(note="another target (of 0.4)", target=0.4)
    both = pd.concat([rows, other.assign(run_id=other["run_id"] + "-other")])
    assert [line[0] for line in lines(write_report(both, tmp_path, "Study", {}), "Thresholds")] == [
        "sst2, target another target", "sst2, target train loss equals 0.4 of the initial loss; 95 % bootstrap interval over runs",
    ]  # fmt: skip


def test_two_thresholds_of_one_target_are_left_out_with_the_reason(tmp_path: Path):
    rows = study(ONE)
    other = rows[rows["kind"] == "threshold"]
    found = text(pd.concat([rows, other.assign(run_id="other", value=other["value"] * 2)]), tmp_path)
    assert "The thresholds are left out, because the rows contradict each other: 2 rows of k_gm for mini-t5-2m on sst2" in found
    assert "The rows hold no threshold." in found and "Is the task learned? Yes." in found


def test_only_failed_runs(tmp_path: Path):
    row = study(ONE).query("quantity == 'plateau'").iloc[[0]]
    failed = row.assign(quantity="failed", value=1.0, parameters=0, note="the loss is nan at step 3")
    path = tmp_path / "report.html"
    table, answers = drawn_report(failed, {"source": "results/failed"}, path, lambda *_: None)
    assert [line for line in table if line["k_star"] is not None] == answers == []
    found = words(path)
    assert "1 run failed mini-t5-2m on sst2, APET, k = 4, position seed 0, train seed 0" in found
    assert "no question can be answered" in found
    assert lines(path, "Training runs")[0][5:] == ["–", "–", "–", "–", "–", "not recorded", "failed: the loss is nan at step 3"]


def test_a_failed_run_does_not_change_the_size_of_its_model(tmp_path: Path):
    rows = study(TWO)
    failed = rows.query("quantity == 'plateau'").tail(1).assign(quantity="failed", value=1.0, run_id="failed", parameters=0)
    found = text(pd.concat([rows, failed]), tmp_path)
    assert "2 models on sst2: mini-t5-240k (241,248 parameters), mini-t5-6m (5,739,776 parameters)." in found
    assert "37 training runs" not in found and "36 training runs" in found


def test_all_thresholds_censored(tmp_path: Path):
    rows = study(TWO, censored=tuple(TWO))
    for name in ("k_pred", "k_gm"):
        rows.loc[rows["quantity"] == name, ["value", "low", "high", "status"]] = [math.nan, math.nan, math.nan, "above"]
    found = text(rows, tmp_path)
    assert "4 thresholds censored" in found
    assert "the known bounds do not separate these values" in found and "one of the two is censored" in found


def test_one_seed_and_one_task_of_one_model(tmp_path: Path):
    rows = study(ONE)
    rows = rows[(rows["position_seed"].fillna(0) == 0) & (rows["train_seed"].fillna(0) == 0)]
    assert "k* was measured for one size only" in text(rows, tmp_path)


def test_missing_sizes_are_named(tmp_path: Path):
    rows = study(TWO)
    rows["parameters"] = rows["parameters"].astype(float).where(rows["model"] == LARGE)
    assert "left out, because they do not state the size of their model (mini-t5-240k)." in text(rows, tmp_path)
    rows = study(TWO)
    rows["parameters"] = rows["parameters"].astype(float).where(rows["kind"] == "train")
    assert "do not state the size" not in text(rows, tmp_path)  # other rows of the model state it


def test_rows_of_an_older_version_are_used_and_named(tmp_path: Path):
    old = study(ONE).drop(columns=["status", "series", "protocol"])
    found = text(old, tmp_path)
    assert "The rows are of an older version: they lack the columns protocol" in found and "Is the task learned? Yes." in found
    oldest = study(ONE).drop(columns=["kind"])
    assert "No row states the kind of its run" in text(oldest, tmp_path)


def test_rows_of_two_versions_are_not_mixed(tmp_path: Path):
    old = study({LARGE: MODELS[LARGE]}, task="imdb").drop(columns=["kind", "protocol"])
    path = write_report(pd.concat([study(TWO), old]), tmp_path, "Study", {})
    assert f"{len(old):,} rows of an older version (imdb) are left out" in words(path)
    assert {line[0] for line in lines(path, "Thresholds")} == {"sst2"}


def test_unknown_quantities_are_named(tmp_path: Path):
    rows = study(ONE)
    rows.loc[rows["quantity"] == "gap", "quantity"] = "distance"
    assert "does not use rows of quantities that this version does not know: distance." in text(rows, tmp_path)


def test_no_rows_are_refused(tmp_path: Path):
    with pytest.raises(CannotDraw, match="there are no rows"):
        write_report(study(ONE).iloc[:0], tmp_path, "Study", {})
    assert list(tmp_path.iterdir()) == []


def test_figures_are_grouped_and_none_is_lost(tmp_path: Path, pngs: dict[str, Path]):
    images = pngs | {"a_new_figure": next(iter(pngs.values()))}
    page = write_report(study(TWO), tmp_path, "Study", images).read_text()
    headings = re.findall(r"<h3>([^<]*)</h3>|<figure id=\"figure-(\w+)\"", page[: page.index('id="tables"')])
    order = [heading or figure for heading, figure in headings]
    assert order[order.index("Performance and thresholds") :][1] == "performance"
    assert order.index("performance") < order.index("crossing") < order.index("thresholds") < order.index("predictions")
    assert order.index("spectra") == order.index("Curvature") + 1
    assert order[-2:] == ["Other figures", "a_new_figure"]
    assert {figure for _, figure in headings if figure} == set(images) - {"cells", "relief", "n_eff"}
