"""Work on a device does not read values back or mix devices. The tests use torch's meta device, which has no values to read."""

import numpy as np
import pytest
import torch
import transformers
from device_cases import ALLOWED, MASKS, HostReads

from analyses.runs.cached_losses import Evaluated
from analyses.runs.evaluation_point import point
from analyses.runs.matrices import matrix_at
from analyses.runs.run_inputs import Context, Inputs
from analyses.specs import spec_from
from apet.gram.jacobian import Passes
from apet.machine.processes import accelerator_for
from apet.methods import PlacementConfig, make_tunable
from apet.models.loading import Loaded, load_model
from apet.projections.projection_table import PROJECTIONS, project
from apet.scoring import scorer_of
from apet.subspaces.coordinates import Coordinates
from apet.subspaces.scope import all_names, only_trainable
from apet.subspaces.space import ParameterSpace
from apet.tasks.generated.sentiment import generate
from apet.tasks.task_data import TaskData
from apet.tasks.task_table import TASKS
from apet.training.lbfgs import mean_loss
from apet.training.options import Progress, TrainOptions
from apet.training.step import Stepper
from landscape.curvature.objective import leaf

TASK = TASKS["mini-sentiment"]
ROWS = generate("train", 8)
MODELS = ("mini-t5-130k", "mini-bert-120k", "mini-bloom-120k", "llama")
LLAMA = {
    "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
    "vocab_size": 4096, "pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 1, "attn_implementation": "eager",
}  # fmt: skip
every_model = pytest.mark.parametrize("name", MODELS)


@pytest.fixture(autouse=True)
def kernels_that_know_shapes(monkeypatch):
    """In torch, sampled products have no shape rule; `tests/apet/subspaces/test_kernels.py` compares them with the other products."""
    monkeypatch.setattr("apet.subspaces.sparsity_pattern.cheapest", lambda shape, k: "gather" if k < 100 else "dense")


def shapes_of(name: str) -> Loaded:
    """Return the model on the meta device."""
    if name != "llama":
        return load_model(name, random_init=True, shapes_only=True)
    with torch.device("meta"):
        model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**LLAMA)).eval()
    return Loaded("llama", model, load_model("mini-bloom-120k", random_init=True, shapes_only=True).tokenizer, 0, 0, "", "causal")


def said(reads: HostReads, work: str, times: int, passes: int) -> None:
    """Print the number of reads and compare it with the list. A forward pass of transformers adds reads for its masks."""
    print(f"{work}: {reads.count / times:g} host reads, {reads.masks / max(1, passes):g} of masks a forward pass", dict(reads.places))
    assert reads.count <= times * ALLOWED[work], reads.places
    assert reads.masks <= passes * MASKS


STEPS = [(name, PlacementConfig(5000, scope="all")) for name in MODELS]
STEPS += [("mini-t5-130k", PlacementConfig(60, subspace=kind)) for kind in ("fastfood", "countsketch", "said")]
STEPS = [pytest.param(*each, marks=pytest.mark.long if each[1].subspace in ("fastfood", "said") else ()) for each in STEPS]


@pytest.mark.parametrize(("name", "choice"), STEPS, ids=[f"{each.values[0]}-{each.values[1].subspace}" for each in STEPS])
def test_a_training_step(name, choice):
    loaded = shapes_of(name)
    mounted, scorer = make_tunable("apet", loaded.model, choice), scorer_of(loaded, TASK, device="meta")
    options = TrainOptions(lr=0.02, steps=30, batch=8, warmup=2, check=10)
    with HostReads() as reads:
        stepper = Stepper(accelerator_for("meta", "no"), mounted.model, mounted, scorer, ROWS, options)
        progress = Progress(lr=0.02, accumulate=2)
        assert stepper.step(progress) and stepper.step(progress)
    said(reads, "training step", 2, 4)
    assert {each.device.type for each in mounted.trainable.values()} == {"meta"}


@every_model
def test_an_evaluation_of_l_bfgs(name):
    """Count all reads except scipy's copy of the gradient, which adds one read per tuned tensor."""
    loaded = shapes_of(name)
    mounted, scorer = make_tunable("apet", loaded.model, PlacementConfig(500)), scorer_of(loaded, TASK, device="meta")
    with HostReads() as reads:
        mounted.write()
        mean_loss(mounted.model, scorer, scorer.batches(ROWS, 4), 8.0, mounted.trainable.values())
    said(reads, "evaluation of L-BFGS", 1, 2)
    assert reads.count == 1


@every_model
def test_attach_bind_write_and_detach(name):
    model = shapes_of(name).model
    space = ParameterSpace.of(model, "all")
    with HostReads() as reads:
        attached = Coordinates(space, np.arange(0, space.size, 37)).attach(model)
        for _ in range(2):
            attached.write()
            attached.bind(attached.z)
            attached.bind(leaf(attached.z))
        attached.detach()
    said(reads, "mount", 1, 0)


@pytest.mark.parametrize("kind", [kind for kind in PROJECTIONS if kind != "gaussian"])
def test_a_projection(kind):
    space = ParameterSpace((("a", (70, 1000)), ("b", (300,))), (frozenset(["weights"]),) * 2)
    projection, z = project(kind, space, 50, 0), torch.zeros(50, device="meta")
    with HostReads() as reads:
        for i, (name, shape) in enumerate(space.tensors):
            lifted = projection.lift_one(z, i)
            assert lifted.shape == shape and lifted.device.type == "meta", name
            assert projection.pull_one(lifted, i, z).shape == (50,)
    said(reads, "projection", 1, 0)


@pytest.fixture(autouse=True)
def no_folder_to_look_into(monkeypatch):
    """The Llama is not a stored model, so it does not have a folder with a saved verbaliser."""
    monkeypatch.setattr("analyses.runs.untuned.kept_verbaliser", lambda *_: None)


def at(name: str, folder, **fields):
    """Return a point of the subspace on the meta device, made as in the analyses."""
    spec = spec_from({"model": name, "task": TASK.name, "k": 200, "examples": 8, "batch": 8, **fields}).resolved()
    splits = {"train": ROWS, "validation": ROWS}
    return spec, point(spec, Inputs(shapes_of(name), TaskData(TASK, splits), "meta"), Context(folder / "run", lambda *_: None))


PRODUCTS = [(name, matrix, "coordinates") for name in MODELS for matrix in ("hessian", "ggn")]
PRODUCTS += [pytest.param("mini-bert-120k", "ggn", "fastfood", marks=pytest.mark.long)]


@pytest.mark.parametrize(("name", "matrix", "subspace"), PRODUCTS)
def test_a_curvature_product(name, matrix, subspace, tmp_path, monkeypatch):
    """After the objective's first use there are no reads at all. Products are the most frequent work."""
    monkeypatch.setattr("analyses.runs.matrices.graph_memory", lambda *_: 0)
    spec, there = at(name, tmp_path, kind="spectrum", matrix=matrix, subspace=subspace, k=20)
    with HostReads() as reads, there as here:
        gradient = here.objective.gradient(here.z)
        with matrix_at(here, spec.matrix) as operator:
            operator @ gradient  # at a z that the model has not seen
            reads.places.clear()
            reads.masks = 0
            assert (operator @ gradient).device.type == "meta"
    said(reads, "product", 1, 1)


@every_model
def test_a_point_of_a_slice(name, tmp_path):
    _, there = at(name, tmp_path, kind="slice")
    with HostReads() as reads, there as here, Evaluated({"train": here.objective}, tmp_path, "here", metric=True) as evaluated:
        reads.places.clear()
        reads.masks = 0
        evaluated(here.z + 1)
    said(reads, "slice point", 1, 1)


@every_model
def test_a_row_of_the_gram_matrix(name):
    """A weight's factors need two reads at the end. The work that is repeated for each output reads no values."""
    loaded, items = shapes_of(name), []
    scorer, space = scorer_of(loaded, TASK, device="meta"), ParameterSpace.of(loaded.model)
    tensors = [all_names(loaded.model)[each] for each in space.names]
    items = scorer.encode(ROWS[:2])
    with HostReads() as reads, only_trainable(loaded.model, tensors):
        factors, gradients = Passes(loaded.model, scorer, items, set()).of(tensors, lambda done: None)
        assert all(each.gram().device.type == "meta" for each in factors if each.pairs)
    assert gradients.device.type == "meta" and len(factors) > 3
    said(reads, "Gram row", 1, 2)
