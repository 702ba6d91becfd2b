"""The training loop: AdamW until the watched loss stops falling, resumable bitwise, on accelerate.

Batches are a function of (train seed, step). By default the learning rate warms up, then falls by a factor each time the
watched loss has stalled, and the run ends at its plateau: after the last reduction stalls too. What is watched is a
part of the training data that is never reported (early stop; the best state is kept), or the training loss itself
(for runs compared with predictions, which speak of the minimum). A run whose loss grows out of bounds ends there and says so.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from apet.errors import Interrupted
from apet.machine import accelerator_for, any_process, broadcast, checkpointed, tracking
from apet.methods import TunableModel
from apet.projections import Projected
from apet.scoring import Scorer, evaluate
from apet.tasks import Example
from apet.training.checkpoints import load_checkpoint, packed, save_checkpoint, unpack
from apet.training.options import Progress, TrainOptions, over, rate_factor
from apet.training.rate_search import find_lr
from apet.training.step import Stepper

CHECKPOINT_SECONDS = 20.0


def train(
    model: nn.Module,
    tunable: TunableModel,
    scorer: Scorer,
    examples: Sequence[Example],
    watched: Sequence[Example],
    options: TrainOptions,
    checkpoint: Path,
    keep_best: bool,
    report: Callable[[Progress], None] = lambda progress: None,
    *,
    checkpoint_every: float = CHECKPOINT_SECONDS,
    track: str | None = None,
    logs: Path | None = None,
) -> Progress:
    """Train `tunable` in place on `examples`; stop when the loss on `watched` has stalled, or after `options.steps`.

    With `keep_best` the state of the lowest watched loss is put back at the end. Resumes from `checkpoint` if it
    exists, which is written every `checkpoint_every` seconds (0: after each step). `track` names one of accelerate's
    trackers, which writes below `logs` (by default beside the checkpoint). Under `accelerate launch` each process takes
    its share of every batch; the main one alone writes. A run that diverges ends with `Progress.diverged` set. Raises
    Interrupted on Ctrl-C (state saved), UsageError for options that do not fit, and ApetError for a checkpoint that is
    another run's or for too little memory.
    """
    accelerator = accelerator_for(scorer.device, options.precision, track, logs or checkpoint.parent / "logs")
    run = _Run(Stepper(accelerator, model, tunable, scorer, examples, options), watched, checkpoint, keep_best)
    with interruptible() as stopped, checkpointed(model, options.gradient_checkpointing), tracking(accelerator, asdict(options)):
        progress = run.begin()
        saved = time.monotonic()
        while not over(options, progress):
            if not run.stepper.step(progress):
                progress.diverged = progress.step
                break
            if progress.step % options.check == 0 or progress.step >= options.steps:  # the last steps count, too
                run.look(progress)
                report(progress)
            stop = any_process(accelerator, stopped())
            if stop or time.monotonic() - saved >= checkpoint_every:
                run.save(progress)
                saved = time.monotonic()
            if stop:
                raise Interrupted(f"interrupted at step {progress.step}, which is saved", resume=True)
    run.put_back_best()
    return progress


class _Run:
    """What a run holds beside its progress: the best state so far, and where and as whose it is saved."""

    def __init__(self, stepper: Stepper, watched: Sequence[Example], checkpoint: Path, keep_best: bool):
        self.stepper, self.watched, self.checkpoint, self.tunable = stepper, watched, checkpoint, stepper.tunable
        self.best = self._state() if keep_best else {}
        self.name = {**asdict(stepper.options), "keep_best": keep_best, "entries": _entries(stepper.tunable)}

    def begin(self) -> Progress:
        """Go on from the checkpoint, or look for a rate if asked to and take the first look."""
        accelerator, options = self.stepper.accelerator, self.stepper.options
        if accelerator.is_main_process:
            self.checkpoint.parent.mkdir(parents=True, exist_ok=True)
        content = broadcast(accelerator, load_checkpoint(self.checkpoint) if accelerator.is_main_process else None)
        if content is not None:
            return unpack(content, self.tunable, self.stepper.optimizer.optimizer, self.best, self.name, accelerator.scaler)
        progress = Progress(lr=options.lr, accumulate=options.accumulate)
        if options.find_lr:
            progress.lr, progress.pilot = find_lr(self.stepper, self._loss, progress)
        self._note(progress, self._loss())
        return progress

    def look(self, progress: Progress) -> None:
        loss = self._loss()
        if self.best and loss < progress.best:
            self.best = self._state()
        options = self.stepper.options
        self._note(progress, loss)
        self.stepper.accelerator.log(
            {"watched_loss": loss, "learning_rate": progress.lr * rate_factor(options, progress)}, step=progress.step
        )

    def _note(self, progress: Progress, loss: float) -> None:
        options, attached = self.stepper.options, self.tunable.attached
        progress.check(loss, options.patience)
        if options.trajectory and attached is not None:
            self.tunable.trajectory.append(attached.z.detach().cpu().clone())

    def save(self, progress: Progress) -> None:
        accelerator = self.stepper.accelerator
        if accelerator.is_main_process:
            inner = self.stepper.optimizer.optimizer
            save_checkpoint(self.checkpoint, *packed(self.tunable, inner, self.best, progress, self.name, accelerator.scaler))

    @torch.no_grad()
    def put_back_best(self) -> None:
        for name, value in self.best.items():
            self.tunable.trainable[name].copy_(value)
        self.tunable.write()

    def _loss(self) -> float:
        stepper = self.stepper
        main = stepper.accelerator.is_main_process
        return broadcast(stepper.accelerator, evaluate(stepper.model, stepper.scorer, self.watched)["loss"].value if main else None)

    def _state(self) -> dict[str, Tensor]:
        return {name: p.detach().clone() for name, p in self.tunable.trainable.items()}


def _entries(tunable: TunableModel) -> str | None:
    """Return which entries are tuned, as a short sha256 (two placements have tensors of the same shape), or the projection's name."""
    if isinstance(tunable.attached, Projected):
        return tunable.attached.projection.name
    return tunable.placement and tunable.placement.coordinates.digest[:16]


@contextmanager
def interruptible() -> Iterator[Callable[[], bool]]:
    """Ctrl-C asks for a stop after the step in hand; a second one stops at once."""
    seen: list[int] = []

    def handler(number: int, frame: Any) -> None:
        seen.append(number)
        signal.signal(signal.SIGINT, previous)

    try:
        previous = signal.signal(signal.SIGINT, handler)
    except ValueError:  # not the main thread: Ctrl-C is someone else's
        yield lambda: False
        return
    try:
        yield lambda: bool(seen)
    finally:
        signal.signal(signal.SIGINT, previous)
