"""The table of all methods. A new method is a record in a file of its own, and its name in METHODS below."""

from __future__ import annotations

from apet.errors import UsageError, lookup
from apet.methods.adapter import ADAPTER
from apet.methods.bitfit import BITFIT
from apet.methods.entries import APET
from apet.methods.full import FULL
from apet.methods.lora import LORA
from apet.methods.method import Method
from apet.methods.virtual_tokens import PREFIX, PROMPT

MARKERS = frozenset("os^v<>D*PXdph8")  # matplotlib's filled ones


def table(*methods: Method) -> dict[str, Method]:
    """Return {name: method}. Raises ValueError for a missing fact, an unknown marker, and a name, words or marker used twice."""
    for fact in ("name", "words", "marker"):
        values = [getattr(method, fact) for method in methods]
        doubled = [value for value in values if values.count(value) > 1]
        if doubled or not all(values):
            raise ValueError(f"methods need {fact} of their own: {doubled[0] if doubled else 'one has none'}")
    for method in methods:
        if method.marker not in MARKERS:
            raise ValueError(f"unknown marker '{method.marker}' of {method.name}: one of {' '.join(sorted(MARKERS))}")
        if not _rate(method, 1) > 0:
            raise ValueError(f"{method.name} has the learning rate {_rate(method, 1)}, which must be positive")
        if (method.build is None) != (method is APET):
            raise ValueError(f"{method.name} cannot be built: every method but apet has `build`")
    return {method.name: method for method in methods}


def default_rate(method: str, k: int | None, subspace: str = "coordinates") -> float:
    """Return AdamW's default learning rate for `method` with k tuned parameters, or for z (k,) of a projected subspace.

    Raises UsageError for an unknown method, and if the rate depends on k and k is None.
    """
    # k^-1/2 makes AdamW's first steps of length 1 in the parameters, as full fine-tuning's rate does for a million of them. On MNIST (fc
    # at k = 750, LeNet at 300) it or three times as much was the best of .3, 1, 3, 10 times it in 600 steps, three times as much in 4,690
    # (.916 against .902, fc).
    if subspace != "coordinates" and k is not None:
        return k**-0.5
    return _rate(lookup(METHODS, method, "method"), k)


def _rate(method: Method, k: int | None) -> float:
    if not callable(method.learning_rate):
        return method.learning_rate
    if k is None:
        raise UsageError(f"the default learning rate of {method.name} depends on k, which is not given", k=...)
    return method.learning_rate(k)


METHODS = table(APET, FULL, LORA, ADAPTER, PROMPT, PREFIX, BITFIT)
BASELINES = tuple(name for name, method in METHODS.items() if method is not APET)
MERGEABLE = tuple(name for name, method in METHODS.items() if method.mergeable)
