"""The facts that the report states about runs: commands, environments, seconds, and the rows of failed runs."""

import json
import sys
from dataclasses import replace

import pandas as pd
import pytest

from analyses.results.run_facts import ENVIRONMENT, reported
from analyses.runs.run_kinds import RUN_KINDS
from analyses.store import Store
from analyses.studies import run_study
from apet.errors import ApetError, MissingInput
from tests.analyses.study_cases import small


@pytest.fixture(scope="module")
def studied(folder, tmp_path_factory) -> Store:
    """Return the results of a small study whose full fine-tuning failed."""
    store, trained = Store(tmp_path_factory.mktemp("facts")), RUN_KINDS["train"]

    def fails(spec, *rest):
        if spec.method == "full":
            raise ApetError("the loss is nan at step 3")
        return trained.run(spec, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(RUN_KINDS, "train", replace(trained, run=fails))
        patch.setattr(sys, "argv", ["/somewhere/cli.py", "study", "a b.yaml", "--jobs", "2"])
        run_study(small(folder), store)
    return store


def test_a_folder_states_how_its_runs_were_made(studied):
    rows, facts = reported(studied.root, None)
    (failed,), done = studied.run_ids("failed"), studied.run_ids()
    assert facts["source"] == str(studied.root)
    assert set(facts["runs"]) == {failed, *done}
    assert all(facts["runs"][name]["seconds"] == studied.env(name)["seconds"] > 0 for name in done)
    assert facts["commands"] == {"python cli.py study 'a b.yaml' --jobs 2": len(done) + 1}
    assert sum(environment["runs"] for environment in facts["environments"]) == len(done) + 1
    assert {environment["device"] for environment in facts["environments"]} == {"cpu", ""}  # a failed run does not state its device
    assert all(set(environment) == {"runs", *ENVIRONMENT} for environment in facts["environments"])
    assert rows[rows["run_id"] == failed]["note"].tolist() == ["the loss is nan at step 3"]
    assert json.loads(json.dumps(facts)) == facts


def test_a_run_of_an_earlier_version_has_no_command(studied, tmp_path):
    store = Store(tmp_path)
    name = studied.run_ids()[0]
    env = {key: value for key, value in studied.env(name).items() if key not in ("command", "peak_gb")}
    store.commit(name, studied.spec(name), studied.rows(name), {}, env)
    _, facts = reported(tmp_path, None)
    assert (facts["commands"], facts["runs"][name]["peak_gb"]) == ({"": 1}, None)


def test_failed_runs_alone_are_reported_and_no_run_is_not(studied, tmp_path):
    store, (name,) = Store(tmp_path / "failed"), studied.run_ids("failed")
    store.commit(name, studied.spec(name), studied.rows(name), {}, studied.env(name), "failed")
    rows, facts = reported(store.root, None)
    assert (rows["quantity"].tolist(), list(facts["runs"])) == (["failed"], [name])
    (tmp_path / "empty").mkdir()
    with pytest.raises(MissingInput, match="no finished run in"):
        reported(tmp_path / "empty", None)


def test_a_file_of_rows_has_no_facts_but_its_name(studied, tmp_path):
    rows, _ = reported(studied.root, None)
    rows.to_parquet(tmp_path / "rows.parquet")
    again, facts = reported(tmp_path / "rows.parquet", None)
    assert facts == {"source": str(tmp_path / "rows.parquet")}
    assert len(pd.concat([rows, again])) == 2 * len(rows)
