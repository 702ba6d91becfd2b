"""The command `findings`: on rows in a file and on a folder of results, for people and as JSON."""

import json

import numpy as np
import pandas as pd
import planted
from typer.testing import CliRunner

import cli
from analyses.store import frame

TASKS = ("one", "two")


def call(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(cli.app, [str(argument) for argument in arguments])
    return result.exit_code, result.stdout


def test_findings_of_a_file_of_rows(tmp_path):
    rows = planted.thresholds(np.random.default_rng(0), -0.5, tasks=TASKS)
    frame(rows).to_parquet(tmp_path / "rows.parquet")
    code, out = call("findings", tmp_path / "rows.parquet")
    assert code == 0
    assert out.startswith("F2: larger models need fewer tuned entries\n  1 supported (figure: thresholds)\n  - planted, high threshold")
    assert "rows:" not in out and list(tmp_path.iterdir()) == [tmp_path / "rows.parquet"]


def test_findings_as_json_and_as_rows(tmp_path):
    frame(planted.thresholds(np.random.default_rng(0), -0.5, tasks=TASKS)).to_parquet(tmp_path / "rows.parquet")
    code, out = call("findings", tmp_path / "rows.parquet", "--json", "--out", tmp_path / "found.parquet")
    (claim,) = json.loads(out)["claims"]
    assert code == 0 and (claim["claim"], claim["verdict"], claim["figure"]) == ("F2", "supported", "thresholds")
    assert claim["low"] < claim["value"] < claim["high"] < 0 and claim["times_as_much_data"] is None
    written = pd.read_parquet(tmp_path / "found.parquet")
    assert set(written["quantity"]) == {"claim", "scale_slope"} and set(written["kind"]) == {"finding"}
    assert written.loc[written["quantity"] == "claim", "value"].item() == claim["value"]


def test_the_margin_of_f3_is_an_option(tmp_path):
    rows = planted.thresholds(np.random.default_rng(0), 0.0, tasks="abcdef", task_sd=0.5, quantity="k_low")
    frame(rows).to_parquet(tmp_path / "rows.parquet")
    verdicts = []
    for similar in (1.05, 2, 20):
        _, out = call("findings", tmp_path / "rows.parquet", "--json", "--similar", similar)
        verdicts += [claim["verdict"] for claim in json.loads(out)["claims"]]
    assert verdicts[0] == "not supported" and verdicts[2] == "supported"


def test_rows_without_any_claim(tmp_path):
    frame([planted.run("m-1m", 10, "task", 0.5, run_id="1", train_seed=0)]).to_parquet(tmp_path / "rows.parquet")
    code, out = call("findings", tmp_path / "rows.parquet")
    assert (code, out.strip()) == (
        0, "no claim can be tested: the rows hold no thresholds, crossed seeds, methods, spectra or predictions",
    )  # fmt: skip
    code, out = call("findings", tmp_path / "rows.parquet", "--dry-run", "--json")
    assert (code, json.loads(out)) == (0, {"rows": 1, "out": None})
