"""Image classification: the two networks, their scorer, training in a subspace, and curvature."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from apet.errors import UsageError
from apet.models.loading import load_model
from apet.models.mnist_nets import NETS
from apet.scoring import scorer_of
from apet.scoring.evaluation import evaluate, predictions
from apet.tasks.task_data import TaskData, load_task
from apet.tasks.task_table import TASKS
from tests.apet.image_cases import image_folder

SIZES = {"mnist-fc": 199_210, "mnist-lenet": 44_426}  # Li et al. 2018, table 1
every_net = pytest.mark.parametrize("name", NETS)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> TaskData:
    return load_task("mnist", image_folder(tmp_path_factory.mktemp("mnist")))


@every_net
def test_a_net_has_the_papers_size_and_its_seed_names_its_weights(name: str) -> None:
    one, same, other = (load_model(name, random_init=True, seed=seed) for seed in (1, 1, 2))
    assert one.parameters == one.without_embeddings == SIZES[name]
    assert one.fingerprint == same.fingerprint != other.fingerprint
    shapes = load_model(name, shapes_only=True)
    assert shapes.fingerprint == "" and {p.device.type for p in shapes.model.parameters()} == {"meta"}


@every_net
def test_drawing_leaves_the_processs_random_numbers_alone(name: str) -> None:
    before = torch.random.get_rng_state()
    load_model(name, random_init=True)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_lenet_is_its_two_convolutions_and_three_layers_by_hand() -> None:
    net = load_model("mnist-lenet", random_init=True).model
    with torch.no_grad():
        for p in net.parameters():
            p += 0.01
    images = torch.randint(0, 256, (3, 28, 28), dtype=torch.uint8)
    weights = list(net.parameters())
    x = images.float()[:, None] / 255
    for i in (0, 2):
        x = F.max_pool2d(F.conv2d(x, weights[i], weights[i + 1]).relu(), 2)
    x = x.flatten(1)
    for i in (4, 6, 8):
        x = F.linear(x if i == 4 else x.relu(), weights[i], weights[i + 1])
    torch.testing.assert_close(net(images), x)


@every_net
def test_batches_hold_the_examples_in_order_and_change_nothing(name: str, data: TaskData) -> None:
    loaded, examples = load_model(name, random_init=True), data.splits["validation"]
    scorer = scorer_of(loaded, data.task)
    logits, labels = predictions(loaded.model, scorer, examples, 7)
    assert labels.tolist() == [example["label"] for example in examples]
    for i in (0, 19):
        image = torch.as_tensor(np.frombuffer(bytearray(examples[i]["image"]), np.uint8).reshape(1, 28, 28))
        torch.testing.assert_close(logits[i], loaded.model(image)[0].detach().double(), rtol=1e-5, atol=1e-5)
    assert set(evaluate(loaded.model, scorer, examples, decode=True)) == {"loss", "accuracy"}


def test_what_does_not_fit_is_refused_in_one_line() -> None:
    net, text = load_model("mnist-fc", random_init=True), load_model("mini-t5-240k", random_init=True)
    with pytest.raises(UsageError, match="mnist-fc reads images, but the examples of sst2 are texts"):
        scorer_of(net, TASKS["sst2"])
    with pytest.raises(UsageError, match="mini-t5-240k reads texts, but the examples of mnist are images"):
        scorer_of(text, TASKS["mnist"])
    with pytest.raises(UsageError, match="mnist-fc has no trained weights"):
        load_model("mnist-fc")
