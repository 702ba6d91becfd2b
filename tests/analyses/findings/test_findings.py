"""Findings from rows: verdicts on planted effects, on degenerate input, and the sentences."""

import dataclasses
import math
from collections import Counter
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pandas as pd
import planted
import pytest
from scipy.stats import norm

from analyses.findings import CLAIMS, findings
from analyses.findings.regressions import Point, slope, threshold_point
from analyses.store import Row, frame, quantities, statuses

TASKS = ("one", "two", "three")
Draw = Callable[[np.random.Generator], list[Row]]
# name -> (rows, claim, verdicts that are false)
SCENARIOS: dict[str, tuple[Draw, str, set[str]]] = {
    "no change": (lambda rng: planted.thresholds(rng, 0.0, tasks=TASKS, task_sd=1.0), "F2", {statuses.SUPPORTED}),
    "no change, models scatter": (
        lambda rng: planted.thresholds(rng, 0.0, tasks=TASKS, task_sd=1.0, model_sd=0.5), "F2", {statuses.SUPPORTED},
    ),
    "a fall": (lambda rng: planted.thresholds(rng, -0.3, tasks=TASKS, task_sd=1.0, sd=0.6), "F2", {statuses.NOT_SUPPORTED}),
    "reversed": (lambda rng: planted.thresholds(rng, 0.3, tasks=TASKS, task_sd=1.0, sd=0.6), "F2", {statuses.SUPPORTED}),
    "no change, half censored": (
        lambda rng: planted.thresholds(rng, 0.0, tasks=TASKS, task_sd=0.3, sd=0.6, censored=0.5), "F2", {statuses.SUPPORTED},
    ),
    "a fall, half censored": (
        lambda rng: planted.thresholds(rng, -0.3, tasks=TASKS, task_sd=0.3, sd=0.6, censored=0.5), "F2", {statuses.NOT_SUPPORTED},
    ),
    "positions, no change": (lambda rng: planted.crossed(rng, 0.0, tasks=TASKS), "F1", {statuses.SUPPORTED}),
    "positions, reversed": (lambda rng: planted.crossed(rng, 0.25, tasks=TASKS), "F1", {statuses.SUPPORTED}),
    "positions, a fall": (lambda rng: planted.crossed(rng, -0.25, tasks=TASKS), "F1", {statuses.NOT_SUPPORTED}),
    "similar tasks": (
        lambda rng: planted.thresholds(rng, 0.0, tasks="abcdef", task_sd=0.35, quantity=quantities.K_LOW), "F3", {statuses.NOT_SUPPORTED},
    ),
    "different tasks": (
        lambda rng: planted.thresholds(rng, 0.0, tasks="abcdef", task_sd=1.4, quantity=quantities.K_LOW), "F3", {statuses.SUPPORTED},
    ),
    "tasks at the margin": (
        lambda rng: planted.thresholds(rng, 0.0, tasks="abcdef", task_sd=math.log(2), quantity=quantities.K_LOW), "F3",
        {statuses.SUPPORTED, statuses.NOT_SUPPORTED},
    ),
}  # fmt: skip


def counted(draw: Draw, claim: str, draws: int) -> Counter[str]:
    return Counter(planted.verdicts(draw(np.random.default_rng([seed, draws])))[claim, "planted"] for seed in range(draws))


def most(draws: int, share: float) -> int:
    """The number of false verdicts that a true rate of `share` exceeds with a probability of 1 %."""
    from scipy.stats import binom

    return int(binom.ppf(0.99, draws, share))


@pytest.mark.parametrize("name", SCENARIOS)
def test_verdicts_are_rarely_false(name: str) -> None:
    draw, claim, false = SCENARIOS[name]
    found = counted(draw, claim, 6)
    assert sum(found[verdict] for verdict in false) <= most(6, 0.05)


@pytest.mark.long
@pytest.mark.parametrize("name", SCENARIOS)
def test_false_verdicts_are_at_most_5_percent_in_400_draws(name: str) -> None:
    draw, claim, false = SCENARIOS[name]
    found = counted(draw, claim, 400)
    assert sum(found[verdict] for verdict in false) <= 20, found


def test_a_slope_of_a_half_is_found() -> None:
    """4 sizes, 5 seeds, a standard deviation of .15: at least 80 %."""
    assert counted(lambda rng: planted.thresholds(rng, -0.5), "F2", 25)[statuses.SUPPORTED] >= 20


def test_halved_variances_are_found() -> None:
    """4 sizes, each 4 times the one before, 4 x 3 seeds and three tasks. With one task, 3 degrees of freedom per size are too few."""
    assert counted(lambda rng: planted.crossed(rng, -0.25, tasks=TASKS), "F1", 60)[statuses.SUPPORTED] >= 42


def test_a_claim_states_its_estimate_interval_test_and_verdict() -> None:
    rows = planted.thresholds(np.random.default_rng(0), -0.5, tasks=TASKS, task_sd=1.0)
    found = findings(frame(rows))
    (claim,) = (row for row in found if row.quantity == quantities.CLAIM)
    assert claim.series == "F2" and claim.status == statuses.SUPPORTED and claim.p < 0.025
    assert claim.low < -0.5 < claim.high
    assert claim.note.startswith("planted, high threshold, planted, entries: k changes as N^b with b = -0.48 [")
    assert "(4 models, 3 tasks, 12 values)" in claim.note and "is supported (p = " in claim.note
    slopes = {row.series: row.value for row in found if row.quantity == quantities.SLOPE}
    assert slopes["k_high_share"] == pytest.approx(claim.value - 1)


def test_sizes_without_embeddings_give_a_second_slope() -> None:
    rows = planted.thresholds(np.random.default_rng(0), -0.5)
    rows += [planted.run(model, size, "task", size**0.5, quantity="without_embeddings") for model, size in planted.SIZES.items()]
    found = {row.quantity: row.value for row in findings(frame(rows)) if row.series == "k_high"}
    assert found[quantities.BODY_SLOPE] == pytest.approx(2 * found[quantities.SLOPE], rel=0.01)


def test_an_undecided_claim_states_what_would_decide_it() -> None:
    rows = planted.thresholds(np.random.default_rng(1), -0.15, tasks=TASKS, model_sd=0.6)
    found = findings(frame(rows))
    (claim,) = (row for row in found if row.quantity == quantities.CLAIM)
    (needs,) = (row for row in found if row.quantity == quantities.CLAIM_NEEDS)
    assert claim.status == statuses.UNDECIDED and needs.value > 1 and needs.note in claim.note
    assert "times as many model sizes or tasks would decide it" in needs.note


@pytest.mark.parametrize(("gap", "words"), [(0.0, "About "), (0.0199, "Not even 100 times as many models or tasks would decide it")])
def test_an_estimate_at_the_edge_between_two_verdicts_names_no_amount_of_data(gap: float, words: str) -> None:
    rows = []
    for (model, size), error in zip(planted.SIZES.items(), (-0.05, 0.05, -0.05, 0.05), strict=True):
        lora = {"method": "lora", "subspace": "lora", "placement": None, "run_id": f"{model} lora"}
        rows.append(planted.run(model, size, "task", 0.7 + gap + error, **lora))
        rows.append(planted.run(model, size, "task", 0.7, run_id=f"{model} apet"))
    (needs,) = (row for row in findings(frame(rows)) if row.quantity == quantities.CLAIM_NEEDS)
    assert needs.note.startswith(words) and "would decide it" in needs.note


def test_tests_are_corrected_for_the_cases_of_a_claim() -> None:
    rng = np.random.default_rng(2)
    one = planted.thresholds(rng, -0.5)
    families = [row for name in "abc" for row in planted.thresholds(rng, 0.0, sizes={f"{name}-{m}": n for m, n in planted.SIZES.items()})]
    alone, among = (
        next(row for row in findings(frame(rows)) if row.quantity == quantities.CLAIM and row.model == "planted")
        for rows in (one, one + families)
    )
    assert among.p == pytest.approx(5 * alone.p, rel=1e-6)  # four families and all together; its p is the smallest
    assert "corrected for 5 cases" in among.note


def gaps(offset: float, models: int = 4) -> list[Row]:
    rng, rows = np.random.default_rng(3), []
    for model, size in list(planted.SIZES.items())[:models]:
        for seed in range(4):
            score = 0.8 + 0.005 * rng.normal()
            rows.append(planted.run(model, size, "task", score, position_seed=seed, train_seed=0, run_id=f"{model} apet {seed}"))
            score = 0.8 + offset + 0.005 * rng.normal()
            columns = {"method": "lora", "subspace": "lora", "placement": None, "train_seed": seed, "run_id": f"{model} lora {seed}"}
            rows.append(planted.run(model, size, "task", score, **columns))
    return rows


@pytest.mark.parametrize(("offset", "verdict"), [(0.0, statuses.SUPPORTED), (0.1, statuses.NOT_SUPPORTED)])
def test_methods_against_their_twins(offset: float, verdict: str) -> None:
    found = findings(frame(gaps(offset)))
    (claim,) = (row for row in found if row.quantity == quantities.CLAIM and row.series == "methods")
    assert claim.status == verdict and claim.low <= offset <= claim.high
    each = [row for row in found if row.quantity == "method_gap"]
    assert len(each) == 4 and all(row.low < row.value < row.high and row.method == "lora" for row in each)
    assert all(row.value == pytest.approx(offset, abs=4 * row.stderr) for row in each)


def test_spreads_over_positions_train_seeds_and_methods_are_rows() -> None:
    rows = planted.crossed(np.random.default_rng(4), 0.0) + gaps(0.02)
    rows += [
        planted.run("planted-0m", 10**6, "task", score, method=method, subspace=method, run_id=method)
        for method, score in (("bitfit", 0.7), ("adapter", 0.9))
    ]
    found = findings(frame(rows))
    spreads = {(row.model, row.quantity): row for row in found if row.quantity in ("position_sd", "train_sd", "method_sd")}
    assert {model for model, quantity in spreads if quantity == "position_sd"} == set(planted.SIZES)
    own = spreads["planted-0m", "position_sd"]
    assert own.low <= own.value <= own.high and own.k == 1000 and own.x == 4
    assert spreads["planted-0m", "method_sd"].value == pytest.approx(np.std([0.82, 0.7, 0.9], ddof=1), abs=0.02)


def test_an_incomplete_table_of_seeds_is_reduced_to_its_largest_complete_part() -> None:
    rows = [row for row in planted.crossed(np.random.default_rng(5), 0.0) if (row.position_seed, row.train_seed) != (3, 2)]
    own = next(row for row in findings(frame(rows)) if row.quantity == "position_sd")
    assert own.x == 3  # 3 x 3 in place of 4 x 2


DEGENERATE = {
    "no rows": [],
    "one size": planted.thresholds(np.random.default_rng(0), 0.0, tasks=TASKS, sizes={"planted-0m": 10**6}),
    "one task": planted.thresholds(np.random.default_rng(0), 0.0, quantity=quantities.K_LOW),
    "all censored": planted.thresholds(np.random.default_rng(0), 0.0, tasks=TASKS, censored=1.0),
    "one seed": planted.crossed(np.random.default_rng(0), 0.0, trains=1),
    "one placement": planted.crossed(np.random.default_rng(0), 0.0, positions=1),
    "one size, crossed": planted.crossed(np.random.default_rng(0), 0.0, sizes={"planted-0m": 10**6}),
}


@pytest.mark.parametrize("name", DEGENERATE)
def test_degenerate_rows_give_undecided_claims_with_a_reason(name: str) -> None:
    claims = [row for row in findings(frame(DEGENERATE[name])) if row.quantity == quantities.CLAIM]
    assert all(row.status == statuses.UNDECIDED and "because" in row.note for row in claims)
    assert bool(claims) == (name not in ("no rows", "one seed", "one placement"))


def test_rows_of_two_versions() -> None:
    """Rows without the newer columns are read, and so are tables that mix both."""
    rows = frame(planted.thresholds(np.random.default_rng(0), -0.5))
    older = frame(planted.thresholds(np.random.default_rng(1), -0.5, tasks=("other",))).drop(columns=["metric", "dof", "p", "status"])
    found = findings(pd.concat([rows, older], ignore_index=True))
    (claim,) = (row for row in found if row.quantity == quantities.CLAIM)
    assert claim.status == statuses.SUPPORTED and "2 tasks" in claim.note


def test_earlier_findings_are_ignored() -> None:
    rows = frame(planted.thresholds(np.random.default_rng(0), -0.5))
    once = findings(rows)
    again = findings(pd.concat([rows, frame(once)], ignore_index=True))
    assert [row.note for row in again] == [row.note for row in once]


def test_every_claim_names_a_figure() -> None:
    from figures import FIGURES

    assert {claim.figure for claim in CLAIMS.values()} <= {*FIGURES, "positions", "methods"}


def spectra(matrix: str, n_eff: float) -> list[Row]:
    """Spectra at the initial point whose N_eff at 1 % of the largest eigenvalue (2) is 10 (N / smallest)^n_eff."""
    rows = []
    for model, size in planted.SIZES.items():
        for task in TASKS:
            common = {"run_id": f"{model} {task} {matrix}", "kind": "spectrum", "matrix": matrix}
            level = 10 * (size / 10**6) ** n_eff * (1.02 if task == "one" else 1.0)
            rows.append(Row(model, size, task, "eigenvalue", 2.0, x=1.0, **common))
            rows += [
                Row(model, size, task, "n_eff", level * factor, x=0.02 * ridge, **common) for ridge, factor in ((0.1, 1.5), (10.0, 0.5))
            ]
            rows.append(Row(model, size, task, "effective_rank", level, **common))
    return rows


def test_the_landscape_over_size() -> None:
    """N_eff is interpolated at a share of the largest eigenvalue, and spectra of the Hessian do not count beside Gauss-Newton ones."""
    found = findings(frame(spectra("ggn", -0.3) + spectra("hessian", 0.5)))
    claims = {row.group: row for row in found if row.quantity == quantities.CLAIM}
    assert set(claims) == {"planted, N_eff at 1 % of the largest eigenvalue, ggn", "planted, effective rank, ggn"}
    for claim in claims.values():
        assert claim.value == pytest.approx(-0.3, abs=1e-3) and claim.status == statuses.SUPPORTED


def cell(model: str, size: int, task: str, ratio: float, measured: float = 50.0) -> list[Row]:
    """A measured k* with its prediction, as a threshold's rows hold them."""
    common = {"run_id": f"{model} {task}", "kind": "threshold", "subspace": "coordinates", "method": "apet"}
    return [
        Row(model, size, task, quantities.K_STAR, measured, low=measured / 1.2, high=measured * 1.2, **common),
        Row(model, size, task, "target_share", 0.5, **common),
        Row(model, size, task, quantities.K_M1, measured * ratio, **common),
    ]


@pytest.mark.parametrize(("ratio", "verdict"), [(1.2, statuses.SUPPORTED), (4.0, statuses.NOT_SUPPORTED)])
def test_predicted_against_measured_thresholds(ratio: float, verdict: str) -> None:
    rng = np.random.default_rng(6)
    rows = [
        row
        for model, size in planted.SIZES.items()
        for task in TASKS
        for row in cell(model, size, task, ratio * math.exp(0.1 * rng.normal()))
    ]
    claim = next(row for row in findings(frame(rows)) if row.quantity == quantities.CLAIM and row.series == "prediction")
    assert claim.status == verdict and math.exp(claim.value) == pytest.approx(ratio, rel=0.15)
    assert f"{12 if ratio < 2 else 0} of 12 predictions within a factor of 2" in claim.note


@pytest.mark.parametrize(("sign", "verdict"), [(1, statuses.SUPPORTED), (-1, statuses.NOT_SUPPORTED)])
def test_predicted_changes_of_thresholds(sign: int, verdict: str) -> None:
    rows = []
    for number, predicted in enumerate((0.6, -0.5, 0.9, -0.8, 0.7)):
        common = {"other_model": f"planted-{number}m", "subspace": "coordinates", "target": 0.1, "protocol": "planted"}
        name, size = f"planted-{number + 1}m", 10**6 * (number + 2)
        rows.append(Row(name, size, "task", "explained_total", predicted, series="rank", **common))
        measured = sign * predicted + 0.05 * (-1) ** number
        rows.append(Row(name, size, "task", "measured_change", measured, low=measured - 0.2, high=measured + 0.2, **common))
    (claim,) = (row for row in findings(frame(rows)) if row.quantity == quantities.CLAIM)
    assert (claim.series, claim.status) == ("attribution", verdict) and claim.low < sign < claim.high


def test_pairs_that_span_other_pairs_do_not_count_twice() -> None:
    """'explain' compares neighbouring sizes, and the smallest with the largest, whose change is the sum of the others."""
    rows = []
    for small, large in ((0, 1), (1, 2), (2, 3), (0, 3)):
        common = {"other_model": f"planted-{small}m", "subspace": "coordinates", "protocol": "planted"}
        rows.append(Row(f"planted-{large}m", 10**large, "task", "measured_change", 0.5, low=0.3, high=0.7, **common))
        rows += [Row(f"planted-{large}m", 10**large, "task", "explained_total", 0.6, series=by, **common) for by in ("rank", "eigenvalue")]
    (claim,) = (row for row in findings(frame(rows)) if row.quantity == quantities.CLAIM)
    assert "(3 pairs of models)" in claim.note


def test_random_directions_have_no_positions() -> None:
    rows = [dataclasses.replace(row, subspace="fastfood", placement="add") for row in planted.crossed(np.random.default_rng(0), 0.0)]
    assert not findings(frame(rows))


@pytest.mark.parametrize("columns", [{"placement": "add magnitude entry"}, {"placement": "add random row"}, {"subspace": "fastfood"}])
def test_twins_are_entries_at_random_positions(columns: dict[str, str]) -> None:
    rows = gaps(0.0)
    other = [dataclasses.replace(row, run_id=f"{row.run_id} x", value=0.1, **columns) for row in rows if row.method == "apet"]
    gap = [row.value for row in findings(frame(rows + other)) if row.quantity == "method_gap"]
    assert gap == [row.value for row in findings(frame(rows)) if row.quantity == "method_gap"] and len(gap) == 4


def test_options_of_a_method_and_readouts_are_told_apart() -> None:
    rows = gaps(0.0)
    wider = [dataclasses.replace(row, placement="r=16", run_id=f"{row.run_id} r", value=0.1) for row in rows if row.method == "lora"]
    heads = [dataclasses.replace(row, run_id=f"{row.run_id} head", value=0.3) for row in rows]
    marks = [dataclasses.replace(row, quantity="k_head", value=64.0) for row in heads]
    found = findings(frame(rows + wider + heads + marks))
    by_group = {(row.model, row.group, row.protocol): row.value for row in found if row.quantity == "method_gap"}
    assert by_group["planted-0m", "lora, readout head", "planted"] == pytest.approx(0.0)
    assert abs(by_group["planted-0m", "lora", "planted"]) < 0.02
    assert by_group["planted-0m", "lora r=16", "planted"] == pytest.approx(-0.7, abs=0.02)


def test_seeds_that_runs_share_count_once_in_the_error_of_a_gap() -> None:
    """12 runs of 4 placements are 4 draws of a placement, not 12."""
    rng, size = np.random.default_rng(0), 10**6
    rows = planted.crossed(rng, 0.0, sd=0.05, train_sd=0.001, sizes={"planted-0m": size})
    sd = np.std([np.mean([row.value for row in rows if row.position_seed == i]) for i in range(4)], ddof=1)
    lora = {"method": "lora", "subspace": "lora", "placement": None}
    rows += [planted.run("planted-0m", size, "task", 0.7 + 1e-4 * i, train_seed=i, run_id=f"lora {i}", **lora) for i in range(3)]
    (gap,) = (row for row in findings(frame(rows)) if row.quantity == "method_gap")
    assert gap.stderr == pytest.approx(sd / 2, rel=0.05)


def test_a_model_that_reaches_the_target_untuned_needs_less_than_one_entry() -> None:
    row = planted.threshold("planted-0m", 10**6, "task", 0.0, 0.0, value=math.nan, low=math.nan, high=math.nan, status=statuses.BELOW)
    assert threshold_point("planted", row) == Point("planted", "planted-0m", "task", -math.inf, 0.0)


def test_models_with_different_tasks_leave_fewer_degrees_of_freedom() -> None:
    """Two tasks on two models each: 4 models, 2 intercepts and a slope."""
    y = {"planted-0m": 1.0, "planted-1m": 1.3, "planted-2m": 0.2, "planted-3m": 0.9}
    points = [Point("planted", model, "one" if model < "planted-2m" else "two", value, value) for model, value in y.items()]
    assert slope(points, {model: float(size) for model, size in planted.SIZES.items()}).dof == 1


def test_spectra_of_several_k_are_separate_cases() -> None:
    rows = [dataclasses.replace(row, k=k, run_id=f"{row.run_id} {k}") for k in (100, 1000) for row in spectra("ggn", -0.3)]
    names = {row.group for row in findings(frame(rows)) if row.quantity == quantities.CLAIM}
    assert "planted, effective rank, ggn, k = 1,000" in names and len(names) == 4


def test_what_would_decide_a_claim_counts_the_correction() -> None:
    """The same case among more cases needs more data."""
    rng = np.random.default_rng(1)
    one = planted.thresholds(rng, -0.15, tasks=TASKS, model_sd=0.6)
    more = [row for name in "abc" for row in planted.thresholds(rng, 0.0, sizes={f"{name}-{m}": n for m, n in planted.SIZES.items()})]
    alone, among = (
        next(row.value for row in findings(frame(rows)) if row.quantity == quantities.CLAIM_NEEDS and row.model == "planted")
        for rows in (one, one + more)
    )
    assert among == pytest.approx(alone * (norm.ppf(0.005) / norm.ppf(0.025)) ** 2)


def test_thresholds_without_a_bound_are_left_out_and_counted() -> None:
    rows = planted.thresholds(np.random.default_rng(0), -0.5, tasks=TASKS)
    unbounded = [replace(row, low=math.nan, high=math.nan) if row.task == "one" and row.model != "planted-0m" else row for row in rows]
    (claim,) = (row for row in findings(frame(unbounded)) if row.quantity == quantities.CLAIM)
    assert "(4 models, 3 tasks, 9 values (3 more without a bound left out))" in claim.note and claim.status == statuses.SUPPORTED
    none = [replace(row, low=math.nan, high=math.nan) for row in rows]
    (claim,) = (row for row in findings(frame(none)) if row.quantity == quantities.CLAIM)
    assert claim.status == statuses.UNDECIDED and "because no value has a known bound" in claim.note
