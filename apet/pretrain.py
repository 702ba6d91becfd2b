"""Span-corruption pretraining of a ladder model: seeded, resumable bitwise, two cores or one GPU.

Adafactor scales each update by the RMS of the parameters; plain AdamW stalls near the unigram level on
miniature T5 models, the larger the worse, which would look like a finding about scale.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from apet.corpus import span_corruption, windows
from apet.errors import UsageError
from apet.files import atomic_path

# A stretch of the learning rate: (steps, rate at its end, how it gets there). "sqrt" moves fast first.
Stretch = tuple[int, float, str]
SCHEDULE: tuple[Stretch, ...] = ((200, 2e-2, "linear"), (3800, 2e-2, "linear"), (4000, 0.0, "linear"))


def shorter(steps: int) -> tuple[Stretch, ...]:
    """The default schedule's shape in another number of steps: warm-up, plateau to the half, linear to 0."""
    warmup = min(200, steps // 10 + 1)
    return ((warmup, 2e-2, "linear"), (max(0, steps // 2 - warmup), 2e-2, "linear"), (steps - max(warmup, steps // 2), 0.0, "linear"))


@dataclass(frozen=True)
class Recipe:
    """All that decides the weights: the learning rate (relative to the parameters' RMS) rises from 0 along `schedule`."""

    size: str
    schedule: tuple[Stretch, ...] = SCHEDULE
    batch: int = 48
    length: int = 64
    seed: int = 0

    @property
    def steps(self) -> int:
        return sum(steps for steps, _, _ in self.schedule)

    @property
    def tokens(self) -> int:
        """Raw text seen."""
        return self.steps * self.batch * self.length


def learning_rate(recipe: Recipe, step: int) -> float:
    """The rate of step 0, 1, ...: each stretch goes from where the last one ended to its own end."""
    rate = 0.0
    for steps, end, shape in recipe.schedule:
        if step < steps:
            progress = (step + 1) / steps
            return rate + (end - rate) * (math.sqrt(progress) if shape == "sqrt" else progress)
        rate, step = end, step - steps
    return rate


def pretrain(
    recipe: Recipe,
    train: np.ndarray,
    heldout: np.ndarray,
    checkpoint: Path,
    device: str = "cpu",
    minutes: float = math.inf,
    report: Callable[[int, float], None] = lambda step, loss: None,
) -> tuple[nn.Module, list[dict], bool]:
    """Train until `recipe.steps` or `minutes`; returns the model, its held-out curve and whether it is finished.

    Resumes from `checkpoint` (one safetensors file) when it holds the same recipe. The curve's rows are
    {"step", "tokens", "heldout_loss", "stderr"}: mean cross-entropy in nats per target token on a fixed sample.
    """
    from transformers import T5ForConditionalGeneration

    from apet.ladder import t5_config

    torch.manual_seed(recipe.seed)
    model: nn.Module = T5ForConditionalGeneration(t5_config(recipe.size))
    nn.Module.to(model, device)
    optimizer = torch.optim.Adafactor(model.parameters(), lr=learning_rate(recipe, 0))
    step, curve = _resume(checkpoint, recipe, model, optimizer)
    started = saved = time.monotonic()
    while step < recipe.steps:
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(recipe, step)
        loss = _loss(model, train, recipe, step, device)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        step += 1
        if step % 20 == 0:
            report(step, loss.item())
        if step % 500 == 0 or step == recipe.steps:
            mean, stderr = heldout_loss(model, heldout, recipe, device)
            curve.append({"step": step, "tokens": step * recipe.batch * recipe.length, "heldout_loss": mean, "stderr": stderr})
        now = time.monotonic()
        if now - saved > 120 or now - started > 60 * minutes or step == recipe.steps:
            _save(checkpoint, recipe, model, optimizer, step, curve)
            saved = now
        if now - started > 60 * minutes:
            break
    return model, curve, step == recipe.steps


def _loss(model: nn.Module, stream: np.ndarray, recipe: Recipe, step: int, device: str) -> Tensor:
    tokens = windows(stream, recipe.seed, step, recipe.batch, recipe.length)
    inputs, targets = span_corruption(tokens, np.random.default_rng([recipe.seed, 1, step]))
    with torch.autocast(torch.device(device).type, dtype=torch.bfloat16):
        return model(input_ids=torch.as_tensor(inputs, device=device), labels=torch.as_tensor(targets, device=device)).loss


@torch.no_grad()
def heldout_loss(model: nn.Module, stream: np.ndarray, recipe: Recipe, device: str, batches: int = 16) -> tuple[float, float]:
    """Span-corruption loss on `batches` fixed held-out batches and its standard error over batches.

    The sample does not depend on the recipe's seed or size, so that models of a ladder can be compared.
    """
    fixed = Recipe(size=recipe.size, length=recipe.length, seed=20261120)
    losses = [_loss(model, stream, fixed, step, device).item() for step in range(batches)]
    return float(np.mean(losses)), float(np.std(losses, ddof=1) / math.sqrt(batches))


def _save(path: Path, recipe: Recipe, model: nn.Module, optimizer: torch.optim.Optimizer, step: int, curve: list) -> None:
    tensors = {f"model.{name}": p.detach() for name, p in model.named_parameters()}
    for index, slots in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{name}": value for name, value in slots.items()}
    state = {"recipe": asdict(recipe), "step": step, "curve": curve}
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary:
        save_file({k: v.contiguous() for k, v in tensors.items()}, temporary, {"state": json.dumps(state)})


def _resume(path: Path, recipe: Recipe, model: nn.Module, optimizer: torch.optim.Optimizer) -> tuple[int, list]:
    if not path.exists():
        return 0, []
    with safe_open(path, "pt") as file:
        state = json.loads(file.metadata()["state"])
        if state["recipe"] != json.loads(json.dumps(asdict(recipe))):
            raise UsageError(f"{path} was made by another recipe ({state['recipe']}): use another --out, or --force")
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                parameter.copy_(file.get_tensor(f"model.{name}"))
        slots: dict[int, dict[str, Tensor]] = {}
        for key in file.keys():  # noqa: SIM118 (a safetensors file is no mapping)
            if key.startswith("optimizer."):
                _, index, name = key.split(".")
                slots.setdefault(int(index), {})[name] = file.get_tensor(key)
        optimizer.load_state_dict({"state": slots, "param_groups": optimizer.state_dict()["param_groups"]})
    return state["step"], state["curve"]
