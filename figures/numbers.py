"""Numbers as text: rounded by their standard error, never without it where it is known."""

from __future__ import annotations

import math

from analyses.store import statuses
from figures.interval import Interval

MISSING = "–"


def number(value: float) -> str:
    """Three significant digits; whole numbers from a thousand on with separators."""
    if math.isnan(value):
        return MISSING
    return f"{value:,.0f}" if 1e3 <= abs(value) < 1e12 else f"{value:.3g}"


def with_error(value: float, stderr: float) -> str:
    """As in "0.834 ± 0.012": both to the error's second significant digit; says so where it is not known."""
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


def interval(found: Interval | None) -> str:
    """As in "21 [18, 25]", or the censoring with the bound that is known."""
    if found is None:
        return MISSING
    if not found.censored:
        return f"{number(found.value)} [{number(found.low)}, {number(found.high)}]"
    bound = {statuses.ABOVE: found.low, statuses.BELOW: found.high}.get(found.censored, math.nan)
    side = found.censored if found.censored != "yes" else "no value"
    return f"censored: {side} {number(bound)}" if math.isfinite(bound) else f"censored: {side}"


def listed(values: list[float]) -> str:
    """As in "4, 16 and 64": sorted, each once."""
    words = [number(value) for value in sorted(set(values))]
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
