"""Runs of every kind on a regression: training, curvature, slices, predictions, thresholds and refusals."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from analyses.results.exporting import export
from analyses.runs.evaluation_point import point
from analyses.runs.execute import check, run
from analyses.runs.matrices import gauss_newton_rows_of
from analyses.runs.run_inputs import Context, inputs
from analyses.specs import PredictSpec, SliceSpec, Spec, SpectrumSpec, TrainSpec
from analyses.store import Row, Store
from analyses.studies import Search
from analyses.thresholds import intrinsic_dim
from analyses.thresholds.targets import Run, Target
from apet.errors import UsageError
from apet.methods.artefact import load
from apet.tasks.generated import GENERATORS
from apet.tasks.task_table import TASKS, Task
from landscape import GaussNewton, to_dense

BERT = "mini-bert-120k"
WORDS = ("great", "lovely", "film", "sad", "bad", "story")


def numbers(split: str, count: int) -> list[dict]:
    """Return reviews whose score is the number of good words less the number of bad words."""
    random = np.random.default_rng(len(split))
    texts = [random.choice(WORDS, size=random.integers(2, 7)) for _ in range(min(count, 40))]
    return [{"sentence": " ".join(words), "score": float(sum((w in WORDS[:2]) - (w in WORDS[3:5]) for w in words))} for words in texts]


@pytest.fixture(autouse=True)
def task(monkeypatch):
    made = Task("numbers", "{sentence} {slot}.", ("sentence",), target="score", metric="pearson")
    monkeypatch.setitem(TASKS, "numbers", made)
    monkeypatch.setitem(GENERATORS, "numbers", numbers)


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Store:
    return Store(tmp_path_factory.mktemp("numbers"))


TRAIN = TrainSpec(model=BERT, task="numbers", k=40, steps=40, batch=16, examples=24, early_stop=False)
SPECTRUM = SpectrumSpec(model=BERT, task="numbers", k=12, examples=10, batch=4, matrix="ggn")


def rows_of(spec: Spec, store: Store) -> dict[tuple[str, str | None], Row]:
    return {(row.quantity, row.split): row for row in store.rows(run(spec, store))}


def test_training_reports_correlations_and_stores_the_scale_of_the_targets(store):
    rows = rows_of(TRAIN, store)
    assert rows["loss", "train"].value < rows["initial_loss", "train"].value
    for name in ("pearson", "spearman", "initial_pearson", "initial_spearman"):
        assert -1 <= rows[name, "validation"].value <= 1 and rows[name, "validation"].stderr > 0
    assert rows["chance", "validation"].value == 0 and rows["chance", "validation"].stderr == pytest.approx(39**-0.5)
    assert rows["k_head", None].value == 24 + 1 and rows["loss", "train"].protocol == "24 examples, head"
    seen = [example["score"] for example in numbers("train", 40)]
    used = [seen[i] for i in np.random.default_rng(20261120).permutation(40)[:24]]
    assert store.arrays(rows["loss", "train"].run_id)["scale"] == pytest.approx([np.mean(used), np.std(used)])


def test_an_artefact_keeps_the_scale(store, tmp_path):
    name = run(TRAIN, store)
    export(store.folder(name), "apet", tmp_path / "artefact.safetensors")
    kept = load(tmp_path / "artefact.safetensors").verbaliser
    assert kept is not None and kept.scale == tuple(store.arrays(name)["scale"])


def test_the_gauss_newton_matrix_has_one_row_per_example(store):
    assert check(SPECTRUM, inputs(SPECTRUM, None))["algorithm"] == "rows"
    with point(SPECTRUM, inputs(SPECTRUM, None), Context(Path("."), lambda *_: None)) as here:
        rows, matrix = gauss_newton_rows_of(here), to_dense(GaussNewton(here.objective, here.z)).double()
    assert rows.shape == (10, 12)
    assert float((rows.T @ rows - matrix).norm()) < 1e-5 * float(matrix.norm()) != 0
    found = rows_of(SPECTRUM, store)
    assert found["trace", "train"].value == pytest.approx(float(matrix.trace()), rel=1e-4)
    sampled = rows_of(replace(SPECTRUM, algorithm="lanczos", samples=200, lanczos_steps=8, probes=2), store)
    assert sampled["trace", "train"].value == pytest.approx(float(matrix.trace()), rel=0.5)


def test_a_slice_measures_the_squared_error(store):
    spec = SliceSpec(model=BERT, task="numbers", k=12, examples=10, points=3, directions="fisher")
    name = run(spec, store)
    arrays, rows = store.arrays(name), store.rows(name)
    centre = next(row.value for row in rows if row.quantity == "centre_loss")
    assert arrays["loss.train"][1] == pytest.approx(centre, rel=1e-5) and arrays["loss.train"].shape == (3,)


def test_a_prediction_takes_products_and_its_rank_is_the_number_of_examples(store):
    spec = PredictSpec(model=BERT, task="numbers", examples=8, lanczos_steps=4, probes=1, steps=20, scope="layers:0 attention")
    rows = rows_of(spec, store)
    assert rows["rank_ceiling", None].value == 8 and math.isfinite(rows["initial_loss", "train"].value)


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        (replace(TRAIN, readout="words"), "numbers asks for a number, which label words cannot give: it needs a head"),
        (PredictSpec(model=BERT, task="numbers", algorithm="exact"), "numbers asks for a number, but an exact prediction needs classes"),
        (SliceSpec(model=BERT, task="numbers", k=9, metric=True), "metric measures accuracies, but numbers does not have classes"),
    ],
)
def test_runs_that_need_classes_are_refused(spec, reason):
    with pytest.raises(UsageError, match=reason):
        spec.resolved()


def test_a_spectrum_at_the_final_point_is_refused_because_the_head_has_moved(store):
    name = run(TRAIN, store)
    with pytest.raises(UsageError, match="is not an apet run with label words"):
        run(replace(SPECTRUM, k=40, examples=24, at=name), store)


def test_a_threshold_needs_a_target_on_the_metric(store, tmp_path):
    fields = {"model": BERT, "task": "numbers", "examples": 24, "steps": 20}
    with pytest.raises(UsageError, match="numbers asks for a number, so its runs also train a head"):
        intrinsic_dim(fields, store, Search.single(Target.parse("fraction:.9"), 4, None, None))
    result, rows = intrinsic_dim(fields, Store(tmp_path), Search.single(Target.parse("metric:.3"), 4, 20, 2000))
    assert result["target"] == 0.3 and result["target_kind"] == "metric:0.3" and "k_metric" in result["answer"]
    assert all(row.value < 5 for row in rows if row.quantity == "gap")


def test_gaps_of_correlations_are_twice_fishers_transform():
    target, run_of = Target("metric", 0.5), Run("a", {"kind": "train"}, [Row("m", 1, "t", "pearson", -0.2, split="validation")])
    assert target.gap(run_of, 0.5, "pearson") == pytest.approx(2 * (math.atanh(-0.2) - math.atanh(0.5)))
    assert math.isnan(target.gap_of(-0.2, 0.5, "accuracy"))
