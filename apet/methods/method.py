"""The record of a tuning method. Each method has one file, which holds everything that the toolkit knows about it."""

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

    `build(model)` freezes the model, makes the method's parameters trainable and returns both. It imports torch and peft only when it is
    called. `learning_rate` is the default for AdamW: a number, or a function of the number k of tuned parameters.
    """

    # The constant learning rates are the best of two or three, a factor 3 apart, in 150 steps of mini-t5-790k on SST-2.

    name: str
    words: str  # the name in figures and reports
    marker: str  # of matplotlib
    learning_rate: float | Callable[[int], float]
    build: Callable[[nn.Module], TunableModel] | None = None  # None: apet, whose entries a PlacementConfig chooses
    virtual_tokens: int = 0  # number of positions of the model that the method takes from the text
    mergeable: bool = False  # whether the final points of its runs are displacements of the base model's tensors
    low_precision: bool = False  # whether the base weights may be bfloat16 or float16: the tuned parameters stay float32
