"""Minimisation of a smooth function of many variables by scipy's L-BFGS-B without bounds (Liu & Nocedal 1989, doi 10.1007/BF01589116)."""

from collections.abc import Callable
from typing import Any, cast

from scipy.optimize import minimize  # pyright: ignore[reportMissingTypeStubs, reportUnknownVariableType]

from landscape.numerics.arrays import FloatArray

MOST_PAIRS, FEWEST_PAIRS = 100, 20  # with few pairs, a distant minimum takes about 3 times as many iterations
HISTORY_BYTES = 2**30  # memory for the pairs, if it holds more than the fewest


def lbfgs_history(size: int) -> int:
    """Return how many pairs of steps and gradients, (size,) each, to keep: as many as 1 GiB holds, but 20 to 100."""
    return max(FEWEST_PAIRS, min(MOST_PAIRS, HISTORY_BYTES // (16 * size)))


def lbfgs(
    f: Callable[[FloatArray], tuple[float, FloatArray]],
    start: FloatArray,
    *,
    history: int,
    stop: Callable[[FloatArray], bool] | None = None,
    **options: float,
) -> FloatArray:
    """Return the point (k,) where the search from `start` (k,) ends.

    f(x) returns the value and the gradient (k,). `history` is the number of pairs kept. After each iteration stop(x) may end the search.
    `options` are scipy's options for L-BFGS-B: maxiter, maxfun, ftol, gtol.
    """

    def callback(intermediate_result: Any) -> None:
        if stop is not None and stop(intermediate_result.x):
            raise StopIteration

    options = {"maxcor": history, **options}
    result = cast(Any, minimize)(f, start, jac=True, method="L-BFGS-B", callback=callback if stop else None, options=options)
    return cast(FloatArray, result.x)
