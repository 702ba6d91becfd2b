"""Pretrain a ladder model from a seed, with bitwise exact resumption, on two cores or one GPU.

With plain AdamW the loss of miniature models stalls near the unigram level. Larger models stall longer, which would look like an effect
of scale. T5 is trained by Adafactor, which scales each update by the RMS of the parameters. BERT and BLOOM were made later and are
trained by Muon (Jordan et al. 2024), which leaves that level several times sooner.
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
from torch.optim import Optimizer

from apet.errors import UsageError
from apet.files import atomic_path
from apet.models import Stretch, build_ladder_model
from apet.pretraining.corpus import windows
from apet.pretraining.pretext import PRETEXTS, Pretext
from apet.random_numbers import generator

HELDOUT_SEED = 20261120
HALVES = 0.75  # default share of the steps with half windows, for a family that starts with half windows


def schedule(steps: int, peak: float) -> tuple[Stretch, ...]:
    """Return the default schedule: linear warm-up, a constant rate until half of the steps, then a linear decrease to 0."""
    warmup = min(200, steps // 10 + 1)
    middle = max(steps // 2, warmup)
    return ((warmup, peak, "linear"), (middle - warmup, peak, "linear"), (steps - middle, 0.0, "linear"))


@dataclass(frozen=True)
class Recipe:
    """The options that determine the weights. The learning rate starts at 0 and follows `schedule`.

    If the family starts with half windows, the first `half_steps` steps have them (None: three quarters of all steps).
    """

    family: str
    size: str
    schedule: tuple[Stretch, ...]
    seed: int = 0
    half_steps: int | None = None

    @property
    def pretext(self) -> Pretext:
        return PRETEXTS[self.family]

    @property
    def steps(self) -> int:
        return sum(steps for steps, _, _ in self.schedule)

    @property
    def halves(self) -> int:
        """Number of steps with half windows."""
        if not self.pretext.halves_first:
            return 0
        return int(HALVES * self.steps) if self.half_steps is None else self.half_steps

    @property
    def tokens(self) -> int:
        """Number of text tokens that all steps read."""
        return self.steps * self.pretext.batch * self.pretext.length


def learning_rate(recipe: Recipe, step: int) -> float:
    """Return the learning rate of step 0, 1, ... Each segment starts at the final rate of the previous segment."""
    rate = 0.0
    for steps, end, shape in recipe.schedule:
        if step < steps:
            progress = (step + 1) / steps
            return rate + (end - rate) * (math.sqrt(progress) if shape == "sqrt" else progress)
        rate, step = end, step - steps
    return rate


def _adafactor(model: nn.Module) -> list[Optimizer]:
    """Adafactor, updates scaled by the parameters' RMS."""
    return [torch.optim.Adafactor(model.parameters(), lr=1.0)]


def _muon(model: nn.Module) -> list[Optimizer]:
    """Muon for the blocks' matrices, AdamW at half the rate for the rest."""
    embeddings = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    matrices = [p for p in model.parameters() if p.ndim == 2 and min(p.shape) > 2 and id(p) not in embeddings]
    chosen = {id(p) for p in matrices}
    rest = [p for p in model.parameters() if id(p) not in chosen]
    return [
        torch.optim.Muon(matrices, lr=1.0, weight_decay=0.0, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(rest, lr=0.5, betas=(0.9, 0.98), weight_decay=0.0),
    ]


# The optimizers' rates are relative to the rate of the schedule. Cards of models hold the docstrings of these functions.
OPTIMIZERS = {"t5": _adafactor, "bert": _muon, "bloom": _muon}


def pretrain(
    recipe: Recipe,
    train: np.ndarray,
    heldout: np.ndarray,
    checkpoint: Path,
    device: str = "cpu",
    minutes: float = math.inf,
    report: Callable[[int, float], None] = lambda step, loss: None,
) -> tuple[nn.Module, list[dict], bool]:
    """Train until `recipe.steps` are done or `minutes` have passed. Return the model, its held-out curve and whether it is finished.

    The run resumes from `checkpoint` (one safetensors file) if the file exists. The curve's rows are {"step", "tokens", "heldout_loss",
    "stderr"}; the loss is the mean cross-entropy in nats per target token on a fixed sample. Raises UsageError if the checkpoint belongs
    to another recipe.
    """
    torch.manual_seed(recipe.seed)
    model = build_ladder_model(recipe.family, recipe.size).to(device)
    optimizers = OPTIMIZERS[recipe.family](model)
    step, curve = _resume(checkpoint, recipe, model, optimizers)
    started = saved = time.monotonic()
    while step < recipe.steps:
        for optimizer in optimizers:
            optimizer.param_groups[0]["lr"] = learning_rate(recipe, step) * optimizer.defaults["lr"]
        losses = _losses(model, train, recipe.pretext, recipe.seed, step, device, halves=step < recipe.halves)
        loss = torch.stack(list(losses.values())).sum()
        model.zero_grad()
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()
        step += 1
        if step % 20 == 0:
            report(step, loss.item())
        if step % 500 == 0 or step == recipe.steps:
            mean, stderr = heldout_loss(model, heldout, recipe, device)
            curve.append({"step": step, "tokens": step * (recipe.tokens // recipe.steps), "heldout_loss": mean, "stderr": stderr})
        now = time.monotonic()
        if now - saved > 120 or now - started > 60 * minutes or step == recipe.steps:
            _save(checkpoint, recipe, model, optimizers, step, curve)
            saved = now
        if now - started > 60 * minutes:
            break
    return model, curve, step == recipe.steps


def _losses(
    model: nn.Module, stream: np.ndarray, pretext: Pretext, seed: int, step: int, device: str, halves: bool = False
) -> dict[str, Tensor]:
    tokens = windows(stream, seed, step, pretext.batch, pretext.length)
    if halves:
        tokens = tokens.reshape(2 * pretext.batch, pretext.length // 2)
    batch = pretext.make_batch(tokens, generator(seed, 1, step))
    with torch.autocast(torch.device(device).type, dtype=torch.bfloat16):
        return pretext.losses(model, {name: torch.as_tensor(array, device=device) for name, array in batch.items()})


@torch.no_grad()
def heldout_loss(model: nn.Module, stream: np.ndarray, recipe: Recipe, device: str, batches: int = 16) -> tuple[float, float]:
    """Return the loss on `batches` fixed held-out batches and its standard error over batches.

    The sample does not depend on the recipe's seed or size, so the losses of models of a family are comparable.
    """
    losses = [_losses(model, stream, recipe.pretext, HELDOUT_SEED, step, device)["language"].item() for step in range(batches)]
    return float(np.mean(losses)), float(np.std(losses, ddof=1) / math.sqrt(batches))


def _save(path: Path, recipe: Recipe, model: nn.Module, optimizers: list[Optimizer], step: int, curve: list) -> None:
    tensors = {f"model.{name}": p.detach() for name, p in model.named_parameters()}
    for number, optimizer in enumerate(optimizers):
        for index, slots in optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{number}.{index}.{name}": value for name, value in slots.items()}
    state = {"recipe": asdict(recipe), "step": step, "curve": curve}
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary:
        save_file({k: v.contiguous() for k, v in tensors.items()}, temporary, {"state": json.dumps(state)})


def _resume(path: Path, recipe: Recipe, model: nn.Module, optimizers: list[Optimizer]) -> tuple[int, list]:
    if not path.exists():
        return 0, []
    with safe_open(path, "pt") as file:
        state = json.loads(file.metadata()["state"])
        if state["recipe"] != json.loads(json.dumps(asdict(recipe))):
            raise UsageError(f"{path} belongs to another recipe ({state['recipe']})", out=..., force=True)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                parameter.copy_(file.get_tensor(f"model.{name}"))
        states: list[dict[int, dict[str, Tensor]]] = [{} for _ in optimizers]
        for key in file.keys():  # noqa: SIM118 (a safetensors file is not a mapping)
            if key.startswith("optimizer."):
                _, number, index, name = key.split(".")
                states[int(number)].setdefault(int(index), {})[name] = file.get_tensor(key)
        for optimizer, slots in zip(optimizers, states, strict=True):
            optimizer.load_state_dict({"state": slots, "param_groups": optimizer.state_dict()["param_groups"]})
    return state["step"], state["curve"]
