"""The record of a tuning method. Each method of this toolkit has one file, which holds everything that the toolkit knows about it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from apet.methods.tunable_model import TunableModel


@dataclass(frozen=True)
class MethodOption:
    """An option of a method: its default, its permitted types or values, and the smallest number that it may have.

    `types` defaults to the type of `default`. A value of type list is written with | between its elements, for instance q_proj|v_proj.
    """

    default: Any
    types: tuple[type, ...] = ()
    choices: tuple[Any, ...] = ()
    least: float | None = None

    def __post_init__(self) -> None:
        if not self.types and not self.choices:
            object.__setattr__(self, "types", (type(self.default),))


@dataclass(frozen=True)
class Method:
    """A way to tune a model.

    `build(model, **options)` freezes the model, makes the method's parameters trainable and returns both. It imports torch and peft only
    when it is called. Each name in `options` is a keyword of `build`, which is given only options that differ from their default.
    `learning_rate` is the default for AdamW: a number, or a function of the number k of tuned parameters.
    """

    # The constant learning rates are the best of two or three, a factor 3 apart, in 150 steps of mini-t5-790k on SST-2.

    name: str
    words: str  # the name in figures and reports
    marker: str  # of matplotlib
    learning_rate: float | Callable[[int], float]
    build: Callable[..., TunableModel] | None = None  # None: apet, whose entries a PlacementConfig chooses
    tunes: str = ""  # the parameters that it tunes, in words
    options: Mapping[str, MethodOption] = field(default_factory=dict)
    dial: str = ""  # the option that a requested k sets, a whole number with which k grows
    virtual_tokens: str = ""  # the option that holds the number of positions that the method takes from the text
    mergeable: bool = False  # whether the final points of its runs are displacements of the base model's tensors
    low_precision: bool = False  # whether the base weights may be bfloat16 or float16: the tuned parameters stay float32
    starts_at_base: bool = True  # whether the model computes the base model's function before the first step
