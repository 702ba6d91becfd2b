"""The options of a training run and its progress."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

from apet.errors import UsageError, lookup

# The monitored loss stalls when `patience` checks in a row lower it by less than the share STALL of the first loss. Each stall multiplies
# the learning rate by FACTOR; after REDUCTIONS reductions the next stall is the plateau.
STALL, FACTOR, REDUCTIONS = 0.005, 0.3, 2
# A run diverges when the monitored loss is not finite, or above DIVERGED times its first value at CHECKS checks in a row.
DIVERGED, CHECKS = 3.0, 2

# (share of the steps after the warm-up that are done, number of rate reductions) -> factor of the learning rate
SCHEDULES: dict[str, Callable[[float, int], float]] = {
    "plateau": lambda done, reductions: FACTOR**reductions,
    "constant": lambda done, reductions: 1.0,
    "linear": lambda done, reductions: 1.0 - done,
    "cosine": lambda done, reductions: (1.0 + math.cos(math.pi * done)) / 2,
}
OPEN_ENDED = ("plateau", "constant")  # schedules that end at the plateau; the others take all their steps
PRECISIONS = {"no": "float32", "bf16": "bfloat16", "fp16": "float16"}  # accelerate's name -> torch's name


@dataclass(frozen=True)
class TrainOptions:
    """The options that determine a run in addition to model, data and method.

    `steps` is the largest number of steps. `check` is the number of steps between checks of the monitored loss. `weight_decay` is the
    decoupled decay of AdamW, which pulls the entries tuned by apet towards their pretrained values and the parameters of other methods
    towards zero. A batch of `batch` examples is processed in `accumulate` parts. Raises UsageError for a value outside its range.
    """

    lr: float
    steps: int = 2000
    batch: int = 32
    warmup: int = 20
    clip: float = 1.0  # largest norm of the gradient
    weight_decay: float = 0.0
    check: int = 50
    patience: int = 3
    train_seed: int = 0
    precision: str = "no"  # accelerate's mixed precision: no, bf16, fp16
    schedule: str = "plateau"
    accumulate: int = 1
    gradient_checkpointing: bool = False  # compute activations again in the backward pass instead of keeping them
    trajectory: bool = False  # keep z at every check in `TunableModel.trajectory`; for tuned entries only
    find_lr: bool = False  # choose the rate by short pilot runs around `lr`, see `apet.training.rate_search`

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
            raise UsageError(f"accumulate = {self.accumulate} must be at most batch = {self.batch}: each part needs at least one example")


@dataclass
class Progress:
    """The state of the loop, which a checkpoint holds in addition to the tensors."""

    step: int = 0
    reductions: int = 0
    stalled: int = 0
    best: float = math.inf  # lowest monitored loss of all checks
    anchor: float = math.inf  # monitored loss that a later check must undercut by STALL times the first loss
    history: list[tuple[int, float]] = field(default_factory=list)  # (step, monitored loss) of every check, from step 0
    lr: float = 0.0  # learning rate before the factor of the schedule
    pilot: list[tuple[float, float]] = field(default_factory=list)  # (rate, monitored loss) of each pilot run
    accumulate: int = 1  # parts of a batch; more than in the options after memory ran out
    diverged: int | None = None  # the step at which the run diverged
    seconds: float = field(default=0.0, compare=False)  # time spent in steps; never part of rows
    elapsed: float = field(default=0.0, compare=False)  # time of the whole loop, including that before a resumption

    @property
    def plateau(self) -> bool:
        """Whether the monitored loss has stalled after the last reduction of the learning rate."""
        return self.reductions > REDUCTIONS

    def check(self, watched: float, patience: int) -> None:
        """Record the monitored loss at this step, and update the counts of stalls and rate reductions."""
        self.history.append((self.step, watched))
        self.best = min(self.best, watched)  # min ignores a NaN here, because a comparison with NaN is false
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
    """Return whether the run has ended: all steps are done, the loss is at the plateau, or the run has diverged."""
    stalled = progress.plateau and options.schedule in OPEN_ENDED
    return progress.step >= options.steps or stalled or progress.diverged is not None


def rate_factor(options: TrainOptions, progress: Progress) -> float:
    """Return the factor of the next step's learning rates: the linear warm-up times the schedule's factor."""
    warm = min(1.0, (progress.step + 1) / max(1, options.warmup))
    done = max(0, progress.step - options.warmup) / max(1, options.steps - options.warmup)
    return warm * SCHEDULES[options.schedule](done, progress.reductions)
