"""Final points of full fine-tuning, BitFit, LoRA and apet are points of one space, the model's own entries."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from study_cases import BASE, spec_of

from analyses.runs.evaluation_point import fields_at, point
from analyses.runs.execute import run
from analyses.runs.run_inputs import Context, inputs
from analyses.specs import SliceSpec, Spec, TrainSpec, spec_from
from analyses.store.run_store import Store
from apet.errors import UsageError
from apet.methods import make_tunable
from apet.methods.merged_delta import displacement
from apet.models.loading import fingerprint, load_model

TRAIN = {**BASE, "steps": 30, "keep_end": True}


@pytest.fixture(scope="module")
def runs(folder, tmp_path_factory) -> tuple[Store, dict[str, str]]:
    """Return runs of one model and task by different methods, and a run that did not save its final point."""
    store = Store(tmp_path_factory.mktemp("runs"))
    specs = {
        "full": TrainSpec(**TRAIN, method="full"), "lora": TrainSpec(**TRAIN, method="lora"), "apet": TrainSpec(**TRAIN, k=40),
        "all": TrainSpec(**TRAIN, k=40, scope="all", position_seed=1), "forgot": spec_of(method="full"),
        "adapter": spec_of(method="adapter"), "biases": TrainSpec(**TRAIN, method="bitfit"),
        "head": TrainSpec(**{**TRAIN, "model": "mini-bert-120k"}, method="lora"),
    }  # fmt: skip
    return store, {name: run(spec, store, folder) for name, spec in specs.items()}


def loss_of(store: Store, run_id: str) -> float:
    return next(row.value for row in store.rows(run_id) if row.quantity == "loss" and row.split == "train")


def through(store: Store, at: str, *to: str, **fields) -> Spec:
    spec = {"kind": "slice", **fields_at(store, at, methods=True), "batch": 8, "directions": "optima", "reach": 1.0, "points": 3}
    return spec_from({**spec, "at": at, "to": "+".join(to), "dims": len(to), **fields})


@pytest.mark.long
def test_runs_of_three_methods_lie_in_one_plane_and_have_the_losses_that_they_reported(runs, folder):
    store, names = runs
    spec = through(store, names["full"], names["lora"], names["apet"])
    name = run(spec, store, folder)
    arrays, found = store.arrays(name), inputs(spec, folder)
    wanted = [loss_of(store, names[each]) for each in ("full", "lora", "apet")]
    assert len({round(loss, 3) for loss in wanted}) == 3
    with point(spec.resolved(), found, Context(store.folder("x"), lambda *_: None)) as here:
        assert len(here.z) == found.loaded.parameters
        for place, loss in zip(arrays["places"], wanted, strict=True):
            z = here.z.double() + torch.as_tensor(arrays["directions"].astype(np.float64) @ place)
            assert here.objective.loss(z.float()) == pytest.approx(loss, rel=1e-4)
        for z, loss in zip((here.z, *here.others), wanted, strict=True):
            assert here.objective.loss(z) == pytest.approx(loss, rel=2e-5)
        apart = torch.stack([here.z, *here.others]).double()
    assert fingerprint(found.loaded.model) == found.loaded.fingerprint
    wide = torch.cdist(apart, apart).numpy()
    np.testing.assert_allclose(np.linalg.norm(arrays["places"][:, None] - arrays["places"], axis=-1), wide, rtol=1e-4, atol=1e-5)
    rows = [row for row in store.rows(name) if row.quantity == "slice_loss"]
    assert {(row.method, row.k, row.position_seed) for row in rows} == {("full", found.loaded.parameters, None)}


@pytest.mark.parametrize(
    ("at", "to"), [("lora", "apet"), ("all", "lora"), ("apet", "apet"), pytest.param("apet", "full", marks=pytest.mark.long)]
)
def test_a_line_ends_at_the_loss_of_the_run_that_it_goes_to(at, to, runs, folder):
    store, names = runs
    spec = through(store, names[at], names[to])
    if at == to:  # from the initial point
        spec = replace(spec, at=None, to=names["lora"], method="lora", k=None)
        to = "lora"
    arrays = store.arrays(run(spec, store, folder))
    assert arrays["loss.train"][2] == pytest.approx(loss_of(store, names[to]), rel=1e-4)
    if spec.at:
        assert arrays["loss.train"][1] == pytest.approx(loss_of(store, names[at]), rel=2e-5)
    assert arrays["axis_0"][2] == pytest.approx(abs(arrays["places"][1, 0]))


def test_a_point_of_full_fine_tuning_has_slices_along_its_own_directions_and_numbers(runs, folder):
    store, names = runs
    spec = through(store, names["lora"], directions="gradient", to=None, dims=2)
    arrays = store.arrays(run(spec, store, folder))
    assert arrays["loss.train"][1, 1] == pytest.approx(loss_of(store, names["lora"]), rel=2e-5)
    kept = store.arrays(names["lora"])
    assert len(arrays["z"]) == sum(kept[name].size for name in kept if name.startswith("end."))


@pytest.mark.long
@pytest.mark.parametrize(("at", "to"), [("lora", "full"), ("apet", "full")])
def test_a_curve_between_methods_has_no_higher_barrier_than_the_line(at, to, runs, folder):
    store, names = runs
    rows = store.rows(run(through(store, names[at], names[to], curve=True), store, folder))
    barriers = {row.series: row for row in rows if row.quantity == "barrier" and row.split == "train"}
    assert barriers["curve"].value <= barriers["line"].value + 2 * barriers["line"].stderr
    ends = [row.value for row in rows if row.quantity == "path_loss" and row.split == "train" and row.series == "curve"]
    assert [ends[0], ends[-1]] == pytest.approx([loss_of(store, names[each]) for each in (at, to)], rel=2e-5)


@pytest.mark.parametrize("name", ["mini-t5-130k", "mini-bert-120k", "mini-bloom-120k"])
@pytest.mark.parametrize("method", ["full", "bitfit", "lora"])
def test_adding_the_displacement_makes_the_tuned_model_in_float64(name, method):
    model = load_model(name, random_init=True).model.double()
    if method == "bitfit" and name.startswith("mini-t5"):
        return  # the model has no biases
    tuned = load_model(name, random_init=True).model.double()
    mounted = make_tunable(method, tuned)
    generator = torch.Generator().manual_seed(0)
    for p in mounted.trainable.values():
        with torch.no_grad():
            p += torch.randn(p.shape, generator=generator, dtype=p.dtype).float().double() / 64
    own = dict(model.named_parameters())
    changes = displacement({each: own[each] for each in mounted.trainable if each in own}, mounted.model)
    ids = {"input_ids": torch.tensor([[5, 6, 7, 8]])} | ({"decoder_input_ids": torch.tensor([[0, 9]])} if "t5" in name else {})
    wanted = mounted.model(**ids).logits
    with torch.no_grad():
        for each, change in changes.items():
            model.get_parameter(each).add_(change)
    torch.testing.assert_close(model(**ids).logits, wanted, rtol=0, atol=1e-5)
    assert (sum(c.numel() for c in changes.values()) == mounted.k) == (method != "lora")


def test_what_ends_at_no_point_of_the_model_says_so_before_it_is_trained(runs, folder):
    store, names = runs
    with pytest.raises(UsageError, match="keep_end has no effect on subspace fastfood"):
        TrainSpec(**TRAIN, method="lora", subspace="fastfood", k=9).resolved()
    messages = {
        "forgot": "did not save its final point: .*'train --method full --keep-end'",
        "adapter": "which tunes new parameters",
        "biases": "which tunes new parameters",  # of a T5, which has none
        "head": 'trained a classification head.*readout: "words"',
    }
    for name, message in messages.items():
        with pytest.raises(UsageError, match=message):
            fields_at(store, names[name], methods=True)
        with pytest.raises(UsageError, match=message):
            run(replace(through(store, names["apet"], names["full"]), to=names[name]), store, folder)
    with pytest.raises(UsageError, match="only training runs of method apet end at a point"):
        fields_at(store, names["full"])
    with pytest.raises(UsageError, match="method full needs a run of full at its centre: use at"):
        SliceSpec(method="full").resolved()
    with pytest.raises(UsageError, match="has method full, but this slice has lora"):
        run(replace(through(store, names["full"], names["apet"]), method="lora"), store, folder)


def test_keeping_the_end_splits_the_identity_only_where_it_keeps_something():
    for method, k in (("full", None), ("lora", None), ("apet", 5)):
        plain, kept = (TrainSpec(method=method, k=k, keep_end=each).run_id("w", "d") for each in (False, True))
        assert (plain == kept) == (method == "apet")
