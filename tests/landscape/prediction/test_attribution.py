import math
from dataclasses import replace

import numpy as np
import pytest

from landscape import GradientSpectrum, ThresholdFactors, attribute_change, predict_threshold, threshold_factors, threshold_from_factors


def quadratic(decay: float, power: float, size: int = 200) -> GradientSpectrum:
    """Eigenvalues 3 i^-decay, a_i^2 proportional to l_i^power, L0 - L* = 1/2."""
    lam = 3.0 * np.arange(1, size + 1) ** -decay
    shares = lam**power / (lam**power).sum()
    return GradientSpectrum(lam, shares * lam, 0.5, 10**9)


def factors(decay: float, power: float, rest: float, size: int = 200) -> ThresholdFactors:
    outcome = threshold_factors(quadratic(decay, power, size), rest / 2)
    assert outcome is not None
    assert outcome.rho == pytest.approx(rest)
    return outcome


@pytest.mark.parametrize("by", ["rank", "eigenvalue"])
def test_a_models_own_factors_give_its_threshold(by: str) -> None:
    whole = quadratic(1.0, 0.5)
    own = factors(1.0, 0.5, 0.3)
    assert threshold_from_factors(own, own, own, by) == pytest.approx(predict_threshold(whole, 0.15).k, rel=1e-9)


@pytest.mark.parametrize("by", ["rank", "eigenvalue"])
def test_the_parts_sum_to_the_change_and_change_sign_with_the_order(by: str) -> None:
    small, large = factors(0.8, 0.3, 0.3), factors(1.4, 0.8, 0.2, 300)
    there, back = attribute_change(small, large, by), attribute_change(large, small, by)
    assert there is not None
    assert back is not None
    change = math.log(predict_threshold(quadratic(0.8, 0.3), 0.15).k / predict_threshold(quadratic(1.4, 0.8, 300), 0.1).k)
    assert there.total == pytest.approx(change, rel=1e-9)
    assert sum(there.parts.values()) == pytest.approx(there.total, rel=1e-9)
    for name, part in there.parts.items():
        assert back.parts[name] == pytest.approx(-part, rel=1e-9)


def test_what_is_the_same_in_both_models_contributes_nothing() -> None:
    only_gap = attribute_change(factors(1.0, 0.5, 0.3), factors(1.0, 0.5, 0.1))
    assert only_gap is not None
    assert only_gap.parts["gap"] == pytest.approx(only_gap.total)
    assert only_gap.parts["spectrum"] == pytest.approx(0, abs=1e-9)
    only_alignment = attribute_change(factors(1.0, 0.0, 0.3), factors(1.0, 1.0, 0.3))
    assert only_alignment is not None
    assert only_alignment.parts["alignment"] == pytest.approx(only_alignment.total)
    assert only_alignment.total > 0  # a gradient along the top needs fewer


def test_dead_entries_ask_for_more_of_them() -> None:
    half_dead = attribute_change(replace(factors(1.0, 0.5, 0.3), live=0.5), factors(1.0, 0.5, 0.3))
    assert half_dead is not None
    assert half_dead.total == pytest.approx(math.log(2))
    assert half_dead.parts == pytest.approx({"spectrum": 0.0, "alignment": 0.0, "gap": 0.0, "live": math.log(2)})


def test_the_scale_of_the_curvature_is_no_factor() -> None:
    whole = quadratic(1.0, 0.5)
    scaled = threshold_factors(replace(whole, eigenvalues=7 * whole.eigenvalues, projections=7 * whole.projections), 0.15)
    assert scaled is not None
    nothing = attribute_change(factors(1.0, 0.5, 0.3), scaled)
    assert nothing is not None
    assert all(abs(part) < 1e-9 for part in nothing.parts.values())


def test_shares_beyond_the_last_rank_go_to_the_tail() -> None:
    # The long alignment holds half of its mass beyond rank 50, and all of this goes to the short spectrum's last eigenvalue.
    short, long = factors(0.0, 0.0, 0.5, 50), factors(0.0, 0.0, 0.5, 100)
    assert threshold_from_factors(short, long, long) == pytest.approx(25)
    assert threshold_from_factors(long, short, short) == pytest.approx(50)


def test_what_has_no_threshold_has_no_split() -> None:
    whole = quadratic(1.0, 0.5)
    assert threshold_factors(whole, 0.6) is None
    assert threshold_factors(whole, -0.1) is None
    # All of the alignment in a null space leaves everything.
    own = factors(1.0, 0.5, 0.3)
    dead = replace(own, atoms=np.zeros(1), shares=np.ones(1))
    assert threshold_from_factors(own, dead, own, "eigenvalue") is None
    assert attribute_change(own, dead, "eigenvalue") is None


def test_quadrature_weights_count_as_so_many_eigenvalues() -> None:
    lam = np.repeat([1.0, 0.1, 0.01], [5, 20, 100])
    whole = GradientSpectrum(lam, lam / 125, 0.5, 10**9)
    atoms = np.array([1.0, 0.1, 0.01])
    measure = GradientSpectrum(atoms, atoms * np.array([5, 20, 100]) / 125, 0.5, 10**9)
    outcome = threshold_factors(measure, 0.2, (atoms, np.array([5.0, 20.0, 100.0])))
    assert outcome is not None
    assert threshold_from_factors(outcome, outcome, outcome) == pytest.approx(predict_threshold(whole, 0.2).k)
    exact = threshold_factors(whole, 0.2)
    assert exact is not None
    mixed = attribute_change(exact, outcome)
    assert mixed is not None
    assert mixed.total == pytest.approx(0, abs=1e-9)
    assert all(abs(part) < 1e-6 for part in mixed.parts.values())
