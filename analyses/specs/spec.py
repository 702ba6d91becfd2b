"""Spec: the frozen description of one run. Its canonical hash, with the fingerprints of weights and data, is the run's identity."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, get_type_hints

from apet.errors import UsageError, did_you_mean, one_of
from apet.methods import BASELINES, DISPLACING, METHODS, OPERATIONS
from apet.models import NETS
from apet.projections import SUBSPACES
from apet.subspaces import KINDS as SCORED_ORDERS
from apet.subspaces import ORDERS as PLACED_ORDERS
from apet.subspaces import UNITS, parse
from apet.tasks import TASKS
from apet.training import SCHEDULES

SCHEMA = 6  # of rows and arrays: raised when the same spec would give other rows
OF_KIND = {"predict": 3}  # the same of one kind alone
OF_LBFGS = 2  # the same of training runs of L-BFGS
KINDS = ("train", "predict", "spectrum", "slice")
DTYPES = ("float32", "bfloat16", "float16")
ATTENTION = ("eager", "sdpa")
READOUTS = ("auto", "words", "head")
MATRICES = ("hessian", "ggn", "fisher")
OPTIMIZERS = ("adamw", "lbfgs")
ALGORITHMS = ("auto", "exact", "lanczos")
DIRECTIONS = ("random", "tensor", "filter", "fisher", "jacobi", "hessian", "ggn", "gradient", "trajectory", "optima")
MOST_POINTS = 100_000  # of a slice's grid: a row each, and a forward pass of all examples
MOST_DIMS = 10  # of a slice: beyond, three points a side are too many
ORDERS = (*(order for order in PLACED_ORDERS if order != "score"), *SCORED_ORDERS)


@dataclass(frozen=True)
class Spec:
    """One run. `kind` train: tune and evaluate; predict: the Gram matrix at the pretrained point; spectrum: curvature there;
    slice: the loss along lines and planes through it.

    What is there: `weights` is what the base model is held in while it is trained (a slice takes the same values, in float32), and
    `attention` how it attends then; `examples` fixes a training subset (None: all of the split). `readout` is how a BERT that is trained
    answers: by a classification head (auto) or by label words at [MASK] (words), as it always does for predict and spectrum.
    What is tuned: `matched` names the method whose number of parameters is k; operations (separated by +), scope, unit and order
    are those of `apet.methods.operations`, `apet.subspaces.scope` and `apet.subspaces.placement`. With another `subspace` than
    coordinates, k is the length of z
    of that projection (`apet.projections.table`) of what apet could tune, or of all that another method tunes; it has no unit and order.
    How: `early_stop` watches a part of the training data that is never reported, otherwise the run goes to the plateau of its training
    loss, as predictions need; with the `optimizer` lbfgs, on all examples at once, to its minimum. `lr` None is AdamW's default for the
    method at this k; `find_lr` tries rates around it. `dtype` is what is computed in (tuned values stay float32); the loop's other settings
    are those of `apet.training.options`. With `test` the tuned model is evaluated on the test split too. With `trajectory` the tuned
    values of
    every look are kept; with `keep_end` full, bitfit and lora keep where they ended, as a displacement of the model's own tensors (apet
    always keeps its values).
    Of a spectrum and of a slice, `at` is the id of a run in the same store, whose end it is taken at (None: the pretrained point), or
    the look at `at_step` of its trajectory. `matrix` is the Hessian, the Gauss-Newton matrix (with `samples`: from so many labels of
    the model's own an example) or the empirical Fisher matrix; `algorithm` says how (auto: what costs less). An exact spectrum asks
    for neither `lanczos_steps` nor `probes`.
    A slice spans `dims` directions with `points` a side (odd, so that the centre is one of them; None: 41 on a line, 25 in a plane, 11 in
    three dimensions, 5 in more) and goes `reach` times |theta| of the tuned entries each way (1), or past the farthest place by as much
    (1.25) where directions are of a trajectory or to the ends of other runs, `to` (ids separated by +). `refine` more places on each axis
    go where the loss bends most. With `metric` accuracies are taken along, with `numbers` the point's sharpness, basin, roughness and the
    like; `curve` bends the line between two optima where the loss is low; `ratio_map` points a side of a plane (0: none) get the Hessian's
    ratio. Its `method` is that of the run `at` (or of the first one in `to`): where one of them is no run of apet, the slice lies in the
    space of all entries of the model.
    A prediction comes from a Gram matrix where the task has classes, else (or with `algorithm` lanczos) from products with the Gauss-Newton
    matrix of all that is in scope and along the linearised model's proximal path, with at most `steps` of L-BFGS a point; with `k` or
    `matched` it is of that one placement, by conjugate gradients. With `path` the proximal path of the model itself is followed too.
    A field that the run does not use is at its default (`Spec.trimmed`), so that it does not split the run's identity.
    """

    kind: str = "train"
    model: str = "mini-t5-790k"
    random_init: bool = False
    weights: str = "float32"
    attention: str = "eager"
    task: str = "sst2"
    examples: int | None = None
    max_length: int = 128
    readout: str = "auto"
    method: str = "apet"
    k: int | None = None
    matched: str | None = None
    operations: str = "add"
    subspace: str = "coordinates"
    scope: str = ""
    unit: str = "entry"
    order: str = "random"
    position_seed: int = 0
    train_seed: int = 0
    early_stop: bool = True
    test: bool = False
    lr: float | None = None
    find_lr: bool = False
    optimizer: str = "adamw"
    steps: int = 1000
    batch: int = 32
    accumulate: int = 1
    schedule: str = "plateau"
    warmup: int = 20
    clip: float = 1.0
    weight_decay: float = 0.0
    gradient_checkpointing: bool = False
    trajectory: bool = False
    keep_end: bool = False
    dtype: str = "float32"
    at: str | None = None
    at_step: int | None = None
    matrix: str = "hessian"
    samples: int | None = None
    algorithm: str = "auto"
    lanczos_steps: int = 40
    probes: int = 4
    dims: int = 1
    directions: str = "random"
    to: str | None = None
    reach: float | None = None
    points: int | None = None
    refine: int = 0
    metric: bool = False
    numbers: bool = False
    curve: bool = False
    path: bool = False
    ratio_map: int = 0

    def __post_init__(self) -> None:
        one_of(KINDS, self.kind, "kind")
        one_of(METHODS, self.method, "method")
        one_of(SUBSPACES, self.subspace, "subspace")
        one_of(UNITS, self.unit, "unit")
        one_of(ORDERS, self.order, "order")
        if self.matched is not None:
            one_of(BASELINES, self.matched, "method to match")
        for operation in self.operation_names:
            one_of(OPERATIONS, operation, "operation")
        parse(self.scope)
        one_of(MATRICES, self.matrix, "matrix")
        one_of(ALGORITHMS, self.algorithm, "algorithm")
        one_of(DIRECTIONS, self.directions, "directions")
        one_of(OPTIMIZERS, self.optimizer, "optimizer")
        one_of(READOUTS, self.readout, "readout")
        one_of(DTYPES, self.dtype, "dtype")
        one_of(DTYPES, self.weights, "dtype of weights")
        one_of(ATTENTION, self.attention, "attention")
        one_of(SCHEDULES, self.schedule, "schedule")
        for name in ("examples", "k", "steps", "batch", "accumulate", "lanczos_steps", "probes", "samples", "max_length", "points"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UsageError(f"{name} = {value} must be at least 1")
        for name in ("position_seed", "train_seed"):
            if getattr(self, name) < 0:
                raise UsageError(f"{name} = {getattr(self, name)} must be at least 0")
        for name, value in vars(self).items():
            if isinstance(value, int) and value >= 2**63:
                raise UsageError(f"{name} = {value} must be below 2^63")
        for name in ("lr", "clip"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise UsageError(f"{name} = {value} must be positive and finite")
        for name in ("warmup", "weight_decay", "refine", "ratio_map", "at_step"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < math.inf:
                raise UsageError(f"{name} = {value} must be at least 0 and finite")

    @property
    def operation_names(self) -> tuple[str, ...]:
        return tuple(self.operations.split("+"))

    @property
    def placement(self) -> str:
        """What of the model is tuned, and which of it, as rows say it; of a projection nothing is placed."""
        placed = () if self.subspace != "coordinates" else (self.order, self.unit)
        return " ".join(filter(None, (self.operations, *placed, self.scope)))

    @property
    def tuned(self) -> dict[str, Any]:
        """The columns of rows that say what the run tunes: method, subspace, placement and the seed of the placement.

        A prediction over all placements names none: it only has a scope.
        """
        if self.kind == "predict" and self.k is None and self.matched is None:
            return {"placement": self.scope or None}
        apet, projected = self.method == "apet", self._is_projected
        return {
            "method": self.method,
            "subspace": self.subspace if apet or projected else self.method,
            "placement": self.placement if apet else self.scope or None,
            "position_seed": self.position_seed if apet or projected else None,
        }

    @property
    def protocol(self) -> str:
        """What runs must share to be compared, beside the model, the task and what is tuned: examples, their length, early stop."""
        parts = ["all examples" if self.examples is None else f"{self.examples:,} examples"]
        parts += [f"{self.max_length} tokens"] if self.max_length != _DEFAULTS["max_length"] else []
        parts += ["early stop"] if self.kind == "train" and self.early_stop else []
        return ", ".join(parts)

    @property
    def to_runs(self) -> tuple[str, ...]:
        """The ids of the runs whose ends a slice goes to."""
        return tuple(self.to.split("+")) if self.to else ()

    @property
    def used(self) -> set[str]:
        """The fields that this run reads; all others are at their defaults in every run that is made."""
        return set().union(*(names for _, applies, names in _USES if applies(self)))

    def trimmed(self, shared: Collection[str] = (), where: Callable[[str], str] = lambda name: "") -> Spec:
        """The same run with those of the fields `shared` that it does not use at their defaults.

        `shared` are fields that were set for several runs of different kinds at once. Raises UsageError for any other field that is set
        to no effect; the message begins with `where` of the field.
        """
        spec = self
        for name, default in _DEFAULTS.items():  # in their order: what a field means can depend on those before it
            value = getattr(spec, name)
            if value == default or name in spec.used:
                continue
            if name not in shared:
                raise UsageError(f"{where(name)}{spec.no_effect(name)}")
            spec = replace(spec, **{name: default})
        return spec

    def no_effect(self, name: str) -> str:
        """The error of a field that this run does not use: its value, and which runs use it."""
        users = ", ".join(who for who, _, names in _USES if name in names)
        return f"{name} = {getattr(self, name)} has no effect on this {self.kind} run: it is for {users}"

    def resolved(self) -> Spec:
        """The same run with its defaults made explicit. Raises UsageError for a field that it does not use, and for fields that
        contradict each other."""
        spec = self.trimmed()
        if spec.method == "apet" and spec.places_entries:
            spec = replace(spec, keep_end=False)  # which it does without being told
        if spec._is_placed and (spec.k is None) == (spec.matched is None):
            what = "method apet" if spec.method == "apet" else f"subspace {spec.subspace}"
            raise UsageError(f"{what} needs either --k, the number of tuned parameters, or --matched METHOD")
        check = {"train": spec._check_train, "spectrum": spec._check_spectrum, "slice": spec._check_slice, "predict": spec._check_predict}
        check[spec.kind]()
        if spec.kind == "train" and spec.lr is None and spec.matched is None and spec.optimizer == "adamw":
            return replace(spec, lr=default_lr(spec.method, spec.k, spec.subspace))
        return spec._on_a_grid() if spec.kind == "slice" else spec

    @property
    def _of_one_placement(self) -> bool:
        return self.k is not None or self.matched is not None

    @property
    def _is_projected(self) -> bool:
        return self.subspace != "coordinates"

    @property
    def _is_placed(self) -> bool:
        """Whether k parameters are chosen: a method other than apet has its own, a prediction is of all placements unless it has a k."""
        if self.kind == "predict":
            return self._of_one_placement
        return self.method == "apet" or self.kind == "spectrum" or (self._is_projected and self.kind == "train")

    @property
    def places_entries(self) -> bool:
        """Whether k entries of the model are chosen, the coordinates of its subspace."""
        return self._is_placed and not self._is_projected

    @property
    def _asks_for_text(self) -> bool:
        return self.task in TASKS and not TASKS[self.task].classes

    @property
    def _takes_products(self) -> bool:
        """Whether a prediction is made by products with a matrix, not from a Gram matrix."""
        return self._of_one_placement or self.algorithm == "lanczos" or self._asks_for_text

    def _check_train(self) -> None:
        if self.optimizer == "lbfgs" and self.early_stop:
            raise UsageError("lbfgs goes to the minimum of the training loss and watches nothing else: take --no-early-stop")
        if self.optimizer == "lbfgs" and self.dtype != "float32":
            raise UsageError(f"lbfgs searches along lines, for which {self.dtype} is too coarse: take --dtype float32")
        if self.keep_end and (self.method not in DISPLACING or self._is_projected):
            what = f"subspace {self.subspace}" if self._is_projected else self.method
            raise UsageError(f"{what} has no end to keep: {', '.join(DISPLACING)} have, which displace tensors of the model itself")

    def _check_predict(self) -> None:
        if self.algorithm == "exact" and self._asks_for_text:
            raise UsageError(f"{self.task} asks for text: there is no exact prediction without a Gram matrix of classes")

    def _on_a_grid(self) -> Spec:
        """A slice with its default grid made explicit."""
        reach = 1.25 if self.directions in ("trajectory", "optima") else 1.0
        points = {1: 41, 2: 25, 3: 11}.get(self.dims, 5)
        return replace(self, reach=reach if self.reach is None else self.reach, points=points if self.points is None else self.points)

    def _check_slice(self) -> None:
        self._check_step()
        if self.subspace != "coordinates":
            raise UsageError(f"slices are of tuned entries, subspace coordinates, not {self.subspace}")
        if not 1 <= self.dims <= MOST_DIMS:
            raise UsageError(f"dims = {self.dims}: a slice is a line (1), a plane (2) or of up to {MOST_DIMS} dimensions")
        points, reach = self._on_a_grid().points, self._on_a_grid().reach
        assert points is not None
        assert reach is not None
        if points % 2 == 0:
            raise UsageError(f"points = {points} is even: an odd number has the centre among them, for instance {points + 1}")
        if (points + self.refine) ** self.dims > MOST_POINTS:
            most = 2 * ((int(MOST_POINTS ** (1 / self.dims)) - 1) // 2) + 1
            raise UsageError(f"a grid of {(points + self.refine) ** self.dims:,} points is over {MOST_POINTS:,}: at most {most:,} a side")
        if not 0 < reach < float("inf"):
            raise UsageError(f"reach = {reach} must be positive")
        if self.directions == "trajectory" and self.at is None:
            raise UsageError("a trajectory is of a run: say which with --at")
        if self.directions == "optima" and len(self.to_runs) != self.dims:
            raise UsageError(f"directions optima in {self.dims} dimension(s) need {self.dims} run(s) in --to, got {len(self.to_runs)}")
        if self.directions != "optima" and (self.to or self.curve):
            raise UsageError(f"--to and --curve are for directions optima, these are {self.directions}")
        if self.ratio_map and self.dims != 2:
            raise UsageError("a map of the Hessian ratio is over a plane: take dims 2")
        if self.ratio_map and (self.ratio_map % 2 == 0 or not 3 <= self.ratio_map <= points):
            raise UsageError(f"ratio_map = {self.ratio_map} must be an odd number from 3 to the slice's points, {points}")
        if self.curve and self.dims != 1:
            raise UsageError("--curve joins two optima: take dims 1")
        if self.method != "apet" and not (self.at or self.to):
            raise UsageError(f"the entries of {self.method} are those of a run: say which with --at or --to")
        if self.directions == "filter" and self.method == "apet" and self.unit not in ("row", "tensor"):
            raise UsageError(f"by {self.unit} no whole filter is tuned, which is a row of a tensor: take --unit row, or directions tensor")

    def _check_step(self) -> None:
        if self.at_step is not None and self.at is None:
            raise UsageError("a step is of a run's trajectory: say which run with --at")

    def _check_spectrum(self) -> None:
        self._check_step()
        if self.samples == 1:
            raise UsageError("samples = 1 has no error: take at least 2")
        if self.samples is not None and (self.matrix != "ggn" or self.algorithm == "exact"):
            raise UsageError("samples are of labels for the matrix ggn, whose spectrum is then estimated: no exact one")

    def run_id(self, weights: str, data: str) -> str:
        """16 hex digits over the resolved spec, the fingerprints of weights and data, and the schema.

        What is of slices alone has no part in another kind's, nor has a field that came later where it is at its default.
        """
        spec = vars(self.resolved())
        left_out = (set() if self.kind == "slice" else _OF_SLICES) | {name for name in _LATER if spec[name] == _DEFAULTS[name]}
        fields = {name: value for name, value in spec.items() if name not in left_out}
        identity = {"spec": fields, "weights": weights, "data": data, "schema": SCHEMA}
        identity |= {"of_kind": OF_KIND[self.kind]} if self.kind in OF_KIND else {}
        identity |= {"of_lbfgs": OF_LBFGS} if spec["optimizer"] == "lbfgs" else {}
        return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]


_DEFAULTS = {field.name: field.default for field in fields(Spec) if field.name != "kind"}
_OF_SLICES = {"dims", "directions", "to", "reach", "points", "refine", "metric", "numbers", "curve", "ratio_map"}
_LATER = ("subspace", "optimizer", "path", "keep_end", "ratio_map")
_OF_ADAMW = {"lr", "schedule", "warmup", "clip", "weight_decay", "find_lr", "accumulate"}
_LANCZOS = {"lanczos_steps", "probes"}

# Who uses which fields: every line whose condition holds adds its fields, and names itself in the error of a field that is set in vain.
_USES: tuple[tuple[str, Callable[[Spec], bool], set[str]], ...] = (
    ("all runs", lambda s: True, {"kind", "model", "random_init", "task", "examples"}),
    ("texts", lambda s: s.task not in TASKS or not TASKS[s.task].images, {"max_length"}),
    (
        "training",
        lambda s: s.kind == "train",
        {"method", "readout", "weights", "attention", "early_stop", "test", "dtype", "optimizer", "steps", "batch", "train_seed"}
        | {"gradient_checkpointing", "keep_end"},
    ),
    ("training by adamw", lambda s: s.kind == "train" and s.optimizer == "adamw", _OF_ADAMW),
    ("training of k tuned parameters", lambda s: s.kind == "train" and s._is_placed, {"trajectory"}),
    ("k tuned parameters (method apet, or a projected subspace)", lambda s: s._is_placed, {"k", "matched", "subspace", "scope"}),
    ("method apet", lambda s: s._is_placed and s.method == "apet", {"operations"}),
    ("tuned entries", lambda s: s.places_entries, {"order"}),
    (
        "tuned entries in any order but reference (whole tensors)",
        lambda s: s.places_entries and s.order != "reference",
        {"unit"},
    ),
    ("positions that are drawn", lambda s: s._is_placed and (s._is_projected or s.order not in SCORED_ORDERS), {"position_seed"}),
    ("models with random weights", lambda s: s.random_init, {"train_seed"}),
    ("predictions", lambda s: s.kind == "predict", {"scope", "k", "matched"}),
    ("predictions of all placements", lambda s: s.kind == "predict" and not s._of_one_placement, {"path", "algorithm"}),
    ("predictions by products", lambda s: s.kind == "predict" and s._takes_products, {"lanczos_steps", "batch"}),
    (
        "predictions by Lanczos",
        lambda s: s.kind == "predict" and s._takes_products and not s._of_one_placement,
        {"probes", "train_seed", "steps"},
    ),
    ("predictions along the model's path", lambda s: s.kind == "predict" and s.path, {"batch"}),
    ("spectra", lambda s: s.kind == "spectrum", {"matrix", "samples", "algorithm", "train_seed"}),
    ("spectra that are not exact", lambda s: s.kind == "spectrum" and s.algorithm != "exact", _LANCZOS),
    ("spectra and slices", lambda s: s.kind in ("spectrum", "slice"), {"at", "at_step", "batch"}),
    ("slices", lambda s: s.kind == "slice", {"method", "weights", "train_seed"} | _OF_SLICES),
)


def default_lr(method: str, k: int | None, subspace: str = "coordinates") -> float:
    """AdamW's learning rate by method: fewer entries must move further. 10 k^-5/8 passes near the best rates found on the ladder

    (1 of .3, 1, 3 at k = 64; .3 of .3, 1 at k = 256; both on mini-sentiment; about .03 at k = 10,000 on SST-2). The others are
    the best of two or three in 150 steps of mini-t5-790k on SST-2, a factor 3 apart. A projected subspace's k^-1/2 makes AdamW's first
    steps of length 1 in the parameters, as full fine-tuning's rate does for a million of them. On MNIST (fc at k = 750, LeNet at 300) it
    or three times as much was the best of .3, 1, 3, 10 times it in 600 steps, three times as much in 4,690 (.916 against .902, fc).
    """
    if subspace != "coordinates" and k is not None:
        return k**-0.5
    if method == "apet" and k is not None:
        return 10.0 * k**-0.625
    return {"full": 1e-3, "bitfit": 1e-2, "adapter": 1e-2, "lora": 3e-3, "prompt": 0.1, "prefix": 3e-2}[method]


def spec_from(values: dict[str, Any], where: Callable[[str], str] = lambda name: "") -> Spec:
    """A Spec from a mapping; unknown names and wrong types are usage errors that begin with `where` of the field.

    A network that has no trained weights (`apet.models.mnist_nets`) is drawn without being asked to.
    """
    hints = get_type_hints(Spec)
    if values.get("model") in list(NETS):
        values = {**values, "random_init": True}
    for name, value in values.items():
        if name not in hints:
            raise UsageError(f"{where(name)}unknown field '{name}'{did_you_mean(name, hints)}")
        values = {**values, name: _typed(value, hints[name], f"{where(name)}{name}")}
    return Spec(**values)


def field_names() -> list[str]:
    return [f.name for f in fields(Spec)]


def _typed(value: Any, hint: Any, where: str) -> Any:
    allowed = getattr(hint, "__args__", (hint,))
    if isinstance(value, int) and not isinstance(value, bool) and float in allowed:
        return float(value)
    if not any(type(value) is kind for kind in allowed):
        names = " or ".join("null" if kind is type(None) else kind.__name__ for kind in allowed)
        raise UsageError(f"{where}: {value!r} is not {names}{_written(value, allowed)}")
    return value


def _written(value: Any, allowed: Sequence[type]) -> str:
    """How to write `value` as one of the types, if it looks like one of them."""
    if int in allowed and isinstance(value, float) and value.is_integer():
        return f": write {int(value)}"
    if bool in allowed and str(value).lower() in ("yes", "on", "no", "off", "0", "1"):
        return f": write {'true' if str(value).lower() in ('yes', 'on', '1') else 'false'}"
    if isinstance(value, str) and re.fullmatch(r"[-+]?\d[\d_,]*\d", value) and {int, float} & set(allowed):
        return f": write {re.sub('[_,]', '', value)}"
    return ""
