"""Targets, thresholds without a value, and the map from a metric to the training loss."""

import math
from dataclasses import replace

import numpy as np
import pytest
from study_cases import BASE, spec_of

from analyses.specs import spec_dict
from analyses.store import Row, Store
from analyses.studies.study_file import Search
from analyses.thresholds.intrinsic_dimension import references
from analyses.thresholds.measured import thresholds, whole
from analyses.thresholds.metric_map import shared
from analyses.thresholds.targets import Run, Target
from apet.errors import UsageError

SPEC = spec_of(k=4)
UNTUNED = (0.7, 0.5)


def run(method: str, k: int, loss: float, accuracy: float, seed: int = 0, steps: int = 100, **more: float) -> Run:
    spec = replace(SPEC, method=method, k=k if method == "apet" else None, position_seed=seed, steps=steps)
    values = {
        **{("loss", "train"): loss, ("initial_loss", "train"): UNTUNED[0], ("chance", "validation"): 0.5},
        **{("accuracy", "validation"): accuracy, ("initial_accuracy", "validation"): UNTUNED[1]},
        **{(quantity, None): value for quantity, value in more.items()},
    }
    rows = [Row("m", 1, "sst2", quantity, value, split=split, k=k) for (quantity, split), value in values.items()]
    return Run(f"{method} {k} {seed} {steps}", spec_dict(spec), rows)


def by_quantity(store: Store, runs: list[Run], target: Target) -> dict[str, Row]:
    return {row.quantity: row for row in thresholds(store, runs, target) if row.quantity != "gap"}


def accuracy_at(loss: float, offset: float = 0.0) -> float:
    """Return the accuracy on full fine-tuning's map: its logit rises by 2 per unit of -log loss, from 0 at the untuned model's loss."""
    return 1 / (1 + math.exp(-2 * math.log(UNTUNED[0] / loss) - offset))


@pytest.mark.parametrize(
    ("text", "kind", "quantity", "on_loss", "value"),
    [
        ("fraction:.9", "fraction", "k_star", True, 0.7 - 0.9 * 0.5),
        ("loss:0.35", "loss", "k_loss", True, 0.35),
        ("of-full:.9", "of_full", "k_part", False, 0.72),
        ("below-full:.01", "below_full", "k_high", False, 0.79),
        ("above_chance:.1", "above_chance", "k_low", False, 0.55),
    ],
)
def test_a_target_is_named_in_words_and_has_a_value(text: str, kind: str, quantity: str, on_loss: bool, value: float) -> None:
    target = Target.parse(text)
    assert (target.kind, target.quantity, target.on_loss) == (kind, quantity, on_loss)
    assert Target.parse(str(target)) == target
    # A run that was stopped early sets no target.
    assert target.value([run("full", 9, 0.2, 0.8), run("full", 9, 0.6, 0.6, steps=10)], "accuracy") == pytest.approx(value)


@pytest.mark.parametrize(
    ("text", "message"),
    [("fractoin:.9", "did you mean fraction"), ("fraction", "form KIND:AMOUNT"), ("fraction:x", "form KIND:AMOUNT"),
     ("fraction:1", "above 0 and below 1"), ("below-full:1", "of at least 0 and below 1"),
     ("loss:0", "a finite amount above 0"), ("loss:nan", "a finite amount above 0"), ("loss:inf", "a finite amount above 0")],
)  # fmt: skip
def test_a_wrong_target_is_refused(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Target.parse(text)


def test_of_the_metric_and_of_its_improvement_are_two_targets(tmp_path) -> None:
    runs = [run("full", 9, 0.2, 0.8), *(run("apet", k, 0.7 * k**-0.1, 0.5 + 0.05 * math.log(k)) for k in (4, 20, 100, 500))]
    found = by_quantity(Store(tmp_path), runs, Target("of_full", 0.9))
    assert found["target_share"].value == pytest.approx((0.72 - 0.5) / 0.3)
    assert "73.3 % of the improvement" in found["target_metric"].note
    assert found["k_part"].note.endswith("95 % bootstrap interval over runs")


def test_a_loss_of_exactly_0_has_reached_the_target(tmp_path) -> None:
    ks = (4, 6, 10, 16, 25, 40)
    runs = [run("full", 9, 0.2, 0.8), *(run("apet", k, 0.7 * k**-0.3, 0.5, seed) for seed, k in enumerate(ks))]
    perfect = replace(runs[-1], rows=[replace(row, value=0.0) if row.quantity == "loss" else row for row in runs[-1].rows])
    found = by_quantity(Store(tmp_path), [*runs[:-1], perfect], Target("loss", 0.35))
    assert found["runs"].value == len(ks)
    assert found["k_loss"].value == pytest.approx(2 ** (1 / 0.3), rel=0.05)


def test_nothing_lies_above_a_chance_of_one(tmp_path) -> None:
    runs = [run("apet", k, 0.5, 0.9 if k < 9 else 1.0) for k in (4, 8, 16, 32)]
    runs = [replace(each, rows=[replace(row, value=1.0) if row.quantity == "chance" else row for row in each.rows]) for each in runs]
    row = by_quantity(Store(tmp_path), runs, Target("above_chance", 0.1))["k_low"]
    assert row.status == "undecided" and row.note.startswith("answers without a model")


@pytest.mark.parametrize(
    ("full", "target", "status", "note"),
    [
        ((0.75, 0.5), Target("fraction", 0.5), "undecided", "full fine-tuning does not improve"),
        ((0.2, 0.8), Target("loss", 0.9), "below", "the untuned model already reaches the target: 0.7"),
        ((0.6, 0.52), Target("metric", 0.45), "below", "the untuned model already reaches the target: 0.5"),
        ((0.6, 0.52), Target("below_full", 0.05), "undecided", "full fine-tuning does not beat chance by more than 0.05"),
        ((0.6, 0.02), Target("below_full", 0.05), "undecided", "the target, accuracy of -0.03, is outside 0..1"),
    ],
)
def test_where_nothing_is_to_be_found_the_rows_say_so(full, target: Target, status: str, note: str, tmp_path) -> None:
    runs = [run("full", 9, *full), *(run("apet", k, 0.7 * k**-0.1, 0.5) for k in (4, 20, 100, 500))]
    row = by_quantity(Store(tmp_path), runs, target)[target.quantity]
    assert math.isnan(row.value)
    assert row.status == status and row.note.startswith(note)


def test_runs_that_diverged_are_left_out_and_counted(tmp_path) -> None:
    runs = [run("full", 9, 1e-3, 0.8), *(run("apet", k, 0.7 * k**-0.3, 0.5, seed) for seed, k in enumerate((2, 4, 6, 10, 20, 50)))]
    clean = by_quantity(Store(tmp_path / "a"), runs, Target("loss", 0.35))
    found = by_quantity(Store(tmp_path / "b"), [*runs, run("apet", 9, 1e9, 0.5, 7, diverged=20.0)], Target("loss", 0.35))
    assert found["runs_diverged"].value == 1 and "runs_diverged" not in clean
    assert found["k_loss"].value == clean["k_loss"].value == pytest.approx(2 ** (1 / 0.3), rel=1e-6)
    alone = by_quantity(Store(tmp_path / "c"), [runs[0], run("apet", 9, 1e9, 0.5, 7, diverged=20.0)], Target("fraction", 0.5))
    assert (alone["k_star"].status, alone["k_star"].note) == ("undecided", "no run has a gap to the target")


def test_every_run_is_a_row_with_its_gap_and_whether_it_was_used(tmp_path) -> None:
    ks = [3, 4, 6, 8, 10, 12, 14, 16, 20, 5000]
    runs = [run("apet", k, 0.7 * k**-0.3 if k != 12 else 30.0, 0.5, seed) for seed, k in enumerate(ks)]
    rows = [row for row in thresholds(Store(tmp_path), runs, Target("loss", 0.35)) if row.quantity == "gap"]
    assert [row.x for row in rows] == ks
    assert [row.position_seed for row in rows] == list(range(10))
    assert {row.x: row.status for row in rows}[12] == "failed training"
    assert {row.x: row.status for row in rows}[5000] == "far"
    assert all(row.value == pytest.approx(math.log(0.35 / (0.7 * row.x**-0.3))) for row in rows if row.x != 12)


@pytest.mark.parametrize("offset", [0.0, 0.5])
def test_a_metric_is_mapped_to_the_loss_at_which_full_fine_tuning_crosses_it(offset: float, tmp_path) -> None:
    random = np.random.default_rng(0)
    losses = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6)
    full = [run("full", 9, loss, accuracy_at(loss, 0.01 * random.normal()), steps=int(100 / loss)) for loss in losses]
    apet = [run("apet", k, loss, accuracy_at(loss, offset + 0.01 * random.normal()), seed)
            for seed, (k, loss) in enumerate(zip((4, 8, 16, 32, 64), (0.55, 0.45, 0.35, 0.25, 0.15), strict=True))]  # fmt: skip
    found = by_quantity(Store(tmp_path), [*full, *apet], Target("above_chance", 0.5))
    # Accuracy .75, a logit of log 3.
    assert found["mapped_loss"].value == pytest.approx(0.7 / math.sqrt(3), rel=0.02)
    assert found["mapped_loss"].low < found["mapped_loss"].value < found["mapped_loss"].high
    assert found["map_offset"].value == pytest.approx(offset, abs=4 * found["map_offset"].stderr)
    assert (found["map_p"].value < 1e-6) == (offset > 0)


def test_the_test_of_a_shared_map_is_the_f_test_of_nested_lines() -> None:
    """Compare t^2 of the offset with the F statistic of leaving the offset out, from the residual sums of numpy's least squares."""
    random = np.random.default_rng(1)
    full, apet = (np.column_stack([x, 2 * x + 0.3 * random.normal(size=8)]) for x in (np.linspace(0, 2, 8), np.linspace(0.1, 1.9, 8)))
    both = np.concatenate([full, apet])
    line = np.column_stack([np.ones(16), both[:, 0]])
    rest = [np.linalg.lstsq(design, both[:, 1])[1][0] for design in (line, np.column_stack([line, np.arange(16) >= 8]))]
    found = shared(full, apet)
    assert found is not None
    assert found.t**2 == pytest.approx((rest[0] - rest[1]) / (rest[1] / 13))
    from scipy.stats import f

    assert found.p == pytest.approx(f.sf(found.t**2, 1, 13))
    assert shared(full[:2], apet) is None
    assert shared(full, apet + np.array([5.0, 0.0])) is None  # no common training losses


def test_for_a_metric_full_fine_tuning_is_stopped_at_several_steps_too() -> None:
    on_loss, metric = (references(BASE, Search(Target(*which), "full"), True) for which in (("fraction", 0.15), ("below_full", 0.01)))
    assert [(spec.kind, spec.steps) for spec in on_loss if spec.kind == "train"] == [("train", 20)]
    assert [spec.steps for spec in metric] == [20, 10, 5, 2, 1]
    assert {spec.kind for spec in metric} == {"train"} and {spec.kind for spec in on_loss} == {"train", "predict"}
    made = [run("full", 9, 0.3, 0.7, steps=spec.steps) for spec in metric]
    assert [each.spec["steps"] for each in whole([*made, run("apet", 4, 0.5, 0.5, steps=5)])] == [20, 5]
