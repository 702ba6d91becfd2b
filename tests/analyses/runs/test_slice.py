"""Slices: the centre has the reported loss, axes are displacements, a killed slice resumes, wrong input is refused."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from study_cases import BASE, spec_of

from analyses.runs import DIRECTIONS
from analyses.runs.cached_losses import Evaluated
from analyses.runs.evaluation_point import fields_at, point
from analyses.runs.execute import check, run
from analyses.runs.matrices import matrix_at
from analyses.runs.run_inputs import Context, inputs
from analyses.runs.slice import MOST_LOSSES
from analyses.specs import SliceSpec, Spec, SpectrumSpec, TrainSpec, spec_dict, spec_from
from analyses.store import Store, frame
from apet.errors import ApetError, UsageError
from apet.models.loading import fingerprint
from apet.subspaces.resident import plain
from apet.subspaces.scope import all_names
from figures.plots.grids import grids
from figures.rows import tidy
from landscape import roughness
from landscape.curvature.operators import to_dense
from landscape.spectra.estimators import diagonal_estimates as diagonal_estimates
from landscape.surfaces.directions import random_directions
from landscape.surfaces.slices import MAX_BYTES

LINE = spec_of(kind="slice", k=40, points=5)
SEEDS = {"position_seed": 3, "k": 30}


@pytest.fixture(autouse=True)
def brief(monkeypatch) -> None:
    """Reduce the numbers of products and rays of a slice."""
    brief = {"slice_directions.LANCZOS_STEPS": 8, "slice_directions.PROBES": 4, "point_statistics.LANCZOS_STEPS": 8}
    brief |= {"point_statistics.RAYS": 3, "point_statistics.DRAWS": 2, "point_statistics.SEARCH": 8}
    for name, value in brief.items():
        monkeypatch.setattr(f"analyses.runs.{name}", value)
    monkeypatch.setattr("analyses.runs.point_statistics.CURVE_STEPS", 30)
    monkeypatch.setattr("landscape.surfaces.basin.HALVINGS", 6)


@pytest.fixture(scope="module")
def runs(folder, tmp_path_factory) -> tuple[Store, dict[str, str]]:
    """Return three runs that tuned different entries, one with a trajectory."""
    store = Store(tmp_path_factory.mktemp("runs"))
    train = {**BASE, "k": 40, "steps": 45, "trajectory": True}
    names = {"a": run(TrainSpec(**train), store, folder), "b": run(spec_from({**train, **SEEDS}), store, folder)}
    return store, names | {"c": run(spec_from({**train, "position_seed": 5}), store, folder)}


def sliced(spec: Spec, store: Store, folder) -> tuple[list, dict[str, np.ndarray]]:
    name = run(spec, store, folder)
    return store.rows(name), store.arrays(name)


def single(rows: list, quantity: str) -> float:
    return next(row.value for row in rows if row.quantity == quantity and math.isnan(row.x))


@pytest.mark.parametrize("dims", [2, pytest.param(3, marks=pytest.mark.long)])
def test_looks_of_a_trajectory_keep_the_loss_they_had_in_training_and_say_how_far_off_the_plane_it_is(dims, runs, folder):
    store, names = runs
    rows, _ = sliced(replace(LINE, directions="trajectory", dims=dims, at=names["a"], points=3), store, folder)
    steps, losses = store.arrays(names["a"])["history"][:, :2].T
    places = {(row.x, row.y): row.value for row in rows if row.quantity == "slice_place"}
    own = {places[row.x, row.y]: row for row in rows if row.quantity == "slice_place_loss"}
    assert [own[step].value for step in steps] == pytest.approx(losses, rel=1e-4)  # without early stopping, the training loss was monitored
    assert all(row.stderr > 0 for row in own.values())
    off = next(row for row in rows if row.quantity == "off_plane")
    assert off.value != 0 and off.stderr > 0 and "the largest difference" in off.note
    # The plane contains the final point, so both losses agree there.
    assert own[steps[-1]].value == pytest.approx(single(rows, "centre_loss"), rel=1e-6)


SOUGHT = [each for each in DIRECTIONS if each not in ("filter", "optima")]
PLACED = [(each, 1 + number % 2) for number, each in enumerate(SOUGHT)]  # one number of dimensions per direction; the other is marked long
PLACED_TOO = [pytest.param(each, 2 - number % 2, marks=pytest.mark.long) for number, each in enumerate(SOUGHT)]


@pytest.mark.parametrize(("directions", "dims"), [*PLACED, *PLACED_TOO])
def test_the_centre_is_the_loss_of_the_point_and_axes_are_true_displacements(directions, dims, runs, folder):
    store, names = runs
    spec = replace(LINE, directions=directions, dims=dims, at=names["a"], points=3)
    rows, arrays = sliced(spec, store, folder)
    losses = arrays["loss.train"]
    assert losses.shape == (3,) * dims
    assert losses[(1,) * dims] == pytest.approx(store.arrays(names["a"])["history"][-1, 1], rel=1e-5)
    assert arrays["quadratic"][(1,) * dims] == single(rows, "centre_loss")
    np.testing.assert_allclose(arrays["directions"].T @ arrays["directions"], np.eye(dims), atol=1e-5)
    assert {(row.directions, row.at_run) for row in rows} == {(directions, names["a"])}
    if directions not in ("trajectory",):
        assert arrays["axis_0"][-1] == pytest.approx(single(rows, "theta_norm"))
    points = [row for row in rows if row.quantity == "slice_loss" and row.split == "train"]
    assert all(row.stderr > 0 for row in points)
    assert [math.isnan(row.y) for row in points] == [dims == 1] * len(points)


def test_in_three_dimensions_arrays_hold_the_grid_and_rows_say_the_place_on_every_axis(runs, folder):
    store, names = runs
    spec = replace(LINE, dims=3, at=names["a"], points=3)
    rows, arrays = sliced(spec, store, folder)
    losses = arrays["loss.train"]
    assert losses.shape == arrays["quadratic"].shape == arrays["loss.validation"].shape == (3, 3, 3)
    np.testing.assert_allclose(arrays["directions"].T @ arrays["directions"], np.eye(3), atol=1e-5)
    _, plane = sliced(replace(spec, dims=2), store, folder)  # the first directions of one seed
    np.testing.assert_array_equal(losses[:, :, 1], plane["loss.train"])
    table = {}
    for row in rows:
        if row.quantity == "slice_loss" and row.split == "train":
            x, y, z = row.x, row.y, row.further[0]
            table[x, y, z] = row.value
    expected = {}
    for i, x in enumerate(arrays["axis_0"]):
        for j, y in enumerate(arrays["axis_1"]):
            expected |= {(x, y, z): losses[i, j, n] for n, z in enumerate(arrays["axis_2"])}
    assert table == pytest.approx(expected)
    (grid,) = grids(tidy(frame(rows)), 2)  # a figure draws the plane through the centre
    np.testing.assert_allclose(grid.loss, losses[:, :, 1])


def test_four_optima_span_three_dimensions(runs, folder):
    store, names = runs
    spec = replace(LINE, directions="optima", to="+".join(names.values()), dims=3, points=3, reach=1.0)
    _, arrays = sliced(spec, store, folder)
    assert arrays["places"].shape == (4, 3)
    apart = np.linalg.norm(arrays["places"][:, None] - arrays["places"], axis=-1)
    ends = store.arrays(names["a"])["z"]
    assert apart[0, 1] == pytest.approx(np.linalg.norm(ends), rel=1e-4)


def test_a_point_of_the_slice_is_the_loss_there_and_the_model_is_left_as_it_was(runs, folder, tmp_path):
    store, names = runs
    spec = replace(LINE, at=names["a"]).resolved()
    _, arrays = sliced(spec, store, folder)
    found = inputs(spec, folder)
    with point(spec, found, Context(store.folder("x"), lambda *_: None)) as here:
        z = here.z + torch.as_tensor(arrays["axis_0"][4] * arrays["directions"][:, 0]).to(here.z)
        assert here.objective.loss(z) == pytest.approx(arrays["loss.train"][4], rel=1e-5)
    assert fingerprint(found.loaded.model) == found.loaded.fingerprint


@pytest.mark.parametrize("directions", ["fisher", "jacobi"])
def test_directions_scaled_by_curvature_are_so_by_a_diagonal_that_is_known(directions, runs, folder):
    store, names = runs
    spec = replace(LINE, directions=directions, at=names["a"]).resolved()
    _, arrays = sliced(spec, store, folder)
    with point(spec, inputs(spec, folder), Context(store.folder("x"), lambda *_: None)) as here:
        drawn = random_directions(len(here.z), 1, spec.train_seed)[:, 0]
        operator = matrix_at(here, {"fisher": "ggn", "jacobi": "hessian"}[directions])
        diagonal = to_dense(operator).diagonal().abs()
        estimates = diagonal_estimates(operator, 4, spec.train_seed)  # the number of probes that `brief` permits
    factors = (torch.as_tensor(arrays["directions"][:, 0]) / drawn).double() ** -2  # the sizes, up to a factor
    if directions == "fisher":  # exact, from the rows of the label words
        wanted = diagonal.clamp(min=1e-4 * float(diagonal.max())).double()
    else:  # estimated: no entry's size is below its own standard error
        wanted = torch.maximum(estimates.mean(1).abs(), estimates.std(1) / 2)
        wanted = wanted.clamp(min=1e-4 * float(wanted.max()))
        assert (estimates.mean(1).abs() < estimates.std(1) / 2).any()
    torch.testing.assert_close(factors / factors.max(), wanted / wanted.max(), rtol=1e-3, atol=1e-9)


def test_the_quadratic_model_touches_the_loss(folder, tmp_path):
    _, arrays = sliced(replace(LINE, reach=0.02, directions="gradient"), Store(tmp_path), folder)
    change = arrays["loss.train"] - arrays["loss.train"][2]
    np.testing.assert_allclose(arrays["quadratic"] - arrays["quadratic"][2], change, atol=0.02 * np.abs(change).max())
    assert change[-1] > 0 > change[0]


def test_roughness_leaves_out_losses_and_models_of_the_same_examples(folder, tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr("analyses.runs.slice.GROUPS", 5)
    monkeypatch.setattr("landscape.surfaces.roughness", lambda *arguments: (seen.append(arguments), roughness(*arguments))[1])
    rows, arrays = sliced(replace(LINE, directions="gradient"), Store(tmp_path), folder)
    ((values, model, weights),) = seen
    assert values.shape == model.shape == (5, 5)
    assert sorted(weights) == [3, 3, 3, 3, 4]
    np.testing.assert_allclose(values[2], model[2], rtol=1e-5)  # the loss of every group at the centre
    assert np.ptp(values[2] / weights) > 1e-3  # the groups differ
    np.testing.assert_allclose(values.sum(-1) / weights.sum(), arrays["loss.train"], rtol=1e-9)
    np.testing.assert_allclose(model.sum(-1) / weights.sum(), arrays["quadratic"], rtol=1e-4)
    assert single(rows, "roughness") >= 0


@pytest.mark.long
def test_runs_of_other_entries_are_points_of_the_span_of_all(runs, folder):
    store, names = runs
    spec = replace(LINE, directions="optima", at=names["a"], to=names["b"], reach=1.0)
    _, arrays = sliced(spec, store, folder)
    ends = [store.arrays(names[each]) for each in "ab"]
    assert arrays["loss.train"][[2, 4]] == pytest.approx([end["history"][-1, 1] for end in ends], rel=1e-4)
    apart = np.linalg.norm(arrays["places"][1] - arrays["places"][0])
    assert 40 <= len(arrays["z"]) <= 70
    norms = [float(np.linalg.norm(end["z"])) for end in ends]
    assert math.hypot(*norms) * 0.7 < apart < sum(norms) + 1e-6
    plane = replace(spec, dims=2, to=f"{names['b']}+{names['c']}", points=3)
    _, arrays = sliced(plane, store, folder)
    assert arrays["places"].shape == (3, 2)
    here = {**spec_dict(plane), "at": None, "dims": 1, "to": names["a"]}  # from the initial point
    _, arrays = sliced(spec_from(here), store, folder)
    assert arrays["loss.train"][1] == pytest.approx(store.arrays(names["a"])["history"][0, 1], rel=1e-5)


@pytest.mark.long
@pytest.mark.parametrize("k", [40, 4000])
def test_a_slice_of_a_run_in_bfloat16_is_of_its_weights_in_float32_and_its_displacements_are_exact(k, folder, tmp_path):
    store = Store(tmp_path)
    trained = spec_of(k=k, weights="bfloat16", dtype="bfloat16")
    name = run(trained, store, folder)
    spec = spec_from({**fields_at(store, name), "kind": "slice", "at": name, "points": 3, "batch": 8}).resolved()
    assert spec.weights == "bfloat16"
    held, found = inputs(trained, folder).loaded, inputs(spec, folder)
    upcast = {each: p.detach().clone() for each, p in found.loaded.model.named_parameters()}
    assert {p.dtype for p in upcast.values()} == {torch.float32}
    assert all(torch.equal(p.detach().float(), upcast[each]) for each, p in held.model.named_parameters())
    assert held.fingerprint == found.loaded.fingerprint
    _, arrays = sliced(spec, store, folder)
    np.testing.assert_array_equal(arrays["z"], store.arrays(name)["z"])
    with point(spec, found, Context(store.folder("x"), lambda *_: None)) as here:
        z = here.z + torch.as_tensor(arrays["directions"][:, 0]).mul(float(arrays["axis_0"][2]))
        losses = here.objective.loss(z)
        touched = all_names(found.loaded.model)
        for each, where, flat in here.subspace.by_tensor:
            own = upcast[each].flatten()[torch.as_tensor(flat)]
            assert torch.equal(plain(touched[each]).detach().flatten()[torch.as_tensor(flat)], own + z[where])
    assert losses == pytest.approx(arrays["loss.train"][2], rel=1e-4)
    # Runs with weights of another type have another initial point.
    other = run(replace(trained, weights="float32", position_seed=1), store, folder)
    with pytest.raises(UsageError, match="has weights float32, but this slice has bfloat16"):
        run(replace(spec, directions="optima", to=other, reach=None), store, folder)


def test_a_reach_that_float32_rounds_away_is_refused_and_one_that_it_holds_is_not(runs, folder):
    store, names = runs
    refusal = r"reach = 1e-07 is too small for 5 points: .* on axis 1 .* [89]\d % of entries move under 8 units"
    with pytest.raises(UsageError, match=refusal):
        run(replace(LINE, at=names["a"], reach=1e-7), store, folder)
    _, arrays = sliced(replace(LINE, at=names["a"], reach=1e-3), store, folder)
    assert len(arrays["axis_0"]) == 5


class Dies(RuntimeError):
    pass


@pytest.mark.long
def test_a_slice_that_was_stopped_goes_on_and_ends_bitwise_the_same(folder, tmp_path, monkeypatch):
    whole, part = Store(tmp_path / "whole"), Store(tmp_path / "part")
    spec = replace(LINE, dims=2, directions="hessian", metric=True)
    name, honest, made = run(spec, whole, folder), Evaluated.many, []

    def dies(self: Evaluated, points: torch.Tensor) -> np.ndarray:
        if len(made) == 2:  # 16 of the 25 points
            raise Dies
        made.append(self.made)
        return honest(self, points)

    monkeypatch.setattr(Evaluated, "many", dies)
    with pytest.raises(Dies):
        run(spec, part, folder)
    assert list(part.folder(name).glob("checkpoint*"))
    monkeypatch.setattr(Evaluated, "many", lambda self, points: (honest(self, points), made.append(self.made))[0])
    run(spec, part, folder)
    assert made[-1] == 25 - 16
    for file in ("rows.jsonl", "arrays.safetensors"):
        assert (part.folder(name) / file).read_bytes() == (whole.folder(name) / file).read_bytes()
    assert not list(part.folder(name).glob("checkpoint*"))


def test_a_loss_that_is_no_number_stays_one(folder, tmp_path, monkeypatch):
    honest = Evaluated.many
    calls: list[int] = []

    def broken(self: Evaluated, points: torch.Tensor) -> np.ndarray:
        found = honest(self, points).copy()
        if not calls:
            found[0] = math.nan
        calls.append(1)
        return found

    monkeypatch.setattr(Evaluated, "many", broken)
    rows, _ = sliced(LINE, Store(tmp_path), folder)
    values = [row.value for row in rows if row.quantity == "slice_loss" and row.split == "train"]
    assert [math.isnan(value) for value in values] == [True, False, False, False, False]


@pytest.mark.long
def test_a_grid_of_one_point_is_the_centre_and_refinement_keeps_the_old_places(folder, tmp_path):
    store = Store(tmp_path)
    rows, arrays = sliced(replace(LINE, points=1), store, folder)
    assert arrays["loss.train"] == pytest.approx([single(rows, "centre_loss")], rel=1e-6)
    _, coarse = sliced(LINE, store, folder)
    _, fine = sliced(replace(LINE, refine=4), store, folder)
    assert len(fine["axis_0"]) == 9
    np.testing.assert_array_equal(fine["loss.train"][np.isin(fine["axis_0"], coarse["axis_0"])], coarse["loss.train"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"points": 4}, "points = 4 is even, .* for instance 5"),
        ({"dims": 0}, "dims = 0 must be from 1 .a line. to 10"),
        ({"dims": 11}, "dims = 11 must be from 1 .a line. to 10"),
        ({"dims": 3, "points": 47}, "103,823 points is over the limit of 100,000: give at most 45 points per axis"),
        ({"dims": 2, "points": 1001}, "1,002,001 points is over the limit of 100,000: give at most 315 points per axis"),
        ({"ratio_map": 3}, "ratio_map = 3 needs a plane, but dims is 1: use dims: 2"),
        ({"dims": 2, "ratio_map": 4}, "an odd number from 3 to 5, the number of points per axis"),
        ({"dims": 2, "ratio_map": 7}, "an odd number from 3 to 5, the number of points per axis"),
        ({"reach": 0.0}, "reach = 0.0 must be positive"),
        ({"reach": math.nan}, "reach = nan must be positive"),
        ({"directions": "filter"}, "filter need whole tuned rows, but unit is entry"),
        ({"directions": "trajectory"}, "no run is given: use at"),
        ({"directions": "optima"}, r"need 1 other run\(s\), but got 0: use to"),
        ({"to": "x"}, "to is for directions optima, but directions is random"),
        ({"directions": "eigen"}, "unknown direction"),
        ({"at_step": 3}, "no run is given: use at"),
    ],
)
def test_what_makes_no_slice_is_refused(change, message):
    with pytest.raises(UsageError, match=message):
        replace(LINE, **change).resolved()


def test_what_cannot_be_sliced_says_why(runs, folder, tmp_path, monkeypatch):
    store, names = runs
    with pytest.raises(UsageError, match="dims = 2 is over the number of tuned parameters, 1"):
        run(replace(LINE, k=1, dims=2), store, folder)
    with pytest.raises(UsageError, match="dims = 3 is over the number of tuned parameters, 2"):
        run(replace(LINE, k=2, dims=3), store, folder)
    with pytest.raises(ApetError, match="do not span a line"):
        run(replace(LINE, directions="optima", at=names["a"], to=names["a"]), store, folder)
    monkeypatch.setattr("landscape.curvature.objective.Objective.gradient", lambda self, z: torch.zeros_like(z))
    with pytest.raises(ApetError, match="direction 0 has length 0"):
        run(replace(LINE, directions="gradient"), store, folder)
    monkeypatch.setattr("analyses.runs.slice.MOST_LOSSES", 100)
    assert 100 < MOST_LOSSES <= MAX_BYTES / 8  # so the library accepts every grid that passes this check
    with pytest.raises(UsageError, match="use fewer points or fewer examples"):
        check(LINE, inputs(LINE, folder))
    monkeypatch.setattr("analyses.runs.slice.MOST_LOSSES", 5 * 2 * 16)
    check(LINE, inputs(LINE, folder))
    with pytest.raises(UsageError, match="losses and hits, but the limit is"):
        check(replace(LINE, metric=True), inputs(LINE, folder))
    monkeypatch.setattr("analyses.runs.slice.MOST_LOSSES", 100)
    monkeypatch.setattr("landscape.surfaces.evaluate_slice", None)
    with pytest.raises(UsageError, match="use fewer points or fewer examples"):
        run(LINE, store, folder)


def test_directions_by_filters_are_as_long_in_every_row_as_its_values(folder, tmp_path):
    spec = replace(LINE, unit="row", k=400, directions="filter", scope="weights")
    _, arrays = sliced(spec, Store(tmp_path), folder)
    found = inputs(spec, folder)
    with point(spec.resolved(), found, Context(tmp_path / "x", lambda *_: None)) as here:
        shapes = dict(here.subspace.space.tensors)
        ratios = []
        for name, where, flat in here.subspace.by_tensor:
            for row in np.unique(flat // shapes[name][-1]):
                chosen = np.flatnonzero(flat // shapes[name][-1] == row) + where.start
                ratios.append(np.linalg.norm(arrays["directions"][chosen, 0]) / float(here.theta[chosen].norm()))
    assert len(ratios) > 2
    np.testing.assert_allclose(ratios, ratios[0], rtol=1e-4)


def test_a_slices_fields_split_no_other_runs_identity():
    line = LINE
    with pytest.raises(UsageError, match="dims = 2 has no effect on spectra: it is for slices"):
        spec_of(kind="spectrum", k=40, dims=2, points=7).run_id("w", "d")
    assert replace(line, dims=2).run_id("w", "d") != line.run_id("w", "d")
    assert LINE.run_id("w", "d") == "eaad854654e6157b"
    assert replace(line, dims=2, ratio_map=3).run_id("w", "d") != replace(line, dims=2).run_id("w", "d")
    assert replace(line, points=None).run_id("w", "d") == replace(line, points=41).run_id("w", "d")
    # Existing stores hold runs with these names.
    known = {
        SliceSpec(k=40): "4da2080efcbbc972",
        SliceSpec(k=40, dims=2, at="a", directions="trajectory"): "174bad356d93086d",
        SliceSpec(k=4, directions="optima", at="a", to="b", curve=True): "d39fb91caf175449",
        SpectrumSpec(k=4): "2d86e42aee73e925",
        TrainSpec(method="full"): "2ec21708fadec1cf",
        TrainSpec(method="lora"): "4bafbf603591793c",
        TrainSpec(k=5): "e14af84bb638a911",
        TrainSpec(k=5, lr=10.0 * 5**-0.625): "7bb92ba3419d4aad",  # the default rate of earlier versions
    }
    assert {spec: spec.run_id("w", "d") for spec in known} == known


@pytest.mark.long
def test_numbers_of_a_point_come_with_their_errors_and_a_level_that_is_not_met_is_censored(runs, folder, monkeypatch):
    store, names = runs
    rows, _ = sliced(replace(LINE, numbers=True, at=names["a"]), store, folder)
    found = {row.quantity: row for row in rows if math.isnan(row.x)}
    for name in ("sharpness_average", "sharpness_worst", "hessian_ratio", "angular_dimension", "roughness"):
        assert math.isfinite(found[name].value) and found[name].stderr >= 0
    assert found["sharpness_worst"].value >= found["sharpness_average"].value
    for name in ("angular_dimension", "angular_dimension_of_loss", "angular_dimension_from_start"):
        assert 0 <= found[name].value <= 40
        assert found[name].stderr >= 0
    monkeypatch.setattr("analyses.runs.point_statistics.LEVEL", 1e9)
    rows, _ = sliced(replace(LINE, numbers=True, at=names["a"], points=3), store, folder)
    (width,) = [row for row in rows if row.quantity == "basin_width"]
    assert math.isnan(width.value) and width.low == 4.0
    assert width.status == "above" and "no ray reached the level" in width.note


@pytest.mark.long
def test_a_curve_between_optima_has_no_higher_barrier_than_the_line(runs, folder):
    store, names = runs
    rows, arrays = sliced(replace(LINE, directions="optima", at=names["a"], to=names["b"], curve=True), store, folder)
    barriers = {(row.split, row.series): row for row in rows if row.quantity == "barrier"}
    assert set(barriers) == {(split, path) for split in ("train", "validation") for path in ("line", "curve")}
    assert all(row.value >= 0 and row.stderr >= 0 for row in barriers.values())
    assert barriers["train", "curve"].value <= barriers["train", "line"].value + 2 * barriers["train", "line"].stderr
    for path in ("line", "curve"):
        ends = [row.value for row in rows if row.quantity == "path_loss" and row.split == "train" and row.series == path]
        assert ends[0] == pytest.approx(store.arrays(names["a"])["history"][-1, 1], rel=1e-4)
        assert len(ends) == 17
    assert arrays["bend"].shape == arrays["z"].shape
