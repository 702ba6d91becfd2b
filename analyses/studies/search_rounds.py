"""Where to measure next: a threshold's runs in fixed rounds, which follow from results and never from who finishes first.

Round 1 spreads k over a geometric grid. A later round goes where the target is crossed: evenly about the zero of the line through the
runs (landscape.measurement.crossings) once runs of both kinds stand close to it, and before that to quantiles of what is known of log k*
from which runs have reached the target (landscape.measurement.probit). A failed training misleads neither for longer than a round. Where
the target lies beyond the runs, one round at the end of the range makes sure, and is the last.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

FIRST_ROUND, LATER_ROUNDS = 4, 3  # runs
LOWEST_K, HIGHEST_K = 4, 4096
SPREAD = 0.3  # in log k: a later round covers so much on either side of the crossing
CLOSE = 0.6  # in log k: where runs of both kinds are as close to it as this, the crossing is known well enough for that


def first_round(size: int, count: int, lowest: int = LOWEST_K, highest: int = HIGHEST_K) -> list[int]:
    """At most `count` values of k, geometric from `lowest` to `highest` or the size of the space."""
    top = min(size, highest)
    bottom = min(lowest, top)
    steps = max(1, count - 1)
    return sorted({round(bottom * (top / bottom) ** (i / steps)) for i in range(count)})


def next_round(asked: Sequence[int], found: Sequence[tuple[int, float]], runs: int) -> list[int]:
    """The k of the next round, none where the search is over; equal k are repeated.

    `asked` are the k of all runs so far, those that diverged or failed among them, `found` the (k, gap) of those with a finite
    gap, at least 0 where the target is reached; `runs` is how many there may be in all.
    """
    count = min(LATER_ROUNDS, runs - len(asked))
    low, high = min(asked), max(asked)
    if count < 1 or not found or low == high:
        return []
    reached = [gap >= 0 for _, gap in found]
    if all(reached) or not any(reached):
        end = low if all(reached) else high
        return [] if sum(k == end for k, _ in found) > 1 else [end] * count
    return sorted(min(max(round(math.exp(x)), low), high) for x in _about(found, count))


def _about(found: Sequence[tuple[int, float]], count: int) -> list[float]:
    """log k of runs on both sides of the crossing."""
    from landscape import fit_crossing, probit_posterior

    ks, gaps = zip(*sorted(found), strict=True)
    parts = [(i + 0.5) / count for i in range(count)]
    try:
        k_star = fit_crossing(ks, gaps, bootstraps=2).k_star
    except ValueError:
        k_star = None
    if k_star is not None:
        close = [gap >= 0 for k, gap in found if abs(math.log(k / k_star)) < CLOSE]
        if any(close) and not all(close):
            return [math.log(k_star) + SPREAD * (2 * part - 1) for part in parts]
    known = probit_posterior(ks, [gap >= 0 for gap in gaps])
    return [known.quantile(part) for part in parts]
