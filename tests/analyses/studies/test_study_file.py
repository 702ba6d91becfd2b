"""Studies: grids become runs, interrupted studies equal uninterrupted ones, and thresholds are computed from rows."""

import math
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from study_cases import HALF, rows_of, small, spec_of, with_thresholds

from analyses.runs.execute import run
from analyses.runs.run_kinds import RUN_KINDS
from analyses.runs.train import train_run
from analyses.store import Row, Store, statuses
from analyses.studies.study_file import read_study
from analyses.studies.walk import Event, Options
from analyses.studies.workers import run_study
from analyses.thresholds.measured import finished, thresholds
from apet.errors import ApetError, MissingInput, UsageError
from apet.models.ladder import ladder_names
from apet.yaml_lines import read_value, read_yaml

ROOT = Path(__file__).parent.parent.parent.parent


@pytest.fixture(scope="module")
def whole(folder, tmp_path_factory) -> Store:
    store = Store(tmp_path_factory.mktemp("whole"))
    outcome = run_study(small(folder), store)
    assert len(outcome.done) == 6
    return store


def test_the_same_spec_gives_bitwise_the_same_rows(whole, folder, tmp_path):
    store = Store(tmp_path)
    for spec in reversed(small(folder).known):
        run(spec, store, folder)
    assert rows_of(store) == {name: text for name, text in rows_of(whole).items() if name in rows_of(store)}


def test_an_interrupted_study_equals_an_uninterrupted_one(whole, folder, tmp_path, monkeypatch):
    store = Store(tmp_path)

    def stop(event: Event) -> None:
        if event.kind == "done" and len(store.run_ids()) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_study(small(folder), store, tell=stop)
    stamps = {name: (store.folder(name) / "DONE").stat().st_mtime_ns for name in store.run_ids()}
    assert len(stamps) == 3
    run_study(small(folder), store)
    assert all((store.folder(name) / "DONE").stat().st_mtime_ns == stamp for name, stamp in stamps.items())
    assert rows_of(with_thresholds(store)) == rows_of(with_thresholds(whole))


def test_runs_leave_the_loaded_model_untouched(folder, tmp_path):
    from analyses.runs.run_inputs import inputs
    from apet.models.loading import fingerprint

    specs = [spec_of(**change) for change in ({"k": 5}, {"kind": "predict"}, {"kind": "spectrum", "k": 5, "lanczos_steps": 3, "probes": 1})]
    found = inputs(specs[0], folder)
    for spec in specs:
        run(spec, Store(tmp_path), folder)
        assert inputs(spec, folder).loaded is found.loaded
        assert fingerprint(found.loaded.model) == found.loaded.fingerprint
        assert all(p.requires_grad and p.grad is None for p in found.loaded.model.parameters())


def test_a_failed_run_is_a_row_and_is_not_tried_again_unasked(whole, folder, tmp_path, monkeypatch):
    study, store, calls = small(folder), Store(tmp_path), []

    def fails(spec, *rest):
        calls.append(spec)
        if spec.method == "full":
            raise ApetError("the loss is nan at step 3")
        return train_run(spec, *rest)

    monkeypatch.setitem(RUN_KINDS, "train", replace(RUN_KINDS["train"], run=fails))
    for _ in range(2):
        outcome = run_study(study, store)
        assert len(outcome.done) == 5
        assert [(spec.method, error) for spec, error in outcome.failed] == [("full", "the loss is nan at step 3")]
    assert len(calls) == 5
    (name,) = store.run_ids("failed")
    assert [(row.quantity, row.note) for row in store.rows(name)] == [("failed", "the loss is nan at step 3")]
    assert "nan at step 3" in store.env(name)["traceback"]
    monkeypatch.undo()
    outcome = run_study(study, store, options=Options(retry_failed=True, since=store.now()))
    assert not outcome.failed
    assert rows_of(with_thresholds(store)) == rows_of(with_thresholds(whole))


def test_one_runs_rows_do_not_change_with_another_seed(whole, folder, tmp_path):
    store = Store(tmp_path)
    name = run(spec_of(k=5, position_seed=1), store, folder)
    assert rows_of(store)[name] == rows_of(whole)[name]


def test_the_threshold_rows_hold_target_and_both_thresholds(whole, folder):
    found = {row.quantity: row for row in thresholds(whole, finished(whole), HALF) if row.quantity != "predicted_loss"}
    full = next(r for r in finished(whole) if r.spec["method"] == "full")
    initial, final = full.value("initial_loss", "train"), full.value("loss", "train")
    assert found["target_loss"].value == pytest.approx((initial + final) / 2)
    assert {"k_star", "k_pred", "rank_ceiling", "runs"} <= found.keys()
    assert found["rank_ceiling"].value == 16
    assert math.isnan(found["k_pred"].value) == (found["k_pred"].status in statuses.CENSORED)


def test_the_measured_threshold_of_known_losses_is_recovered(tmp_path):
    store = Store(tmp_path)
    noise = np.random.default_rng(0)
    common = {"model": "m", "random_init": False, "task": "t", "examples": 8, "max_length": 128, "early_stop": False}

    def commit(name: str, method: str, k: int, loss: float) -> None:
        rows = [Row("m", 1, "t", quantity, value, name, split="train") for quantity, value in (("initial_loss", 1.0), ("loss", loss))]
        store.commit(name, {**common, "kind": "train", "method": method, "k": k}, rows, {}, {})

    commit("full", "full", 10**6, 1e-6)
    for k in (16, 64, 256, 1024):
        for seed in range(3):
            commit(f"{k}-{seed}", "apet", k, 0.5 * (k / 100) ** -0.5 * math.exp(0.03 * noise.normal()))
    (k_star,) = (row for row in thresholds(store, finished(store), HALF) if row.quantity == "k_star")
    assert k_star.low < 100 < k_star.high
    assert k_star.value == pytest.approx(100, rel=0.1)


@pytest.mark.parametrize("name", sorted(p.name for p in (ROOT / "studies").glob("*.yaml")))
def test_shipped_studies_are_valid(name):
    study = read_study(ROOT / "studies" / name)
    assert study.name == name.removesuffix(".yaml")
    assert all(stage.specs or stage.variants for stage in study.stages)
    assert all(asdict(spec) == asdict(spec.resolved()) for spec in study.known)


RESULTS = ("demo", "ladder", "methods", "positions", "high-threshold", "low-threshold", "spectra", "surfaces", "predict")


def test_intrinsic_dimensions_of_images_have_a_study_and_a_quick_one_of_the_same_nets():
    whole, quick = (read_study(ROOT / "studies" / f"{name}.yaml") for name in ("mnist", "mnist-quick"))
    searched = [stage for stage in (*whole.stages, *quick.stages) if stage.search]
    assert all(str(stage.search.target) == "of-full:0.9" for stage in searched)
    assert all((spec.subspace, spec.task) == ("fastfood", "mnist") for stage in searched for spec in stage.specs)
    models = lambda study: {spec.model for stage in study.stages for spec in stage.specs}  # noqa: E731
    assert models(quick) < models(whole) == {"mnist-fc", "mnist-lenet"}


@pytest.mark.parametrize("name", RESULTS)
def test_every_result_has_a_study_and_a_quick_one_of_the_shipped_ladder(name):
    read_study(ROOT / "studies" / f"{name}.yaml")
    quick = read_study(ROOT / "studies" / f"{name}-quick.yaml")
    assert {spec.model for stage in quick.stages for spec in stage.specs} <= set(ladder_names())
    assert all(spec.task.startswith("mini-") for stage in quick.stages for spec in stage.specs)


def test_the_largest_models_prediction_is_held_back():
    study = read_study(ROOT / "studies" / "ladder.yaml")
    assert {spec.model for spec in study.known if spec.kind == "train"} >= {"mini-t5-6m"}
    assert "mini-t5-6m" not in {spec.model for spec in study.known if spec.kind == "predict"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("grid: [{kind: train, method: full, modle: x}]", r"s.yaml:1: unknown field 'modle': did you mean model"),
        ("grid:\n  - {k: 1}\n  - kind: train\n    k: [1, x]", r"s.yaml:4: k: 'x' is not int or null"),
        ("grid:\n  - {k: 1}\n  - {k: 0}", r"s.yaml:3: k = 0 must be at least 1"),
        ("defaults:\n  lr: fast\ngrid: [{k: 1}]", r"s.yaml:2: lr: 'fast' is not float or null"),
        ("name: x\ngrids: []", "s.yaml:2: unknown key 'grids': did you mean grid"),
        ("name: x", "needs a 'grid' of runs, or 'stages'"),
        ("grid: [{k: 1}]\nthresholds: {}", "s.yaml:2: unknown key 'thresholds': did you mean threshold"),
        ("grid: [{k: 1}]\nthreshold: {fraction: 2}", "s.yaml:2: the target fraction:2 must have an amount above 0 and below 1"),
        ("grid: [{k: 1}]\nstages: {a: {grid: [{k: 1}]}}", "s.yaml:2: a study has either"),
        ("grid: [x]", "s.yaml:1: 'x' is not a mapping"),
        ("grid: [{k: 1}]\nname: a\nname: b", "s.yaml:3: the key 'name' is repeated"),
        ("name: a\n  b: c", "s.yaml:2: not valid YAML"),
        ("- 1", "must hold a mapping of names to values"),
        ("stages:\n  a: {grid: []}", "s.yaml:2: stage a needs a 'grid'"),
        ("stages:\n  a:\n    at: b\n    grid: [{kind: spectrum}]", "s.yaml:3: there is no stage 'b' before this one"),
        ("stages:\n  a:\n    search: {below_full: .1}\n    grid: [{kind: train}]", "s.yaml:3: a search for below_full needs 'of'"),
        ("stages:\n  a:\n    search: {above_chance: .1, runs: 3}\n    grid: [{}]", "s.yaml:3: runs: 3 is not a whole number of at least 4"),
        ("stages:\n  a:\n    search: {above_chance: .1, from: 9, to: 9}\n    grid: [{}]", "s.yaml:3: to = 9 must be above from = 9"),
        ("data: {sst2: null}\ngrid: [{k: 1}]", "s.yaml:1: sst2: None is not the path of a folder"),
        ("grid: [{k: 1}]\nname: ../x", "s.yaml:2: the name '../x' cannot be a folder's name"),
        ("grid:\n  - kind: train\n    k: []", "s.yaml:3: k: an empty list gives no runs"),
        ("grid: [{k: 1}]\nthreshold: {}", "s.yaml:2: a threshold needs exactly one of"),
        (
            "stages:\n  a: {grid: [{k: 1}]}\n  b:\n    at: a\n    grid: [{kind: train}]",
            "s.yaml:5: only spectra and slices can start at a run's final point",
        ),
        ("stages:\n  a:\n    search: {above_chance: .1}\n    grid: [{method: full}]", "s.yaml:4: a search varies the k of training runs"),
        ("stages:\n  a:\n    search: {above_chance: .1}\n    grid: [{matched: lora}]", "s.yaml:4: a search varies the k of"),
        ("stages:\n  a:\n    search: {runs: 9}\n    grid: [{}]", "s.yaml:3: a threshold needs exactly one of"),
    ],
)
def test_a_wrong_study_says_where(text, message, tmp_path):
    (tmp_path / "s.yaml").write_text(text)
    with pytest.raises(UsageError, match=message):
        read_study(tmp_path / "s.yaml")


def test_a_missing_study_is_named(tmp_path):
    with pytest.raises(MissingInput, match="no study file"):
        read_study(tmp_path / "nowhere.yaml")


def study_of(tmp_path, text: str):
    (tmp_path / "s.yaml").write_text(text)
    return read_study(tmp_path / "s.yaml")


def test_what_kinds_share_in_defaults_may_be_of_no_use_to_one_and_what_an_entry_says_may_not(tmp_path):
    shared = "defaults: {task: mini-nli, steps: 9, lr: 0.1, k: 4, early_stop: false}\ngrid:\n  - {kind: train}\n  - {kind: spectrum"
    train, spectrum = study_of(tmp_path, shared + "}").known
    assert (train.steps, train.lr, train.k, spectrum.k, spectrum.task) == (9, 0.1, 4, 4, "mini-nli")
    with pytest.raises(UsageError, match=r"s.yaml:4: lr = 0.2 has no effect on spectra: it is for training runs"):
        study_of(tmp_path, shared + ", lr: 0.2}")
    with pytest.raises(UsageError, match=r"s.yaml:4: steps = 9 has no effect on spectra"):
        study_of(tmp_path, shared + ", steps: 9}")


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("{method: full, k: 5}", "k = 5 has no effect on this train run: it is for runs that tune k parameters"),
        ("{method: lora, subspace: fastfood, k: 5, order: layer}", "order = layer has no effect"),
        ("{k: 5, order: magnitude, position_seed: [0, 1]}", "position_seed = 1 has no effect .* it is for random placements"),
        ("{k: 5, order: reference, unit: row}", "unit = row has no effect"),
        ("{k: 5, samples: 4}", "samples = 4 has no effect on training runs: it is for spectra"),
        ("{k: 5, optimizer: lbfgs, early_stop: false, lr: 0.1}", "lr = 0.1 has no effect .* it is for training by adamw"),
        ("{k: 5, lr: 0.1, lr_factor: 3}", "lr_factor = 3 has no effect beside lr = 0.1, which replaces the default: use lr_factor: 1"),
        ("{method: full, optimizer: lbfgs, early_stop: false, lr_factor: 3}", "lr_factor = 3.* has no effect .* training by adamw"),
        ("{kind: predict, k: 5, path: true}", "path = True has no effect .* it is for predictions of all placements"),
        ("{kind: spectrum, k: 5, algorithm: exact, probes: 9}", "probes = 9 has no effect"),
        ("{kind: spectrum, k: 5, weights: bfloat16}", "weights = bfloat16 has no effect"),
        ("{kind: slice, k: 5, early_stop: false}", "early_stop = False has no effect on slices: it is for training runs"),
        ("{task: mnist, model: mnist-fc, k: 5, max_length: 64}", "max_length = 64 has no effect .* it is for tasks with texts"),
    ],
)
def test_a_field_that_a_run_does_not_use_is_an_error(entry, message, tmp_path):
    with pytest.raises(UsageError, match=f"s.yaml:1: {message}"):
        study_of(tmp_path, f"grid: [{entry}]")


def test_a_variant_at_an_optimum_says_only_what_it_uses(tmp_path):
    stages = "stages:\n  a: {grid: [{k: 4, steps: 9}]}\n  b:\n    at: a\n    grid: [{kind: spectrum%s}]"
    assert study_of(tmp_path, stages % ", probes: 2").stages[1].variants
    with pytest.raises(UsageError, match="s.yaml:5: lr = 0.1 has no effect on spectra: it is for training runs"):
        study_of(tmp_path, stages % ", lr: 0.1")


@pytest.mark.parametrize(
    ("value", "read"),
    [("1e-3", 1e-3), ("1E3", 1e3), (".5", 0.5), ("010", 10), ("-7", -7), ("true", True), ("False", False), ("null", None), ("~", None)]
    + [(text, text) for text in ("yes", "no", "on", "off", "12:30", "1_000", "0x10", "0o10", "2026-01-01", "=")],
)
def test_plain_values_mean_what_they_look_like(value, read, tmp_path):
    (tmp_path / "s.yaml").write_text(f"data: {value}")
    result = read_yaml(tmp_path / "s.yaml")["data"]
    assert (type(result), result) == (type(read), read)
    assert read_value(value) == read


@pytest.mark.parametrize(
    ("field", "message"),
    [
        ("steps: 1_000", "steps: '1_000' is not int: write 1000"),
        ("steps: 1e3", "steps: 1000.0 is not int: write 1000"),
        ("find_lr: yes", "find_lr: 'yes' is not bool: write true"),
        ("find_lr: off", "find_lr: 'off' is not bool: write false"),
        ("steps: 12:30", "steps: '12:30' is not int"),
        ("lr: .nan", "lr = nan must be positive"),
        ("lr: .inf", "lr = inf must be positive and finite"),
        ("batch: !!int x", "not valid YAML: x is not an integer"),
    ],
)
def test_a_value_that_is_no_number_says_how_it_is_written(field, message, tmp_path):
    with pytest.raises(UsageError, match=message):
        study_of(tmp_path, f"grid:\n  - k: 4\n    {field}")
