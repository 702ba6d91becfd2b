"""What decides a training run, and where one stands."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

from apet.errors import UsageError, lookup

STALL, FACTOR, REDUCTIONS = 0.005, 0.3, 2  # a stall: `patience` checks without a gain of this part of the first loss
DIVERGED, CHECKS = 3.0, 2  # a run diverges where the watched loss is over this multiple of its start, at so many checks in a row

# (part of the steps after the warm-up that is done, rate reductions so far) -> factor on the learning rate
SCHEDULES: dict[str, Callable[[float, int], float]] = {
    "plateau": lambda done, reductions: FACTOR**reductions,
    "constant": lambda done, reductions: 1.0,
    "linear": lambda done, reductions: 1.0 - done,
    "cosine": lambda done, reductions: (1.0 + math.cos(math.pi * done)) / 2,
}
OPEN_ENDED = ("plateau", "constant")  # end when the watched loss has stalled often enough; the others take all their steps
PRECISIONS = {"no": "float32", "bf16": "bfloat16", "fp16": "float16"}  # accelerate's name -> torch's


@dataclass(frozen=True)
class TrainOptions:
    """All that decides a run beside model, data and method. `steps` is the most; `check` is steps between looks.

    `weight_decay` is AdamW's, decoupled: it draws apet's displacements towards the pretrained values and the other
    methods' parameters towards zero. The effective batch of `batch` examples is worked off in `accumulate` parts.
    Raises UsageError for a value outside its range.
    """

    lr: float
    steps: int = 2000
    batch: int = 32
    warmup: int = 20
    clip: float = 1.0  # the largest norm of a gradient
    weight_decay: float = 0.0
    check: int = 50
    patience: int = 3
    train_seed: int = 0
    precision: str = "no"  # accelerate's mixed precision: no, bf16, fp16
    schedule: str = "plateau"
    accumulate: int = 1
    gradient_checkpointing: bool = False  # activations are computed again in the backward pass instead of being kept
    trajectory: bool = False  # keep z at every look (`TunableModel.trajectory`); for tuned entries alone
    find_lr: bool = False  # short pilots around `lr` choose the rate, see `apet.training.rate_search`

    def __post_init__(self) -> None:
        lookup(SCHEDULES, self.schedule, "schedule")
        lookup(PRECISIONS, self.precision, "precision")
        for name in ("batch", "check", "patience", "accumulate", "lr", "clip"):
            if not getattr(self, name) > 0:
                raise UsageError(f"{name} = {getattr(self, name)} must be positive")
        for name in ("warmup", "weight_decay"):
            if not getattr(self, name) >= 0:
                raise UsageError(f"{name} = {getattr(self, name)} must be at least 0")
        if self.accumulate > self.batch:
            raise UsageError(f"a batch of {self.batch} cannot be split in {self.accumulate} parts: accumulate at most {self.batch}")


@dataclass
class Progress:
    """The loop's own state: what a checkpoint must hold beside the tensors."""

    step: int = 0
    reductions: int = 0
    stalled: int = 0
    best: float = math.inf  # of the watched loss, at any check
    anchor: float = math.inf  # the watched loss that the next check must beat by a stall's width
    history: list[tuple[int, float]] = field(default_factory=list)  # (step, watched loss), from step 0
    lr: float = 0.0  # the rate that the schedule multiplies
    pilot: list[tuple[float, float]] = field(default_factory=list)  # (rate, watched loss) of each pilot, if there were any
    accumulate: int = 1  # parts of a batch; more than the options' after memory ran out
    diverged: int | None = None  # the step at which the run was given up
    seconds: float = field(default=0.0, compare=False)  # spent in steps: a timing, never in rows

    @property
    def plateau(self) -> bool:
        return self.reductions > REDUCTIONS

    def check(self, watched: float, patience: int) -> None:
        """Take note of the watched loss at this step."""
        self.history.append((self.step, watched))
        self.best = min(self.best, watched)  # never a nan, which is smaller than nothing
        start = self.history[0][1]
        if not math.isfinite(watched) or all(loss > DIVERGED * start for _, loss in self.history[-CHECKS:]):
            self.diverged = self.step
        if watched < self.anchor - STALL * start:
            self.anchor, self.stalled = watched, 0
            return
        self.stalled += 1
        if self.stalled >= patience:
            self.reductions, self.stalled = self.reductions + 1, 0


def over(options: TrainOptions, progress: Progress) -> bool:
    """Return whether there is nothing more to do: all steps taken, at the plateau, or diverged."""
    stalled = progress.plateau and options.schedule in OPEN_ENDED
    return progress.step >= options.steps or stalled or progress.diverged is not None


def rate_factor(options: TrainOptions, progress: Progress) -> float:
    """What the next step's learning rates are multiplied by: a linear warm-up, times the schedule's factor."""
    warm = min(1.0, (progress.step + 1) / max(1, options.warmup))
    done = max(0, progress.step - options.warmup) / max(1, options.steps - options.warmup)
    return warm * SCHEDULES[options.schedule](done, progress.reductions)
