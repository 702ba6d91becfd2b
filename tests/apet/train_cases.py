"""A model, a method and a few sentences made ready for the loop's tests."""

import numpy as np
import torch
from torch import Tensor

from apet.machine.processes import accelerator_for
from apet.methods import PlacementConfig, TunableModel, make_tunable
from apet.models.loading import load_model
from apet.scoring import Scorer, scorer_of
from apet.tasks.generated.sentiment import generate
from apet.tasks.task_table import TASKS, Task
from apet.training.batches import Batches
from apet.training.options import Progress, TrainOptions
from apet.training.step import Stepper

OPTIONS = TrainOptions(lr=0.02, steps=30, batch=8, warmup=2, check=10)
ROWS = generate("train", 40)
# Texts of different length, so that a batch's parts have unlike weights.
ANSWERS = Task("copy", "{sentence} {slot}", ("sentence",), target="answer", metric="exact_match")
ANSWER_ROWS = [{**row, "answer": " ".join(row["sentence"].split()[: 1 + i % 7])} for i, row in enumerate(ROWS)]


def ready(
    method: str = "apet", k: int | None = 2000, task: Task = TASKS["mini-sentiment"], name: str = "mini-t5-240k",
    subspace: str = "coordinates",
):  # fmt: skip
    loaded = load_model(name, random_init=True)
    torch.manual_seed(0)
    placed = method == "apet" or subspace != "coordinates"
    mounted = make_tunable(method, loaded.model, PlacementConfig(k if placed else None, subspace=subspace))
    return mounted.model, mounted, scorer_of(loaded, task)


def stepper(model, mounted: TunableModel, scorer: Scorer, rows=ROWS, options: TrainOptions = OPTIONS) -> Stepper:
    return Stepper(accelerator_for("cpu", options.precision), model, mounted, scorer, rows, options)


def chosen(stepper: Stepper, step: int) -> np.ndarray:
    return Batches(stepper.lengths, stepper.options.batch, stepper.options.train_seed).at(step)


def gradient(stepper: Stepper, accumulate: int = 1, step: int = 0) -> Tensor:
    """The gradient of the batch at `step`, before it is clipped."""
    stepper.gradient(chosen(stepper, step), Progress(accumulate=accumulate))
    return torch.cat([p.grad.flatten() for p in stepper.parameters if p.grad is not None])


def state(mounted: TunableModel) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in mounted.trainable.items()}


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
