"""The rounds of a search depend on the measured gaps, not on the order of the runs, and end if there is no crossing to find."""

import math
import random
from dataclasses import replace

import pytest

from analyses.specs import Spec, TrainSpec, spec_dict, spec_from
from analyses.store import Row
from analyses.studies.search_rounds import FIRST_ROUND, first_round, next_round
from analyses.studies.stages import searching
from analyses.studies.study_file import Search
from analyses.thresholds.measured import measure
from analyses.thresholds.targets import Run, Target
from apet.errors import UsageError
from apet.methods import default_rate

BASE = TrainSpec(model="mini-t5-240k", task="mini-sentiment", examples=8, early_stop=False, k=1)
LOSS = Target("loss", 0.5)


def trained(spec: Spec, loss: float, initial: float = 1.0, **more: float) -> Run:
    """Return a run of a spec with this final training loss."""
    values = {"initial_loss": initial, "loss": loss, **more}
    rows = [Row("m", 1, spec.task, q, v, split="train" if "loss" in q else None, k=spec.k) for q, v in values.items()]
    return Run(f"{spec.method} {spec.k} {spec.position_seed}", spec_dict(spec), rows)


def searched(loss_at, runs: int = 14, target: Target = LOSS, full: tuple[Run, ...] = (), **more) -> list[list[Spec]]:
    """Return the rounds of a search whose runs have the final loss loss_at(k, position seed), which is None for a failed run."""
    made = {spec_from(run.spec): run for run in full}
    rounds = []
    for batch in searching([BASE], Search(target, None, runs, **more), {}, list(made), made.get):
        rounds.append(batch)
        for spec in batch:
            loss = loss_at(spec.k, spec.position_seed)
            if loss is not None:
                made[spec] = trained(spec, loss)
    return rounds


def ks(rounds: list[list[Spec]]) -> list[list[int | None]]:
    return [[spec.k for spec in batch] for batch in rounds if batch]


def test_round_one_spreads_k_over_the_range_or_the_space() -> None:
    assert first_round(10**6, 6) == [4, 16, 64, 256, 1024, 4096]
    assert max(first_round(100, 6)) == 100
    assert first_round(1, 4) == [1]


def test_later_rounds_close_in_on_the_crossing_and_keep_to_the_budget() -> None:
    rounds = searched(lambda k, seed: 0.5 * (k / 300) ** -0.5)
    assert [len(batch) for batch in rounds] == [4, 3, 3, 3, 1]
    assert all(abs(math.log(k / 300)) < 0.21 for batch in ks(rounds)[2:] for k in batch)
    seeds = [spec.position_seed for batch in rounds for spec in batch]
    assert seeds == list(range(14))
    assert all(spec.lr == replace(spec, lr=None).resolved().lr for batch in rounds for spec in batch)


def test_a_search_trains_at_a_multiple_of_the_default_rate_of_each_k() -> None:
    target, base = Target("above_chance", 0.1), replace(BASE, lr_factor=3.0)
    first = next(searching([base], Search(target, None, 6), {}, [], {}.get))
    assert len({spec.k for spec in first}) > 1
    assert [spec.lr for spec in first] == [3 * default_rate("apet", spec.k) for spec in first]


@pytest.mark.parametrize("failed", range(FIRST_ROUND + 3))
def test_a_search_finds_back_from_any_failed_training(failed: int) -> None:
    rounds = searched(lambda k, seed: 40.0 if seed == failed else 0.5 * (k / 300) ** -0.5)
    assert all(abs(math.log(k / 300)) < 0.5 for batch in ks(rounds)[3:] for k in batch)
    runs = [trained(spec, 40.0 if spec.position_seed == failed else 0.5 * (spec.k / 300) ** -0.5) for batch in rounds for spec in batch]
    assert measure(runs, LOSS, 0.5, "")[0].k_star == pytest.approx(300, rel=0.05)


def test_the_next_round_does_not_depend_on_the_order_of_the_runs() -> None:
    measured = [(k, math.log(k / 70) * 0.4 + 0.1 * math.sin(k)) for k in (4, 16, 50, 64, 75, 256, 1024)]
    asked = [k for k, _ in measured]
    expected = next_round(asked, measured, 20)
    for seed in range(5):
        shuffled = random.Random(seed).sample(measured, len(measured))
        assert next_round(random.Random(seed).sample(asked, len(asked)), shuffled, 20) == expected


@pytest.mark.parametrize(("loss", "end", "side"), [(0.9, 4096, "above"), (0.1, 4, "below")])
def test_a_target_beyond_the_range_costs_one_more_round_and_is_an_answer(loss: float, end: int, side: str) -> None:
    rounds = searched(lambda k, seed: loss)
    assert ks(rounds)[1:] == [[end] * 3]
    crossing, _ = measure([trained(spec, loss) for batch in rounds for spec in batch], LOSS, 0.5, "")
    assert (crossing.k_star, crossing.censored) == (None, side)
    assert (crossing.low if side == "above" else crossing.high) == end


def test_one_failed_run_at_the_end_of_the_range_does_not_end_the_search() -> None:
    rounds = searched(lambda k, seed: 9.0 if seed == 3 else 0.5 * (k / 2000) ** -0.5)  # seed 3 has the largest k
    assert ks(rounds)[1] == [4096] * 3
    assert all(400 < k < 4096 for k in ks(rounds)[2])
    assert all(abs(math.log(k / 2000)) < 0.5 for k in ks(rounds)[3])


def test_a_target_that_the_untuned_model_meets_starts_no_run() -> None:
    full = trained(replace(BASE, method="full", k=None).resolved(), 0.2, initial=0.45)
    assert ks(searched(lambda k, seed: 0.3, full=(full,))) == []
    worse = trained(replace(BASE, method="full", k=None).resolved(), 0.6, initial=0.45)
    assert ks(searched(lambda k, seed: 0.3, target=Target("fraction", 0.5), full=(worse,))) == []


def test_runs_that_fail_or_diverge_cost_their_share_of_the_budget_and_say_nothing() -> None:
    assert [len(batch) for batch in searched(lambda k, seed: None)] == [4]
    rounds = searched(lambda k, seed: None if seed in (1, 5) else 0.5 * (k / 300) ** -0.5, runs=9)
    assert sum(map(len, rounds)) == 9
    gone = trained(BASE.resolved(), 0.1, diverged=7.0)
    assert not LOSS.counts(gone)


def test_a_range_that_is_empty_or_too_few_runs_are_refused() -> None:
    for wrong, message in (
        ({"lowest": 9, "highest": 9}, r"\(9\) must be above the smallest \(9\)"),
        ({"runs": 3}, "at least 4"),
        ({"lowest": 0}, "at least 1"),
    ):
        with pytest.raises(UsageError, match=message):
            Search(LOSS, None, **wrong)
