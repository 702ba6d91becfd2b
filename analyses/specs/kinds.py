"""Specs of the four kinds of run: train, predict, spectrum and slice."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Self

from analyses.runs import DIRECTIONS, MATRICES
from analyses.specs.base import PLACED, TUNED_USES, Spec, Use
from analyses.specs.option import option
from analyses.specs.parts import DTYPES, PointPart, ProductsPart, WeightsPart, asks_for_number, asks_for_text, has_label_words
from apet.errors import UsageError
from apet.methods import METHOD_NAMES, default_rate, method_named
from apet.training import SCHEDULES

TUNED, TRAINING, CURVATURE, SLICE, PREDICTION = "Tuned parameters", "Training", "Curvature", "Slice", "Prediction"
MOST_POINTS = 100_000  # in the grid of a slice; each point costs one row and one forward pass of all examples
MOST_DIMS = 10  # of a slice: in 11 dimensions even three points per axis exceed MOST_POINTS

_SIZED: Use = (
    f"{PLACED[0]}, and methods with an option that sets k (see 'methods')",
    lambda s: s.placed or bool(method_named(s.method).dial),
)
_ADAMW: Use = ("training by adamw", lambda s: s.optimizer == "adamw")


@dataclass(frozen=True, kw_only=True)
class TrainSpec(WeightsPart, Spec):
    """Tune a model, then evaluate it. Without `early_stop` the run continues to the plateau of its training loss, as predictions assume."""

    kind, words, version = "train", "training runs", 1
    uses = TUNED_USES | dict.fromkeys(("lr", "lr_factor", "schedule", "warmup", "clip", "weight_decay", "find_lr", "accumulate"), _ADAMW) | {
        "trajectory": PLACED, "decode": ("tasks with label words", lambda s: has_label_words(s.task)), "k": _SIZED,
        "method_option": (TUNED_USES["method_option"][0], lambda s: s.method != "apet" or s.matched is not None),
    }  # fmt: skip

    # fmt: off
    attention: str = option("Model", "eager", "sdpa is faster, but has no second derivatives.", choices=("eager", "sdpa"))
    readout: str = option("Data", "auto", "words: label words. head: a classification head, trained too and counted separately. auto: head for masked models and saved classifiers, otherwise words.", choices=("auto", "words", "head"))
    eval_examples: int | None = option("Data", None, "Evaluate on a fixed random subset of this many examples per split, including the monitored loss. A loss on a subset is not compared with predictions.", means="all", least=1)
    eval_batch: int = option("Data", 64, "Number of examples per batch of an evaluation.", least=1)
    decode: bool = option("Data", False, "Classes: also report the share of right answers that the model writes by greedy decoding.")
    method: str = option(TUNED, "apet", "apet (k parameters at any positions), full (all parameters), lora, adapter, prompt, prefix, bitfit, or peft:NAME (see 'methods').", choices=METHOD_NAMES)
    early_stop: bool = option(TRAINING, True, "Monitor the loss of held-out training data and keep the best state. Without early stopping, train to the plateau of the training loss.")
    test: bool = option(TRAINING, False, "Also evaluate on the test split, which must have labels.")
    steps: int = option(TRAINING, 1000, "Maximum number of steps before the plateau.", least=1)
    lr: float | None = option(TRAINING, None, "Learning rate.", means="depends on the method and k", positive=True)
    lr_factor: float = option(TRAINING, 1.0, "Multiple of the default learning rate.", positive=True)
    find_lr: bool = option(TRAINING, False, "First try five learning rates for 40 steps each.", flag="--find-lr/--no-find-lr")
    optimizer: str = option(TRAINING, "adamw", "adamw, or lbfgs (full-batch steps).", choices=("adamw", "lbfgs"))
    schedule: str = option(TRAINING, "plateau", "Learning-rate schedule. plateau: the rate falls when the monitored loss stalls.", choices=tuple(SCHEDULES))
    accumulate: int = option(TRAINING, 1, "Parts of each batch; more if memory runs out.", least=1)
    warmup: int = option(TRAINING, 20, "Number of steps with a rising learning rate.", least=0)
    clip: float = option(TRAINING, 1.0, "Maximum norm to which gradients are clipped.", positive=True)
    weight_decay: float = option(TRAINING, 0.0, "Decoupled weight decay of AdamW.", least=0)
    gradient_checkpointing: bool = option(TRAINING, False, "Recompute activations instead of storing them.")
    trajectory: bool = option(TRAINING, False, "Record the tuned values at every evaluation, for 'spectrum --along'.")
    keep_end: bool = option(TRAINING, False, "Save the final values for 'export' and slices.")
    dtype: str = option(TRAINING, "float32", "Data type of autocast. Tuned values stay float32.", choices=DTYPES)
    # fmt: on

    @property
    def placed(self) -> bool:
        return self.method == "apet" or self.projected

    def _summary(self) -> str:
        return super()._summary().replace(self.kind, self.method, 1) + f", seed {self.position_seed}/{self.train_seed}"

    def check(self) -> None:
        self.check_tuned()
        if self.readout == "words" and asks_for_number(self.task):
            raise UsageError(f"{self.task} asks for a number, which label words cannot give: it needs a head", readout="head")
        if self.lr is not None and self.lr_factor != 1:
            raise UsageError(
                f"lr_factor = {self.lr_factor:g} has no effect beside lr = {self.lr:g}, which replaces the default", lr_factor=1
            )
        if self.optimizer == "lbfgs" and self.early_stop:
            raise UsageError("optimizer lbfgs minimises the training loss and does not support early stopping", early_stop=False)
        if self.optimizer == "lbfgs" and self.dtype != "float32":
            raise UsageError(f"dtype = {self.dtype} is too coarse for the line searches of optimizer lbfgs", dtype="float32")
        if self.keep_end and self.projected:
            raise UsageError(
                f"keep_end has no effect on subspace {self.subspace}: the run saves its {self.k or 'k'} coordinates in any case"
            )

    @property
    def _keeps_anyway(self) -> bool:
        return self.method == "apet" and self.places_entries

    def rate(self, k: int | None) -> float:
        """Return the learning rate of a run that tunes k parameters."""
        return self.lr_factor * default_rate(self.method, k, self.subspace) if self.lr is None else self.lr

    def derived(self) -> Self:
        spec = replace(self, keep_end=False) if self._keeps_anyway else self
        if spec.lr is None and spec.matched is None and spec.optimizer == "adamw":
            return replace(spec, lr=spec.rate(spec.k), lr_factor=1.0)
        return spec


@dataclass(frozen=True, kw_only=True)
class SpectrumSpec(ProductsPart, PointPart, Spec):
    """Curvature in the tuned subspace: eigenvalues and quantities derived from them. An exact spectrum uses neither Lanczos steps nor probes."""

    kind, words, version = "spectrum", "spectra", 1
    uses = TUNED_USES | dict.fromkeys(
        ("lanczos_steps", "probes"), ("spectra with another algorithm than exact", lambda s: s.algorithm != "exact")
    )

    # fmt: off
    matrix: str = option(CURVATURE, "hessian", "Curvature matrix: " + ", ".join(f"{matrix.name} ({matrix.words})" for matrix in MATRICES.values()) + ".", choices=MATRICES)
    samples: int | None = option(CURVATURE, None, "ggn: estimate the matrix from this many labels per example, which are sampled from the model. The Monte Carlo error is reported.", means="the exact mean over labels", least=1)
    # fmt: on

    def check(self) -> None:
        self.check_tuned()
        self.check_step()
        if self.samples == 1:
            raise UsageError("samples = 1 must be at least 2 (a single sample has no standard error)", samples=2)
        if self.samples is not None and (not MATRICES[self.matrix].sampled or self.algorithm == "exact"):
            raise UsageError(
                f"samples = {self.samples} has no effect on matrix {self.matrix} with algorithm {self.algorithm}", matrix="ggn"
            )


@dataclass(frozen=True, kw_only=True)
class SliceSpec(PointPart, WeightsPart, Spec):
    """The loss along a line, over a plane or in more dimensions. A slice with another method than apet lies in the space of all entries."""

    kind, words, version = "slice", "slices", 1
    in_float32 = many_points = True
    uses = TUNED_USES

    # fmt: off
    method: str = option(SLICE, "apet", "Method of the run at the centre of the slice.", choices=METHOD_NAMES, flag="")
    to: str | None = option(SLICE, None, "Other runs whose final points the slice contains, for directions optima.", flag="", metavar="RUN")
    dims: int = option(SLICE, 1, f"Number of dimensions: 1 is a line, 2 is a plane, at most {MOST_DIMS}. The arrays of the run hold the whole grid.")
    directions: str = option(SLICE, "random", "; ".join(f"{direction.name}: {direction.help}" for direction in DIRECTIONS.values()) + ".", choices=DIRECTIONS)
    reach: float | None = option(SLICE, None, "Distance from the centre to each end of an axis, in units of |theta|, the norm of the tuned entries at the centre. For trajectory and optima, the unit is the distance of the farthest run point along the axis.", means="1; 1.25 for trajectory and optima", positive=True)
    points: int | None = option(SLICE, None, "Number of points per axis, odd.", means="41 on a line, 25 in a plane, 11 in three dimensions, 5 in more", least=1)
    refine: int = option(SLICE, 0, "Add this many points to each axis, where the loss bends most.", least=0)
    metric: bool = option(SLICE, False, "Also measure accuracies, at no extra cost.")
    numbers: bool = option(SLICE, False, "Also measure sharpness, basin width, Hessian ratio and angular dimensions at the centre, with standard errors.")
    curve: bool = option(SLICE, False, "optima on a line: also train a curve of low loss between the two final points.")
    ratio_map: int = option(SLICE, 0, "In a plane: also measure |lowest / highest eigenvalue| of the Hessian at this many points per axis, an odd number. Each point costs 60 gradients of all examples; 9 points per axis usually suffice.", means="0: no map", least=0, metavar="POINTS")
    # fmt: on

    @property
    def placed(self) -> bool:
        return self.method == "apet"

    @property
    def to_runs(self) -> tuple[str, ...]:
        """Ids of the runs whose final points the slice contains."""
        return tuple(self.to.split("+")) if self.to else ()

    def derived(self) -> Self:
        reach = DIRECTIONS[self.directions].reach
        points = {1: 41, 2: 25, 3: 11}.get(self.dims, 5)
        return replace(self, reach=reach if self.reach is None else self.reach, points=points if self.points is None else self.points)

    def check(self) -> None:
        self.check_tuned()
        self.check_step()
        self._check_grid(self.derived().points or 1)
        if self.metric and (asks_for_text(self.task) or asks_for_number(self.task)):
            raise UsageError(f"metric measures accuracies, but {self.task} does not have classes: leave out metric")
        self._check_directions()
        if self.method != "apet" and not (self.at or self.to):
            raise UsageError(f"a slice with method {self.method} needs a run of {self.method} at its centre", at=..., to=...)

    def _check_grid(self, points: int) -> None:
        if not 1 <= self.dims <= MOST_DIMS:
            raise UsageError(f"dims = {self.dims} must be from 1 (a line) to {MOST_DIMS}")
        if points % 2 == 0:
            raise UsageError(f"points = {points} is even, so the grid would miss the centre: give an odd number, for instance {points + 1}")
        if (count := (points + self.refine) ** self.dims) > MOST_POINTS:
            most = 2 * ((int(MOST_POINTS ** (1 / self.dims)) - 1) // 2) + 1
            raise UsageError(f"a grid of {count:,} points is over the limit of {MOST_POINTS:,}: give at most {most:,} points per axis")
        if self.ratio_map and self.dims != 2:
            raise UsageError(f"ratio_map = {self.ratio_map} needs a plane, but dims is {self.dims}", dims=2)
        if self.ratio_map and (self.ratio_map % 2 == 0 or not 3 <= self.ratio_map <= points):
            raise UsageError(f"ratio_map = {self.ratio_map} must be an odd number from 3 to {points}, the number of points per axis")

    def _check_directions(self) -> None:
        if self.projected:
            raise UsageError(f"slices need tuned entries; subspace {self.subspace} is a projection", subspace="coordinates")
        directions, name = DIRECTIONS[self.directions], self.directions
        if directions.needs_run and self.at is None:
            raise UsageError(f"directions {name} are computed from a run, but no run is given", at=...)
        if directions.needs_to and len(self.to_runs) != self.dims:
            numbers = f"{self.dims} other run(s), but got {len(self.to_runs)}"
            raise UsageError(f"directions {name} in {self.dims} dimension(s) need {numbers}", to=...)
        if not directions.needs_to and (self.to or self.curve):
            field = "to" if self.to else "curve"
            raise UsageError(f"{field} is for directions optima, but directions is {self.directions}", directions="optima")
        if self.curve and self.dims != 1:
            raise UsageError(f"a curve joins two optima on a line, but dims is {self.dims}", dims=1)
        if directions.needs_filters and self.method == "apet" and self.unit not in ("row", "tensor"):
            raise UsageError(f"directions {name} need whole tuned rows, but unit is {self.unit}", unit="row", directions="tensor")


_WITHOUT_K: Use = ("predictions of all placements", lambda s: not s.placed)
_PRODUCTS: Use = ("predictions by matrix products", lambda s: s.takes_products)
_WORK: Use = ("predictions by matrix products, and predictions with --path", lambda s: s.takes_products or s.path)
_LANCZOS: Use = ("predictions by Lanczos", lambda s: s.takes_products and not s.placed)
_SEEDED: Use = ("predictions by Lanczos, and models with random weights", lambda s: s.random_init or _LANCZOS[1](s))


@dataclass(frozen=True, kw_only=True)
class PredictSpec(ProductsPart, Spec):
    """The quantities that predict thresholds without training.

    For a task with classes they come from a Gram matrix. For other tasks, or with algorithm lanczos, they come from products with the
    Gauss-Newton matrix of everything in scope, also along the linearised model's proximal path. `k` or `matched` restricts the
    prediction to one placement.
    """

    kind, words, version = "predict", "predictions", 4
    uses = {name: use for name, use in TUNED_USES.items() if name not in ("k", "matched", "scope")} | {
        "path": _WITHOUT_K, "algorithm": _WITHOUT_K, "lanczos_steps": _PRODUCTS, "batch": _WORK, "probes": _LANCZOS, "steps": _LANCZOS,
        "train_seed": _SEEDED,
    }  # fmt: skip

    # fmt: off
    steps: int = option(PREDICTION, 1000, "Maximum number of L-BFGS steps at each point of the linearised model's path.", least=1)
    path: bool = option(PREDICTION, False, "Also predict along the proximal path of the model itself. The path costs as many gradients of all parameters as a few training runs.")
    # fmt: on

    @property
    def placed(self) -> bool:
        return self.k is not None or self.matched is not None

    @property
    def takes_products(self) -> bool:
        """Whether the prediction uses products with a matrix instead of a Gram matrix."""
        return self.placed or self.algorithm == "lanczos" or asks_for_text(self.task) or asks_for_number(self.task)

    @property
    def tuned(self) -> dict[str, Any]:
        """Columns of rows that describe the tuned parameters. A prediction for all placements has only a scope."""
        return super().tuned if self.placed else {"placement": self.scope or None}

    def check(self) -> None:
        self.check_tuned()
        if self.algorithm == "exact" and (asks_for_text(self.task) or asks_for_number(self.task)):
            answer = "text" if asks_for_text(self.task) else "a number"
            raise UsageError(
                f"{self.task} asks for {answer}, but an exact prediction needs classes (a Gram matrix of label words)", algorithm="lanczos"
            )


KINDS: dict[str, type[Spec]] = {spec.kind: spec for spec in (TrainSpec, PredictSpec, SpectrumSpec, SliceSpec)}
