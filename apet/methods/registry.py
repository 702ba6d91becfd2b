"""The table of all methods. To add a method, write its record in a new file and list it in METHODS below.

The methods `peft:NAME` are not in the table: `method_named` makes their records on demand.
"""

from __future__ import annotations

from apet.errors import UsageError, one_of
from apet.methods.adapter import ADAPTER
from apet.methods.bitfit import BITFIT
from apet.methods.entries import APET
from apet.methods.full import FULL
from apet.methods.lora import LORA
from apet.methods.method import Method
from apet.methods.peft_tuners import PEFT_METHODS, peft_method
from apet.methods.virtual_tokens import PREFIX, PROMPT

MARKERS = frozenset("os^v<>D*PXdph8")  # the filled markers of matplotlib


def table(*methods: Method) -> dict[str, Method]:
    """Return {name: method}.

    Raises ValueError if a name, words or marker is missing or used twice, for an unknown marker, for a learning rate that is not positive,
    and for a method other than apet without `build`. Also raises ValueError if a dial or the number of virtual tokens is not an option.
    """
    for fact in ("name", "words", "marker"):
        values = [getattr(method, fact) for method in methods]
        doubled = [value for value in values if values.count(value) > 1]
        if doubled or not all(values):
            problem = f"'{doubled[0]}' is used twice" if doubled else "one method has none"
            raise ValueError(f"`{fact}` must be set and different for every method: {problem}")
    for method in methods:
        for option in (method.dial, method.virtual_tokens):
            if option and option not in method.options:
                raise ValueError(f"{method.name} has no option '{option}'")
        if method.marker not in MARKERS:
            raise ValueError(f"unknown marker '{method.marker}' of {method.name}: use one of {' '.join(sorted(MARKERS))}")
        if not _rate(method, 1) > 0:
            raise ValueError(f"the learning rate of {method.name} must be positive, got {_rate(method, 1)}")
        if (method.build is None) != (method is APET):
            raise ValueError(f"{method.name} cannot be built: every method except apet must have `build`")
    return {method.name: method for method in methods}


def method_named(name: str) -> Method:
    """Return the record of a method. Raises UsageError for an unknown name, and for a tuner of peft that cannot be supported."""
    one_of((*METHODS, *PEFT_METHODS), name, "method")
    return METHODS[name] if name in METHODS else peft_method(name)


def default_rate(method: str, k: int | None, subspace: str = "coordinates") -> float:
    """Return AdamW's default learning rate for `method` with k tuned parameters, or for z (k,) of a projected subspace.

    Raises UsageError for an unknown method, and if the rate depends on k and k is None.
    """
    # With k^-1/2, AdamW's first steps have length 1 in the parameters, as with the rate of full fine-tuning for a million parameters. On
    # MNIST (fc at k = 750, LeNet at k = 300), 1 or 3 times this rate was the best of .3, 1, 3 and 10 times in 600 steps. In 4,690 steps,
    # 3 times this rate was the best (.916 against .902, fc).
    if subspace != "coordinates" and k is not None:
        return k**-0.5
    return _rate(method_named(method), k)


def _rate(method: Method, k: int | None) -> float:
    if not callable(method.learning_rate):
        return method.learning_rate
    if k is None:
        raise UsageError(f"the default learning rate of {method.name} depends on k, and k is not set", k=...)
    return method.learning_rate(k)


METHODS = table(APET, FULL, LORA, ADAPTER, PROMPT, PREFIX, BITFIT)
BASELINES = tuple(name for name, method in METHODS.items() if method is not APET)
METHOD_NAMES = (*METHODS, *PEFT_METHODS)
BASELINE_NAMES = (*BASELINES, *PEFT_METHODS)
