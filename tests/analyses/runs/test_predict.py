"""Predictions on the smallest model: by Lanczos and from the Gram matrix, for one placement, for a text task; and explain."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from analyses.findings.threshold_changes import Side, explain
from analyses.runs.execute import check, run
from analyses.runs.run_inputs import inputs
from analyses.specs import PredictSpec, SpectrumSpec, TrainSpec, as_kind, spec_dict
from analyses.store import NoValue, Row, Store
from analyses.thresholds.predicted import _followed_rows, predicted_rows, sampled_prediction
from analyses.thresholds.proximal_record import Followed
from analyses.thresholds.targets import Run, Target
from apet.errors import UsageError
from landscape import GaussNewton, gradient_spectrum, predict_threshold, subset_spectrum, threshold_from_factors, to_dense

BASE = PredictSpec(model="mini-t5-130k", task="mini-sentiment", examples=8)


def row_of(quantity: str, value: float | None, **columns) -> Row:
    return Row("m", 1, "t", quantity, math.nan if value is None else value, **columns)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store(tmp_path_factory.mktemp("predict"))


@pytest.mark.long
def test_lanczos_predicts_what_the_gram_matrix_does(store: Store) -> None:
    exact, sampled = run(BASE, store), run(replace(BASE, algorithm="lanczos", lanczos_steps=10, probes=2), store)
    assert exact != sampled
    arrays = store.arrays(exact)
    dual = arrays["gram"], arrays["logits"], arrays["labels"]
    whole, half = gradient_spectrum(*dual), subset_spectrum(*dual, range(4))
    for spectrum, prefix in ((whole, ""), (half, "half_")):
        target = 0.9 * spectrum.loss
        expected, found = predict_threshold(spectrum, target), sampled_prediction(store.arrays(sampled), prefix, target)
        assert found.prediction.kappa == pytest.approx(expected.kappa, rel=1e-2)
        assert found.dimension is not None
        assert found.prediction.k == pytest.approx(expected.k, abs=4 * found.dimension.stderr + 0.05)
        assert found.prediction.rank_ceiling == spectrum.rank_ceiling


def test_a_placement_reaches_what_its_dense_quadratic_does(store: Store) -> None:
    from analyses.runs.evaluation_point import point
    from analyses.runs.run_inputs import Context

    spec = replace(BASE, k=12, position_seed=2).resolved()  # well conditioned, so a few steps converge
    found = {row.quantity: row for row in store.rows(run(spec, store))}
    at = as_kind(spec, SpectrumSpec, matrix="ggn")
    with point(at, inputs(at, None), Context(Path("."), lambda *_: None)) as here:
        matrix = to_dense(GaussNewton(here.objective, here.z)).double().numpy()
        g = here.objective.gradient(here.z).double().numpy()
    drop = g @ np.linalg.lstsq(matrix, g, rcond=1e-7)[0] / 2
    assert found["placed_initial_loss"].value - found["placed_loss"].value == pytest.approx(drop, rel=2e-2)
    assert (found["placed_loss"].k, found["placed_loss"].position_seed) == (12, 2)
    trained = store.rows(run(as_kind(spec, TrainSpec, k=12, early_stop=False, steps=1), store))
    assert found["placed_loss"].placement == next(row.placement for row in trained if row.quantity == "loss")
    assert found["placed_residual"].value < 0.1


@pytest.mark.long
def test_a_task_that_asks_for_text_is_predicted_with_an_error(store: Store) -> None:
    spec = replace(BASE, task="mini-qa", examples=4, lanczos_steps=6, probes=2)
    planned = check(spec, inputs(spec, None))
    assert planned["gradient_equivalents"] > 100
    name = run(spec, store)
    of = Run.of(store, name)
    target = 0.9 * of.value("initial_loss", "train")
    rows = {row.quantity: row for row in predicted_rows(store, of, target, 0, "a definition", row_of)}
    assert rows["k_pred"].value > 0
    assert rows["k_pred"].stderr > 0
    assert rows["k_pred"].low < rows["k_pred"].value < rows["k_pred"].high
    assert rows["rank_ceiling"].value > 1000
    assert "over probes" in rows["k_pred"].note
    met = {row.quantity: row for row in predicted_rows(store, of, 1e3, 0, "a definition", row_of)}
    assert math.isnan(met["k_pred"].value)
    assert met["k_pred"].status == "below"
    with pytest.raises(UsageError, match="asks for text"):
        replace(spec, algorithm="exact").resolved()


@pytest.mark.parametrize(
    "field", [{"lanczos_steps": 9}, {"probes": 7}, {"position_seed": 5}, {"batch": 8}, {"steps": 9}, {"train_seed": 1}]
)
def test_a_gram_matrix_takes_no_settings_of_products(field: dict[str, int]) -> None:
    ((name, value),) = field.items()
    with pytest.raises(UsageError, match=f"{name} = {value} has no effect on this predict run"):
        replace(BASE, **field).resolved()
    if name != "position_seed":
        assert replace(BASE, algorithm="lanczos", **field).resolved() != BASE.resolved()


@pytest.mark.parametrize("field", [{"path": True}, {"algorithm": "lanczos"}, {"k": 5}])
def test_batches_are_as_large_as_was_asked(field: dict) -> None:
    from analyses.runs.evaluation_point import point
    from analyses.runs.predict import _of_everything
    from analyses.runs.run_inputs import Context

    spec = replace(BASE, batch=3, **field).resolved()
    found = inputs(spec, None)
    with point(_of_everything(spec, found), found, Context(Path("."), lambda *_: None)) as here:
        assert [len(batch["labels"]) for batch in here.objective.batches] == [3, 3, 2]


def test_rows_of_a_gram_matrix_hold_the_path_and_censored_ones_no_number(store: Store) -> None:
    of = Run.of(store, run(BASE, store))
    initial = of.value("initial_loss", "train")
    found = predicted_rows(store, of, 0.97 * initial, 0, "a definition", row_of)
    rows = {row.quantity: row for row in found if math.isnan(row.x)}
    assert rows["k_m1"].value <= rows["k_gm"].value <= rows["k_m0"].value
    assert rows["k_larsen"].value > rows["k_pred"].value
    assert rows["k_gordon"].stderr > 0
    assert rows["k_bracket"].low <= rows["k_bracket"].high
    curve = [row.value for row in found if row.quantity == "path_envelope" and row.series == "gm"]
    assert curve == sorted(curve, reverse=True)
    for target, side in ((2 * initial, "below"), (-1.0, "above")):
        rows = {row.quantity: row for row in predicted_rows(store, of, target, 0, "a definition", row_of)}
        for name in ("k_pred", "k_gm", "k_m0", "k_m1"):
            assert math.isnan(rows[name].value)
            assert rows[name].status == side
        assert "k_gordon" not in rows


def invented(store: Store, model: str, parameters: int, seed: int) -> list[Run]:
    """Return a made-up prediction and full fine-tuning run of 12 examples."""
    random = np.random.default_rng(seed)
    features = random.standard_normal((12, 60)) * np.arange(1, 61) ** -0.5
    arrays = {"gram": features @ features.T, "logits": np.zeros((12, 2)), "labels": np.arange(12) % 2}
    predict = {**spec_dict(PredictSpec(model=model, task="mini-sentiment", examples=12).resolved())}
    full = {**spec_dict(TrainSpec(model=model, task="mini-sentiment", examples=12, method="full", early_stop=False).resolved())}
    losses = [
        Row(model, parameters, "mini-sentiment", name, value, split="train")
        for name, value in (("initial_loss", math.log(2)), ("loss", 0.0))
    ]
    live = Row(model, parameters, "mini-sentiment", "live_fraction", 0.5 + 0.1 * seed)
    store.commit(f"p-{model}", predict, [losses[0], live], arrays, {"seconds": 0.0})
    store.commit(f"f-{model}", full, losses, {}, {"seconds": 0.0})
    return [Run.of(store, f"p-{model}"), Run.of(store, f"f-{model}")]


def test_explain_compares_neighbours_and_the_ends_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("analyses.findings.threshold_changes.RESAMPLES", 6)
    store = Store(tmp_path)
    sizes = {"mini-t5-130k": 1, "mini-t5-240k": 2, "mini-t5-790k": 3}
    runs = [one for name, size in sizes.items() for one in invented(store, name, size, size)]

    def measured(ks: tuple[float, ...], width: float = 1.3) -> list[Row]:
        return [
            Row(name, size, "mini-sentiment", "k_star", k, low=k / width, high=k * width)
            for (name, size), k in zip(sizes.items(), ks, strict=True)
        ]

    rows, pairs = explain(store, runs, Target("fraction", 0.1), measured((4.0, 4.0, 4.0), 50.0))
    names = list(sizes)
    assert [(pair["small"], pair["large"]) for pair in pairs] == [(names[0], names[1]), (names[1], names[2]), (names[0], names[2])]
    for pair in pairs:
        parts = sum(pair[f"{name}_by_rank"][0] for name in ("spectrum", "alignment", "gap", "live"))
        assert parts == pytest.approx(pair["total_by_rank"][0])
        assert pair["live_by_rank"][0] > 0
    assert {row.quantity for row in rows} >= {"explained_total", "explained_gap", "measured_change", "explain_verdict"}
    total = pairs[0]["total_by_rank"][0]
    # Measured changes: of the other sign, far beyond the interval, equal to the predicted change, and none.
    for log_change, verdict in ((-total, "not explained"), (total * 1e3, "not explained"), (total, "explained")):
        found = measured((4 * math.exp(min(max(log_change, -300), 300)), 4.0, 4.0))
        assert explain(store, runs, Target("fraction", 0.1), found)[1][0]["verdict"] == verdict
    assert explain(store, runs, Target("fraction", 0.1), [])[1][0]["verdict"] == "undecided"
    assert explain(store, runs, Target("fraction", 0.1), measured((4.0, 4.0, math.nan)))[1][1]["verdict"] == "undecided"
    random = [replace(row, subspace="fastfood", value=3.0) for row in measured((4.0, 4.0, 4.0))]
    rows, both = explain(store, runs, Target("fraction", 0.1), random + measured((4.0 * math.exp(-total), 4.0, 4.0)))
    assert [(pair["subspace"], pair["measured"][0]) for pair in both[::3]] == [("coordinates", pytest.approx(-total)), ("fastfood", 0.0)]
    assert {row.subspace for row in rows} == {None, "fastfood"}


def test_sides_of_other_examples_or_other_data_have_a_threshold_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("analyses.findings.threshold_changes.RESAMPLES", 3)
    store, sizes = Store(tmp_path), {"mini-t5-130k": 1, "mini-t5-240k": 2}
    protocols = ("12 examples", "24 examples", "12 examples, data 1a2b3c4d")
    runs, found = list[Run](), list[Row]()
    for i, protocol in enumerate(protocols):
        for name, size in sizes.items():
            there = Store(tmp_path / str(i))
            for each in invented(there, name, size, size + 10 * i):
                renamed = Run(f"{i}-{each.id}", each.spec, [replace(row, protocol=protocol) for row in each.rows])
                store.commit(renamed.id, each.spec, renamed.rows, there.arrays(each.id), {"seconds": 0.0})
                runs.append(renamed)
            k = 4.0 if size == 2 else 4.0 * (i + 2)
            found.append(Row(name, size, "mini-sentiment", "k_star", k, protocol=protocol, low=k / 1.1, high=k * 1.1))
    _, pairs = explain(store, runs, Target("fraction", 0.1), found)
    assert [pair["measured"][0] for pair in pairs] == pytest.approx([math.log(i + 2) for i in range(3)])


def test_errors_over_probes_are_the_jackknifes_of_all_at_once() -> None:
    """Compare the error of gm with the delta method: log gm is the mean of log m0 and log m1, which are correlated over probes."""
    random = np.random.default_rng(0)
    probes, nodes = 400, np.geomspace(1e-2, 10, 5)
    scale = 1 + 0.1 * random.standard_normal((probes, 1))
    weights = np.stack([np.full((probes, 5), 20.0) * scale, np.full((probes, 5), 30.0) * scale**2])
    kappa = np.array([np.inf, 1.0])
    path = Followed(kappa, np.array([1.0, 0.5]), np.array([0.0, 0.1]), np.zeros(2), np.tile(nodes, (2, probes, 1)), weights, None, None)
    target = float(path.envelope[1])
    rows = {row.quantity: row for row in _followed_rows(path, "k_", target, 1e9, "d", row_of) if math.isnan(row.x)}
    place = path.where(target)
    assert not isinstance(place, str)
    m0, m1 = (path.n_eff(point, place.kappa) for point in (0, 1))
    assert (rows["k_m0"].value, rows["k_m1"].value) == (pytest.approx(m0.mean()), pytest.approx(m1.mean()))
    influence = {"k_m0": m0 / m0.mean(), "k_m1": m1 / m1.mean(), "k_gm": (m0 / m0.mean() + m1 / m1.mean()) / 2}
    for name, values in influence.items():
        assert rows[name].stderr / rows[name].value == pytest.approx(values.std(ddof=1) / math.sqrt(probes), rel=1e-2)
        assert math.log(rows[name].high / rows[name].low) / 2 == pytest.approx(1.966 * rows[name].stderr / rows[name].value, rel=1e-3)


def test_the_command_says_what_is_missing_and_writes_rows_that_figures_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from typer.testing import CliRunner

    from cli import app

    monkeypatch.setattr("analyses.findings.threshold_changes.RESAMPLES", 3)
    command = CliRunner()
    assert command.invoke(app, ["explain", str(tmp_path / "none")]).exit_code == 3
    one = tmp_path / "one"
    invented(Store(one), "mini-t5-130k", 1, 1)
    assert command.invoke(app, ["explain", str(one)]).exit_code == 2  # no target stated
    assert command.invoke(app, ["explain", str(one), "--fraction", "0.1"]).exit_code == 1  # nothing to compare
    invented(Store(one), "mini-t5-240k", 2, 2)
    found = command.invoke(app, ["explain", str(one), "--fraction", "0.1", "--json"])
    assert found.exit_code == 0
    (pair,) = json.loads(found.stdout)["pairs"]
    assert pair["verdict"] == "undecided"
    assert (one / "figures" / "attribution.pdf").is_file()
    drawn = command.invoke(app, ["figures", str(one), "--fraction", "0.1", "--only", "attribution", "--out", str(tmp_path), "--json"])
    assert "attribution" in json.loads(drawn.stdout)["written"]


@pytest.mark.long
def test_the_path_of_the_model_itself_begins_as_its_quadratic(store: Store) -> None:
    plain, spec = run(BASE, store), replace(BASE, path=True)
    name = run(spec, store)
    assert name != plain
    rows = {row.quantity: row for row in store.rows(name)}
    assert 0 < rows["path_example_gradients"].value <= check(spec, inputs(spec, None))["gradient_equivalents"]
    arrays = store.arrays(name)
    path, initial = arrays["path"], arrays["path"][0, 1]
    assert np.isinf(path[0, 0])
    assert (np.diff(path[:, 0]) < 0).all()
    eigenvalues = gradient_spectrum(arrays["gram"], arrays["logits"], arrays["labels"]).eigenvalues
    assert np.sort(arrays["path_nodes"][0, 0])[-3:] == pytest.approx(np.sort(eigenvalues)[-3:], rel=1e-3)
    found = {r.quantity: r.value for r in predicted_rows(store, Run.of(store, name), 0.985 * initial, 0, "d", row_of)}
    assert found["k_path_m0"] == pytest.approx(found["k_pred"], rel=0.15)
    assert found["k_path_gm"] == pytest.approx(math.sqrt(found["k_path_m0"] * found["k_path_m1"]))
    assert 0.5 < found["k_path_t5"] / found["k_path_m1"] < 2


@pytest.mark.long
def test_the_path_of_the_linearised_model_is_that_of_its_gram_matrix(store: Store) -> None:
    exact, sampled = (Run.of(store, run(each, store)) for each in (BASE, replace(BASE, algorithm="lanczos", lanczos_steps=10, probes=3)))
    rows, arrays = {row.quantity: row for row in sampled.rows}, store.arrays(sampled.id)
    assert rows["linear_path_example_gradients"].value > 0
    initial = float(arrays["loss"][0])
    for share in (0.9, 0.8, 0.4):
        both = [{r.quantity: r for r in predicted_rows(store, each, share * initial, 0, "d", row_of)} for each in (exact, sampled)]
        for name in ("k_m0", "k_m1", "k_gm"):
            found = both[1].get(name + "_over_rank", both[1][name])
            expected = both[0].get(name + "_over_rank", both[0][name]).value
            assert found.value == pytest.approx(expected, rel=0.05)  # the error of interpolation


@pytest.mark.long
def test_the_quadratic_that_touches_a_text_loss_on_its_path_has_the_ridge_of_the_path(store: Store) -> None:
    spec = replace(BASE, task="mini-qa", examples=4, batch=4, lanczos_steps=12, probes=3)
    name = run(spec, store)
    arrays = store.arrays(name)
    path = Followed.of(arrays, "linear_")
    assert path is not None
    assert path.along is not None
    assert path.nodes.shape[:2] == (len(path.kappa), 3)
    assert path.along[:, 1].sum(1) == pytest.approx(path.distance**2, rel=1e-3)
    for at in range(1, len(path.kappa)):
        touching = path.touching(at, int(arrays["ceiling"][0]))
        assert predict_threshold(touching, float(path.envelope[at])).kappa == pytest.approx(path.kappa[at], rel=1e-3)
    for target in np.geomspace(0.9 * path.envelope[0], 1.1 * path.envelope[-1], 5):  # explain's k is m1, up to the grid of the path
        side = Side(Run.of(store, name), arrays, float(target), "fastfood", None, None)
        own, m1 = side.factors(None), {r.quantity: r.value for r in predicted_rows(store, side.run, float(target), 0, "d", row_of)}["k_m1"]
        assert threshold_from_factors(own, own, own) == pytest.approx(m1, rel=0.15)
    assert isinstance(path.where(path.loss[0]), NoValue)
    assert isinstance(path.where(0.99 * float(path.envelope.min())), NoValue)


@pytest.mark.long
@pytest.mark.parametrize(("share", "answer"), [(1.2, "below"), (1e-6, "above")])
def test_a_target_off_the_path_is_an_answer(store: Store, share: float, answer: str) -> None:
    run_of = Run.of(store, run(replace(BASE, path=True), store))
    loss = float(store.arrays(run_of.id)["path"][0, 1])
    rows = [row for row in predicted_rows(store, run_of, share * loss, 0, "d", row_of) if row.quantity.startswith("k_path")]
    assert rows
    assert all(math.isnan(row.value) and row.status == answer for row in rows)


@pytest.mark.long
def test_a_number_over_the_rank_is_kept_apart(store: Store) -> None:
    run_of = Run.of(store, run(replace(BASE, path=True), store))
    loss = float(store.arrays(run_of.id)["path"][0, 1])
    found = {row.quantity: row for row in predicted_rows(store, run_of, 0.3 * loss, 0, "d", row_of)}
    assert math.isnan(found["k_gm"].value)
    assert found["k_gm_over_rank"].value > 0.3 * found["rank_ceiling"].value
    assert found["k_bracket_over_rank"].low <= found["k_bracket_over_rank"].high
