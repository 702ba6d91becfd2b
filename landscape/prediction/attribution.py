"""Attribution of the difference of k* between two models to its causes: a Shapley split (Shapley 1953) of log k*.

T3's k* of a quadratic (`landscape.prediction.quadratic`) does not change if all eigenvalues are scaled by one factor. It depends on three
factors:

- the *spectrum*: its shape l / l_1;
- the *alignment*: how sum a_i^2, with a_i^2 = (u_i'g)^2 / l_i, is distributed over the spectrum;
- the *gap*: rho = (target - L*) / (L0 - L*).

Eight evaluations of T3, with each factor taken from either model, split log k*(small) - log k*(large) among the three factors. The split is
an average over the orders in which the factors are exchanged. A subspace of single entries needs k* / (fraction of active entries), since
entries that the loss does not depend on have no effect. The log ratio of these fractions is a fourth part, *live*, which does not depend on
any order.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from typing import Literal

import numpy as np

from landscape.numerics import FloatArray, find_root
from landscape.prediction.quadratic import SMALLEST_RIDGE
from landscape.spectra import GradientSpectrum

FACTORS = ("spectrum", "alignment", "gap")
By = Literal["rank", "eigenvalue"]


@dataclass(frozen=True)
class ThresholdFactors:
    """The three factors that T3's k* depends on, and the fraction of active entries."""

    eigenvalues: FloatArray  # (m,) l / l_1, descending
    counts: FloatArray  # (m,) number of eigenvalues that each node represents: 1, or a quadrature weight
    atoms: FloatArray  # (atoms,) l / l_1 of each atom of the alignment, descending
    shares: FloatArray  # (atoms,) shares of sum a_i^2 at the atoms; they sum to 1
    rho: float  # (target - L*) / (L0 - L*), in 0..1
    live: float = 1.0  # active fraction of the entries in scope; 1 for random directions, which mix all entries

    @property
    def ranks(self) -> FloatArray:
        """N(>= l), the number of eigenvalues of this spectrum at or above each atom, (atoms,)."""
        cumulative = np.concatenate([[0.0], np.cumsum(self.counts)])
        return cumulative[np.searchsorted(-self.eigenvalues, -self.atoms * (1 - 1e-9), side="right")]


def threshold_factors(
    spectrum: GradientSpectrum, target: float, counting: tuple[FloatArray, FloatArray] | None = None
) -> ThresholdFactors | None:
    """Return the factors of a quadratic for an absolute loss `target`; None unless L* < target < L0.

    `counting` holds the nodes and weights of the eigenvalues' measure, largest first. Pass it if `spectrum` holds only the
    gradient's measure.
    """
    top = float(spectrum.eigenvalues.max(initial=0.0)) if counting is None else float(counting[0].max())
    positive = spectrum.eigenvalues > SMALLEST_RIDGE * top
    lam, squares = spectrum.eigenvalues[positive], spectrum.projections[positive] / spectrum.eigenvalues[positive]
    gap = float(squares.sum()) / 2
    if not 0 < spectrum.loss - target < gap:
        return None
    nodes, counts = (lam, np.ones(len(lam))) if counting is None else counting
    return ThresholdFactors(nodes / top, counts, lam / top, squares / squares.sum(), 1 - (spectrum.loss - target) / gap)


def threshold_factors_at(
    ridge: float, alignment: tuple[FloatArray, FloatArray], counting: tuple[FloatArray, FloatArray]
) -> ThresholdFactors:
    """Return the factors of a quadratic whose T3 ridge is known.

    `alignment` holds eigenvalues > 0 and their a_i^2. `counting` holds nodes and weights of the eigenvalues' measure. Both are sorted,
    largest eigenvalue first.
    """
    top = float(counting[0].max())
    positive = alignment[0] > SMALLEST_RIDGE * top
    lam, squares = alignment[0][positive], alignment[1][positive]
    shares = squares / squares.sum()
    return ThresholdFactors(counting[0] / top, counting[1], lam / top, shares, float((shares * ridge / (lam + ridge)).sum()))


def threshold_from_factors(spectrum: ThresholdFactors, alignment: ThresholdFactors, gap: ThresholdFactors, by: By = "rank") -> float | None:
    """Return T3's k* with each factor taken from one of the models; None if no ridge solves the equation for the gap.

    With `by` = "rank", an atom of the alignment moves to the eigenvalue of the same rank N(> l) in the new spectrum. Atoms beyond the last
    eigenvalue move to that eigenvalue. With `by` = "eigenvalue", an atom keeps its l / l_1.
    """
    atoms = alignment.atoms if by == "eigenvalue" else _at_ranks(spectrum, alignment.ranks)

    def excess(kappa: float) -> float:
        return float((alignment.shares * kappa / (atoms + kappa)).sum()) - gap.rho

    highest = gap.rho / (1 - gap.rho)  # since kappa / (1 + kappa) <= rho
    if excess(SMALLEST_RIDGE) > 0:
        return None
    kappa = find_root(excess, SMALLEST_RIDGE, max(highest, 2 * SMALLEST_RIDGE))
    return float((spectrum.counts * spectrum.eigenvalues / (spectrum.eigenvalues + kappa)).sum())


def _at_ranks(spectrum: ThresholdFactors, ranks: FloatArray) -> FloatArray:
    """Return the eigenvalues of `spectrum` at the ranks N(> l), (atoms,)."""
    cumulative = np.cumsum(spectrum.counts)
    return spectrum.eigenvalues[np.minimum(np.searchsorted(cumulative, ranks * (1 - 1e-9)), len(cumulative) - 1)]


@dataclass(frozen=True)
class Attribution:
    """log k*(small) - log k*(large) and the part that each factor contributes."""

    total: float
    parts: dict[str, float]  # by factor; they sum to `total`


def attribute_change(small: ThresholdFactors, large: ThresholdFactors, by: By = "rank") -> Attribution | None:
    """Return the Shapley split of log k*(small) - log k*(large); None if one of the eight mixtures does not have a threshold."""
    models = (small, large)
    logs: dict[tuple[int, ...], float] = {}
    for chosen in product((0, 1), repeat=len(FACTORS)):
        k = threshold_from_factors(models[chosen[0]], models[chosen[1]], models[chosen[2]], by)
        if k is None or not k > 0:
            return None
        logs[chosen] = math.log(k)
    parts = {name: _shapley_value(factor, logs.__getitem__) for factor, name in enumerate(FACTORS)}
    parts["live"] = math.log(large.live / small.live)
    return Attribution(logs[0, 0, 0] - logs[1, 1, 1] + parts["live"], parts)


def _shapley_value(factor: int, value: Callable[[tuple[int, ...]], float]) -> float:
    """Return the change from exchanging this factor, averaged over the orders in which all three are exchanged."""
    total = 0.0
    for others in product((0, 1), repeat=len(FACTORS) - 1):
        weight = 1 / 3 if sum(others) != 1 else 1 / 6
        small, large = (others[:factor] + (model,) + others[factor:] for model in (0, 1))
        total += weight * (value(small) - value(large))
    return total
