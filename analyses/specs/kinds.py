"""The kinds of run: a frozen dataclass each, whose fields are those that such a run can use."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Self

from analyses.runs import DIRECTIONS, MATRICES
from analyses.specs.base import PLACED, TUNED_USES, Spec, Use
from analyses.specs.option import option
from analyses.specs.parts import DTYPES, PointPart, ProductsPart, WeightsPart, asks_for_text
from apet.errors import UsageError
from apet.methods import MERGEABLE, METHODS, default_rate
from apet.training import SCHEDULES

TUNED, TRAINING, CURVATURE, SLICE, PREDICTION = "What is tuned", "Training", "Curvature", "Slice", "Prediction"
MOST_POINTS = 100_000  # of a slice's grid: a row each, and a forward pass of all examples
MOST_DIMS = 10  # of a slice: beyond, three points a side are too many

_ADAMW: Use = ("training by adamw", lambda s: s.optimizer == "adamw")


@dataclass(frozen=True, kw_only=True)
class TrainSpec(WeightsPart, Spec):
    """Tune a model, then evaluate it. Without `early_stop` the run goes to the plateau of its training loss, as predictions need."""

    kind, words, version = "train", "training runs", 1
    uses = TUNED_USES | dict.fromkeys(("lr", "schedule", "warmup", "clip", "weight_decay", "find_lr", "accumulate"), _ADAMW) | {
        "trajectory": PLACED,
    }  # fmt: skip

    # fmt: off
    attention: str = option("Model", "eager", "Attention implementation. sdpa is faster, but has no second derivatives.", choices=("eager", "sdpa"))
    readout: str = option("Data", "auto", "How a BERT answers: by a classification head, trained along and counted apart (auto, head), or by label words at [MASK].", choices=("auto", "words", "head"))
    method: str = option(TUNED, "apet", "What is tuned.", choices=METHODS)
    early_stop: bool = option(TRAINING, True, "Watch a part of the training data and keep the best state; or go to the plateau of the training loss.")
    test: bool = option(TRAINING, False, "Evaluate on the test split as well, where its labels are there.")
    steps: int = option(TRAINING, 1000, "At most this many steps; a run ends earlier at its plateau.", least=1)
    lr: float | None = option(TRAINING, None, "Learning rate.", means="by method and k", positive=True)
    find_lr: bool = option(TRAINING, False, "First try five rates around the learning rate for 40 steps each, and take the best.", flag="--find-lr/--no-find-lr")
    optimizer: str = option(TRAINING, "adamw", "lbfgs takes all examples at once, to the minimum of the training loss.", choices=("adamw", "lbfgs"))
    schedule: str = option(TRAINING, "plateau", "The learning rate over the steps. plateau: it falls, and the run ends, as the watched loss stalls.", choices=tuple(SCHEDULES))
    accumulate: int = option(TRAINING, 1, "Work off a batch in this many parts; more if memory runs out.", least=1)
    warmup: int = option(TRAINING, 20, "Steps in which the learning rate rises.", least=0)
    clip: float = option(TRAINING, 1.0, "The largest norm of a gradient.", positive=True)
    weight_decay: float = option(TRAINING, 0.0, "AdamW's decoupled weight decay.", least=0)
    gradient_checkpointing: bool = option(TRAINING, False, "Recompute activations instead of keeping them.")
    trajectory: bool = option(TRAINING, False, "Keep the tuned values at every look, for 'spectrum --along'.")
    keep_end: bool = option(TRAINING, False, "full, bitfit, lora: keep where the run ended as a displacement of the base model's tensors (4 bytes an entry), for 'slice --at' and '--to'.")
    dtype: str = option(TRAINING, "float32", "Type of the computation (autocast); tuned values stay float32.", choices=DTYPES)
    # fmt: on

    @property
    def placed(self) -> bool:
        return self.method == "apet" or self.projected

    def _what(self) -> str:
        return super()._what().replace(self.kind, self.method, 1) + f", seed {self.position_seed}/{self.train_seed}"

    def check(self) -> None:
        self.check_tuned()
        if self.optimizer == "lbfgs" and self.early_stop:
            raise UsageError("optimizer lbfgs minimises the training loss and watches no other", early_stop=False)
        if self.optimizer == "lbfgs" and self.dtype != "float32":
            raise UsageError(f"optimizer lbfgs searches along lines, for which {self.dtype} is too coarse", dtype="float32")
        if self.keep_end and (self.method not in MERGEABLE or self.projected) and not self._keeps_anyway:
            what = f"subspace {self.subspace}" if self.projected else f"method {self.method}"
            raise UsageError(f"keep_end is not available for {what}: only {', '.join(MERGEABLE)} end at a displacement of the base model")

    @property
    def _keeps_anyway(self) -> bool:
        return self.method == "apet" and self.places_entries

    def derived(self) -> Self:
        spec = replace(self, keep_end=False) if self._keeps_anyway else self
        if spec.lr is None and spec.matched is None and spec.optimizer == "adamw":
            return replace(spec, lr=default_rate(spec.method, spec.k, spec.subspace))
        return spec


@dataclass(frozen=True, kw_only=True)
class SpectrumSpec(ProductsPart, PointPart, Spec):
    """Curvature in the tuned subspace: eigenvalues and what follows from them. An exact spectrum takes no Lanczos steps and no probes."""

    kind, words, version = "spectrum", "spectra", 1
    uses = TUNED_USES | dict.fromkeys(("lanczos_steps", "probes"), ("spectra that are not exact", lambda s: s.algorithm != "exact"))

    # fmt: off
    matrix: str = option(CURVATURE, "hessian", ", ".join(f"{each.name} ({each.words})" for each in MATRICES.values()), choices=MATRICES)
    samples: int | None = option(CURVATURE, None, "ggn: estimate it from this many labels sampled from the model per example; the Monte Carlo error is reported.", means="the exact mean over labels", least=1)
    # fmt: on

    def check(self) -> None:
        self.check_tuned()
        self.check_step()
        if self.samples == 1:
            raise UsageError("samples = 1 leaves no error to estimate", samples=2)
        if self.samples is not None and (not MATRICES[self.matrix].sampled or self.algorithm == "exact"):
            raise UsageError(
                f"samples = {self.samples} has no effect on matrix {self.matrix} with algorithm {self.algorithm}", matrix="ggn"
            )


@dataclass(frozen=True, kw_only=True)
class SliceSpec(PointPart, WeightsPart, Spec):
    """The loss along a line, over a plane or in more dimensions. With a method other than apet it lies in the space of all entries."""

    kind, words, version = "slice", "slices", 1
    in_float32 = many_points = True
    uses = TUNED_USES

    # fmt: off
    method: str = option(SLICE, "apet", "The method of the run that the slice goes through.", choices=METHODS, flag="")
    to: str | None = option(SLICE, None, "The other runs that directions optima go through.", flag="", metavar="RUN")
    dims: int = option(SLICE, 1, f"1: a line; 2: a plane; 3 to {MOST_DIMS}: as many axes. The arrays hold the whole grid.")
    directions: str = option(SLICE, "random", "; ".join(f"{each.name}: {each.help}" for each in DIRECTIONS.values()), choices=DIRECTIONS)
    reach: float | None = option(SLICE, None, "How far each way, in units of |theta|, the norm of the tuned entries' values at the point; for trajectory and optima, of the farthest place along the axis.", means="1; 1.25 for trajectory and optima", positive=True)
    points: int | None = option(SLICE, None, "Points a side, an odd number.", means="41 on a line, 25 in a plane, 11 in three dimensions, 5 in more", least=1)
    refine: int = option(SLICE, 0, "This many more places on each axis, where the loss bends most.", least=0)
    metric: bool = option(SLICE, False, "Accuracies as well, at no cost.")
    numbers: bool = option(SLICE, False, "Sharpness, basin width, Hessian ratio and angular dimensions at the point as well, with their errors.")
    curve: bool = option(SLICE, False, "optima on a line: train a curve of low loss between the two as well.")
    ratio_map: int = option(SLICE, 0, "In a plane: |lowest / highest eigenvalue| of the Hessian at this many points a side, an odd number; 60 gradients of all examples each, so 9 are plenty.", means="0, none", least=0, metavar="POINTS")
    # fmt: on

    @property
    def placed(self) -> bool:
        return self.method == "apet"

    @property
    def to_runs(self) -> tuple[str, ...]:
        """The ids of the runs whose ends the slice goes to."""
        return tuple(self.to.split("+")) if self.to else ()

    def derived(self) -> Self:
        reach = DIRECTIONS[self.directions].reach
        points = {1: 41, 2: 25, 3: 11}.get(self.dims, 5)
        return replace(self, reach=reach if self.reach is None else self.reach, points=points if self.points is None else self.points)

    def check(self) -> None:
        self.check_tuned()
        self.check_step()
        self._check_grid(self.derived().points or 1)
        self._check_directions()
        if self.method != "apet" and not (self.at or self.to):
            raise UsageError(f"a slice in the space of {self.method} goes through a run of it", at=..., to=...)

    def _check_grid(self, points: int) -> None:
        if not 1 <= self.dims <= MOST_DIMS:
            raise UsageError(f"dims = {self.dims}: a slice is a line (1), a plane (2) or of up to {MOST_DIMS} dimensions")
        if points % 2 == 0:
            raise UsageError(f"points = {points} is even: an odd number has the centre among them, for instance {points + 1}")
        if (count := (points + self.refine) ** self.dims) > MOST_POINTS:
            most = 2 * ((int(MOST_POINTS ** (1 / self.dims)) - 1) // 2) + 1
            raise UsageError(f"a grid of {count:,} points is over {MOST_POINTS:,}: at most {most:,} a side")
        if self.ratio_map and self.dims != 2:
            raise UsageError("a map of the Hessian ratio is over a plane", dims=2)
        if self.ratio_map and (self.ratio_map % 2 == 0 or not 3 <= self.ratio_map <= points):
            raise UsageError(f"ratio_map = {self.ratio_map} must be an odd number from 3 to the slice's points, {points}")

    def _check_directions(self) -> None:
        if self.projected:
            raise UsageError(f"slices are of tuned entries, not of a projection ({self.subspace})", subspace="coordinates")
        directions, name = DIRECTIONS[self.directions], self.directions
        if directions.needs_run and self.at is None:
            raise UsageError(f"directions {name} are those of a run, and no run is given", at=...)
        if directions.needs_to and len(self.to_runs) != self.dims:
            given = f"{self.dims} other run(s), and {len(self.to_runs)} are given"
            raise UsageError(f"directions {name} in {self.dims} dimension(s) take {given}", to=...)
        if not directions.needs_to and (self.to or self.curve):
            what = "to" if self.to else "curve"
            raise UsageError(f"{what} is for directions optima, and these are {self.directions}", directions="optima")
        if self.curve and self.dims != 1:
            raise UsageError(f"a curve joins two optima, and dims is {self.dims}", dims=1)
        if directions.needs_filters and self.method == "apet" and self.unit not in ("row", "tensor"):
            raise UsageError(f"directions {name} need whole rows to be tuned, and unit is {self.unit}", unit="row", directions="tensor")


_WITHOUT_K: Use = ("predictions of all placements", lambda s: not s.placed)
_PRODUCTS: Use = ("predictions by products with a matrix", lambda s: s.takes_products)
_WORK: Use = ("predictions by products, and along the model's own path", lambda s: s.takes_products or s.path)
_LANCZOS: Use = ("predictions by Lanczos", lambda s: s.takes_products and not s.placed)
_SEEDED: Use = ("predictions by Lanczos, and models with random weights", lambda s: s.random_init or _LANCZOS[1](s))


@dataclass(frozen=True, kw_only=True)
class PredictSpec(ProductsPart, Spec):
    """What is needed to predict thresholds without training.

    From a Gram matrix where the task has classes; else, or with algorithm lanczos, from products with the Gauss-Newton matrix of all that
    is in scope and along the linearised model's proximal path. With `k` or `matched`, of that one placement.
    """

    kind, words, version = "predict", "predictions", 4
    uses = {name: use for name, use in TUNED_USES.items() if name not in ("k", "matched", "scope")} | {
        "path": _WITHOUT_K, "algorithm": _WITHOUT_K, "lanczos_steps": _PRODUCTS, "batch": _WORK, "probes": _LANCZOS, "steps": _LANCZOS,
        "train_seed": _SEEDED,
    }  # fmt: skip

    # fmt: off
    steps: int = option(PREDICTION, 1000, "L-BFGS steps at each point of the linearised model's path, at most.", least=1)
    path: bool = option(PREDICTION, False, "Predict along the proximal path of the model itself too: gradients of all parameters, as many as a few training runs take.")
    # fmt: on

    @property
    def placed(self) -> bool:
        return self.k is not None or self.matched is not None

    @property
    def takes_products(self) -> bool:
        """Whether the prediction is made by products with a matrix, not from a Gram matrix."""
        return self.placed or self.algorithm == "lanczos" or asks_for_text(self.task)

    @property
    def tuned(self) -> dict[str, Any]:
        """A prediction over all placements names none: it only has a scope."""
        return super().tuned if self.placed else {"placement": self.scope or None}

    def check(self) -> None:
        self.check_tuned()
        if self.algorithm == "exact" and asks_for_text(self.task):
            raise UsageError(f"{self.task} asks for text, which has no Gram matrix of classes for an exact prediction", algorithm="lanczos")


KINDS: dict[str, type[Spec]] = {each.kind: each for each in (TrainSpec, PredictSpec, SpectrumSpec, SliceSpec)}
