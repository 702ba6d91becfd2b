"""A stage of pairs joins runs of another stage that differ in one field, each run with the next."""

import math
from pathlib import Path

import pytest
from study_cases import BASE

from analyses.specs import Spec, spec_dict
from analyses.store.run_store import Store
from analyses.studies.planning import plan
from analyses.studies.stages import batches
from analyses.studies.study_file import read_study
from analyses.studies.workers import run_study
from analyses.thresholds.targets import Run
from apet.errors import UsageError

HEAD = """
defaults: {model: mini-t5-240k, random_init: true, task: sst2, examples: 16, early_stop: false, steps: 20, batch: 8}
stages:
  tuned: {grid: [%s]}
  joined:
    at: tuned
    pairs: %s
    grid: [%s]
"""
SLICE = "{kind: slice, points: 3}"


def written(tmp_path: Path, tuned: str, by: str = "position_seed", grid: str = SLICE) -> Path:
    path = tmp_path / "pairs.yaml"
    path.write_text(HEAD % (tuned, by, grid))
    return path


def joined(path: Path) -> list[Spec]:
    """Return the slices of the study after its training runs have ended."""
    over: dict[Spec, Run] = {}
    walk = batches(read_study(path), over.get)
    over |= {spec: Run(f"{spec.method}-{spec.k}-{spec.position_seed}-{spec.train_seed}", spec_dict(spec), []) for spec in next(walk)}
    return next(walk, [])


def ends(specs: list[Spec]) -> list[tuple[str | None, str | None]]:
    return [(spec.at, spec.to) for spec in specs]


def test_runs_that_differ_in_the_field_alone_are_joined_each_with_the_next(tmp_path):
    tuned = "{method: apet, k: [4, 16], position_seed: [0, 1, 2]}"
    by_seed = joined(written(tmp_path, tuned))
    assert ends(by_seed) == [(f"apet-{k}-{i}-0", f"apet-{k}-{i + 1}-0") for k in (4, 16) for i in (0, 1)]
    assert {(spec.kind, spec.directions, spec.dims, spec.reach) for spec in by_seed} == {("slice", "optima", 1, 1.25)}
    assert [spec.position_seed for spec in by_seed] == [0, 1, 0, 1]
    # Default rates, which depend on k, do not prevent a pair; explicit rates do.
    assert ends(joined(written(tmp_path, tuned, "k"))) == [(f"apet-4-{i}-0", f"apet-16-{i}-0") for i in range(3)]
    rates = "{method: apet, k: 4, position_seed: [0, 1], lr: 0.5}, {method: apet, k: 4, position_seed: 2}"
    assert ends(joined(written(tmp_path, rates))) == [("apet-4-0-0", "apet-4-1-0")]
    assert ends(joined(written(tmp_path, "{method: apet, k: 4}"))) == []


def test_methods_are_joined_whatever_entries_they_tune(tmp_path):
    shared = "keep_end: true, train_seed: [0, 1]"
    tuned = f"{{method: apet, k: 4, {shared}}}, {{method: [full, lora], {shared}}}"
    found = joined(written(tmp_path, tuned, "method"))
    pairs = [("apet-4-0", "full-None-0"), ("full-None-0", "lora-None-0")]
    assert ends(found) == [(f"{a}-{seed}", f"{b}-{seed}") for seed in (0, 1) for a, b in pairs]
    assert [spec.method for spec in found] == ["apet", "full"] * 2


@pytest.mark.long
def test_a_study_of_pairs_finds_barriers_between_its_runs(folder, tmp_path):
    path = written(tmp_path, "{method: apet, k: 20}, {method: full, keep_end: true}", "method", "{kind: slice, points: [3, 5]}")
    path.write_text(path.read_text() + f"data: {{sst2: {folder}}}\n")
    study, store = read_study(path), Store(tmp_path / "store")
    before = plan(study, store)
    assert (before["runs"], before["estimated_runs"]) == (4, 2)
    outcome = run_study(study, store)
    assert not outcome.failed
    assert len(outcome.done) == 4
    after = plan(study, store)
    assert (after["runs"], after["estimated_runs"], after["done"]) == (4, 0, 4)
    losses = {run: {row.split: row.value for row in store.rows(run) if row.quantity == "loss"} for run in outcome.done}
    for run in outcome.done:
        spec, rows = store.spec(run), store.rows(run)
        if spec["kind"] == "slice":
            path_of = [row.value for row in rows if row.quantity == "path_loss" and row.split == "train"]
            assert path_of[0] == pytest.approx(losses[spec["at"]]["train"], rel=1e-4)
            assert path_of[-1] == pytest.approx(losses[spec["to"]]["train"], rel=1e-4)
            assert all(math.isfinite(row.value) for row in rows if row.quantity == "barrier")


@pytest.mark.parametrize(
    ("by", "grid", "line", "message"),
    [
        ("position", SLICE, 7, "pairs: 'position' is not one of position_seed, .*did you mean position_seed"),
        ("model", SLICE, 7, "pairs: 'model' is not one of"),
        ("k", "{kind: spectrum}", 8, "takes only slices with directions: optima"),
        ("k", "{kind: slice, directions: random}", 8, "takes only slices with directions: optima"),
        ("k", "{kind: slice, to: abc}", 8, "'to' cannot be combined with 'pairs'"),
        ("k", "{kind: slice, dims: 2}", 8, r"need 2 other run\(s\), but got 1"),
    ],
)
def test_pairs_that_cannot_be_are_refused_with_their_line(by, grid, line, message, tmp_path):
    with pytest.raises(UsageError, match=f"pairs.yaml:{line}: .*{message}"):
        read_study(written(tmp_path, "{method: apet, k: 4}", by, grid))


def test_pairs_need_a_stage_to_be_of(tmp_path):
    path = tmp_path / "pairs.yaml"
    path.write_text(f"stages:\n  one:\n    pairs: k\n    grid: [{{k: 4, task: {BASE['task']}}}]\n")
    with pytest.raises(UsageError, match="pairs.yaml:3: 'pairs' joins the runs of another stage: name that stage with 'at'"):
        read_study(path)
