"""Points with bars on a logarithmic axis: a value of zero has no place on it, but the upper end of its interval does."""

import numpy as np
import pytest
from matplotlib.figure import Figure

from figures.style import log_bars

FOOT = 0.01


@pytest.mark.parametrize(
    ("value", "low", "high", "bar"),
    [
        (0.1, 0.05, 0.2, [0.05, 0.2]),
        (0.1, 0.0, 0.2, [FOOT, 0.2]),
        (0.0, 0.0, 0.2, [FOOT, 0.2]),
        (-0.1, -0.3, 0.1, [FOOT, 0.1]),
        (0.0, 0.0, 0.005, None),
        (0.1, np.nan, np.nan, None),
    ],
)
def test_a_bar_reaches_from_the_foot_to_its_upper_end(value: float, low: float, high: float, bar: list[float] | None) -> None:
    axes = Figure().subplots()
    x, y, bottom, top = (np.array([number]) for number in (100.0, value, low, high))
    log_bars(axes, x, y, bottom, top, FOOT, color="black", marker="o")
    bars = [np.asarray(line.get_ydata()).tolist() for line in axes.lines if np.size(line.get_xdata()) == 2]
    assert bars == ([] if bar is None else [bar])
    arrows = [line for line in axes.lines if line.get_marker() == "v"]
    assert len(arrows) == (value <= FOOT or low <= FOOT)
