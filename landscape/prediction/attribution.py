"""Why one model's k* is another's: a Shapley split over what k* depends on (theory.md, Scale).

T3's k* of a quadratic is unchanged when all eigenvalues grow alike. It depends on the *spectrum's* shape l / l_1, on the *alignment*,
which shares of sum a_i^2 lie where in it, and on the *gap* rho = (target - L*) / (L0 - L*). Eight evaluations of T3, each
factor taken from either model, divide log k*(small) - log k*(large) among the three; no order of exchange is preferred. Single entries
take k* / (the *live* share of entries), for those that the loss does not depend on do nothing: a fourth part, which no order changes.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from typing import Literal

import numpy as np

from landscape.numerics import FloatArray, root
from landscape.prediction.quadratic import SMALLEST_RIDGE
from landscape.spectra import GradientSpectrum

FACTORS = ("spectrum", "alignment", "gap")
By = Literal["rank", "eigenvalue"]


@dataclass(frozen=True)
class Factors:
    """The three things that T3's k* depends on, and what single entries take more."""

    eigenvalues: FloatArray  # (m,) l / l_1, descending
    counts: FloatArray  # (m,) how many eigenvalues each stands for: 1, or a quadrature weight
    places: FloatArray  # (atoms,) l / l_1 of each atom of the alignment
    shares: FloatArray  # (atoms,) of sum a_i^2 at the atoms, largest eigenvalue first; they sum to 1
    rest: float  # rho
    live: float = 1.0  # share of the entries in scope that the loss depends on; 1 for random directions, which every entry is part of

    @property
    def ranks(self) -> FloatArray:
        """N(>= l) of each atom in its own spectrum, (atoms,)."""
        upto = np.concatenate([[0.0], np.cumsum(self.counts)])
        return upto[np.searchsorted(-self.eigenvalues, -self.places * (1 - 1e-9), side="right")]


def factors_of(spectrum: GradientSpectrum, target: float, counting: tuple[FloatArray, FloatArray] | None = None) -> Factors | None:
    """Those of a quadratic and an absolute loss `target`; None unless L* < target < L0.

    `counting` are nodes and weights of the eigenvalues' measure, largest first, where `spectrum` is but the gradient's.
    """
    top = float(spectrum.eigenvalues.max(initial=0.0)) if counting is None else float(counting[0].max())
    there = spectrum.eigenvalues > SMALLEST_RIDGE * top
    lam, squares = spectrum.eigenvalues[there], spectrum.projections[there] / spectrum.eigenvalues[there]
    gap = float(squares.sum()) / 2
    if not 0 < spectrum.loss - target < gap:
        return None
    nodes, counts = (lam, np.ones(len(lam))) if counting is None else counting
    return Factors(nodes / top, counts, lam / top, squares / squares.sum(), 1 - (spectrum.loss - target) / gap)


def factors_at(ridge: float, alignment: tuple[FloatArray, FloatArray], counting: tuple[FloatArray, FloatArray]) -> Factors:
    """Those of a quadratic whose T3 ridge is known: eigenvalues > 0 and weights of its alignment a_i^2 and of the measure that counts its
    eigenvalues, both largest first."""
    top = float(counting[0].max())
    there = alignment[0] > SMALLEST_RIDGE * top
    lam, squares = alignment[0][there], alignment[1][there]
    shares = squares / squares.sum()
    return Factors(counting[0] / top, counting[1], lam / top, shares, float((shares * ridge / (lam + ridge)).sum()))


def threshold_of(spectrum: Factors, alignment: Factors, gap: Factors, by: By = "rank") -> float | None:
    """T3's k* with each factor from its own model; None where the gap cannot be left.

    By rank an atom of the alignment goes where the spectrum has as many eigenvalues above it, N(> l), and what lies beyond its last one
    to that one; by eigenvalue it stays at its l / l_1.
    """
    places = alignment.places if by == "eigenvalue" else _at_ranks(spectrum, alignment.ranks)

    def over(kappa: float) -> float:
        return float((alignment.shares * kappa / (places + kappa)).sum()) - gap.rest

    highest = gap.rest / (1 - gap.rest)  # kappa / (1 + kappa) is at most what is left
    if over(SMALLEST_RIDGE) > 0:
        return None
    kappa = root(over, SMALLEST_RIDGE, max(highest, 2 * SMALLEST_RIDGE))
    return float((spectrum.counts * spectrum.eigenvalues / (spectrum.eigenvalues + kappa)).sum())


def _at_ranks(spectrum: Factors, ranks: FloatArray) -> FloatArray:
    upto = np.cumsum(spectrum.counts)
    return spectrum.eigenvalues[np.minimum(np.searchsorted(upto, ranks * (1 - 1e-9)), len(upto) - 1)]


@dataclass(frozen=True)
class Attribution:
    """log k*(small) - log k*(large) and what each factor contributes to it."""

    total: float
    parts: dict[str, float]  # by factor; they sum to `total`


def attribute(small: Factors, large: Factors, by: By = "rank") -> Attribution | None:
    """The Shapley split; None where one of the eight mixtures has no threshold."""
    models = (small, large)
    logs: dict[tuple[int, ...], float] = {}
    for which in product((0, 1), repeat=len(FACTORS)):
        k = threshold_of(models[which[0]], models[which[1]], models[which[2]], by)
        if k is None or not k > 0:
            return None
        logs[which] = math.log(k)
    parts = {name: _share(place, lambda which: logs[which]) for place, name in enumerate(FACTORS)}
    parts["live"] = math.log(large.live / small.live)
    return Attribution(logs[0, 0, 0] - logs[1, 1, 1] + parts["live"], parts)


def _share(place: int, value: Callable[[tuple[int, ...]], float]) -> float:
    """What exchanging this factor changes, averaged over the orders in which all three are exchanged."""
    found = 0.0
    for others in product((0, 1), repeat=len(FACTORS) - 1):
        weight = 1 / 3 if sum(others) != 1 else 1 / 6
        small, large = (others[:place] + (own,) + others[place:] for own in (0, 1))
        found += weight * (value(small) - value(large))
    return found
