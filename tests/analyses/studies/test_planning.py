"""The plan counts the runs of a study: to be started, done, and impossible on this machine. The board shows current runs."""

from dataclasses import replace
from pathlib import Path

import pytest
from study_cases import small, spec_of

import analyses.studies.planning
from analyses.specs import Spec
from analyses.store.run_store import Store
from analyses.studies.planning import plan, refused
from analyses.studies.study_file import Stage, read_study
from analyses.studies.walk import Event, Options, Outcome, weight
from analyses.studies.workers import run_study
from analyses.terminal.progress_table import Board, run_watched

ROOT = Path(__file__).parent.parent.parent.parent


@pytest.fixture(autouse=True)
def rehearsal(monkeypatch) -> list[Spec]:
    """Replace the rehearsal, so that each takes 36 seconds and half a gigabyte; return the list of rehearsed specs."""
    specs: list[Spec] = []

    def fake(spec, data, device):
        specs.append(spec)
        return {"seconds": 36.0, "peak_gb": 0.5, "step_seconds": 0.1}

    monkeypatch.setattr(analyses.studies.planning, "_apart", fake)
    return specs


def test_a_plan_counts_runs_gradients_hours_and_what_is_done(folder, tmp_path, rehearsal):
    study, store = small(folder), Store(tmp_path)
    first = plan(study, store)
    assert (first["runs"], first["done"], first["estimated_runs"]) == (6, 0, 0)
    assert first["gradient_equivalents"] == 5 * 20 * 8 + 16
    assert first["hours"] == pytest.approx(0.01 * (5 * 160 + 16) / 160)
    assert plan(study, store, jobs=2)["hours"] == pytest.approx(first["hours"] / 2)
    assert first["models"][0]["peak_gb"] == 0.5
    run_study(study, store, options=Options(shard=(1, 2)))
    rehearsal.clear()
    later = plan(study, store)
    assert (later["runs"], later["done"]) == (6, 3)
    assert later["gradient_equivalents"] < first["gradient_equivalents"]
    run_study(study, store)
    rehearsal.clear()
    assert plan(study, store)["hours"] == plan(study, store)["gradient_equivalents"] == 0
    assert not rehearsal


def test_runs_whose_k_does_not_fit_their_model_are_named_before_the_start(tmp_path):
    file = tmp_path / "sizes.yaml"
    models = "[mini-bert-120k, mini-bert-400k, folder/that/is/not/here]"
    file.write_text(
        f"grid:\n  - {{task: mini-review, model: {models}, k: [100, 15000, 25000], position_seed: [0, 1]}}\n"
        "  - {task: mini-review, model: mini-bert-120k, method: lora}\n"
    )
    errors = refused(read_study(file))
    assert list(errors.values()) == [2]
    assert next(iter(errors)).startswith("k = 25000 is over the 18216 parameters in scope of mini-bert-120k")


def test_searches_and_what_follows_from_runs_are_estimated(tmp_path, rehearsal):
    searches = plan(read_study(ROOT / "studies" / "high-threshold-quick.yaml"), Store(tmp_path))
    assert (searches["runs"], searches["estimated_runs"]) == (3 + 3 * 8, 3 * 4)  # the first rounds are known
    assert len(rehearsal) == 3
    spectra = plan(read_study(ROOT / "studies" / "spectra-quick.yaml"), Store(tmp_path))
    assert (spectra["runs"], spectra["estimated_runs"]) == (9, 3)


def test_a_model_that_is_not_here_has_no_hours_and_says_why(folder, tmp_path):
    study = small(folder)
    absent = spec_of(random_init=False, model="bert-base", k=5).resolved()
    planned = plan(replace(study, stages=(*study.stages, Stage("more", (absent,)))), Store(tmp_path))
    assert planned["hours"] is None
    (line,) = (line for line in planned["models"] if line["model"] == "bert-base")
    assert "google-bert/bert-base-uncased" in line["note"]


def test_the_board_counts_and_tells_when_all_is_done():
    now = [0.0]
    board = Board(clock=lambda: now[0])
    one, two, three = (spec_of(k=k) for k in (1, 2, 3))
    board.take(Event("known", done=sum(map(weight, (one, two, three))), total=3))
    assert board.left() is None
    assert "time left not known yet" in board.headline
    board.take(Event("begin", one))
    board.take(Event("begin", two))
    now[0] = 10.0
    board.take(Event("done", one))
    board.take(Event("progress", two, "step", 5, 20))
    assert (board.known, board.done, len(board.begun)) == (3, 1, 1)
    # Equal weights: 1.25 runs took 20 seconds, 1.75 are left for two jobs.
    assert board.left() == pytest.approx(1.75 * 20 / 1.25 / 2)
    assert "1 of 3 done, 1 running, 0 failed, 0:00:10 so far, about 0:00:14 left" in board.headline
    board.take(Event("failed", two, "memory"))
    board.take(Event("done", three))
    assert (board.done, board.failed, board.left()) == (2, 1, 0.0)
    assert one.title == "mini-t5-240k sst2 apet k = 1, seed 0/0"


def test_a_log_has_a_line_for_each_run_of_this_launch_and_none_for_earlier_runs(folder, tmp_path, capfd):
    one, two = (spec_of(k=k).resolved() for k in (1, 2))

    def launch(study, store, options, tell):
        for event in (Event("known", total=2), Event("done", one), Event("begin", two), Event("done", two)):
            tell(event)
        return Outcome(["a", "b"])

    run_watched(small(folder), Store(tmp_path), launch, Options())
    (line,) = (line for line in capfd.readouterr().err.splitlines() if line.startswith("done"))
    assert line.startswith(f"done {two.title}: 2 of 2 done, 0 running, 0 failed")


def test_a_plan_by_arithmetic_needs_no_model_on_this_machine(tmp_path):
    """BERT is not here: 2 runs of 10 steps of 4 examples of at most 64 tokens, 6 operations per parameter and token."""
    fields = "{steps: 10, batch: 4, max_length: 64, task: mini-nli, examples: 40, early_stop: false, model: bert-base}"
    content = f"{{name: s, defaults: {fields}, grid: [%s]}}"
    (tmp_path / "s.yaml").write_text(content % "{method: apet, k: 10}, {method: full}")
    (line,) = plan(read_study(tmp_path / "s.yaml"), Store(tmp_path), flops=1e12)["models"]
    parameters = 109_514_298
    assert line["hours"] == pytest.approx(6 * parameters * 2 * 10 * 4 * 64 / 1e12 / 3600)
    assert line["least_gb"] == pytest.approx(16 * parameters / 1e9) and "note" not in line
    (tmp_path / "s.yaml").write_text((content % "{method: apet, k: 10}").replace("bert-base", "someone/model"))
    (line,) = plan(read_study(tmp_path / "s.yaml"), Store(tmp_path), flops=1e12)["models"]
    assert line["hours"] is None and "only aliases" in line["note"]
