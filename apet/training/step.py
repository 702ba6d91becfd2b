"""One optimizer step on the exact mean loss of a batch, for any division of the batch into parts and among processes."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from apet.errors import ApetError
from apet.machine import SMALLER, out_of_memory, release_memory, sum_over_processes
from apet.methods import TunableModel
from apet.scoring import Item, Scorer
from apet.tasks import Example
from apet.training.batches import Batches, parts
from apet.training.options import Progress, TrainOptions, rate_factor

if TYPE_CHECKING:
    from accelerate import Accelerator


HEAD_RATE = 3e-3  # AdamW's learning rate for a classification head, for all methods


class Stepper:
    """Take the steps of a run. The loss of a step is (sum of losses) / (sum of weights) over its `options.batch` examples.

    The weights are known in advance, so the loss of each part of a batch is divided by the whole batch's weight. The gradients of the
    parts then only need to be added.
    """

    def __init__(
        self, accelerator: Accelerator, model: nn.Module, tunable: TunableModel, scorer: Scorer, examples: Sequence[Example],
        options: TrainOptions,
    ):  # fmt: skip
        self.accelerator, self.model, self.tunable, self.scorer, self.options = accelerator, model, tunable, scorer, options
        tuned = [p for name, p in tunable.trainable.items() if name not in tunable.head]
        head = [p for name, p in tunable.trainable.items() if name in tunable.head]
        self.parameters = [*tuned, *head]
        groups = [{"params": parameters} for parameters in (tuned, head) if parameters]
        optimizer = torch.optim.AdamW(groups, lr=options.lr, weight_decay=options.weight_decay)
        self.optimizer: Any = accelerator.prepare(optimizer)
        self.encoded = scorer.encode(examples)
        self.lengths = np.array([scorer.length(item) for item in self.encoded])
        self.batches = Batches(self.lengths, options.batch, options.train_seed)
        self.weights = np.array([scorer.weight(item) for item in self.encoded])

    def step(self, progress: Progress) -> bool:
        """Take the next step of `progress`. Return False, without a change of the parameters, if loss or gradient is not finite.

        If memory runs out, this step and all later steps split the batch into twice as many parts (`progress.accumulate`). Raises
        ApetError if memory runs out for a single example.
        """
        started = time.perf_counter()
        chosen = self.batches.at(progress.step)
        if not math.isfinite(self.gradient(chosen, progress)):
            return False
        norm: Any = self.accelerator.clip_grad_norm_(self.parameters, self.options.clip)
        scaler = self.accelerator.scaler
        if scaler is None and not math.isfinite(norm):
            return False
        for group, rate in zip(self.optimizer.param_groups, (progress.lr, HEAD_RATE), strict=False):
            group["lr"] = rate * rate_factor(self.options, progress)
        self.optimizer.step()
        self.tunable.write()
        progress.step += 1
        progress.seconds += time.perf_counter() - started
        return scaler is None or scaler.get_scale() >= 1  # fp16 skips a step that overflows and halves its scale

    def forget(self) -> None:
        """Delete the gradients and the optimizer's state."""
        self.optimizer.zero_grad()
        self.optimizer.optimizer.state.clear()

    def gradient(self, chosen: np.ndarray, progress: Progress) -> float:
        """Return the mean loss over the `chosen` examples, and set its gradient in the parameters.

        `progress.accumulate` grows if memory runs out. Raises ApetError if memory runs out for a single example.
        """
        most = -(-len(chosen) // self.accelerator.num_processes)  # examples per process
        while True:
            loss, short = self._attempt(chosen, progress.accumulate)
            if not short:
                self._sum_gradients()
                return loss
            if progress.accumulate >= most:
                raise ApetError(f"out of memory with one example at a time: use gradient checkpointing, {SMALLER}")
            progress.accumulate = min(2 * progress.accumulate, most)

    def _attempt(self, chosen: np.ndarray, count: int) -> tuple[float, bool]:
        """Return the mean loss over `chosen`, and whether memory ran out in any process. Compute the gradient in `count` parts."""
        self.optimizer.zero_grad()
        local = chosen[self.accelerator.process_index :: self.accelerator.num_processes]
        weight, losses, short = float(self.weights[chosen].sum()), [], False
        try:
            for part in parts(local, count):
                losses.append(self._backward(part, weight))
        except RuntimeError as error:
            if not out_of_memory(error):
                raise
            short = True
        if short:  # not in the handler, where the traceback still holds the activations
            self.model.zero_grad()  # also of frozen tensors: in a projected subspace they hold a gradient until it is pulled back
            release_memory()
        loss = torch.stack(losses).sum() if losses else torch.zeros((), device=self.accelerator.device)
        loss, shorts = sum_over_processes(self.accelerator, torch.stack([loss, torch.full_like(loss, short)])).tolist()
        return loss, shorts > 0

    def _backward(self, part: np.ndarray, weight: float) -> torch.Tensor:
        items = [self.encoded[i] for i in part]
        return torch.stack([self._backward_of(group, weight) for group in self.scorer.groups(items, len(items))]).sum()

    def _backward_of(self, items: Sequence[Item], weight: float) -> torch.Tensor:
        batch = self.scorer.collate(items)
        with self.accelerator.autocast():
            loss_sum, _ = self.scorer.loss(self.model, batch)
        loss = loss_sum / weight
        self.accelerator.backward(loss)
        return loss.detach()

    def _sum_gradients(self) -> None:
        """Replace the gradients by their sums over all processes. A parameter without influence on the loss gets a zero gradient."""
        for parameter in self.parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            parameter.grad = sum_over_processes(self.accelerator, parameter.grad)
