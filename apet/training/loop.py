"""The training loop: AdamW, on accelerate, until the monitored loss stops falling. A resumed run has bitwise equal results.

Batches are a function of (train seed, step). By default the learning rate warms up, then falls by a factor each time the monitored loss
stalls. The run ends at the plateau, when the loss stalls after the last reduction.

There are two monitored losses. For early stopping it is the loss on a part of the training data that is never reported, and the best
state is kept. For comparison with predictions, which refer to the minimum, it is the training loss. A run whose loss exceeds its bound
has diverged: it ends at this step, and `Progress.diverged` is set.
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
    """Train `tunable` in place on `examples` until the loss on `watched` stalls or `options.steps` are done.

    With `keep_best` the state of the lowest monitored loss is restored at the end. The run resumes from `checkpoint` if the file exists,
    and writes it every `checkpoint_every` seconds (0: after each step). `track` names one of accelerate's trackers, which writes to the
    folder `logs` (by default next to the checkpoint). Under `accelerate launch` each process computes its share of every batch, and only
    the main process writes. A run that diverges ends with `Progress.diverged` set.

    Raises Interrupted on Ctrl-C (the state is saved), UsageError for incompatible options, and ApetError if memory does not suffice or
    the checkpoint belongs to another run.
    """
    accelerator = accelerator_for(scorer.device, options.precision, track, logs or checkpoint.parent / "logs")
    run = _Run(Stepper(accelerator, model, tunable, scorer, examples, options), watched, checkpoint, keep_best)
    with interruptible() as stopped, checkpointed(model, options.gradient_checkpointing), tracking(accelerator, asdict(options)):
        begun = time.perf_counter()
        progress = run.begin()
        begun -= progress.elapsed  # of the checkpoint
        saved = time.monotonic()
        while not over(options, progress):
            if not run.stepper.step(progress):
                progress.diverged = progress.step
                break
            if progress.step % options.check == 0 or progress.step >= options.steps:  # the loss is also checked after the last step
                run.look(progress)
                report(progress)
            progress.elapsed = time.perf_counter() - begun
            stop = any_process(accelerator, stopped())
            if stop or time.monotonic() - saved >= checkpoint_every:
                run.save(progress)
                saved = time.monotonic()
            if stop:
                raise Interrupted(f"interrupted at step {progress.step}; the state is saved", resume=True)
    run.put_back_best()
    return progress


class _Run:
    """The parts of a run outside its progress: the stepper, the best state so far, the checkpoint's path, and the run's identity."""

    def __init__(self, stepper: Stepper, watched: Sequence[Example], checkpoint: Path, keep_best: bool):
        self.stepper, self.watched, self.checkpoint, self.tunable = stepper, watched, checkpoint, stepper.tunable
        self.best = self._state() if keep_best else {}
        self.name = {**asdict(stepper.options), "keep_best": keep_best, "entries": _entries(stepper.tunable)}

    def begin(self) -> Progress:
        """Return the progress: from the checkpoint if it exists, else a new one.

        A new run searches a learning rate with `options.find_lr`, and checks the monitored loss at step 0.
        """
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
        """Check the monitored loss, log it, and keep the state if it is the best so far."""
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
    """Return a short sha256 of the tuned entries' positions, or the projection's name.

    Shapes do not identify a placement: two placements may have tensors of the same shape.
    """
    if isinstance(tunable.attached, Projected):
        return tunable.attached.projection.name
    return tunable.placement and tunable.placement.coordinates.digest[:16]


@contextmanager
def interruptible() -> Iterator[Callable[[], bool]]:
    """Yield a function that returns whether Ctrl-C was pressed, so that a run can stop after its current step.

    A second Ctrl-C stops at once.
    """
    signals: list[int] = []

    def handler(number: int, frame: Any) -> None:
        signals.append(number)
        signal.signal(signal.SIGINT, previous)

    try:
        previous = signal.signal(signal.SIGINT, handler)
    except ValueError:  # only the main thread can handle Ctrl-C
        yield lambda: False
        return
    try:
        yield lambda: bool(signals)
    finally:
        signal.signal(signal.SIGINT, previous)
