"""One function runs one spec: everything that computes, from a single command to a study, goes through `run`."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from analyses.spec import Spec
from analyses.store import Row, Store, spec_dict
from apet.errors import UsageError

Report = Callable[[str, float, float], None]  # what is being done, done so far, of how much


@dataclass(frozen=True)
class Inputs:
    """What a spec's names stand for on this machine."""

    loaded: Any  # apet.models.Loaded
    data: Any  # apet.tasks.TaskData
    device: str


def inputs(spec: Spec, data: Path | None, device: str = "cpu") -> Inputs:
    """Load the spec's model and data (cached in this process; a run leaves the model as it found it, or drops it)."""
    return Inputs(_model(spec.model, spec.random_init, spec.train_seed if spec.random_init else 0, device), _task(spec.task, data), device)


@lru_cache(maxsize=4)
def _task(name: str, folder: Path | None) -> Any:
    from apet.tasks import load_task

    return load_task(name, folder)


@lru_cache(maxsize=4)
def _model(name: str, random_init: bool, seed: int, device: str) -> Any:
    from apet.models import load_model

    return load_model(name, random_init, seed, device)


def run_id(spec: Spec, found: Inputs) -> str:
    return spec.run_id(found.loaded.fingerprint, found.data.fingerprint)


def check(spec: Spec, found: Inputs) -> dict[str, Any]:
    """What the run will do, before it does it: sizes, memory, cost. Raises UsageError for a k outside the space."""
    from apet.space import ParameterSpace

    space = ParameterSpace.of(found.loaded.model)
    spec = spec.resolved()
    if spec.k is not None and spec.k > space.size:
        raise UsageError(f"k = {spec.k} is over the {space.size} parameters in scope of {spec.model}")
    train, _ = subsets(spec, found)
    if spec.examples is not None and spec.examples > len(train):
        raise UsageError(f"examples = {spec.examples}, but {spec.task} has {len(train)} training examples")
    return {
        "run_id": run_id(spec, found),
        "spec": spec_dict(spec),
        "parameters": found.loaded.parameters,
        "in_scope": space.size,
        "train_examples": len(train),
        "gradient_equivalents": _cost(spec, len(train)),
        "memory_gb": round(found.loaded.parameters * 16 / 1e9 + 0.5, 2),
    }


def _cost(spec: Spec, examples: int) -> int:
    """At most how many example-gradients the run takes (a curvature product counts four)."""
    if spec.kind == "train":
        return spec.steps * spec.batch
    if spec.kind == "predict":
        return examples
    return 4 * examples * spec.lanczos_steps * (1 + spec.probes)


WATCHED_SHARE, WATCHED_MOST = 0.1, 500
CALIBRATION = 256  # examples on which the label words' prior is measured


def subsets(spec: Spec, found: Inputs) -> tuple[list, list]:
    """(examples trained on, examples watched). Drawn by a seed of the data, the same for every run of the task.

    With early stop the two are disjoint parts of the training split; without, the watched are the trained.
    """
    examples = _shuffled(found)
    if not (spec.kind == "train" and spec.early_stop):
        return examples[: spec.examples], examples[: spec.examples]
    watched = min(WATCHED_MOST, max(1, int(WATCHED_SHARE * len(examples))))
    return examples[watched:][: spec.examples], examples[:watched]


def _shuffled(found: Inputs) -> list:
    """The training split in the one order from which every subset of the task is cut."""
    examples = found.data.splits["train"]
    return [examples[i] for i in np.random.default_rng(20261120).permutation(len(examples))]


def run(
    spec: Spec, store: Store, data: Path | None = None, device: str = "cpu", report: Report = lambda *_: None, force: bool = False
) -> str:
    """Run `spec` unless it is done (or `force`), commit its rows and arrays to `store`, return the run id."""
    spec = spec.resolved()
    found = inputs(spec, data, device)
    check(spec, found)
    name = run_id(spec, found)
    if force:
        store.forget(name)
    if store.done(name):
        return name
    started = time.monotonic()
    rows, arrays = {"train": _train, "predict": _predict, "spectrum": _spectrum}[spec.kind](spec, found, store.folder(name), report)
    env = {"seconds": time.monotonic() - started, "device": device, "data": str(data) if data else None, **versions()}
    store.commit(name, spec_dict(spec), [replace(row, run_id=name) for row in rows], arrays, env)
    return name


def versions() -> dict[str, str]:
    import torch
    import transformers

    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "machine": platform.machine(),
    }


def _scorer(spec: Spec, found: Inputs) -> Any:
    from apet.scoring import Scorer

    start = found.loaded.model.config.decoder_start_token_id
    scorer = Scorer(found.data.task, found.loaded.tokenizer, start, spec.max_length, found.device)
    scorer.calibrate(found.loaded.model, _shuffled(found)[:CALIBRATION])
    return scorer


def _row(spec: Spec, found: Inputs) -> Callable[..., Row]:
    """Rows of this run: the identifying columns filled in."""
    name = f"{spec.model} (random init)" if spec.random_init else spec.model

    def make(quantity: str, value: float, **columns: Any) -> Row:
        return Row(name, found.loaded.parameters, spec.task, quantity, float(value), **columns)

    return make


def _train(spec: Spec, found: Inputs, folder: Path, report: Report) -> tuple[list[Row], dict[str, np.ndarray]]:
    import copy

    import torch

    from apet.methods import mount
    from apet.scoring import chance, evaluate
    from apet.train import TrainOptions, train

    torch.manual_seed(spec.train_seed)  # LoRA draws its first factor from it
    model, scorer = copy.deepcopy(found.loaded.model), _scorer(spec, found)
    examples, watched = subsets(spec, found)
    held_out = found.data.splits["validation"]
    before = {"train": evaluate(model, scorer, examples), "validation": evaluate(model, scorer, held_out)}
    mounted = mount(spec.method, model, spec.k, spec.position_seed)
    assert spec.lr is not None
    precision = {"float32": "no", "bfloat16": "bf16", "float16": "fp16"}[spec.dtype]
    options = TrainOptions(
        spec.lr, spec.steps, spec.batch, check=_check_every(len(examples), spec.batch), train_seed=spec.train_seed, precision=precision
    )
    progress = train(
        model, mounted, scorer, examples, watched, options, folder / "checkpoint.safetensors", keep_best=spec.early_stop,
        report=lambda p: report(f"{spec.method} {mounted.k}: watched loss {p.history[-1][1]:.3f}", p.step, spec.steps),
    )  # fmt: skip
    after = {"train": evaluate(model, scorer, examples), "validation": evaluate(model, scorer, held_out)}
    gradient = _residual_gradient(model, mounted, scorer, examples)
    apet = spec.method == "apet"
    make = _row(spec, found)
    common = {
        "method": spec.method, "subspace": "coordinates" if apet else spec.method, "placement": "random entries" if apet else None,
        "k": mounted.k, "position_seed": spec.position_seed if apet else None, "train_seed": spec.train_seed,
    }  # fmt: skip
    rows = [make("chance", chance(held_out, found.data.task.classes), split="validation", **common)]
    for split in ("train", "validation"):
        for quantity in ("loss", "accuracy"):
            error = f"{quantity}_stderr"
            rows.append(make(f"initial_{quantity}", before[split][quantity], stderr=before[split][error], split=split, **common))
            rows.append(make(quantity, after[split][quantity], stderr=after[split][error], split=split, **common))
    rows += [
        make("plateau", progress.plateau, **common),
        make("residual_gradient", gradient, split="train", **common),
        make("steps", progress.step, **common),
        make("example_gradients", progress.step * spec.batch, **common),
    ]
    arrays = {"history": np.array(progress.history)}
    if apet:
        arrays["z"] = mounted.trainable["z"].detach().cpu().numpy()
    return rows, arrays


def _check_every(examples: int, batch: int) -> int:
    """Steps between looks at the watched loss: four epochs of a small subset, at most 100."""
    return int(min(100, max(20, 4 * examples // batch)))


def _residual_gradient(model: Any, mounted: Any, scorer: Any, examples: list) -> float:
    """|gradient| of the mean training loss in the trainable coordinates at the end: how far from the minimum."""
    import torch

    from apet.scoring import cross_entropy

    for parameter in mounted.trainable.values():
        parameter.grad = None
    for batch in scorer.batches(examples, 64):
        (cross_entropy(scorer.logits(model, batch), batch)[0] / len(examples)).backward()
    squares = [p.grad.double().square().sum() for p in mounted.trainable.values() if p.grad is not None]
    return float(torch.stack(squares).sum().sqrt())


def _predict(spec: Spec, found: Inputs, folder: Path, report: Report) -> tuple[list[Row], dict[str, np.ndarray]]:
    from apet.jacobian import gram_matrix
    from apet.scoring import predictions
    from apet.space import ParameterSpace
    from landscape.dual import gradient_spectrum

    model, scorer = found.loaded.model, _scorer(spec, found)
    examples, _ = subsets(spec, found)
    space = ParameterSpace.of(model)
    gram = gram_matrix(model, space, scorer, examples, lambda done, total: report("Gram matrix", done, total)).numpy()
    logits, labels = (t.numpy() for t in predictions(model, scorer, examples))
    spectrum = gradient_spectrum(gram, logits, labels)
    make = _row(spec, found)
    rows = [
        make("initial_loss", spectrum.loss, split="train"),
        make("rank_ceiling", spectrum.rank_ceiling),
        make("in_scope", space.size),
        make("example_gradients", spectrum.rank_ceiling),
        *[make("gram_eigenvalue", value, x=i + 1) for i, value in enumerate(spectrum.eigenvalues) if value > 0],
        *[make("gradient_projection", value, x=i + 1) for i, value in enumerate(spectrum.projections)],
    ]
    return rows, {"gram": gram, "logits": logits, "labels": labels}


def _spectrum(spec: Spec, found: Inputs, folder: Path, report: Report) -> tuple[list[Row], dict[str, np.ndarray]]:
    import torch

    from apet.coordinates import Coordinates
    from apet.placement import random_entries
    from apet.scoring import cross_entropy
    from apet.space import ParameterSpace
    from landscape.lanczos import top_eigenpairs
    from landscape.objective import Objective
    from landscape.operators import GaussNewton, Hessian, check_operator
    from landscape.quadrature import density, effective_dimension, negative_mass, slq, trace

    model, scorer = found.loaded.model, _scorer(spec, found)
    assert spec.k is not None
    space = ParameterSpace.of(model)
    coordinates = Coordinates(space, random_entries(space.size, spec.k, spec.position_seed), found.device)
    examples, _ = subsets(spec, found)
    objective = Objective(
        lambda z, batch: scorer.logits(model, batch, coordinates.perturbed(model, z)), cross_entropy,
        list(scorer.batches(examples, spec.batch)), spec.k, device=found.device,
    )  # fmt: skip
    z = torch.zeros(spec.k)
    operator = {"hessian": Hessian, "ggn": GaussNewton}[spec.matrix](objective, z)
    total = spec.lanczos_steps * (1 + spec.probes)
    defect = check_operator(operator, spec.train_seed).symmetry_defect
    top = top_eigenpairs(
        operator, min(10, spec.k), spec.lanczos_steps, spec.train_seed, progress=lambda done, of: report("Lanczos", done, total)
    )
    measure = slq(
        operator,
        spec.probes,
        spec.lanczos_steps,
        spec.train_seed,
        progress=lambda done, of: report("quadrature", spec.lanczos_steps + done, total),
    )
    make = _row(spec, found)
    common = {
        "k": spec.k,
        "position_seed": spec.position_seed,
        "train_seed": spec.train_seed,
        "method": "apet",
        "subspace": "coordinates",
        "note": spec.matrix,
    }
    largest = float(np.abs(measure.nodes).max())
    grid = _symlog_grid(largest)
    values, errors = density(measure, grid, sigma=largest / 50)
    mass, total_trace = negative_mass(measure), trace(measure, lambda x: x)
    rows = [
        make("symmetry_defect", defect, **common),
        make("trace", total_trace.value, stderr=total_trace.stderr, **common),
        make("negative_mass", mass.value, stderr=mass.stderr, **common),
        make("gradient_norm", objective.gradient(z).norm().item(), **common),
        *[make("eigenvalue", v, x=i + 1, stderr=r, **common) for i, (v, r) in enumerate(zip(top.eigenvalues, top.residuals, strict=True))],
        *[make("density", v, x=at, stderr=e, **common) for at, v, e in zip(grid, values, errors, strict=True)],
    ]
    for kappa in np.geomspace(largest * 1e-4, largest, 25):
        estimate = effective_dimension(measure, float(kappa))
        rows.append(make("n_eff", estimate.value, x=kappa, stderr=estimate.stderr, **common))
    return rows, {"nodes": measure.nodes, "weights": measure.weights, "eigenvalues": np.asarray(top.eigenvalues)}


def _symlog_grid(largest: float, points: int = 120) -> np.ndarray:
    side = np.geomspace(largest * 1e-4, 1.2 * largest, points)
    return np.concatenate([-side[::-1], [0.0], side])
