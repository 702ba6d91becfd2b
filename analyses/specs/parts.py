"""The parts that specs are composed of. Every field is declared here or in its kind (`analyses.specs.kinds`), once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from analyses.specs.option import option
from apet.errors import UsageError
from apet.methods import BASELINES, OPERATION_NAMES
from apet.projections import SUBSPACE_NAMES
from apet.subspaces import ORDER_NAMES, UNIT_NAMES

DTYPES = ("float32", "bfloat16", "float16")
MODEL, DATA, TUNED, TRAINING, WHERE, CURVATURE = "Model", "Data", "What is tuned", "Training", "Where", "Curvature"


@dataclass(frozen=True, kw_only=True)
class ModelPart:
    # fmt: off
    model: str = option(MODEL, "mini-t5-790k", "A ladder model (see 'models'), an alias such as t5-xl, a Hugging Face id, or a folder.")
    random_init: bool = option(MODEL, False, "Keep the architecture, draw fresh weights: the model's untrained twin.")
    # fmt: on


@dataclass(frozen=True, kw_only=True)
class WeightsPart:
    # fmt: off
    weights: str = option(MODEL, "float32", "Type of the base model's weights while it is trained; a slice loads the same values as float32.", choices=DTYPES)
    # fmt: on


@dataclass(frozen=True, kw_only=True)
class DataPart:
    # fmt: off
    task: str = option(DATA, "sst2", "A task (see 'tasks').")
    examples: int | None = option(DATA, None, "Use a fixed subset of this many training examples.", means="all", least=1)
    max_length: int = option(DATA, 128, "Tokens of an example; the longest field loses its end.", least=1)
    # fmt: on


@dataclass(frozen=True, kw_only=True)
class TunedPart:
    """k tuned parameters: entries of the model's tensors, or the coordinates of a random projection."""

    # fmt: off
    k: int | None = option(TUNED, None, "Number of tuned parameters: entries of the model, or dimensions of a projected subspace.", least=1)
    matched: str | None = option(TUNED, None, "Tune as many parameters as this method does.", choices=BASELINES, metavar="METHOD")
    operations: str = option(TUNED, "add", "Which parameters APET may tune. add: existing ones. New ones: bias (zero biases where there are none), prefix (keys and values beside every self-attention's), prompt (rows beside the inputs), plug (bottleneck adapters).", choices=OPERATION_NAMES, metavar="A+B")
    subspace: str = option(TUNED, "coordinates", "coordinates: single entries. Or a random projection to all parameters in scope: fastfood, fastfood-tensor (one per tensor), said (with a learned scale per layer), countsketch, gaussian (slow), fastfood-legacy (with the defects of public code).", choices=SUBSPACE_NAMES)
    scope: str = option(TUNED, "", "Terms that must all hold: attention, feed-forward, encoder, decoder, layers:0-3, weights, biases, norms, positions, embeddings, token-tables, head, all, a pattern such as *.q.weight; a|b is either, !a is not.", means="all but token tables")
    unit: str = option(TUNED, "entry", "What is chosen at once; a block is 16 x 16.", choices=UNIT_NAMES)
    order: str = option(TUNED, "random", "Which entries come first. layer and kind take turns; magnitude, gradient and fisher take the largest first; reference is the paper's code (whole tensors).", choices=ORDER_NAMES)
    position_seed: int = option(TUNED, 0, "Names the order of entries: which k are tuned.", least=0)
    # fmt: on

    method = "apet"  # of kinds that have no such field

    @property
    def placed(self) -> bool:
        """Whether k parameters are chosen."""
        return True

    @property
    def projected(self) -> bool:
        return self.subspace != "coordinates"

    @property
    def places_entries(self) -> bool:
        """Whether k entries of the model are chosen, the coordinates of its subspace."""
        return self.placed and not self.projected

    @property
    def operation_names(self) -> tuple[str, ...]:
        return tuple(self.operations.split("+"))

    @property
    def placement(self) -> str:
        """What of the model is tuned, and which of it, as rows say it; of a projection nothing is placed."""
        placed = () if self.projected else (self.order, self.unit)
        return " ".join(filter(None, (self.operations, *placed, self.scope)))

    @property
    def tuned(self) -> dict[str, Any]:
        """The columns of rows that say what the run tunes: method, subspace, placement and the seed of the placement."""
        apet = self.method == "apet"
        return {
            "method": self.method,
            "subspace": self.subspace if apet or self.projected else self.method,
            "placement": self.placement if apet else self.scope or None,
            "position_seed": self.position_seed if apet or self.projected else None,
        }

    def check_tuned(self) -> None:
        from apet.subspaces import parse_scope

        parse_scope(self.scope)
        if self.placed and (self.k is None) == (self.matched is None):
            what = "method apet" if self.method == "apet" else f"subspace {self.subspace}"
            raise UsageError(f"{what} needs the number of tuned parameters, or a method whose number to match", k=..., matched=...)


@dataclass(frozen=True, kw_only=True)
class WorkPart:
    """How much is computed at once, and what draws at random."""

    # fmt: off
    batch: int = option(TRAINING, 32, "Batch size: examples per step, or per curvature product at once.", least=1)
    train_seed: int = option(TRAINING, 0, "Names the order of batches, new weights and random probes.", least=0)
    # fmt: on


@dataclass(frozen=True, kw_only=True)
class ProductsPart:
    """How a spectrum is found."""

    # fmt: off
    algorithm: str = option(CURVATURE, "auto", "exact (all eigenvalues), lanczos (top eigenpairs, density by quadrature), or auto: the cheaper one.", choices=("auto", "exact", "lanczos"))
    lanczos_steps: int = option(CURVATURE, 40, "Curvature products per Lanczos run.", least=1)
    probes: int = option(CURVATURE, 4, "Random probes of the density.", least=1)
    # fmt: on


@dataclass(frozen=True, kw_only=True)
class PointPart:
    """Where in the subspace the loss is asked."""

    # fmt: off
    at: str | None = option(WHERE, None, "The run at whose end the loss is asked.", means="the pretrained point", flag="", metavar="RUN")
    at_step: int | None = option(WHERE, None, "At this step of the run's trajectory, which 'train --trajectory' keeps.", means="its end", least=0, flag="--step")
    # fmt: on

    @property
    def to_runs(self) -> tuple[str, ...]:
        """The ids of other runs whose ends lie in the same subspace."""
        return ()

    def check_step(self) -> None:
        if self.at_step is not None and self.at is None:
            raise UsageError(f"at_step = {self.at_step} is a step of a run's trajectory, and no run is given", at=...)


def asks_for_text(task: str) -> bool:
    """Whether the task is one of the table's and its answers are text."""
    from apet.tasks import TASKS

    return task in TASKS and not TASKS[task].classes


def reads_images(task: str) -> bool:
    from apet.tasks import TASKS

    return task in TASKS and TASKS[task].images
