"""Standard deviations over placements, from made-up runs."""

from __future__ import annotations

import math

import numpy as np
import pytest

from analyses.findings.placements import placement_rows
from analyses.specs import PredictSpec, spec_dict, spec_from
from analyses.store import Row
from analyses.thresholds.targets import Run

SHARES = [0.5, 0.62, 0.4, 0.71, 0.55]


def trained(share: float, **changes) -> Run:
    spec = spec_dict(spec_from({"model": "mini-t5-130k", "task": "mini-nli", "examples": 8, "k": 10, "early_stop": False} | changes))
    return _run(spec, {"loss": 2 * share, "initial_loss": 2.0})


def predicted(share: float, seed: int) -> Run:
    spec = spec_dict(PredictSpec(model="mini-t5-130k", task="mini-nli", examples=8, k=10, position_seed=seed))
    return _run(spec, {"placed_loss": 2 * share, "placed_initial_loss": 2.0, "placed_residual": 0.01})


def _run(spec: dict, losses: dict[str, float]) -> Run:
    rows = [
        Row(spec["model"], 1, spec["task"], name, value, split="train", k=spec["k"], placement="random") for name, value in losses.items()
    ]
    return Run("r", spec, rows)


def test_spreads_are_standard_deviations_of_shares_and_placements_keep_their_order() -> None:
    runs = [trained(share, position_seed=seed) for seed, share in enumerate(SHARES)]
    runs += [trained(share + 0.1, position_seed=seed, train_seed=1) for seed, share in enumerate(SHARES)]  # averaged with the first
    runs += [predicted(share**2, seed) for seed, share in enumerate(SHARES)]
    found = {(row.quantity, row.series): row for row in placement_rows(runs)}
    assert found["placement_spread", "measured"].value == pytest.approx(np.std(SHARES, ddof=1))
    assert found["placement_spread", "predicted"].value == pytest.approx(np.std(np.square(SHARES), ddof=1))
    assert 0 < found["placement_spread", "measured"].stderr < np.std(SHARES, ddof=1)
    (correlation,) = [row for (name, _), row in found.items() if name == "placement_correlation"]
    assert correlation.value == pytest.approx(1.0)
    assert correlation.p < 0.05


def test_the_jackknife_is_the_normal_error_on_many_placements() -> None:
    random = np.random.default_rng(0)
    runs = [trained(share, position_seed=seed) for seed, share in enumerate(random.normal(0.5, 0.1, 400))]
    (row,) = [row for row in placement_rows(runs) if row.quantity == "placement_spread"]
    assert row.stderr == pytest.approx(0.1 / math.sqrt(2 * 399), rel=0.2)


def test_few_placements_early_stops_and_other_subspaces_have_no_spread() -> None:
    assert placement_rows([trained(share, position_seed=seed) for seed, share in enumerate(SHARES[:3])]) == []
    for change in ({"early_stop": True}, {"subspace": "fastfood"}):
        assert placement_rows([trained(share, position_seed=seed, **change) for seed, share in enumerate(SHARES)]) == []
    longer = [trained(share, position_seed=seed, steps=9) for seed, share in enumerate(SHARES)]
    few = placement_rows([*longer, trained(0.0, position_seed=7, steps=3)])  # of another experiment
    assert next(row.x for row in few if row.quantity == "placement_spread") == len(SHARES)
    apart = [trained(share, position_seed=seed, k=10 + seed) for seed, share in enumerate(SHARES)]
    assert placement_rows(apart) == []
