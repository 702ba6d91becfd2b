"""Runs on images have the same spec, rows, curvature and search as runs on text."""

from dataclasses import replace
from pathlib import Path

import pytest

from analyses.results.exporting import export
from analyses.runs.execute import check, run
from analyses.runs.run_inputs import inputs
from analyses.specs import spec_from
from analyses.store.run_store import Store
from analyses.studies.study_file import read_study
from analyses.studies.workers import run_study
from analyses.thresholds.measured import finished, thresholds
from apet.errors import UsageError
from apet.models.mnist_nets import NETS
from tests.apet.image_cases import image_folder

ROOT = Path(__file__).parents[3]
BASE = {"task": "mnist", "batch": 20, "steps": 30}


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return image_folder(tmp_path_factory.mktemp("mnist"))


def value(store: Store, run_id: str, quantity: str, split: str | None = "validation") -> float:
    return next(row.value for row in store.rows(run_id) if (row.quantity, row.split) == (quantity, split))


@pytest.mark.parametrize("name", NETS)
def test_a_net_is_drawn_without_being_asked_to_and_learns_in_a_subspace(name: str, images: Path, tmp_path: Path) -> None:
    spec = spec_from({**BASE, "model": name, "subspace": "fastfood", "k": 100, "kind": "train"})
    assert spec.random_init
    store = Store(tmp_path)
    done = run(spec, store, images)
    assert value(store, done, "accuracy") > 0.3 > value(store, done, "initial_accuracy")
    assert value(store, done, "chance") == pytest.approx(0.1)


def test_train_seeds_draw_other_weights(images: Path) -> None:
    specs = [spec_from({**BASE, "model": "mnist-fc", "method": "full", "train_seed": seed}) for seed in (0, 1)]
    assert len({inputs(spec, images).loaded.fingerprint for spec in specs}) == 2
    assert check(specs[0], inputs(specs[0], images))["in_scope"] == 199_210


CURVED = [
    {"kind": "spectrum", "k": 20, "matrix": "ggn"},
    {"kind": "spectrum", "k": 20, "algorithm": "lanczos", "lanczos_steps": 3, "probes": 1},
    {"kind": "spectrum", "k": 20, "subspace": "fastfood", "matrix": "fisher"},
    {"kind": "slice", "k": 20, "points": 3},
    {"kind": "predict", "scope": "biases"},
]


@pytest.mark.parametrize("change", CURVED, ids=lambda change: " ".join(map(str, change.values())))
def test_spectra_slices_and_predictions_are_of_images_too(change: dict, images: Path, tmp_path: Path) -> None:
    store = Store(tmp_path)
    done = run(spec_from({"model": "mnist-lenet", "task": "mnist", "examples": 20, **change}), store, images)
    assert store.rows(done) and not any(row.quantity == "failed" for row in store.rows(done))


def test_a_search_finds_its_threshold(images: Path, tmp_path: Path) -> None:
    study = read_study(ROOT / "studies" / "mnist-quick.yaml")
    short = {"steps": 20, "batch": 20}
    stages = tuple(replace(stage, specs=tuple(replace(spec, **short) for spec in stage.specs)) for stage in study.stages)
    store = Store(tmp_path)
    outcome = run_study(replace(study, stages=stages, data={"mnist": images}), store)
    assert len(outcome.done) == 1 + 7 and not outcome.failed
    (row,) = (row for row in thresholds(store, finished(store), study.targets[0]) if row.quantity == "k_part")
    assert row.subspace == "fastfood"


def test_tuned_entries_are_exported_but_no_checkpoint(images: Path, tmp_path: Path) -> None:
    spec = spec_from({**BASE, "model": "mnist-fc", "k": 50})
    folder = tmp_path / run(spec, Store(tmp_path), images)
    assert export(folder, "apet", tmp_path / "tuned.safetensors")["k"] == 50
    with pytest.raises(UsageError, match="mnist-fc is not a transformers model"):
        export(folder, "merged", tmp_path / "merged")
