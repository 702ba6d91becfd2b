"""Where to measure next: a threshold's runs in two fixed rounds, which depend on results and never on who finishes first.

Round 1 spreads k over a geometric grid with one position seed; round 2 puts the remaining runs, with fresh seeds, on
the k around the crossing.
"""

from __future__ import annotations

FIRST_ROUND = 6
LOWEST_K, HIGHEST_K = 4, 4096


def first_round(size: int, count: int, lowest: int = LOWEST_K, highest: int = HIGHEST_K) -> list[int]:
    """At most `count` values of k, geometric from `lowest` to `highest` or the size of the space."""
    top = min(size, highest)
    bottom = min(lowest, top)
    steps = max(1, count - 1)
    return sorted({round(bottom * (top / bottom) ** (i / steps)) for i in range(count)})


def second_round(gaps: dict[int, float], runs: int) -> list[tuple[int, int]]:
    """(k, position seed) for `runs` more runs: on the two k that bracket the target and two between them.

    `gaps` are round 1's by k, at least 0 where the target is reached. Where it is not bracketed, the end nearest to it is
    repeated.
    """
    ks = sorted(gaps)
    reached = [k for k in ks if gaps[k] >= 0]
    if not reached or reached[0] == ks[0]:
        near = ks[:2] if reached else ks[-2:]
        return [(near[i % len(near)], 1 + i // len(near)) for i in range(runs)]
    high = reached[0]
    low = max(k for k in ks if k < high)
    between = sorted({round(low * (high / low) ** (i / 3)) for i in range(4)})
    return [(between[i % len(between)], 1 + i // len(between)) for i in range(runs)]
