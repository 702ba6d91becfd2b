"""Several points in one forward pass have the same losses as one point at a time, for every family, and do not change the model."""

import pytest
import torch
from tiny_cases import tiny

from apet.models.loading import load_model
from apet.scoring import scorer_of
from apet.subspaces import StackedForward, stacked_pass
from apet.subspaces.coordinates import Coordinates
from apet.subspaces.placement import random_entries
from apet.subspaces.scope import all_names
from apet.subspaces.space import ParameterSpace
from apet.subspaces.stacked_forward import stacked_is_faster
from apet.tasks.task_data import load_task


@pytest.mark.parametrize("name", ["mini-t5-130k", "mini-bloom-120k", "mini-bert-120k"])
def test_points_at_once_are_those_one_by_one(name: str):
    loaded, data = load_model(name), load_task("mini-sentiment", None)
    model, scorer = loaded.model, scorer_of(loaded, data.task, 128, "cpu", 0)
    batch = next(iter(scorer.batches(data.splits["train"][:6], 6)))
    space = ParameterSpace.of(model, "all")  # tied tables and norms too
    coordinates = Coordinates(space, random_entries(space.size, 500, 0))
    points = torch.randn(3, 500) * 0.05
    before = {name: p.detach().clone() for name, p in all_names(model).items()}
    together = StackedForward(model, coordinates, scorer.logits)(points, batch)
    assert all(torch.equal(p, before[name]) for name, p in all_names(model).items())
    with coordinates.attach(model) as attached, torch.no_grad():
        for point, logits in zip(points, together, strict=True):
            attached.bind(point)
            torch.testing.assert_close(logits, scorer.logits(model, batch), rtol=1e-4, atol=1e-5)
    assert float((together[0] - together[1]).abs().max()) > 1e-3


def test_it_pays_for_the_smallest_models_alone():
    def asked(name: str) -> bool:
        model = load_model(name).model
        space = ParameterSpace.of(model)
        return stacked_is_faster(model, Coordinates(space, random_entries(space.size, 1000, 0)))

    assert asked("mini-t5-130k")
    assert not asked("mini-t5-6m")
    assert not asked("mini-bert-120k")


@pytest.mark.parametrize(("kind", "works"), [("fnet", False), ("llama", True)])
def test_a_model_that_cannot_be_vectorised_has_no_stacked_pass(kind: str, works: bool):
    loaded, data = tiny(kind), load_task("mini-sentiment", None)
    scorer = scorer_of(loaded, data.task)
    space = ParameterSpace.of(loaded.model)
    coordinates = Coordinates(space, random_entries(space.size, 10, 0))
    batch = next(iter(scorer.batches(data.splits["train"][:1], 1)))
    assert (stacked_pass(loaded.model, coordinates, scorer.logits, batch) is not None) == works
