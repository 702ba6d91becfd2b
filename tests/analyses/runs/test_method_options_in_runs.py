"""Options of methods in specs, runs and rows: identities, columns, and points of runs whose k matches a method with options."""

import pytest
from study_cases import BASE, spec_of

from analyses.runs.evaluation_point import fields_at
from analyses.runs.execute import check, run
from analyses.runs.run_inputs import inputs
from analyses.specs import TrainSpec, spec_from
from analyses.store import Store
from apet.errors import UsageError
from apet.methods import count_tuned, default_rate


def run_id(**fields) -> str:
    return TrainSpec(**fields).run_id("w", "d")


def test_an_identity_depends_on_neither_defaults_nor_the_order_of_options():
    plain = run_id(method="lora")
    assert plain == run_id(method="lora", method_option="alpha=16,r=8")
    assert "method_option" not in TrainSpec(method="lora", method_option="r=8").resolved().changed
    other = run_id(method="lora", method_option="r=4,alpha=32")
    assert other == run_id(method="lora", method_option="alpha=32, r=4") != plain
    assert run_id(matched="lora") == run_id(matched="lora", method_option="r=8") != run_id(matched="lora", method_option="r=4")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"method": "lora", "method_option": "rank=4"}, "lora has no option 'rank'"),
        ({"matched": "lora", "method_option": "size=4"}, "lora has no option 'size'"),
        ({"k": 5, "method_option": "r=4"}, "method_option = r=4 has no effect on this train run: it is for methods with options"),
        ({"method": "full", "k": 5}, "k = 5 has no effect on this train run: .* methods with an option that sets k"),
        ({"method": "peft:ia3", "k": 5}, "k = 5 has no effect on this train run"),
        ({"method": "peft:xlora"}, "peft:xlora is not supported: it mixes trained LoRA adapters"),
        ({"method": "peft:verra"}, "unknown method 'peft:verra': did you mean peft:vera"),
    ],
)
def test_an_option_without_effect_is_one_line(fields, message):
    with pytest.raises(UsageError, match=message) as error:
        TrainSpec(**fields).resolved()
    assert "\n" not in str(error.value)


def test_a_k_for_several_runs_sets_no_option_of_another_method():
    assert spec_from({"method": "lora", "k": 500}, shared={"k"}).k is None
    assert spec_from({"method": "lora", "k": 500}).k == 500
    assert spec_from({"k": 500}, shared={"k"}).k == 500


def test_options_and_a_requested_k_are_in_the_rows(folder, tmp_path):
    store = Store(tmp_path)
    rows = store.rows(run(spec_of(method="lora", method_option="r=2,alpha=4"), store, folder))
    assert {(row.method, row.placement) for row in rows} == {("lora", "alpha=4,r=2")}
    rows = store.rows(run(spec_of(method="peft:vera", k=500, steps=2), store, folder))
    (requested,) = [row for row in rows if row.quantity == "requested_k"]
    assert requested.value == 500 and requested.group.startswith("r=")
    model = inputs(spec_of(), folder).loaded.model
    assert {row.k for row in rows} == {count_tuned("peft:vera", model, requested.group)}


def test_a_multiple_of_the_default_rate_is_that_rate_whether_k_is_set_or_matched(folder, tmp_path):
    tripled = spec_of(method="full", lr_factor=3.0).resolved()
    assert (tripled.lr, tripled.lr_factor) == (3 * default_rate("full", None), 1)
    assert tripled.run_id("w", "d") == spec_of(method="full", lr=tripled.lr).run_id("w", "d")
    store = Store(tmp_path)
    rows = store.rows(run(spec_of(matched="lora", k=None, method_option="r=1", steps=2, examples=4, lr_factor=3.0), store, folder))
    (rate,) = [row for row in rows if row.quantity == "learning_rate"]
    assert rate.value == 3 * default_rate("apet", rate.k)


def test_a_plan_has_the_k_of_every_method(folder):
    spec = spec_of(method="adapter", k=2000)
    plan = check(spec, inputs(spec, folder))
    assert plan["requested_k"] == 2000 and plan["k"] == count_tuned("adapter", inputs(spec, folder).loaded.model, plan["method_option"])
    spec = spec_of(matched="adapter", k=None, method_option="size=1")
    assert check(spec, inputs(spec, folder))["k"] == count_tuned("adapter", inputs(spec, folder).loaded.model, "size=1")


def test_a_spectrum_at_a_run_matched_to_a_method_has_its_options(folder, tmp_path):
    store = Store(tmp_path)
    name = run(spec_of(matched="lora", k=None, method_option="r=1", steps=2, examples=4), store, folder)
    about = {"kind": "spectrum", "at": name, "batch": 8, "algorithm": "lanczos", "lanczos_steps": 2, "probes": 1}
    fields = fields_at(store, name)
    spec = spec_from({**fields, **about}, shared=fields)
    assert vars(spec)["method_option"] == "r=1"
    k = {row.k for row in store.rows(run(spec, store, folder)) if row.quantity == "eigenvalue"}
    assert k == {row.k for row in store.rows(name)}
    with pytest.raises(UsageError, match="has method_option r=1, but this spectrum has : the two are not in the same subspace"):
        run(spec_from({**fields, **about, "method_option": ""}, shared=fields), store, folder)


def test_low_precision_weights_are_for_methods_that_tune_float32(folder):
    spec = TrainSpec(**{**BASE, "method": "peft:vera", "weights": "bfloat16"})
    check(spec, inputs(spec, folder))
    spec = TrainSpec(**{**BASE, "method": "peft:ln_tuning", "weights": "bfloat16"})
    with pytest.raises(UsageError, match="peft:ln_tuning updates the base model's own tensors"):
        check(spec, inputs(spec, folder))
