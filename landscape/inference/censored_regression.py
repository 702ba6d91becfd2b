"""Linear regression of values that are known exactly, with a standard error, or only to lie in an interval, with a random effect per group.

The model of observation i in group g(i) is

    y_i = x_i' beta + u_g(i) + e_i,    u_g ~ N(0, between^2),    e_i ~ N(0, within^2)

and y_i + s_i (a standard normal error) is known either as a number, or only to lie above low, below high, or between both. A censored
value enters by the probability of its interval; it is neither dropped nor replaced. The random effect is integrated out by Gauss-Hermite
quadrature about its distribution given the exact values of the group, so it is exact without censored values.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from scipy.optimize import brentq, minimize  # pyright: ignore[reportMissingTypeStubs, reportUnknownVariableType]
from scipy.special import chdtr, chdtrc, lambertw, log_ndtr, ndtri, stdtr, stdtrit  # pyright: ignore[reportMissingTypeStubs, reportUnknownVariableType]

from landscape.inference.censored_likelihood import SMALLEST, Likelihood, Observations, likelihood
from landscape.numerics import FloatArray, IntArray

LARGEST = 30.0  # of the standard deviations `within` and `between`
RATIOS, ANGLES = (0.25, 0.7, 1.4), (0.1, 0.8, 1.45)  # the grid of first guesses: size over the residuals', and atan2(between, within)
NEAR = 0.1  # distance from the best log standard deviation at which the curvature of the profile is measured
FARTHEST = 1e3  # a bound of an interval beyond this many units from the estimate counts as infinite


@dataclass(frozen=True)
class Fit:
    """A fit: its log-likelihood, beta (p,), the covariance of beta (p, p), within and between."""

    log_likelihood: float
    beta: FloatArray
    covariance: FloatArray
    within: float
    between: float

    @property
    def total(self) -> float:
        """Standard deviation of values about the regression: sqrt(within^2 + between^2)."""
        return math.hypot(self.within, self.between)


@dataclass(frozen=True)
class Estimate:
    """A number with its confidence interval (an unknown end is infinite), and a test.

    p_below(bound) and p_above(bound) are one-sided p values of the null hypotheses that the number is at most, or at least, a bound. A
    small p_below says that the number lies above the bound. `dof` is the number of degrees of freedom (inf: a normal test).
    """

    value: float
    low: float
    high: float
    dof: float
    signed_root: Callable[[float], float]  # distance of a bound below the estimate, in standard errors of the reference distribution

    def p_below(self, bound: float) -> float:
        """Return the p value of "the number is at most `bound`"."""
        return _upper_tail(self.signed_root(bound), self.dof)

    def p_above(self, bound: float) -> float:
        """Return the p value of "the number is at least `bound`"."""
        return _upper_tail(-self.signed_root(bound), self.dof)


def _upper_tail(t: float, dof: float) -> float:
    return float(stdtr(dof, -t)) if math.isfinite(dof) else float(np.exp(log_ndtr(-t)))


def informative(data: Observations, columns: IntArray) -> np.ndarray:
    """Return which observations (n,) carry information.

    A column in `columns` (the intercept of a task) all of whose values are censored on the same side does not, because its intercept is
    free.

    Each observation belongs to exactly one column of `columns`.
    """
    keep = np.ones(len(data.low), bool)
    for column in columns:
        members = (data.design[:, column] != 0) & keep
        one_sided = np.isinf(data.low[members]).all() or np.isinf(data.high[members]).all()
        if not data.exact[members].any() and one_sided:
            keep &= ~members
    return keep


def fit(data: Observations, fixed: tuple[int, float] | None = None, restricted: bool = False, total: float | None = None) -> Fit:
    """Return the maximum-likelihood fit.

    fixed: (column, value) of a coefficient that is held.
    restricted: maximise the likelihood adjusted for the estimation of beta (Cox and Reid 1987, doi 10.1111/j.2517-6161.1987.tb01422.x),
        which is restricted maximum likelihood for exact values. It gives the standard deviations without the bias of small samples.
    total: hold sqrt(within^2 + between^2).
    """
    free = np.ones(data.design.shape[1], bool)
    offset = np.zeros(len(data.low))
    if fixed is not None:
        free[fixed[0]] = False
        offset = data.design[:, fixed[0]] * fixed[1]
    design = data.design[:, free]
    start = _least_squares(data, design, offset)
    state = {"beta": start}

    def at(within: float, between: float) -> Likelihood:
        state["beta"], found = _maximise(data, design, offset, within, between, state["beta"])
        return found

    size = _residual(data, design, offset, start)
    within, between = _spreads(data, at, total, size, restricted)
    best = at(within, between)
    value = best.value - _adjustment(best, restricted)
    full = np.zeros(len(free))
    full[free] = state["beta"]
    if fixed is not None:
        full[fixed[0]] = fixed[1]
    covariance = np.full((len(free), len(free)), np.nan)
    covariance[np.ix_(free, free)] = np.linalg.pinv(-best.hessian)
    return Fit(value, full, covariance, within, between)


def coefficient(data: Observations, column: int, between_columns: int, level: float = 0.95) -> Estimate:
    """Return the coefficient of a column with the interval and test of its profile likelihood.

    `between_columns` is the number of regressors that differ between groups but not within them (the column itself among them). The
    reference distribution is Student's t with dof = groups - between_columns, for t^2 = dof (exp(LR / groups) - 1) and the likelihood
    ratio LR. For exact values and equally large groups it is the exact t test. Groups without an exact value count as half a group.

    Raises ValueError if fewer than one degree of freedom remains.
    """
    groups = sum(1.0 if data.exact[data.group == g].any() else 0.5 for g in np.unique(data.group))
    dof = groups - between_columns
    if dof < 1:
        censored = "" if data.exact.all() else " (a group with censored values only counts half)"
        raise ValueError(f"{groups:g} groups of values{censored} leave no degree of freedom for {between_columns} coefficients")
    best = fit(data)
    centre = float(best.beta[column])
    known: dict[float, float] = {}

    def signed_root(bound: float) -> float:
        if bound not in known:
            ratio = max(0.0, 2 * (best.log_likelihood - fit(data, (column, bound)).log_likelihood))
            known[bound] = math.copysign(math.sqrt(dof * math.expm1(min(ratio / groups, 600.0))), centre - bound)
        return known[bound]

    low, high = ends(signed_root, centre, _scale(best, column), float(stdtrit(dof, (1 + level) / 2)))
    return Estimate(centre, low, high, dof, signed_root)


def total_spread(data: Observations, level: float = 0.95) -> Estimate:
    """Return sqrt(within^2 + between^2), the standard deviation about the regression, with its restricted profile likelihood interval.

    The reference distribution is the chi-squared distribution of a variance. Its degrees of freedom are chosen so that the profile near its
    maximum is the profile of such a variance. For exact values and a single variance the interval is the textbook one.

    Raises ValueError for fewer than two exact values beyond the regressors.
    """
    if data.exact.sum() < data.design.shape[1] + 1:
        raise ValueError("too few exact values for a standard deviation")
    best = fit(data, restricted=True)
    centre = math.log(best.total)
    known: dict[float, float] = {}

    def ratio(log_bound: float) -> float:
        if log_bound not in known:
            held = fit(data, restricted=True, total=math.exp(log_bound))
            known[log_bound] = max(0.0, 2 * (best.log_likelihood - held.log_likelihood))
        return known[log_bound]

    # For a variance with dof degrees of freedom the ratio is dof (x - 1 - log x), where log x = 2 (centre - log_bound).
    dof = max(1.0, sum(ratio(centre + step) / (math.exp(-2 * step) - 1 + 2 * step) for step in (-NEAR, NEAR)) / 2)

    def signed_root(log_bound: float) -> float:
        x = _ratio_of_variances(ratio(log_bound) / dof, above=log_bound < centre)
        tail = float(chdtrc(dof, dof * x)) if x > 1 else float(chdtr(dof, dof * x))
        return math.copysign(1.0, 1 - x) * float(ndtri(max(tail, 1e-300)))

    low, high = ends(signed_root, centre, 0.5, float(ndtri((1 + level) / 2)))
    low = 0.0 if low <= math.log(SMALLEST) else math.exp(low)
    high = math.exp(high) if high < math.log(LARGEST) else math.inf
    return Estimate(best.total, low, high, math.inf, lambda bound: signed_root(math.log(bound)))


def _ratio_of_variances(excess: float, above: bool) -> float:
    """Return the x above or below 1 with x - 1 - log x = excess."""
    if excess < 1e-8:  # the branch point of Lambert's function
        return 1 + math.copysign(math.sqrt(2 * excess), above - 0.5)
    return -float(lambertw(-math.exp(-1 - min(excess, 600.0)), -1 if above else 0).real)


def ends(
    signed_root: Callable[[float], float], centre: float, step: float, critical: float, farthest: float = FARTHEST
) -> tuple[float, float]:
    """Return both ends of an interval: where the signed root is +critical below the centre and -critical above it.

    The search begins `step` from the centre. An end farther away than `farthest` is infinite.
    """

    def end(sign: int) -> float:
        near, far = centre, centre + sign * step
        while -sign * signed_root(far) < critical:
            near, far = far, centre + 2 * (far - centre)
            if abs(far - centre) > farthest:
                return sign * math.inf

        def beyond(at: float) -> float:
            return -sign * signed_root(at) - critical

        return cast(float, cast(Any, brentq)(beyond, near, far, xtol=1e-3 * step, rtol=1e-5))

    return end(-1), end(1)


def _scale(best: Fit, column: int) -> float:
    """Return a first step for the search of an interval's end: the standard error from the curvature, within reasonable bounds."""
    variance = float(best.covariance[column, column])
    return min(max(2 * math.sqrt(variance), 1e-3), 10.0) if variance > 0 and math.isfinite(variance) else 1.0


def _least_squares(data: Observations, design: FloatArray, offset: FloatArray) -> FloatArray:
    """Return least-squares coefficients with every interval replaced by its finite bound, or by its middle."""
    middle = np.where(np.isinf(data.low), data.high, np.where(np.isinf(data.high), data.low, (data.low + data.high) / 2))
    return cast(FloatArray, np.linalg.lstsq(design, middle - offset, rcond=None)[0]) if design.shape[1] else np.zeros(0)


def _residual(data: Observations, design: FloatArray, offset: FloatArray, beta: FloatArray) -> float:
    residuals = (data.low - offset - design @ beta)[data.exact]
    return float(np.clip(np.sqrt(np.mean(residuals**2)) if len(residuals) else 1.0, 10 * SMALLEST, LARGEST / 10))


def _adjustment(found: Likelihood, restricted: bool) -> float:
    """Return the adjustment of the log-likelihood for the estimation of beta: half the log determinant of the observed information."""
    return 0.5 * float(np.linalg.slogdet(-found.hessian)[1]) if restricted and len(found.score) else 0.0


def _spreads(
    data: Observations, at: Callable[[float, float], Likelihood], total: float | None, residual: float, restricted: bool
) -> tuple[float, float]:  # fmt: skip
    """Return (within, between) that maximise the likelihood over beta: by L-BFGS from the best point of a coarse grid about `residual`.

    Without several values in any group `between` is 0, because only the sum counts.
    """
    several = data.has_several
    if total is not None and not several:
        return max(total, SMALLEST), 0.0
    bounds = [(math.log(SMALLEST), math.log(LARGEST)), (0.0, math.pi / 2)]
    part = slice(0 if total is None else 1, 2 if several else 1)  # of (log of the root sum of squares, angle), the free ones

    def spreads(x: FloatArray) -> tuple[float, float]:
        size = math.exp(x[0]) if total is None else total
        angle = float(x[-1]) if several else 0.0
        return max(size * math.cos(angle), SMALLEST), size * math.sin(angle)

    def objective(x: FloatArray) -> tuple[float, FloatArray]:
        within, between = spreads(x)
        found = at(within, between)
        in_size = within * found.within + between * found.between
        in_angle = within * found.between - between * found.within
        return _adjustment(found, restricted) - found.value, -np.array([in_size, in_angle])[part]

    grid = [np.array([math.log(min(ratio * residual, LARGEST)), angle])[part] for ratio in RATIOS for angle in ANGLES]
    start = min((objective(x)[0], tuple(x)) for x in grid)[1]
    options = {"ftol": 1e-9}
    if restricted:  # the adjustment has no derivative here
        found = cast(Any, minimize)(lambda x: objective(x)[0], start, bounds=bounds[part], method="L-BFGS-B", options=options)  # pyright: ignore[reportUnknownLambdaType, reportUnknownArgumentType]
    else:
        found = cast(Any, minimize)(objective, start, jac=True, bounds=bounds[part], method="L-BFGS-B", options=options)
    return spreads(found.x)


def _maximise(
    data: Observations, design: FloatArray, offset: FloatArray, within: float, between: float, beta: FloatArray
) -> tuple[FloatArray, Likelihood]:
    """Return (beta, likelihood) at the maximum over beta, by Newton's method: the log-likelihood is concave in beta."""
    now = likelihood(data, design, offset + design @ beta, within, between)
    for _ in range(60 if len(beta) else 0):
        step = np.linalg.lstsq(-now.hessian + 1e-10 * np.eye(len(beta)), now.score, rcond=None)[0]
        if float(now.score @ step) < 1e-10:
            break
        step *= min(1.0, 20.0 / max(float(np.abs(step).max()), 1e-12))
        for _ in range(30):
            new = likelihood(data, design, offset + design @ (beta + step), within, between)
            if new.value >= now.value:
                break
            step /= 2
        else:
            break
        beta, now = beta + step, new
    return beta, now
