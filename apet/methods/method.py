"""One record a method: everything that the toolkit knows about it stands in the method's own file."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn

    from apet.methods.tunable_model import TunableModel


@dataclass(frozen=True)
class Method:
    """A way to tune a model.

    `build(model)` freezes the model, makes the method's parameters trainable and returns both; it imports torch and peft only when it is
    called. `learning_rate` is AdamW's default: a number, or a function of the number k of tuned parameters. The numbers are the best of
    two or three, a factor 3 apart, in 150 steps of mini-t5-790k on SST-2.
    """

    name: str
    words: str  # the name in figures and reports
    marker: str  # matplotlib's
    learning_rate: float | Callable[[int], float]
    build: Callable[[nn.Module], TunableModel] | None = None  # None: apet, whose entries a PlacementConfig chooses
    virtual_tokens: int = 0  # that take positions of the model beside a text's
    mergeable: bool = False  # whether its runs end at a displacement of the base model's own tensors
    low_precision: bool = False  # whether the base weights may be bfloat16 or float16: what is tuned stays float32
