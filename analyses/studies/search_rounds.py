"""The values of k that a threshold search tries, in rounds. A round depends on the results of earlier rounds, not on their order in time.

Round 1 spreads k over a geometric grid. A later round tries k near the crossing of the target:

1. If a run that reaches the target and a run that misses it are close to the zero of the line through the gaps
   (`landscape.measurement.crossings`), k is spread evenly about this zero.
2. Otherwise k takes quantiles of the posterior of log k*, given only which runs reach the target (`landscape.measurement.probit`).

A failed training misleads the search for at most one round. If the target lies beyond all runs, a last round repeats the end of the range
as a check.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

FIRST_ROUND, LATER_ROUNDS = 4, 3  # runs
LOWEST_K, HIGHEST_K = 4, 4096
SPREAD = 0.3  # half-width in log k of a round about the crossing
CLOSE = 0.6  # largest distance in log k from the zero at which a run counts as close


def first_round(size: int, count: int, lowest: int = LOWEST_K, highest: int = HIGHEST_K) -> list[int]:
    """Return at most `count` values of k on a geometric grid from `lowest` to `highest`, or to the size of the space if it is smaller."""
    top = min(size, highest)
    bottom = min(lowest, top)
    steps = max(1, count - 1)
    return sorted({round(bottom * (top / bottom) ** (i / steps)) for i in range(count)})


def next_round(asked: Sequence[int], measured: Sequence[tuple[int, float]], runs: int) -> list[int]:
    """Return the k of the next round, in ascending order and with repeats; an empty list ends the search.

    asked: the k of all runs so far, including runs that diverged or failed.
    measured: (k, gap) of the runs with a finite gap, which is at least 0 if the run reaches the target.
    runs: the largest number of runs in the search.
    """
    count = min(LATER_ROUNDS, runs - len(asked))
    low, high = min(asked), max(asked)
    if count < 1 or not measured or low == high:
        return []
    reached = [gap >= 0 for _, gap in measured]
    if all(reached) or not any(reached):
        end = low if all(reached) else high
        return [] if sum(k == end for k, _ in measured) > 1 else [end] * count
    return sorted(min(max(round(math.exp(x)), low), high) for x in _about_crossing(measured, count))


def _about_crossing(measured: Sequence[tuple[int, float]], count: int) -> list[float]:
    """Return log k of `count` runs on both sides of the crossing."""
    from landscape import fit_crossing, probit_posterior

    ks, gaps = zip(*sorted(measured), strict=True)
    parts = [(i + 0.5) / count for i in range(count)]
    try:
        k_star = fit_crossing(ks, gaps, bootstraps=2).k_star
    except ValueError:
        k_star = None
    if k_star is not None:
        close = [gap >= 0 for k, gap in measured if abs(math.log(k / k_star)) < CLOSE]
        if any(close) and not all(close):
            return [math.log(k_star) + SPREAD * (2 * part - 1) for part in parts]
    posterior = probit_posterior(ks, [gap >= 0 for gap in gaps])
    return [posterior.quantile(part) for part in parts]
