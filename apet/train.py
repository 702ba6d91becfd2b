"""The training loop: AdamW until the watched loss stops falling, resumable bitwise, on accelerate.

Batches are a function of (train seed, step). The learning rate warms up, then falls by a factor each time the
watched loss has stalled, and the run ends at its plateau: after the last reduction stalls too. What is watched is a
part of the training data that is never reported (early stop; the best state is kept), or the training loss itself
(for runs compared with predictions, which speak of the minimum).
"""

from __future__ import annotations

import json
import math
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from apet.errors import ApetError
from apet.files import atomic_path
from apet.methods import Mounted
from apet.scoring import Scorer, cross_entropy, evaluate
from apet.tasks import Example

STALL, FACTOR, REDUCTIONS = 0.005, 0.3, 2  # a stall: `patience` checks without a gain of this part of the first loss
POOL = 4  # batches that are sorted by length together
CHECKPOINT_SECONDS = 20.0


class Interrupted(ApetError):
    """Ctrl-C: the state is saved, the same command goes on from there."""

    exit_code = 130


@dataclass(frozen=True)
class TrainOptions:
    """All that decides a run beside model, data and method. `steps` is the most; `check` is steps between looks."""

    lr: float
    steps: int = 2000
    batch: int = 32
    warmup: int = 20
    clip: float = 1.0
    weight_decay: float = 0.0
    check: int = 50
    patience: int = 3
    train_seed: int = 0
    precision: str = "no"  # accelerate's mixed precision: no, bf16, fp16


@dataclass
class Progress:
    """The loop's own state: what a checkpoint must hold beside the tensors."""

    step: int = 0
    reductions: int = 0
    stalled: int = 0
    best: float = math.inf  # of the watched loss, at any check
    anchor: float = math.inf  # the watched loss that the next check must beat by a stall's width
    history: list[tuple[int, float]] = field(default_factory=list)  # (step, watched loss), from step 0

    def check(self, watched: float, patience: int) -> None:
        self.history.append((self.step, watched))
        self.best = min(self.best, watched)
        if watched < self.anchor - STALL * self.history[0][1]:
            self.anchor, self.stalled = watched, 0
            return
        self.stalled += 1
        if self.stalled >= patience:
            self.reductions, self.stalled = self.reductions + 1, 0

    @property
    def plateau(self) -> bool:
        return self.reductions > REDUCTIONS


def train(
    model: nn.Module,
    mounted: Mounted,
    scorer: Scorer,
    examples: Sequence[Example],
    watched: Sequence[Example],
    options: TrainOptions,
    checkpoint: Path,
    keep_best: bool,
    report: Callable[[Progress], None] = lambda progress: None,
) -> Progress:
    """Train `mounted` in place on `examples`; stop when the loss on `watched` has stalled, or after `options.steps`.

    With `keep_best` the state of the lowest watched loss is put back at the end. Resumes from `checkpoint` if it
    exists. Raises Interrupted on Ctrl-C (state saved) and ApetError when the loss is not finite.
    """
    from accelerate import Accelerator

    accelerator = Accelerator(cpu=scorer.device == "cpu", mixed_precision=options.precision)
    parameters = list(mounted.trainable.values())
    optimizer = accelerator.prepare(torch.optim.AdamW(parameters, lr=options.lr, weight_decay=options.weight_decay))
    encoded = scorer.encode(examples)
    lengths = np.array([len(ids) for ids in encoded])
    best = {name: p.detach().clone() for name, p in mounted.trainable.items()} if keep_best else {}
    progress = _resume(checkpoint, mounted, optimizer.optimizer, best)
    if not progress.history:
        progress.check(evaluate(model, scorer, watched)["loss"], options.patience)
    saved = time.monotonic()
    with _interruptible() as stopped:
        checkpoint.parent.mkdir(parents=True, exist_ok=True)
        while progress.step < options.steps and not progress.plateau:
            for group in optimizer.param_groups:
                group["lr"] = _learning_rate(options, progress)
            chosen = batch_indices(lengths, options.batch, options.train_seed, progress.step)
            _one_step(accelerator, optimizer, parameters, model, scorer, encoded, examples, options, chosen, progress.step)
            mounted.write()
            progress.step += 1
            if progress.step % options.check == 0:
                loss = evaluate(model, scorer, watched)["loss"]
                if keep_best and loss < progress.best:
                    best = {name: p.detach().clone() for name, p in mounted.trainable.items()}
                progress.check(loss, options.patience)
                report(progress)
            if stopped() or time.monotonic() - saved > CHECKPOINT_SECONDS:
                _save(checkpoint, mounted, optimizer.optimizer, best, progress)
                saved = time.monotonic()
            if stopped():
                raise Interrupted(f"interrupted at step {progress.step}; saved: the same command with --resume goes on")
    with torch.no_grad():
        for name, value in best.items():
            mounted.trainable[name].copy_(value)
    mounted.write()
    return progress


def batch_indices(lengths: Sequence[int] | np.ndarray, size: int, seed: int, step: int) -> np.ndarray:
    """Which examples make batch `step`: int64 (min(size, examples),), each example at most once an epoch, whole batches only.

    Every epoch is a fresh permutation, cut into pools of POOL batches; a pool's batches hold examples of similar length,
    so that little is padded, and come in random order.
    """
    count = len(lengths)
    size = min(size, count)
    epoch, place = divmod(step, count // size)
    random = np.random.default_rng([seed, 0x42415443, epoch])
    order = random.permutation(count)[: count // size * size]
    pools = [order[i : i + POOL * size] for i in range(0, len(order), POOL * size)]
    batches = np.concatenate([pool[np.argsort(np.asarray(lengths)[pool], kind="stable")] for pool in pools]).reshape(-1, size)
    return batches[random.permutation(len(batches))[place]]


def _learning_rate(options: TrainOptions, progress: Progress) -> float:
    return options.lr * min(1.0, (progress.step + 1) / max(1, options.warmup)) * FACTOR**progress.reductions


def _one_step(accelerator, optimizer, parameters, model, scorer, encoded, examples, options: TrainOptions, chosen, step: int) -> None:
    """One AdamW step on the exact mean over the global batch, whatever the number of processes."""
    mine = chosen[accelerator.process_index :: accelerator.num_processes]
    batch = scorer.batch([encoded[i] for i in mine], [examples[i] for i in mine])
    with accelerator.autocast():
        loss_sum, _ = cross_entropy(scorer.logits(model, batch), batch)
    if not torch.isfinite(loss_sum):
        raise ApetError(f"the loss is {loss_sum.item()} at step {step}: lower --lr (now {options.lr})")
    optimizer.zero_grad()
    accelerator.backward(loss_sum / len(chosen))
    if accelerator.num_processes > 1:
        for parameter in parameters:
            parameter.grad = accelerator.reduce(parameter.grad, "sum")
    accelerator.clip_grad_norm_(parameters, options.clip)
    optimizer.step()


@contextmanager
def _interruptible() -> Iterator[Callable[[], bool]]:
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


def _save(path: Path, mounted: Mounted, optimizer: torch.optim.Optimizer, best: dict[str, Tensor], progress: Progress) -> None:
    tensors = {f"trainable.{name}": p.detach() for name, p in mounted.trainable.items()}
    tensors |= {f"best.{name}": value for name, value in best.items()}
    tensors["rng"] = torch.get_rng_state()
    for index, slots in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{slot}": value for slot, value in slots.items()}
    with atomic_path(path) as temporary:
        save_file({k: v.clone() for k, v in tensors.items()}, temporary, {"progress": json.dumps(vars(progress))})


@torch.no_grad()
def _resume(path: Path, mounted: Mounted, optimizer: torch.optim.Optimizer, best: dict[str, Tensor]) -> Progress:
    if not path.exists():
        return Progress()
    slots: dict[int, dict[str, Tensor]] = {}
    with safe_open(path, "pt") as file:
        for key in file.keys():  # noqa: SIM118 (a safetensors file is no mapping)
            kind, _, name = key.partition(".")
            value = file.get_tensor(key)
            if kind == "trainable":
                mounted.trainable[name].copy_(value)
            elif kind == "best":
                best[name] = value
            elif kind == "optimizer":
                index, slot = name.split(".")
                slots.setdefault(int(index), {})[slot] = value
            else:
                torch.set_rng_state(value)
        progress = Progress(**json.loads(file.metadata()["progress"]))
        progress.history = [(step, loss) for step, loss in progress.history]  # JSON knows no tuples
    optimizer.load_state_dict({"state": slots, "param_groups": optimizer.state_dict()["param_groups"]})
    mounted.write()
    return progress
