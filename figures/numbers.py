"""Numbers as text, rounded according to their standard errors. A known standard error is always shown."""

from __future__ import annotations

import math

from analyses.store import statuses
from figures.interval import Interval

MISSING = "–"


def number(value: float) -> str:
    """Return a value as text with three significant digits; whole numbers with separators from 1,000 on."""
    if math.isnan(value):
        return MISSING
    return f"{value:,.0f}" if 1e3 <= abs(value) < 1e12 else f"{value:.3g}"


def with_error(value: float, stderr: float) -> str:
    """Return a value and its standard error as text, as in "0.834 ± 0.012", both to the second significant digit of the error.

    An unknown error is stated as "(no s.e.)", an unknown value as a dash.
    """
    if math.isnan(value):
        return MISSING
    if not math.isfinite(stderr) or stderr < 0:
        return f"{number(value)} (no s.e.)"
    if stderr == 0:
        return f"{number(value)} ± 0"
    digits = 1 - math.floor(math.log10(stderr))
    if digits > 6:
        return f"{value:.3g} ± {stderr:.2g}"
    return f"{value:,.{max(digits, 0)}f} ± {stderr:,.{max(digits, 0)}f}"


def interval(threshold: Interval | None) -> str:
    """Return a threshold as text, as in "21 [18, 25]", or its censoring with the known bound."""
    if threshold is None:
        return MISSING
    if not threshold.censored:
        return f"{number(threshold.value)} [{number(threshold.low)}, {number(threshold.high)}]"
    bound = {statuses.ABOVE: threshold.low, statuses.BELOW: threshold.high}.get(threshold.censored, math.nan)
    side = threshold.censored if threshold.censored != "yes" else "no value"
    return f"censored: {side} {number(bound)}" if math.isfinite(bound) else f"censored: {side}"


def short_interval(threshold: Interval | None) -> str:
    """Return a threshold as text for a table, as in "21 [18, 25]", "> 4,096" if it is censored above this bound, or "undecided"."""
    if threshold is None or not threshold.censored:
        return interval(threshold)
    sign, bound = {statuses.ABOVE: (">", threshold.low), statuses.BELOW: ("<", threshold.high)}.get(threshold.censored, ("", math.nan))
    return f"{sign} {number(bound)}" if math.isfinite(bound) else threshold.status or MISSING


def ends(low: float, high: float) -> str:
    """Return an interval as text, as in "[18, 25]"; a dash stands for an unknown end."""
    return f"[{number(low)}, {number(high)}]"


def listed(values: list[float]) -> str:
    """Return distinct values, sorted, as in "4, 16 and 64"."""
    words = [number(value) for value in sorted(set(values))]
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def counted(n: int, nouns: str) -> str:
    """Return "1 run" or "3 runs" from "run", and "3 spectra" from "spectrum/spectra"."""
    one, _, several = nouns.partition("/")
    return f"{n:,} {one if n == 1 else several or one + 's'}"
