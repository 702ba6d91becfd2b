"""Stages: searches advance in rounds that depend on results; curvature is computed at the final points of training runs."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from study_cases import spec_of

from analyses.runs.execute import run
from analyses.specs import Spec, spec_dict
from analyses.store import Row, Store
from analyses.studies.stages import batches
from analyses.studies.study_file import Study, read_study
from analyses.studies.workers import run_study
from analyses.thresholds.measured import finished, known_targets, thresholds
from analyses.thresholds.targets import Run, Target
from apet.errors import UsageError

STUDY = """
name: staged
defaults: {model: mini-t5-240k, random_init: true, task: sst2, examples: 16, early_stop: false, steps: 20, batch: 8}
stages:
  full: {grid: [{kind: train, method: full}]}
  search:
    search: {fraction: 0.5, of: full, runs: 8, from: 4, to: 256}
    grid: [{kind: train, method: apet}]
  curvature:
    at: search
    grid: [{kind: spectrum, lanczos_steps: 2, probes: 1}]
"""


@pytest.fixture
def study(tmp_path: Path, folder: Path) -> Study:
    (tmp_path / "staged.yaml").write_text(STUDY)
    return replace(read_study(tmp_path / "staged.yaml"), data={"sst2": folder})


def made(batch: list[Spec], value: float) -> dict[Spec, Run]:
    """Return the runs of a batch with a training loss of k^-value."""
    rows = lambda k: [Row("m", 1, "sst2", q, v, split="train", k=k) for q, v in (("initial_loss", 1.0), ("loss", k**-value))]  # noqa: E731
    return {spec: Run(f"run {spec.k} {spec.position_seed}", spec_dict(spec), rows(spec.k or 10**9)) for spec in batch}


def test_batches_wait_for_what_they_follow_from(study):
    over: dict[Spec, Run] = {}
    walk = batches(study, over.get)
    full = next(walk)
    assert [spec.method for spec in full] == ["full"]
    over |= made(full, 1.0)
    first = next(walk)
    assert [(spec.k, spec.position_seed) for spec in first] == [(4, 0), (16, 1), (64, 2), (256, 3)]
    assert all(spec == spec.resolved() and spec.lr == replace(spec, lr=None).resolved().lr for spec in first)
    over |= made(first, 0.25)  # half of the improvement, a loss of .5, is at k = 16
    second = next(walk)
    assert [spec.position_seed for spec in second] == [4, 5, 6]
    assert all(4 < (spec.k or 0) < 64 for spec in second)
    over |= made(second, 0.25)
    third = next(walk)
    assert [spec.position_seed for spec in third] == [7]
    over |= made(third, 0.25)
    spectra = next(walk)
    assert {spec.kind for spec in spectra} == {"spectrum"}
    assert len(spectra) == len({spec.at for spec in spectra}) == 8
    assert [spec.k for spec in spectra] == [spec.k for spec in (*first, *second, *third)]
    assert next(walk, None) is None


def test_a_search_whose_target_is_unknown_stops_after_its_first_round(study):
    walk = batches(study, lambda spec: None)
    assert [len(batch) for batch in walk] == [1, 4]


@pytest.mark.long
def test_a_staged_study_runs_to_its_threshold(study, tmp_path):
    store = Store(tmp_path / "store")
    outcome = run_study(study, store)
    assert not outcome.failed
    searched = [run for run in finished(store) if run.tuned_by("apet")]
    assert len(searched) == 8 or {run.k for run in searched[4:]} <= {4, 256}
    assert len(outcome.done) == len(set(outcome.done)) == 1 + 2 * len(searched)
    (target,) = study.targets
    rows = thresholds(store, finished(store), target)
    assert {"target_loss", "k_star", "runs"} <= {row.quantity for row in rows}
    assert known_targets(store) == [target]
    spectra = [run for run in finished(store) if run.spec["kind"] == "spectrum"]
    assert all((row.matrix, row.at_run) == ("hessian", run.spec["at"]) for run in spectra for row in run.rows)


@pytest.mark.long
def test_a_spectrum_at_an_optimum_is_taken_there(folder, tmp_path):
    store, trained = Store(tmp_path), spec_of(steps=200, k=50)
    name = run(trained, store, folder)
    there, before = (
        {row.quantity: row.value for row in store.rows(run(spec, store, folder))}
        for spec in (spec_of(kind="spectrum", k=50, probes=1, lanczos_steps=5, at=at) for at in (name, None))
    )
    ended = {row.quantity: row.value for row in store.rows(name)}
    assert there["gradient_norm"] == pytest.approx(ended["residual_gradient"], rel=1e-4)
    assert there["gradient_norm"] != pytest.approx(before["gradient_norm"], rel=1e-2)


@pytest.mark.parametrize(
    ("change", "message"),
    [({"k": 51}, "has k 50, but this spectrum has 51"), ({"at": "f" * 16}, "no finished run f"), ({"position_seed": 3}, "position_seed")],
)
def test_a_spectrum_at_another_subspaces_optimum_is_refused(folder, tmp_path, change, message):
    store = Store(tmp_path)
    name = run(spec_of(k=50), store, folder)
    spec = spec_of(**{"kind": "spectrum", "k": 50, "probes": 1, "lanczos_steps": 5, "at": name, **change})
    with pytest.raises(Exception, match=message):
        run(spec, store, folder)


def scored(accuracy: float, k: int, seed: int = 0, method: str = "apet", model: str = "m") -> Run:
    spec = {"kind": "train", "method": method, "k": k, "model": model, "random_init": False, "task": "sst2", "examples": None,
            "max_length": 128, "early_stop": True, "position_seed": seed}  # fmt: skip
    rows = [Row(model, 1, "sst2", q, v, split="validation", k=k) for q, v in (("accuracy", accuracy), ("chance", 0.5))]
    return Run(f"{method} {k} {seed}", spec, rows)


def test_the_high_and_the_low_threshold_of_known_accuracies_are_recovered(tmp_path):
    noise = np.random.default_rng(1)
    accuracy = lambda k: 1 / (1 + (k / 20) ** -0.4)  # noqa: E731 (its logit is straight in log k)
    ks = [4, 16, 64, 256, 1024, 4096]
    runs = [scored(accuracy(k) + 0.005 * noise.normal(), k, seed) for k in ks for seed in range(3)]
    runs.append(scored(0.88, 10**6, method="full"))
    for target, truth in ((Target("below_full", 0.08), 20 * 4**2.5), (Target("above_chance", 0.2), 20 * 1.5**2.5)):
        found = {row.quantity: row for row in thresholds(Store(tmp_path / target.kind), runs, target)}
        row = found[target.quantity]
        assert row.low < truth < row.high, target
        assert row.value == pytest.approx(truth, rel=0.1)
        assert row.split == "validation"
        assert found["target_metric"].value == pytest.approx(accuracy(truth))


@pytest.mark.parametrize(
    ("kind", "amount"), [("fraction", 0), ("fraction", 1), ("below_full", -0.1), ("above_chance", 1.0), ("of_full", 0)]
)
def test_a_target_outside_its_range_is_refused(kind, amount):
    with pytest.raises(UsageError, match="0 and below 1"):
        Target(kind, amount)
