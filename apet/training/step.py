"""One optimizer step on the exact mean over the effective batch, however it is split over processes and in time."""

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
from apet.scoring import Item, Scorer, cross_entropy
from apet.tasks import Example
from apet.training.batches import Batches, parts
from apet.training.options import Progress, TrainOptions, rate_factor

if TYPE_CHECKING:
    from accelerate import Accelerator


HEAD_RATE = 3e-3  # AdamW's learning rate for a classification head, whatever else is tuned


class Stepper:
    """Takes the steps of a run. The loss of a step is sum of losses / sum of weights over its `options.batch` examples.

    The weights are known beforehand, so each part of a batch is divided by the whole batch's weight and nothing is
    averaged afterwards.
    """

    def __init__(
        self, accelerator: Accelerator, model: nn.Module, tunable: TunableModel, scorer: Scorer, examples: Sequence[Example],
        options: TrainOptions,
    ):  # fmt: skip
        self.accelerator, self.model, self.tunable, self.scorer, self.options = accelerator, model, tunable, scorer, options
        tuned = [p for name, p in tunable.trainable.items() if name not in tunable.head]
        head = [p for name, p in tunable.trainable.items() if name in tunable.head]
        self.parameters = [*tuned, *head]
        groups = [{"params": each} for each in (tuned, head) if each]
        optimizer = torch.optim.AdamW(groups, lr=options.lr, weight_decay=options.weight_decay)
        self.optimizer: Any = accelerator.prepare(optimizer)
        self.encoded = scorer.encode(examples)
        self.lengths = np.array([scorer.length(item) for item in self.encoded])
        self.batches = Batches(self.lengths, options.batch, options.train_seed)
        self.weights = np.array([scorer.weight(item) for item in self.encoded])

    def step(self, progress: Progress) -> bool:
        """Take the step that `progress` is at; False, and the parameters as they were, if loss or gradient is not finite.

        Where memory runs out the batch is worked off in twice as many parts, from now on (`progress.accumulate`).
        Raises ApetError if it does so for a single example.
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
        """Drop the gradients and the optimizer's memory of earlier ones."""
        self.optimizer.zero_grad()
        self.optimizer.optimizer.state.clear()

    def gradient(self, chosen: np.ndarray, progress: Progress) -> float:
        """Return the mean loss over the `chosen` examples; its gradient in the parameters."""
        most = -(-len(chosen) // self.accelerator.num_processes)  # examples of a process
        while True:
            loss, short = self._attempt(chosen, progress.accumulate)
            if not short:
                self._sum_gradients()
                return loss
            if progress.accumulate >= most:
                raise ApetError(f"out of memory with one example at a time: checkpoint gradients, {SMALLER}")
            progress.accumulate = min(2 * progress.accumulate, most)

    def _attempt(self, chosen: np.ndarray, count: int) -> tuple[float, bool]:
        """Return (mean loss over `chosen`, whether memory ran out in any process), its gradient worked off in `count` parts."""
        self.optimizer.zero_grad()
        mine = chosen[self.accelerator.process_index :: self.accelerator.num_processes]
        weight, losses, short = float(self.weights[chosen].sum()), [], False
        try:
            for part in parts(mine, count):
                losses.append(self._backward(part, weight))
        except RuntimeError as error:
            if not out_of_memory(error):
                raise
            short = True
        if short:  # after the handler: until then the traceback holds the activations
            self.model.zero_grad()  # of frozen tensors too: those of a projected subspace hold a gradient until it is pulled back
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
            loss_sum, _ = cross_entropy(self.scorer.logits(self.model, batch), batch)
        loss = loss_sum / weight
        self.accelerator.backward(loss)
        return loss.detach()

    def _sum_gradients(self) -> None:
        """Every process's gradients become those of all; a parameter that nothing depends on gets zeros, with one process too."""
        for parameter in self.parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            parameter.grad = sum_over_processes(self.accelerator, parameter.grad)
