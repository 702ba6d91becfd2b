"""The command line: parses, builds a Spec, calls analyses. No maths here, and torch is imported inside commands only."""

from __future__ import annotations

import functools
import json
import math
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from apet.errors import ApetError, MissingInput, UsageError, lookup

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="How much of a pretrained language model must be tuned, and what its loss landscape says about it.",
)
log = Console(stderr=True, markup=False)  # names and texts of users are printed as they are

Model = Annotated[
    str | None,
    typer.Option(help="A ladder model (see 'models'), an alias such as t5-xl, a Hugging Face id, or a folder. \\[default: mini-t5-790k]"),
]
Task = Annotated[str | None, typer.Option(help="A task (see 'tasks'). \\[default: sst2]")]
Data = Annotated[Path | None, typer.Option(help="Folder with train.jsonl and validation.jsonl in the task's field names.")]
RandomInit = Annotated[
    bool | None, typer.Option("--random-init", help="Keep the architecture, draw fresh weights: the model's untrained twin.")
]
Examples = Annotated[
    int | None,
    typer.Option(
        help="Use a fixed subset of this many training examples. \\[default: all; 128 for intrinsic-dim, 64 for spectrum and slice]"
    ),
]
Seed = Annotated[int | None, typer.Option(help="Sets both the position seed and the train seed.")]
PositionSeed = Annotated[int | None, typer.Option(help="Names the order of entries: which k are tuned. \\[default: 0]")]
TrainSeed = Annotated[int | None, typer.Option(help="Names the order of batches, new weights and random probes. \\[default: 0]")]
Operations = Annotated[
    str | None,
    typer.Option(
        metavar="A+B",
        help="apet: what there is to tune. add: the model's own entries; and new ones, bias: zero biases where there are none, prefix: keys and "
        "values beside every self-attention's, prompt: rows beside its inputs, plug: bottlenecks behind every part. \\[default: add]",
    ),
]
Scope = Annotated[
    str | None,
    typer.Option(
        help="apet: where. Terms that must all hold: attention, feed-forward, encoder, decoder, layers:0-3, weights, biases, norms, positions, "
        "embeddings, token-tables, head, all, a pattern such as *.q.weight; a|b is either, !a is not. \\[default: all but token tables]"
    ),
]
Subspace = Annotated[
    str | None,
    typer.Option(
        help="Where z lives. coordinates: the k entries that apet tunes. Or a random projection from k dimensions to all parameters in scope "
        "(of another method: to those it would tune): fastfood, fastfood-tensor (each tensor its own), said (and a learned scale a layer), "
        "countsketch, gaussian (slow), fastfood-legacy (with the defects of public code). \\[default: coordinates]"
    ),
]
Unit = Annotated[
    str | None, typer.Option(help="apet: what is chosen at once: entry, row, column, block (16 x 16) or tensor. \\[default: entry]")
]
Order = Annotated[
    str | None,
    typer.Option(
        help="apet: which come first: random; layer or kind (these take turns); magnitude, gradient or fisher (largest first); "
        "reference (the paper's code: whole tensors). \\[default: random]"
    ),
]
Steps = Annotated[
    int | None,
    typer.Option(
        help="At most this many training steps; a run ends earlier at its plateau. A prediction on text takes as many of L-BFGS at each point of its path. \\[default: 1000]"
    ),
]
Batch = Annotated[int | None, typer.Option(help="Examples a step. \\[default: 32; 16 for intrinsic-dim]")]
Rate = Annotated[float | None, typer.Option("--lr", help="Learning rate. \\[default: by method and k]")]
FindRate = Annotated[bool | None, typer.Option("--find-lr", help="First try five rates around it for 40 steps each, and take the best.")]
Trajectory = Annotated[bool | None, typer.Option("--trajectory", help="apet: keep the tuned values at every look, for 'spectrum --along'.")]
Schedule = Annotated[
    str | None,
    typer.Option(
        help="plateau (the rate falls and the run ends as the watched loss stalls), constant, linear or cosine. \\[default: plateau]"
    ),
]
Optimizer = Annotated[
    str | None,
    typer.Option(
        help="adamw, or lbfgs: all examples at once, to the minimum of the training loss (with --no-early-stop; --steps are its iterations). \\[default: adamw]"
    ),
]
Accumulate = Annotated[int | None, typer.Option(help="Work a batch off in this many parts; more if memory runs out. \\[default: 1]")]
Checkpointing = Annotated[bool | None, typer.Option("--gradient-checkpointing", help="Compute activations again instead of keeping them.")]
Readout = Annotated[
    str | None,
    typer.Option(
        help="How BERT answers: head (a classification head, trained along and counted apart) or words (at [MASK]). \\[default: head]"
    ),
]
MaxLength = Annotated[int | None, typer.Option(help="Pieces of an example; the longest field loses its end. \\[default: 128]")]
Weights = Annotated[str | None, typer.Option(help="What the base model is held in: float32, bfloat16 or float16. \\[default: float32]")]
Attention = Annotated[str | None, typer.Option(help="eager, or sdpa: faster, but curvature is not to be had of it. \\[default: eager]")]
Track = Annotated[str | None, typer.Option(help="A tracker of accelerate's, such as tensorboard, that follows the run.")]
KeepEnd = Annotated[
    bool | None,
    typer.Option(
        "--keep-end",
        help="full, bitfit, lora: keep where the run ended as a displacement of the model's own tensors (4 bytes an entry), for 'slice --at' and '--to'.",
    ),
]
Dtype = Annotated[str | None, typer.Option(help="float32, bfloat16 or float16 (autocast; tuned values stay float32). \\[default: float32]")]
TARGETS = (
    "What k* shall reach. fraction:.9 (this part of full fine-tuning's improvement of the training loss), loss:.35 (this training loss); "
    "of the validation metric: of-full:.9 (this part of full fine-tuning's), below-full:.01 (so much less, the high threshold), "
    "above-chance:.1 (chance and this part of what is missing to 1, the low threshold). \\[default: fraction:0.9]"
)
Device = Annotated[str, typer.Option(help="auto, cpu or cuda.")]
Out = Annotated[Path, typer.Option(help="Folder of results.")]
Config = Annotated[Path | None, typer.Option(help="YAML file with fields of the run; options on the command line win.")]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="FIELD=VALUE", help="Set any field of the run, for instance --set batch=8; wins over all."),
]
Resume = Annotated[bool, typer.Option("--resume/--force", help="Go on from what is there, or throw it away and start again.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout; logs go to stderr.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print what would be run, its size and cost, and stop.")]


def command(name: str) -> Callable:
    """Register a command whose errors are one line on stderr and the contract's exit code."""

    def register(function: Callable) -> Callable:
        @app.command(name)
        @functools.wraps(function)
        def guarded(*args: Any, **kwargs: Any) -> None:
            from analyses.studies import terminable

            try:
                with terminable():
                    function(*args, **kwargs)
            except ApetError as error:
                _say("" if error.exit_code == 130 else "error:", str(error))
                raise typer.Exit(error.exit_code) from None
            except KeyboardInterrupt:
                log.print("interrupted; finished runs are kept, the same command (without --force) goes on from there")
                raise typer.Exit(130) from None

        return guarded

    return register


@command("train")
def train(
    model: Model = None, task: Task = None, data: Data = None, random_init: RandomInit = None,
    method: Annotated[str | None, typer.Option(help="apet, full, lora, adapter, bitfit, prompt or prefix. \\[default: apet]")] = None,
    subspace: Subspace = None,
    k: Annotated[int | None, typer.Option(help="apet: how many parameters are tuned; of a projected subspace, its dimensions.")] = None,
    matched: Annotated[str | None, typer.Option(metavar="METHOD", help="apet: tune as many parameters as this method does.")] = None,
    operations: Operations = None, scope: Scope = None, unit: Unit = None, order: Order = None,
    early_stop: Annotated[bool | None, typer.Option("--early-stop/--no-early-stop", help="Watch a part of the training data, keep the best state; or go to the plateau of the training loss. \\[default: early stop]")] = None,
    test: Annotated[bool | None, typer.Option("--test", help="Evaluate on the test split as well, where its labels are there.")] = None,
    readout: Readout = None, max_length: MaxLength = None, examples: Examples = None,
    seed: Seed = None, position_seed: PositionSeed = None, train_seed: TrainSeed = None,
    steps: Steps = None, batch: Batch = None, accumulate: Accumulate = None, gradient_checkpointing: Checkpointing = None,
    optimizer: Optimizer = None, lr: Rate = None, find_lr: FindRate = None, schedule: Schedule = None, trajectory: Trajectory = None, keep_end: KeepEnd = None, dtype: Dtype = None, weights: Weights = None, attention: Attention = None,
    track: Track = None, device: Device = "auto", out: Out = Path("results"), config: Config = None, set_: Set = None,
    resume: Resume = True, json_: Json = False, dry_run: DryRun = False,
) -> None:  # fmt: skip
    """Tune a model on a task and evaluate it on the validation split.

    Under 'accelerate launch' each process takes its share of every batch. With --dry-run a few steps are rehearsed on this machine, unless
    the model is too large for it.
    """
    from analyses.runs import check, inputs, rehearse, run, too_large
    from apet.machine import main_process

    spec = _spec("train", {}, seed, config, set_, **_given(locals()))
    store = _store(out / "train")
    if dry_run:
        shapes_only = too_large(spec)
        found = inputs(spec, data, _device(device), shapes_only)
        return _print(check(spec, found) | ({} if shapes_only else rehearse(spec.resolved(), found)), json_)
    with _bar() as report:
        name = run(spec, store, data, _device(device), report, force=not resume, track=track)
    if not main_process():  # the main one commits, and tells
        return
    summary = _train_summary(name, store)
    _print(summary, json_)
    if summary["diverged"] is not None:
        raise ApetError(f"the run diverged at step {summary['diverged']}: lower --lr, or try --find-lr")


def _train_summary(name: str, store: Any) -> dict[str, Any]:
    """The command's JSON object: the task's metrics, what they are compared with, and how the run went."""
    rows = store.rows(name)
    found = {(row.quantity, row.split): row for row in rows}
    splits = [split for split in ("validation", "test") if ("loss", split) in found]
    measured = {(q, split): row for (q, split), row in found.items() if split in splits}
    loss, k_head, diverged = found["loss", "validation"], found.get(("k_head", None)), found.get(("diverged", None))
    out: dict[str, Any] = {
        "run_id": name,
        "model": loss.model,
        "parameters": loss.parameters,
        "task": loss.task,
        "method": loss.method,
        "k": loss.k,
    }
    if k_head:
        out["k_head"] = int(k_head.value)
    if ("requested_k", None) in found:
        out |= {"requested_k": int(found["requested_k", None].value), "entries": _histogram(rows)}
    for (quantity, split), row in measured.items():
        key = quantity if split == "validation" else f"{split}_{quantity}"
        out |= {key: row.value, f"{key}_stderr": row.stderr}
    return out | {
        "train_loss": found["loss", "train"].value,
        "learning_rate": found["learning_rate", None].value if ("learning_rate", None) in found else None,
        "steps": int(found["steps", None].value),
        "plateau": bool(found["plateau", None].value),
        "diverged": int(diverged.value) if diverged else None,
        "results": str(store.folder(name)),
    }


def _histogram(rows: list[Any]) -> dict[str, dict[str, int]]:
    """Where the tuned entries are: {"layer": {"encoder 0": ...}, "kind": {"attention": ...}}."""
    found: dict[str, dict[str, int]] = {}
    for row in rows:
        if row.quantity == "entries":
            by, _, label = row.note.partition(": ")
            found.setdefault(by, {})[label] = int(row.value)
    return found


@command("intrinsic-dim")
def intrinsic_dim(
    model: Model = None, task: Task = None, data: Data = None, random_init: RandomInit = None, examples: Examples = None, scope: Scope = None,
    target: Annotated[str | None, typer.Option(metavar="KIND:AMOUNT", help=TARGETS)] = None,
    fraction: Annotated[float | None, typer.Option(help="Short for --target fraction:AMOUNT. \\[default: 0.9]", min=0.01, max=0.99)] = None,
    runs: Annotated[int | None, typer.Option(help="At most this many APET runs, in rounds of 4, 3, 3, ... \\[default: 14]", min=4)] = None,
    k_min: Annotated[int | None, typer.Option(help="The smallest k tried. \\[default: 4]", min=1)] = None,
    k_max: Annotated[int | None, typer.Option(help="The largest k tried. \\[default: 4096]", min=1)] = None,
    subspace: Subspace = None,
    measure: Annotated[bool, typer.Option("--measure/--no-measure", help="Train over k and regress the crossing.")] = True,
    predict: Annotated[bool, typer.Option("--predict/--no-predict", help="Predict without training: from the Gauss-Newton matrix at the pretrained point and along the linearised model's path.")] = True,
    path: Annotated[bool | None, typer.Option("--path", help="Predict along the proximal path of the model itself, too: gradients of all parameters, as many as a few training runs take.")] = None,
    optimizer: Optimizer = None,
    find_lr: Annotated[bool | None, typer.Option("--find-lr/--no-find-lr", help="Before each run try five rates around the default for its k, 40 steps each. \\[default: no-find-lr]")] = None,
    seed: Seed = None, train_seed: TrainSeed = None, steps: Steps = None, batch: Batch = None, lr: Rate = None, dtype: Dtype = None,
    device: Device = "auto", out: Out = Path("results"), config: Config = None, set_: Set = None, resume: Resume = True,
    json_: Json = False, dry_run: DryRun = False,
) -> None:  # fmt: skip
    """Measure the smallest number k* of parameters that reaches a target, with an interval, and predict it without training.

    The 95 % interval is of a search in rounds; where no k reaches the target, every k does, or the untuned model meets it, the answer
    says so in place of a number. A metric target is mapped to the training loss at which full fine-tuning crosses it.
    Everything is on a fixed set of training examples without early stop, because the prediction speaks of the training
    loss at its minimum. With n examples of C classes no prediction can exceed n (C - 1); above 30 % of that, and where the
    quadratic at the pretrained point does not reach the target (often at a fraction of .7 or more), it is censored.
    """
    from analyses.runs import check, inputs
    from analyses.studies import Search
    from analyses.thresholds import Target, plan
    from analyses.thresholds import intrinsic_dim as search

    if not (measure or predict):
        raise UsageError("nothing to do with both --no-measure and --no-predict")
    if not measure and (runs or k_min or k_max):
        raise UsageError("--runs, --k-min and --k-max have no effect with --no-measure: they are for the search")
    lowest, highest = k_min or Search.lowest, k_max or Search.highest
    if highest <= lowest:
        raise UsageError(f"--k-max {highest} is not above --k-min {lowest}")
    aim = Search(_target(target, fraction) or Target("fraction", 0.9), "full", runs or Search.runs, lowest, highest)
    defaults = {"examples": 128, "early_stop": False, "batch": 16, "readout": "words"}
    spec = _spec("train", defaults, seed, config, set_, several=True, **_given(locals()))
    store = _store(out / "intrinsic-dim")
    if dry_run:
        found = inputs(spec, data, _device(device))
        known = [check(each, found) for each in plan(spec, aim, predict, measure, data)]
        later = (
            max(0, aim.runs - sum(each["spec"]["method"] == "apet" and each["spec"]["kind"] == "train" for each in known)) if measure else 0
        )
        return _print(
            {
                "runs": known,
                "later_runs": later,
                "gradient_equivalents": sum(each["gradient_equivalents"] for each in known) + later * spec.steps * spec.batch,
            },
            json_,
        )
    with _bar() as report:
        count: list[int] = [0, 0]
        result, _ = search(
            spec, store, aim, predict, measure, data, _device(device),
            lambda what, done, total: report(f"run {count[0] + 1} of {count[1] or '?'}: {what}", done, total), not resume,
            lambda done, total: count.__setitem__(slice(None), [done, total]),
        )  # fmt: skip
    _print(result, json_)


@command("spectrum")
def spectrum(
    model: Model = None, task: Task = None, data: Data = None, random_init: RandomInit = None, examples: Examples = None,
    k: Annotated[int | None, typer.Option(help="How many coordinates the subspace has.")] = None,
    subspace: Subspace = None, operations: Operations = None, scope: Scope = None, unit: Unit = None, order: Order = None,
    at: Annotated[Path | None, typer.Option(metavar="RUN", help="Folder of a finished run of 'train --method apet': curvature where it ended, in the coordinates that it tuned.")] = None,
    at_step: Annotated[int | None, typer.Option("--step", help="With --at: at this step of the run's trajectory (made by 'train --trajectory').")] = None,
    along: Annotated[bool, typer.Option("--along", help="With --at: at every step of the trajectory, one spectrum each.")] = False,
    matrix: Annotated[str | None, typer.Option(help="hessian, ggn (Gauss-Newton) or fisher (empirical Fisher). \\[default: hessian]")] = None,
    samples: Annotated[int | None, typer.Option(help="ggn: from this many labels of the model's own an example, with its error. \\[default: exact labels' mean]")] = None,
    algorithm: Annotated[str | None, typer.Option(help="exact (all eigenvalues), lanczos (top pairs, density by quadrature) or auto (what costs less). \\[default: auto]")] = None,
    lanczos_steps: Annotated[int | None, typer.Option(help="Curvature products a Lanczos run. \\[default: 40]")] = None,
    probes: Annotated[int | None, typer.Option(help="Random probes of the density. \\[default: 4]")] = None,
    seed: Seed = None, position_seed: PositionSeed = None, train_seed: TrainSeed = None, batch: Batch = None, device: Device = "auto",
    out: Out = Path("results"), config: Config = None, set_: Set = None, resume: Resume = True, json_: Json = False, dry_run: DryRun = False,
) -> None:  # fmt: skip
    """Curvature of the loss in k random coordinates or another subspace, at the pretrained point or where a run ended: eigenvalues, density, N_eff.

    A Gauss-Newton matrix of label words is exact at the cost of a gradient; other matrices by k products where that is less than Lanczos
    takes. The job goes on where it was stopped. Under 'accelerate launch' each process takes its share of the batches.
    """
    from analyses.runs import check, fields_at, inputs, trajectory_steps
    from apet.machine import main_process

    given = _given(locals())
    store, defaults = _store(out / "spectrum"), {"examples": 64}
    if at is not None:
        at = at.resolve()
        store = _store(at.parent)
        defaults, given = defaults | fields_at(store, at.name), {**given, "at": at.name}
    elif along:
        raise UsageError("--along goes along the trajectory of a run: say which with --at")
    if along and at_step is not None:
        raise UsageError("--along takes every step of the trajectory, --step one: choose")
    spec = _spec("spectrum", defaults, seed, config, set_, **given)
    steps = trajectory_steps(store, spec.at) if along else [spec.at_step]
    if not steps:
        raise UsageError(f"{at} kept no trajectory: it is made by 'train --trajectory'")
    specs = [_as(spec, at_step=each) for each in steps]
    planned = check(spec, inputs(spec, data, _device(device)))
    if dry_run:
        return _print(planned, json_)
    log.print(f"{planned['algorithm']}: at most {planned['products']:,} products on {planned['train_examples']} examples", highlight=False)
    found = [_spectrum(each, store, data, device, resume) for each in specs]
    if main_process():
        _print(found[0] if not along else {"along": found}, json_)


def _spectrum(spec: Any, store: Any, data: Path | None, device: str, resume: bool) -> dict[str, Any]:
    from analyses.runs import run
    from apet.machine import main_process

    with _bar() as report:
        name = run(spec, store, data, _device(device), report, force=not resume)
    if not main_process():  # the main one commits, and tells
        return {}
    rows = store.rows(name)
    single = {row.quantity: row for row in rows if row.x != row.x}
    numbers = ("trace", "negative_mass", "effective_rank", "participation_ratio", "outliers", "decay_exponent")
    return {
        "run_id": name, "model": rows[0].model, "task": rows[0].task, "matrix": rows[0].note, "k": rows[0].k,
        "algorithm": single["products"].note.partition("; ")[2],
        "eigenvalues": [row.value for row in rows if row.quantity == "eigenvalue"],
        "residuals": [row.stderr for row in rows if row.quantity == "eigenvalue"],
        **{f"{name}{suffix}": value for name in numbers if name in single
           for suffix, value in (("", single[name].value), ("_stderr", single[name].stderr))},
        "symmetry_defect": single["symmetry_defect"].value, "results": str(store.folder(name)),
    }  # fmt: skip


@command("slice")
def slice_(
    model: Model = None, task: Task = None, data: Data = None, random_init: RandomInit = None, examples: Examples = None,
    k: Annotated[int | None, typer.Option(help="How many coordinates the subspace has.")] = None,
    operations: Operations = None, scope: Scope = None, unit: Unit = None, order: Order = None,
    at: Annotated[Path | None, typer.Option(metavar="RUN", help="Folder of a finished run of 'train --method apet', or of full, bitfit or lora with --keep-end: the slice goes through where it ended.")] = None,
    at_step: Annotated[int | None, typer.Option("--step", help="With --at: through this step of the run's trajectory (made by 'train --trajectory').")] = None,
    to: Annotated[list[Path] | None, typer.Option(metavar="RUN", help="optima: another run of the same model and task, for a line; twice for a plane, and so on. Other position seeds, k and methods (full, bitfit, lora with --keep-end) may be: the slice lies in what their entries span together.")] = None,
    dims: Annotated[int | None, typer.Option(help="1: a line; 2: a plane; 3 to 10: as many axes. Rows carry x and y, their note the places on further axes; the arrays have the whole grid. \\[default: 1]")] = None,
    directions: Annotated[str | None, typer.Option(help="random (--train-seed names them), tensor or filter (random, as long in each tensor or row as its values are), fisher or jacobi (random, shorter where curvature is high), hessian or ggn (top eigenvectors), gradient, trajectory (principal components of the run at --at), optima (through the runs in --to). \\[default: random]")] = None,
    reach: Annotated[float | None, typer.Option(help="How far each way, in units of |theta|, the norm of the tuned entries' values at the point; for trajectory and optima of the farthest place along the axis. \\[default: 1; 1.25 for trajectory and optima]")] = None,
    points: Annotated[int | None, typer.Option(help="Points a side, an odd number. \\[default: 41 on a line, 25 in a plane, 11 in three dimensions, 5 in more]")] = None,
    refine: Annotated[int | None, typer.Option(help="So many more places on each axis, where the loss bends most. \\[default: 0]")] = None,
    metric: Annotated[bool | None, typer.Option("--metric", help="Accuracies as well, at no cost.")] = None,
    numbers: Annotated[bool | None, typer.Option("--numbers", help="Sharpness, basin width, Hessian ratio and angular dimensions (of the quadratic, and of the loss itself by search) at the point as well, with their errors.")] = None,
    ratio_map: Annotated[int | None, typer.Option(metavar="POINTS", help="In a plane: |lowest / highest eigenvalue| of the Hessian at so many points a side, an odd number, 0 where the loss is convex; 60 gradients of all examples each, so 9 are plenty. \\[default: 0, none]")] = None,
    curve: Annotated[bool | None, typer.Option("--curve", help="optima on a line: train a curve of low loss between the two as well.")] = None,
    seed: Seed = None, position_seed: PositionSeed = None, train_seed: TrainSeed = None, batch: Batch = None, device: Device = "auto",
    out: Out = Path("results"), config: Config = None, set_: Set = None, resume: Resume = True, json_: Json = False, dry_run: DryRun = False,
) -> None:  # fmt: skip
    """The loss along a line, over a plane or in more dimensions through the pretrained point, or where a run ended; 'figures' draws it.

    Training and as many validation examples, with standard errors, beside the quadratic model of the point. Axes are true
    displacements of the tuned entries. The job goes on where it was stopped.
    """
    from analyses.runs import check, fields_at, inputs, run

    store, defaults, runs = _store(out / "slice"), {"examples": 64}, [path.resolve() for path in ([at] if at else []) + (to or [])]
    given = {name: value for name, value in _given(locals()).items() if name != "to"}
    if runs:
        if len({path.parent for path in runs}) > 1:
            raise UsageError(
                f"the runs of a slice lie in one folder of results, these in {' and '.join(sorted({str(p.parent) for p in runs}))}"
            )
        store = _store(runs[0].parent)
        defaults |= fields_at(store, runs[0].name, methods=True)
        given |= {"at": runs[0].name} if at else {}
        given |= {"to": "+".join(path.name for path in runs[1 if at else 0 :])} if to else {}
    spec = _spec("slice", defaults, seed, config, set_, **given)
    plan = check(spec, inputs(spec, data, _device(device)))
    if dry_run:
        return _print(plan, json_)
    log.print(f"{plan['points']:,} points of {plan['train_examples']} training examples and as many others", highlight=False)
    with _bar() as report:
        name = run(spec, store, data, _device(device), report, force=not resume)
    _print(_slice_summary(name, store), json_)


def _slice_summary(name: str, store: Any) -> dict[str, Any]:
    """The command's JSON object: where the slice is, its extremes, and the numbers of the point."""
    rows = store.rows(name)
    losses = [row for row in rows if row.quantity == "slice_loss" and row.split == "train"]
    finite = [row.value for row in losses if row.value == row.value]
    single = {
        row.quantity + ("_of_curve" if row.note.endswith("; curve") else "") + ("" if row.split == "train" else f"_{row.split}"): row
        for row in rows if row.x != row.x
    }  # fmt: skip
    numbers = {
        f"{quantity}{suffix}": value
        for quantity, row in single.items()
        for suffix, value in (("", row.value), *([("_stderr", row.stderr)] if row.stderr == row.stderr else []))
    }
    return {
        "run_id": name, "model": rows[0].model, "task": rows[0].task, "k": rows[0].k, "directions": rows[0].note, "points": len(losses),
        "lowest_loss": min(finite, default=None), "highest_loss": max(finite, default=None), "not_finite": len(losses) - len(finite),
        "explained_variance": [row.value for row in rows if row.quantity == "explained_variance"],
        **numbers, "results": str(store.folder(name)),
    }  # fmt: skip


@command("study")
def study(
    file: Annotated[Path, typer.Argument(help="A study file, for instance studies/demo.yaml.")],
    jobs: Annotated[int, typer.Option(help="Runs at a time, each in a process of its own with one thread.", min=1)] = 1,
    shard: Annotated[str, typer.Option(metavar="I/N", help="Only the I-th of N parts, for a scheduler's array of jobs over one folder of results.")] = "1/1",
    data: Annotated[Path | None, typer.Option(help="Folder with one folder a task (overrides the file's).")] = None,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Run those that failed again.")] = False,
    device: Device = "auto", out: Out = Path("results"), resume: Resume = True, json_: Json = False, dry_run: DryRun = False,
) -> None:  # fmt: skip
    """Run all of a study that is not done yet; failed runs are kept as rows with their error and do not stop the others.

    It can be stopped (Ctrl-C, SIGTERM) or killed at any time and started again, and started several times at once. With --dry-run it
    tells runs, hours and memory by model, from a rehearsal of some seconds for each.
    """
    from rich.live import Live

    from analyses.studies import Board, Options, plan, read_study, run_study, title, with_data
    from analyses.thresholds import QUANTITIES, finished, thresholds

    what = read_study(file)
    what = with_data(what, data) if data is not None else what
    store, part = _store(out / what.name), _shard(shard)
    if dry_run:
        return _print_plan(plan(what, store, jobs, _device(device)), json_)
    options = Options(_device(device), part, not resume, retry_failed, jobs > 1, 0 if resume and not retry_failed else store.now())
    board = Board(jobs)

    def tell(event: Any) -> None:
        board.take(event)
        if not log.is_terminal and event.kind in ("done", "failed"):  # a scheduler's log
            log.print(f"{event.kind} {title(event.spec)}: {board.headline}", highlight=False, soft_wrap=True)

    log.print(f"study {what.name}: {jobs} runs at a time, results in {store.root}", highlight=False, soft_wrap=True)
    with Live(board, console=log, transient=True, refresh_per_second=2):
        outcome = run_study(what, store, jobs, options, tell)
    runs = finished(store) if what.targets and not outcome.elsewhere else []
    with _bar() as progress:
        rows = [row for target in what.targets for row in thresholds(store, runs, target, report=progress)]
    for spec, error in outcome.failed:
        _say("failed:", f"{title(spec)}: {error}")
    _print(
        {
            "study": what.name, "results": str(store.root), "done": len(outcome.done), "failed": len(outcome.failed),
            "elsewhere": outcome.elsewhere, "thresholds": sum(row.quantity in {*QUANTITIES.values(), "k_pred"} for row in rows),
        },
        json_,
    )  # fmt: skip
    if outcome.elsewhere:
        log.print(f"{outcome.elsewhere} runs of other shards are not done yet: what follows from them waits for the next start")
    if outcome.failed:
        raise ApetError(f"{len(outcome.failed)} of {len(outcome.done) + len(outcome.failed)} runs failed (--retry-failed runs them again)")


def _shard(text: str) -> tuple[int, int]:
    index, slash, count = text.partition("/")
    if not slash or not index.isdigit() or not count.isdigit() or not 1 <= int(index) <= int(count):
        raise UsageError(f"--shard {text}: write I/N with I from 1 to N, for instance 1/4")
    return int(index), int(count)


def _print_plan(found: dict[str, Any], as_json: bool) -> None:
    if as_json:
        return _print(found, True)
    notes = {line["model"]: line.pop("note") for line in found["models"] if "note" in line}
    _print({name: value for name, value in found.items() if name != "models"}, False)
    if found["models"]:
        _listing("models", found["models"], False)
    for model, note in notes.items():
        log.print(f"{model}: {note}", highlight=False, soft_wrap=True)


Aim = Annotated[
    str | None,
    typer.Option("--target", metavar="KIND:AMOUNT", help="Threshold target, as in 'intrinsic-dim'. \\[default: the study's own]"),
]
Fraction = Annotated[float | None, typer.Option(help="Short for --target fraction:AMOUNT.", min=0.01, max=0.99)]
Results = Annotated[Path, typer.Argument(help="Folder of a study's results, for instance results/demo; or their rows in a .parquet file.")]


@command("figures")
def figures(
    results: Results,
    out: Annotated[Path, typer.Option(help="Where the PDF and PNG files go.")] = Path("figures/out"),
    only: Annotated[list[str] | None, typer.Option(help="Draw only these: performance, spectra, scale, layers, thresholds, crossing, predictions, cells (predicted against measured, all targets), paths, attribution, placements (F1), quadratics; slices (the loss along lines), contours (over planes), ratios (the Hessian's over planes), surfaces (over scale, on common axes), relief (in 3-D, and an interactive page).")] = None,
    target: Aim = None, fraction: Fraction = None,
    json_: Json = False, dry_run: DryRun = False,
) -> None:  # fmt: skip
    """Draw the figures that the rows of a study allow (PDF and PNG; of surfaces a page that can be turned, and opens offline)."""
    from figures import EVERY_TARGET, FIGURES, draw_all

    for name in only or []:
        lookup(FIGURES, name, "figure")
    rows = _rows(results, _target(target, fraction), every=bool(only) and set(only) <= set(EVERY_TARGET))
    if dry_run:
        return _print({"rows": len(rows), "out": str(out)}, json_)
    drawn = draw_all(rows, out, only)
    _print({"written": {name: [str(p) for p in paths] for name, paths in drawn.written.items()}, "skipped": drawn.skipped}, json_)


@command("explain")
def explain(
    results: Results,
    out: Annotated[Path | None, typer.Option(help="Where the figure's PDF and PNG go. \\[default: RESULTS/figures]")] = None,
    target: Aim = None, fraction: Fraction = None,
    json_: Json = False, dry_run: DryRun = False,
) -> None:  # fmt: skip
    """Say why k* changes with scale: the predicted change split over spectrum, alignment, gap and live entries, beside the measured one.

    For each pair of neighbouring sizes of a family, and the smallest against the largest, that have predictions and full fine-tuning on
    the same examples. The verdict is 'not explained' where predicted and measured change differ in sign, or their intervals are
    disjoint. Rows go to RESULTS/explain.parquet, which 'figures' reads.
    """
    from analyses.findings import EXPLAINED_ROWS
    from analyses.findings import explain as split
    from analyses.store import frame
    from apet.files import atomic_path
    from figures import draw_all

    store, runs, known = _targets(results, _target(target, fraction))
    targets = [each for each in known if each.on_loss]
    if not targets:
        raise UsageError(f"{results} states no threshold of the training loss: give its target, for instance --target fraction:0.9")
    if dry_run:
        foreseen = sum(run.spec["kind"] == "predict" for run in runs)
        return _print({"runs": len(runs), "predictions": foreseen, "target": str(targets[0])}, json_)
    rows, summaries = split(store, runs, targets[0], _thresholds(store, runs, targets))
    if not summaries:
        raise ApetError(f"nothing to compare in {results}: it takes predictions and full fine-tuning of two models of a family")
    table = frame(rows)
    with atomic_path(results / EXPLAINED_ROWS) as temporary:
        table.to_parquet(temporary)
    drawn = draw_all(table, out or results / "figures", ["attribution"])
    figure = [str(path) for paths in drawn.written.values() for path in paths]
    if json_:
        return _print({"target": str(targets[0]), "pairs": summaries, "figure": figure, "skipped": drawn.skipped}, True)
    _listing("pairs", [_explained(each) for each in summaries], False)
    for each in summaries:
        print(f"{each['small']} -> {each['large']} on {each['task']}, {each['subspace']}: {each['verdict']}: {each['why']}")
    for path in figure or drawn.skipped.values():
        print(f"figure: {path}")


def _explained(summary: dict[str, Any]) -> dict[str, str]:
    """A pair on a line: changes of log k* from the small to the large model's, with their intervals."""

    def part(name: str) -> str:
        if name not in summary:
            return "-"
        value, low, high = summary[name]
        return f"{value:+.2f}" + ("" if low is None or high is None else f" [{low:+.2f}, {high:+.2f}]")

    parts = ("spectrum", "alignment", "gap", "live")
    return {
        "task": summary["task"],
        "subspace": summary["subspace"],
        "small": summary["small"],
        "large": summary["large"],
        "measured": part("measured"),
        "predicted": part("total_by_rank"),
        **{name: part(f"{name}_by_rank") for name in parts},
    }


@command("report")
def report(
    results: Results,
    out: Annotated[Path | None, typer.Option(help="The page to write. \\[default: RESULTS/report.html]")] = None,
    target: Aim = None, fraction: Fraction = None,
    json_: Json = False, dry_run: DryRun = False,
) -> None:  # fmt: skip
    """Write one self-contained page with the study's figures and tables, and print the table of thresholds."""
    from figures import draw_all
    from figures.report import answers, summary_table, write_report
    from figures.rows import CannotDraw, tidy

    rows = _rows(results, _target(target, fraction))
    page = out or (results.parent if results.suffix == ".parquet" else results) / "report.html"
    if dry_run:
        return _print({"rows": len(rows), "out": str(page)}, json_)
    with _bar() as progress:
        drawn = draw_all(rows, page.parent / "figures", report=lambda name, done, of: progress(f"drawing {name}", done, of))
    images = {name: next(p for p in paths if p.suffix == ".png") for name, paths in drawn.written.items()}
    try:
        write_report(rows, page, f"Study {results.name}", images, skipped=drawn.skipped)
        table, found = summary_table(rows), answers(tidy(rows))
    except CannotDraw as reason:
        raise ApetError(f"no report of {results}: {reason}") from None
    if json_:
        return _print({"report": str(page), "table": table, "answers": [vars(each) for each in found]}, True)
    if table:
        _listing("table", [_short(row, len({each["setting"] for each in table}) > 1) for row in table], False)
    for row in table:
        if row["why_open"]:
            print(f"{row['model']} on {row['setting']}: {row['why_open']}")
    for each in found:
        print(f"{each.question} {each.word.capitalize()}. {each.sentence}")
    print(f"report: {page}")


@command("table")
def table(
    results: Results,
    out: Annotated[Path | None, typer.Option(help="Write it to this file: .csv, .parquet, .tex (booktabs) or .md.")] = None,
    split: Annotated[str | None, typer.Option(help="validation, or test where runs were made with --test. \\[default: validation]")] = None,
    rows: Annotated[bool, typer.Option("--rows", help="Every row of every run instead, as 'figures' reads them, to --out.")] = False,
    json_: Json = False, dry_run: DryRun = False,
) -> None:  # fmt: skip
    """Tabulate training runs: a line for each model, task, method and k, with standard errors, chance, seeds and minutes."""
    from analyses.results import table as tabulate
    from analyses.results import write_table

    if rows:
        if out is None:
            raise UsageError("--rows are many: say with --out where to, for instance rows.parquet")
        if split is not None:
            raise UsageError("--split has no effect with --rows, which are of all splits")
        found = _rows(results, None, every=True).to_dict("records")
        if not dry_run:
            write_table(found, out)
        return _print({"rows": len(found), "out": str(out)}, json_)
    lines = tabulate(_store(results), split or "validation")
    if not lines:
        raise MissingInput(f"no finished training run under {results}")
    if dry_run:
        return _print({"lines": len(lines), "out": str(out) if out else None}, json_)
    if out is not None:
        write_table(lines, out)
    _listing("table", lines if json_ else [_narrow(line, any(each["settings"] for each in lines)) for line in lines], json_)


def _narrow(line: dict[str, Any], settings: bool) -> dict[str, Any]:
    """A line of the table for a terminal's width: errors beside values, the head beside k."""
    return {
        "task": line["task"],
        "model": line["model"],
        "method": line["method"],
        "k": f"{line['k']:,}" + (f" + {line['k_head']:,}" if line["k_head"] else ""),
        "score": f"{line['value']:.3f} +- {line['stderr']:.3f}",
        "chance": f"{line['chance']:.3f} +- {line['chance_stderr']:.3f}",
        "seeds": line["seeds"],
        "minutes": line["minutes"],
        **({"settings": line["settings"]} if settings else {}),
    }


@command("export")
def export(
    run: Annotated[Path, typer.Argument(help="Folder of a finished APET run, for instance results/train/RUN_ID.")],
    out: Annotated[Path, typer.Argument(help="What to write: a file for apet, a folder for merged and shira.")],
    form: Annotated[
        str,
        typer.Option("--as", help="apet: the tuned values, a few kB; merged: an ordinary checkpoint; shira: a peft adapter (linear layers only)."),
    ] = "apet",
    json_: Json = False, dry_run: DryRun = False,
) -> None:  # fmt: skip
    """Write a tuned model for use elsewhere."""
    from analyses.results import export as write

    if dry_run:
        return _print({"run": str(run), "form": form, "out": str(out)}, json_)
    _print(write(run, form, out), json_)


@command("models")
def models(json_: Json = False, dry_run: DryRun = False) -> None:
    """List the shipped ladder and the aliases of Hugging Face models, with all parameters and those of the blocks alone.

    t5-* are T5 v1.1, the paper's (original T5 has no xl: its largest are google-t5/t5-3b and t5-11b); its checkpoints that were
    trained on as language models are google/t5-*-lm-adapt. Any other Hugging Face id or folder can be given as well.
    """
    from apet.models import models_table

    rows = models_table()
    if not json_:  # the family is in the name, and ids want the room
        heads = {"without_embeddings": "in blocks", "heldout_loss": "loss"}
        rows = [{heads.get(name, name): value for name, value in row.items() if name != "family"} for row in rows]
    _listing("models", rows, json_)


@command("tasks")
def tasks(json_: Json = False, dry_run: DryRun = False) -> None:
    """List the tasks: template, label words (label 0 first), metric and where the data come from without --data."""
    from apet.tasks import TASKS

    rows = [
        {
            "name": task.name, "type": task.type, "classes": task.classes, "label_words": list(task.words), "metric": task.metric,
            "template": task.template, "fields": list(task.fields), "target": task.target, "source": task.source,
            "hub": vars(task.hub) if task.hub else None, "about": task.about,
        }
        for task in TASKS.values()
    ]  # fmt: skip
    _listing("tasks", rows if json_ else [_task_lines(row) for row in rows], json_)


def _task_lines(row: dict[str, Any]) -> dict[str, Any]:
    """A task on two lines of a terminal's width."""
    row = row | {"label words": " / ".join(row["label_words"]) or "-"}
    pairs = (("name", "metric"), ("template", "source"), ("label words", "about"))
    return {f"{over}\n{under}": f"{row[over]}\n{row[under]}" for over, under in pairs} | {"type": row["type"]}


@command("kernels")
def kernels(
    calibrate: Annotated[bool, typer.Option("--calibrate", help="Measure the constants again, on an otherwise idle machine.")] = False,
    device: Device = "auto", json_: Json = False, dry_run: DryRun = False,
) -> None:  # fmt: skip
    """Show by which constants the kernels of tuned entries are chosen on this machine (nanoseconds), or measure them.

    The first run that tunes entries measures them in some seconds and keeps them in the user's cache folder; every run notes in env.json
    those that it used. The environment variable APET_KERNELS=shipped takes the shipped ones instead.
    """
    from dataclasses import asdict

    from apet.subspaces import kernel_costs as costs

    name = _device(device)
    about = {"machine": costs.machine(name), "file": str(costs.cache())}
    if calibrate and not dry_run:
        costs.measure(name)
    known = costs.stored(name)
    _print(about | {"measured": asdict(known) if known else None, "shipped": asdict(costs.SHIPPED)}, json_)


@command("pretrain")
def pretrain(
    corpus: Annotated[Path, typer.Option(help="Folder of text files (.txt, .txt.xz; valid* and test* are held out), or of such folders.")],
    size: Annotated[str, typer.Option(help="A size of the family: 130k, 240k, 790k, 2m, 6m for t5; 120k, 400k, 1m, 3m for bert and bloom.")] = "790k",
    family: Annotated[str, typer.Option(help="t5 (span corruption), bert (masked language model) or bloom (next piece).")] = "t5",
    source: Annotated[list[str] | None, typer.Option(help="Only these sub-folders of the corpus. \\[default: those the ladder was made from, where they are there, else all]")] = None,
    steps: Annotated[int | None, typer.Option(help="Steps of 3,072 tokens. \\[default: the model's own schedule]", min=2)] = None,
    seed: Annotated[int, typer.Option(help="Names initial weights, order and masks.", min=0)] = 0,
    minutes: Annotated[float, typer.Option(help="Stop after this long; the same command goes on later.")] = float("inf"),
    tokenizer: Annotated[Path | None, typer.Option(help="A tokenizer.json; trained on the corpus if it is not there. \\[default: the ladder's]")] = None,
    device: Device = "auto",
    out: Annotated[Path, typer.Option(help="The model's folder is written below this one.")] = Path("results/pretrain"),
    resume: Resume = True, json_: Json = False, dry_run: DryRun = False,
) -> None:  # fmt: skip
    """Pretrain a ladder model: seeded, resumable bitwise, bf16 autocast; Adafactor for T5, Muon for BERT and BLOOM."""
    from apet.models import make

    if not minutes > 0:
        raise UsageError(f"--minutes {minutes} must be positive")
    with _bar() as report:
        result = make(
            family, size, corpus, source or [], steps, seed, minutes, tokenizer, _device(device), out, not resume, dry_run, report
        )
    _print(result, json_)


_NOT_FIELDS = {
    "at",
    "data",
    "device",
    "out",
    "config",
    "set_",
    "resume",
    "json_",
    "dry_run",
    "seed",
    "fraction",
    "runs",
    "measure",
    "predict",
}


def _given(local: dict[str, Any]) -> dict[str, Any]:
    """The options that are fields of a Spec and were given."""
    from analyses.specs import field_names

    return {name: value for name, value in local.items() if name in field_names() and name not in _NOT_FIELDS and value is not None}


def _spec(
    kind: str, defaults: dict[str, Any], seed: int | None, config: Path | None, assignments: list[str] | None, several: bool = False,
    **given: Any,
) -> Any:  # fmt: skip
    """defaults < --config < --seed < options < --set. UsageError for a field that is set to no effect, unless `several` runs share them."""
    from analyses.specs import spec_from
    from analyses.studies import Mapping, read_value, read_yaml

    content = Mapping({}, "", {}) if config is None else read_yaml(config, "config")
    spec_from({key: content[key] for key in content if key != "kind"}, content.at)  # so that an error names the line
    seeds = {} if seed is None else {"position_seed": seed, "train_seed": seed}
    chosen = dict(given)
    for assignment in assignments or []:
        name, equals, value = assignment.partition("=")
        if not equals:
            raise UsageError(f"--set {assignment}: write FIELD=VALUE")
        chosen[name] = read_value(value)
    values = {**defaults, **content, **seeds, **chosen}
    if values.pop("kind", kind) != kind:
        raise UsageError(f"the config describes another kind of run: this command makes '{kind}' runs")
    spec = spec_from({**values, "kind": kind})
    if several:
        return spec
    shared = ({*defaults} - {*content} | {*seeds}) - {*chosen}
    return spec.trimmed(shared, lambda name: content.at(name) if name in content and name not in chosen else "")


def _as(instance: Any, **changes: Any) -> Any:
    from dataclasses import replace

    return replace(instance, **changes)


def _store(root: Path) -> Any:
    from analyses.store import Store

    return Store(root)


def _target(target: str | None, fraction: float | None) -> Any:
    """The target that --target or --fraction names, None where neither is given."""
    from analyses.thresholds import Target

    if target is not None and fraction is not None:
        raise UsageError("--fraction is short for --target fraction:AMOUNT: give one of them")
    return Target.parse(target) if target is not None else None if fraction is None else Target("fraction", fraction)


def _rows(results: Path, aim: Any, every: bool = False) -> Any:
    """All rows under `results`, spreads, thresholds and what 'explain' found included, as a DataFrame; or those of a .parquet file.

    `aim` is the target to take where several are of the training loss.
    """
    import pandas as pd

    from analyses.findings import EXPLAINED_ROWS, placement_rows
    from analyses.store import frame
    from analyses.thresholds import whole

    if results.suffix == ".parquet":
        if aim is not None:
            raise UsageError(f"--target and --fraction have no effect on {results}, whose thresholds were found when it was written")
        return _kept_rows(results)
    store, runs, known = _targets(results, aim, every)
    rows = frame([row for run in whole(runs) for row in run.rows] + placement_rows(runs) + _thresholds(store, runs, known))
    found = results / EXPLAINED_ROWS
    return pd.concat([rows, _kept_rows(found)], ignore_index=True) if found.is_file() else rows


def _thresholds(store: Any, runs: list[Any], known: list[Any]) -> list[Any]:
    from analyses.thresholds import thresholds

    return [row for target in known for row in thresholds(store, runs, target)]


def _targets(results: Path, aim: Any, every: bool = False) -> tuple[Any, list[Any], list[Any]]:
    """The store at `results`, its finished runs, and the targets of its thresholds, of which one at most is on the training loss unless
    `every` one is wanted."""
    from analyses.thresholds import finished, known_targets

    store = _store(results)
    runs = finished(store)
    if not runs:
        raise MissingInput(f"no finished run under {results}: run a study first, for instance 'python cli.py study studies/demo.yaml'")
    known = [target for target in known_targets(store) if aim is None or not (target.on_loss and aim.on_loss)]
    known += [] if aim is None or aim in known else [aim]
    of_loss = [str(target) for target in known if target.on_loss]
    if len(of_loss) > 1 and not every:
        raise UsageError(f"{results} holds thresholds for {', '.join(of_loss)}: choose one with --target")
    return store, runs, known


def _kept_rows(path: Path) -> Any:
    """Rows as 'table --rows' wrote them."""
    import pandas as pd

    try:
        return pd.read_parquet(path)
    except FileNotFoundError:
        raise MissingInput(f"no file {path}") from None
    except Exception as error:  # pyarrow's own
        raise UsageError(f"{path} holds no rows: {' '.join(str(error).split())}") from error


def _device(name: str) -> str:
    import torch

    if name not in ("auto", "cpu", "cuda"):
        raise UsageError(f"unknown device '{name}': auto, cpu or cuda")
    if name == "cuda" and not torch.cuda.is_available():
        raise UsageError("no CUDA device on this machine: use --device cpu")
    if name == "cpu" or not torch.cuda.is_available():
        return "cpu"
    return f"cuda:{os.environ['LOCAL_RANK']}" if "LOCAL_RANK" in os.environ else "cuda"  # one GPU a process under torchrun


@contextmanager
def _bar() -> Iterator[Callable[[str, float, float], None]]:
    """A progress bar on stderr: call it with what is done, how much, of how much."""
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=log, transient=True) as progress:
        bar = progress.add_task("loading", total=None)
        yield lambda what, done, total: progress.update(bar, description=what, completed=done, total=total)


def _say(what: str, text: str) -> None:
    """A line on stderr, its first word in red; the text is no markup."""
    log.print(Text.assemble((what, "red"), f" {text}" if what else text), highlight=False, soft_wrap=True)


def _print(result: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print(json.dumps(_finite(result), allow_nan=False))
        return
    for name, value in result.items():
        print(f"{name}: {json.dumps(value) if isinstance(value, (dict, list)) else value}")


def _finite(value: Any) -> Any:
    """Return `value` with None in place of NaN and infinity, which JSON lacks."""
    if isinstance(value, dict):
        return {name: _finite(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _listing(title: str, rows: list[dict[str, Any]], as_json: bool) -> None:
    if as_json:
        return _print({title: rows}, True)
    table = Table(*rows[0], box=None)
    for row in rows:
        table.add_row(*(_cell(value) for value in row.values()))
    Console(width=None if sys.stdout.isatty() else 120, markup=False).print(table)


def _short(row: dict[str, Any], settings: bool) -> dict[str, str]:
    """A line of the summary for a terminal's width, with intervals and standard errors beside their values."""

    def interval(name: str) -> str:
        low, high = (_cell(row[f"{name}_{end}"]) for end in ("low", "high"))
        if row[f"{name}_censored"] in ("above", "below"):
            return f"{row[f'{name}_censored']} {low if row[f'{name}_censored'] == 'above' else high}"
        return f"{_cell(row[name])} [{low}, {high}]" if row[name] is not None else "-"

    def accuracy(method: str) -> str:
        value, error = row[f"accuracy_{method}"], row[f"accuracy_{method}_stderr"]
        return "-" if value is None else f"{value:.3f}" + ("" if error is None else f" ± {error:.3f}")

    return {
        **({"setting": row["setting"]} if settings else {}),
        "model": row["model"],
        "k* measured": interval("k_star"),
        "predicted": interval("k_predicted"),
        **{method: accuracy(method) for method in ("full", "lora", "apet")},
        "chance": _cell(row["chance"]),
    }


def _cell(value: Any) -> str:
    if value is None or value != value:
        return "-"
    if isinstance(value, list):
        return " / ".join(map(str, value))
    return f"{value:,}" if isinstance(value, int) else f"{value:.3g}" if isinstance(value, float) else str(value)


def main() -> None:
    sys.path.insert(0, str(Path(__file__).parent))
    app()


if __name__ == "__main__":
    main()
