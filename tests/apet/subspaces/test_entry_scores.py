"""Scores of entries equal a loop over examples, the model is not changed, and a placement takes the highest scores."""

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from apet.errors import UsageError
from apet.methods import PlacementConfig, make_tunable
from apet.models.loading import load_model
from apet.scoring import Scorer, cross_entropy, scorer_of
from apet.subspaces import SCORED_ORDERS, score_entries
from apet.subspaces.placement import Scores
from apet.subspaces.space import ParameterSpace
from apet.tasks.examples import Example
from apet.tasks.task_data import load_task
from apet.tasks.task_table import TASKS
from apet.training.loop import TrainOptions, train

every_kind = pytest.mark.parametrize("kind", SCORED_ORDERS)


@pytest.fixture(scope="module")
def rows(folder) -> list[Example]:
    splits = load_task("sst2", folder).splits
    return splits["train"] + splits["validation"] + splits["train"][:7]  # 39: more than one batch


@pytest.fixture(scope="module")
def loaded():
    return load_model("mini-t5-240k", random_init=True)


@pytest.fixture
def model(loaded) -> nn.Module:
    return copy.deepcopy(loaded.model)


@pytest.fixture
def scorer(loaded) -> Scorer:
    return scorer_of(loaded, TASKS["sst2"])


def example_loss(model: nn.Module, tokenizer, row: Example) -> Tensor:
    """Compute the logits by hand: the sentence, its question, and the first tokens of "terrible" and "great" after the sentinel."""
    ids = torch.tensor([tokenizer(f"{row['sentence']} it was <extra_id_0>.")["input_ids"]])
    asked = torch.tensor([[0, tokenizer.convert_tokens_to_ids("<extra_id_0>")]])
    words = [tokenizer(word, add_special_tokens=False)["input_ids"][0] for word in ("terrible", "great")]
    logits = model(input_ids=ids, decoder_input_ids=asked).logits[0, -1, words]
    return F.cross_entropy(logits[None], torch.tensor([row["label"]]))


def example_gradients(loaded, space: ParameterSpace, rows: list[Example]) -> dict[str, Tensor]:
    """Return the gradient of each example's loss (n, *shape), by tensor."""
    parameters = dict(loaded.model.named_parameters())
    tensors = [parameters[name] for name in space.names]
    gradients = [torch.autograd.grad(example_loss(loaded.model, loaded.tokenizer, row), tensors) for row in rows]
    return {name: torch.stack(of_tensor) for name, of_tensor in zip(space.names, zip(*gradients, strict=True), strict=True)}


def same(actual: Scores, expected: dict[str, Tensor]) -> None:
    assert actual.keys() == expected.keys()
    for name, values in expected.items():
        assert actual[name].shape == tuple(values.shape) and actual[name].dtype == np.float32
        np.testing.assert_allclose(actual[name], values, rtol=1e-3, atol=1e-5 * float(values.max()), err_msg=name)


@pytest.mark.parametrize("scope", ["", "all"])
@pytest.mark.parametrize("n", [1, 39])
def test_the_gradient_score_is_that_of_the_mean_loss(n, scope, loaded, model, scorer, rows):
    space = ParameterSpace.of(model, scope)
    expected = {name: gradients.mean(0).abs() for name, gradients in example_gradients(loaded, space, rows[:n]).items()}
    same(score_entries("gradient", model, space, scorer, rows[:n]), expected)


@pytest.mark.parametrize("scope", ["", "all"])
@pytest.mark.parametrize("n", [1, 39])
def test_the_fisher_score_is_the_mean_of_squared_gradients(n, scope, loaded, model, scorer, rows):
    space = ParameterSpace.of(model, scope)
    expected = {name: gradients.square().mean(0) for name, gradients in example_gradients(loaded, space, rows[:n]).items()}
    same(score_entries("fisher", model, space, scorer, rows[:n]), expected)


def test_a_gradient_is_taken_at_the_scorers_prior(loaded, model, scorer, rows):
    space = ParameterSpace.of(model, "layers:1 decoder")
    scorer.prior = torch.tensor([0.0, 3.0])
    before, shifted = (score_entries("gradient", model, space, s, rows[:4]) for s in (scorer_of(loaded, scorer.task), scorer))
    assert all(not np.allclose(before[name], shifted[name], rtol=1e-2) for name in space.names)


def test_the_magnitude_is_the_absolute_value(model, scorer, rows):
    space = ParameterSpace.of(model, "all")
    same(
        score_entries("magnitude", model, space, scorer, rows[:1]), {name: model.get_parameter(name).detach().abs() for name in space.names}
    )


@every_kind
def test_scores_are_one_finite_array_a_tensor_and_none_below_zero(kind, model, scorer, rows):
    space = ParameterSpace.of(model, "encoder|norms")
    scores = score_entries(kind, model, space, scorer, rows[:3])
    assert {name: values.shape for name, values in scores.items()} == dict(space.tensors)
    assert all(np.isfinite(values).all() and (values >= 0).all() and values.any() for values in scores.values())


@every_kind
def test_the_model_and_its_flags_are_left_as_they_were(kind, model, scorer, rows):
    for i, p in enumerate(model.parameters()):
        p.requires_grad_(i % 3 > 0)
    before = {name: (id(p), p.requires_grad, p.detach().clone()) for name, p in model.named_parameters()}
    scores = score_entries(kind, model, ParameterSpace.of(model), scorer, rows[:5])
    for values in scores.values():
        values += 1  # the scores share no memory with the weights
    for name, p in model.named_parameters():
        identity, flag, value = before[name]
        assert (id(p), p.requires_grad, p.grad) == (identity, flag, None) and torch.equal(p, value)


@every_kind
def test_scores_do_not_depend_on_the_order_of_examples(kind, model, scorer, rows):
    space = ParameterSpace.of(model)
    forward, backward = (score_entries(kind, model, space, scorer, part) for part in (rows[:9], rows[8::-1]))
    same(forward, {name: torch.from_numpy(values) for name, values in backward.items()})


@every_kind
@pytest.mark.parametrize("k", [1, 700])
def test_the_order_by_score_tunes_the_highest_entries(kind, k, model, scorer, rows):
    space = ParameterSpace.of(model)
    measured = score_entries(kind, model, space, scorer, rows[:6])
    mounted = make_tunable("apet", model, PlacementConfig(k=k, order="score", scores=lambda space: measured))
    flat = np.concatenate([measured[name].ravel() for name in space.names])
    chosen = mounted.placement.index
    assert mounted.k == len(chosen) == k
    assert flat[chosen].min() >= np.delete(flat, chosen).max()


def test_training_the_highest_gradients_learns_faster_than_random_entries(model, scorer, rows, tmp_path):
    losses = {}
    space, options = ParameterSpace.of(model), TrainOptions(lr=0.02, steps=10, batch=8, check=10)
    measured = score_entries("gradient", model, space, scorer, rows[:24])
    for order in ("random", "score"):
        tuned = copy.deepcopy(model)
        mounted = make_tunable("apet", tuned, PlacementConfig(k=200, order=order, scores=lambda space: measured))
        history = train(tuned, mounted, scorer, rows[:24], rows[:24], options, tmp_path / order, keep_best=False).history
        losses[order] = history[-1][1]
        assert (mounted.trainable["z"] != 0).all()
    assert losses["score"] < losses["random"] - 0.02


def test_an_unknown_kind_of_score_is_a_usage_error():
    loaded = load_model("mini-t5-240k", random_init=True)
    with pytest.raises(UsageError, match="did you mean magnitude"):
        score_entries("magnitud", loaded.model, ParameterSpace.of(loaded.model), scorer_of(loaded, TASKS["sst2"]), [])


def test_flags_are_restored_when_a_gradient_fails(monkeypatch):
    loaded = load_model("mini-t5-240k", random_init=True)
    loaded.model.requires_grad_(False)
    scorer = scorer_of(loaded, TASKS["sst2"])
    monkeypatch.setattr(scorer, "logits", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        score_entries("fisher", loaded.model, ParameterSpace.of(loaded.model), scorer, [{"sentence": "a film", "label": 0}])
    assert not any(p.requires_grad for p in loaded.model.parameters())


def test_a_sum_of_two_tensors_has_the_gradient_of_each():
    class Sum(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(2))

    class Fake:
        def batches(self, rows, size):
            for i in range(0, len(rows), size):
                yield {"labels": torch.tensor(rows[i : i + size])}

        def loss(self, model, batch):
            return cross_entropy((model.a + model.b).expand(len(batch["labels"]), -1), batch)

    model = Sum()
    for n in (32, 64, 96):
        np.testing.assert_allclose(score_entries("gradient", model, ParameterSpace.of(model), Fake(), [0] * n)["a"], 0.5)
