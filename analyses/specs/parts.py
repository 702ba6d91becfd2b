"""Groups of fields from which specs are composed. Every field is declared once, here or in its kind (`analyses.specs.kinds`)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from analyses.specs.option import option
from apet.errors import UsageError
from apet.methods import BASELINE_NAMES, OPERATION_NAMES, method_named, read_options, written
from apet.projections import SUBSPACE_NAMES
from apet.subspaces import ORDER_NAMES, UNIT_NAMES

DTYPES = ("float32", "bfloat16", "float16")
MODEL, DATA, TUNED, TRAINING, WHERE, CURVATURE = "Model", "Data", "Tuned parameters", "Training", "Evaluation point", "Curvature"


@dataclass(frozen=True, kw_only=True)
class ModelPart:
    # fmt: off
    model: str = option(MODEL, "mini-t5-790k", "A ladder model or an alias (see 'models'), a Hugging Face id, a folder, or a GGUF file.")
    random_init: bool = option(MODEL, False, "Keep the architecture but draw new weights: the model's random-init twin.")
    # fmt: on


@dataclass(frozen=True, kw_only=True)
class WeightsPart:
    # fmt: off
    weights: str = option(MODEL, "float32", "Data type of the base model's weights. A slice loads them as float32.", choices=DTYPES)
    # fmt: on


@dataclass(frozen=True, kw_only=True)
class DataPart:
    # fmt: off
    task: str = option(DATA, "sst2", "Name of a task (see 'tasks'), or path of a task file (.yaml).")
    examples: int | None = option(DATA, None, "Use a fixed subset of this many training examples.", means="all", least=1)
    prior_stderr: float | None = option(DATA, None, "Measure the label words' prior on as few examples as this standard error (nats) needs.", means="256 examples", positive=True)
    prompt: str = option(DATA, "plain", "plain, or chat: the text is a user's message in the chat template.", choices=("plain", "chat"))
    max_length: int = option(DATA, 128, "Maximum tokens per example; the longest field is truncated.", least=1)
    # fmt: on


@dataclass(frozen=True, kw_only=True)
class TunedPart:
    """Choice of k tuned parameters: entries of the model's tensors, or coordinates of a random projection."""

    # fmt: off
    k: int | None = option(TUNED, None, "Number of tuned parameters: entries, or dimensions of a projection. Other methods take the nearest possible number.", least=1)
    matched: str | None = option(TUNED, None, "Tune as many parameters as this method.", choices=BASELINE_NAMES, metavar="METHOD")
    method_option: str = option(TUNED, "", "Option of the method or the matched method, such as r=4 (repeatable).", metavar="NAME=VALUE", repeated=True)
    operations: str = option(TUNED, "add", "Parameters that APET may tune, joined by +. add: existing ones. New ones: bias (in linear layers without one), prefix (keys and values of self-attentions), prompt (their input rows), plug (bottlenecks).", choices=OPERATION_NAMES, metavar="A+B")
    subspace: str = option(TUNED, "coordinates", "coordinates: k entries. Random projections to all parameters in scope: fastfood, fastfood-tensor (one per tensor), said (learned scale per layer), countsketch, gaussian (slow), fastfood-legacy (with the defects of public code).", choices=SUBSPACE_NAMES)
    scope: str = option(TUNED, "", "Entries that may be tuned: entries that match all given terms. Terms: attention, feed-forward, encoder, decoder, layers:0-3, weights, biases, norms, positions, embeddings, token-tables, head, all, or a pattern such as *.q.weight. a|b: a or b. !a: not a.", means="all except token tables")
    unit: str = option(TUNED, "entry", "Entries chosen together. A block is 16 x 16.", choices=UNIT_NAMES)
    order: str = option(TUNED, "random", "Ranking of the units; the first k entries are tuned. random; layer or kind (alternating); magnitude, gradient or fisher (largest first); reference (the paper's code: whole tensors).", choices=ORDER_NAMES)
    position_seed: int = option(TUNED, 0, "Seed of a random placement or projection: which k are tuned.", least=0)
    # fmt: on

    method = "apet"  # for kinds without this field

    @property
    def placed(self) -> bool:
        """Whether the run chooses k parameters."""
        return True

    @property
    def projected(self) -> bool:
        return self.subspace != "coordinates"

    @property
    def places_entries(self) -> bool:
        """Whether the run chooses k entries of the model as the coordinates of its subspace."""
        return self.placed and not self.projected

    @property
    def canonical_options(self) -> str:
        """`method_option` without defaults, sorted by name. Raises UsageError for an option that the method does not have."""
        method = self.matched if self.method == "apet" else self.method
        return "" if not self.method_option or method is None else written(read_options(method_named(method), self.method_option))

    @property
    def operation_names(self) -> tuple[str, ...]:
        return tuple(self.operations.split("+"))

    @property
    def placement(self) -> str:
        """Operations, order, unit and scope for the column `placement`. A projection has neither order nor unit."""
        ranking = () if self.projected else (self.order, self.unit)
        return " ".join(filter(None, (self.operations, *ranking, self.scope)))

    @property
    def tuned(self) -> dict[str, Any]:
        """Columns of rows that describe the tuned parameters: method, subspace, placement (or options of the method) and position seed."""
        apet = self.method == "apet"
        return {
            "method": self.method,
            "subspace": self.subspace if apet or self.projected else self.method,
            "placement": self.placement if apet else " ".join(filter(None, (self.method_option, self.scope))) or None,
            "position_seed": self.position_seed if apet or self.projected else None,
        }

    def check_tuned(self) -> None:
        from apet.subspaces import parse_scope

        parse_scope(self.scope)
        if self.placed and (self.k is None) == (self.matched is None):
            choice = "method apet" if self.method == "apet" else f"subspace {self.subspace}"
            raise UsageError(f"{choice} needs either the number of tuned parameters or a method whose number to match", k=..., matched=...)


@dataclass(frozen=True, kw_only=True)
class WorkPart:
    """Batch size and the seed of all random draws except the placement."""

    # fmt: off
    batch: int = option(TRAINING, 32, "Examples per step, or per pass of a curvature product.", least=1)
    train_seed: int = option(TRAINING, 0, "Seed of batches, new weights and random probes.", least=0)
    # fmt: on


@dataclass(frozen=True, kw_only=True)
class ProductsPart:
    """Algorithm for spectra."""

    # fmt: off
    algorithm: str = option(CURVATURE, "auto", "exact computes all eigenvalues. lanczos computes the top eigenpairs, and the density by quadrature. auto chooses the cheaper of the two.", choices=("auto", "exact", "lanczos"))
    lanczos_steps: int = option(CURVATURE, 40, "Number of curvature products per Lanczos run.", least=1)
    probes: int = option(CURVATURE, 4, "Number of random probe vectors for the density.", least=1)
    # fmt: on


@dataclass(frozen=True, kw_only=True)
class PointPart:
    """Point of the subspace at which the loss is evaluated."""

    # fmt: off
    at: str | None = option(WHERE, None, "Training run whose final point is evaluated.", means="the initial point", flag="", metavar="RUN")
    at_step: int | None = option(WHERE, None, "Step of the run's trajectory to evaluate. 'train --trajectory' records a trajectory.", means="the final point", least=0, flag="--step")
    # fmt: on

    @property
    def to_runs(self) -> tuple[str, ...]:
        """Ids of other runs whose final points lie in the same subspace."""
        return ()

    def check_step(self) -> None:
        if self.at_step is not None and self.at is None:
            raise UsageError(f"at_step = {self.at_step} is a step of a run's trajectory, but no run is given", at=...)


def asks_for_text(task: str) -> bool:
    """Return whether the answers of the task are texts."""
    from apet.tasks import task_named

    return task_named(task).generates


def has_label_words(task: str) -> bool:
    from apet.tasks import task_named

    return not task_named(task).images and bool(task_named(task).words)


def asks_for_number(task: str) -> bool:
    """Return whether the answers of the task are numbers."""
    from apet.tasks import task_named

    return task_named(task).regresses


def reads_images(task: str) -> bool:
    from apet.tasks import task_named

    return task_named(task).images
