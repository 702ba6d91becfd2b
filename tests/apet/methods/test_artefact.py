"""Saved entries are restored bitwise, also in a new process, but not on another base. Merged and SHiRA models are the same function."""

import copy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from apet.errors import MissingInput, UsageError
from apet.methods import artefact, shira, tunable_space
from apet.models.loading import Loaded, load_model
from apet.subspaces import digest
from apet.subspaces.coordinates import Coordinates
from apet.subspaces.placement import KEYS, place
from apet.subspaces.space import ParameterSpace

IDS = torch.tensor([[50, 60, 70, 80, 1], [90, 100, 110, 120, 1]])


def logits(model: nn.Module) -> Tensor:
    with torch.no_grad():
        return model(input_ids=IDS, decoder_input_ids=IDS[:, :2]).logits


@pytest.fixture
def base() -> Loaded:
    return load_model("mini-t5-240k")


def tuned(base: Loaded, law: bool = True, k: int = 100, scope: str = "") -> tuple[artefact.Artefact, Tensor]:
    """Return an artefact of k entries with random displacements, and the tuned model's logits."""
    space = ParameterSpace.of(base.model, scope)
    index = place(space, k, 3).index
    z = torch.randn(k, generator=torch.Generator().manual_seed(0))
    attached = Coordinates(space, index).attach(base.model)
    attached.bind(z)
    expected = logits(base.model)
    attached.detach()
    where = {"rule": artefact.PlacementRule("entry", "random", 3, k)} if law else {"rule": None, "index": index}
    made = artefact.Artefact(
        z, base.name, None, base.fingerprint, "float32", positions=digest([index]), scope=scope, space=space.fingerprint, **where
    )
    return made, expected


@pytest.mark.parametrize("law", [True, False])
def test_a_saved_artefact_gives_the_same_logits_bitwise_and_detaches(base, law, tmp_path: Path):
    made, expected = tuned(base, law)
    made.save(tmp_path / "a")
    bare = logits(base.model)
    attached = artefact.load(tmp_path / "a").attach(base.model, base.fingerprint)
    assert torch.equal(logits(base.model), expected) and not torch.equal(bare, expected)
    attached.detach()
    assert torch.equal(logits(base.model), bare)


def test_a_hundred_entries_take_a_few_kilobytes(base, tmp_path: Path):
    tuned(base)[0].save(tmp_path / "a")
    assert (tmp_path / "a").stat().st_size < 3000


@pytest.mark.long
def test_a_new_process_gives_the_same_logits_bitwise(base, tmp_path: Path):
    made, expected = tuned(base)
    made.save(tmp_path / "a")
    save_file({"ids": IDS, "expected": expected}, tmp_path / "expected")
    code = f"""
import torch; torch.set_num_threads({torch.get_num_threads()})
from pathlib import Path
from safetensors.torch import load_file
from apet.methods import artefact
from apet.models.loading import load_model
known, base = load_file({str(tmp_path / "expected")!r}), load_model("mini-t5-240k")
artefact.load(Path({str(tmp_path / "a")!r})).attach(base.model, base.fingerprint)
with torch.no_grad():
    actual = base.model(input_ids=known["ids"], decoder_input_ids=known["ids"][:, :2]).logits
assert torch.equal(actual, known["expected"])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_another_base_is_refused_and_left_alone(base, tmp_path: Path):
    made, _ = tuned(base)
    other = load_model("mini-t5-240k", random_init=True)
    before = logits(other.model)
    with pytest.raises(UsageError, match=r"made on mini-t5-240k \(weights .*this model's weights are"):
        made.attach(other.model, other.fingerprint)
    assert torch.equal(logits(other.model), before) and all(type(p) is nn.Parameter for p in other.model.parameters())


def test_another_space_is_refused(base):
    made, _ = tuned(base)
    changed = artefact.Artefact(**{**vars(made), "space": "0" * 64})
    with pytest.raises(UsageError, match="not the space in which the artefact's positions are counted"):
        changed.attach(base.model, base.fingerprint)


def test_a_law_that_names_other_entries_than_were_tuned_is_refused(base, tmp_path: Path, monkeypatch):
    made, _ = tuned(base)
    made.save(tmp_path / "a")
    monkeypatch.setitem(KEYS, made.rule.version, KEYS[1])
    with pytest.raises(UsageError, match="yields positions on this machine that differ from the tuned ones"):
        artefact.load(tmp_path / "a").attach(base.model, base.fingerprint)


def test_an_artefact_of_version_1_is_read_with_the_positions_of_its_time():
    small = load_model("mini-t5-130k")
    loaded = artefact.load(Path(__file__).with_name("artefact_v1.safetensors"))  # 8 entries, seed 3, values 1/8 to 1
    assert loaded.coordinates(small.model, small.fingerprint).index.tolist() == [1062, 2775, 4134, 10403, 14034, 14931, 19401, 19539]
    assert torch.equal(loaded.z, torch.arange(1, 9) / 8)
    assert loaded.verbaliser is None


def test_what_is_no_artefact_or_of_another_version_is_one_clear_error(base, tmp_path: Path):
    with pytest.raises(MissingInput, match="no artefact"):
        artefact.load(tmp_path / "none")
    (tmp_path / "text").write_text("no safetensors")
    save_file({"z": torch.zeros(3)}, tmp_path / "bare")
    save_file({"z": torch.zeros(3)}, tmp_path / "new", {"apet": '{"version": 99}'})
    for name, message in (("text", "not an apet artefact"), ("bare", "not an apet artefact"), ("new", "version 99")):
        with pytest.raises(UsageError, match=message):
            artefact.load(tmp_path / name)


def test_a_merged_checkpoint_is_an_ordinary_model(base, tmp_path: Path):
    made, expected = tuned(base)
    attached = made.attach(base.model, base.fingerprint)
    artefact.save_merged(base.model, base.tokenizer, tmp_path / "merged")
    attached.detach()
    merged = load_model(str(tmp_path / "merged"))
    assert torch.equal(logits(merged.model), expected) and merged.parameters == base.parameters


def test_shira_computes_the_tuned_function_and_gives_the_entries_back(base, tmp_path: Path):
    made, expected = tuned(base, k=3000, scope="weights")
    adapted = shira.to_shira(copy.deepcopy(base.model), made.coordinates(base.model, base.fingerprint), made.z)
    torch.testing.assert_close(logits(adapted), expected, rtol=1e-5, atol=1e-5)
    shira.save_shira(adapted, tmp_path / "adapter")
    again = shira.load_shira(tmp_path / "adapter", copy.deepcopy(base.model))
    assert torch.equal(logits(again), logits(adapted))
    coordinates, z = shira.from_shira(again, base.model)
    moved = np.flatnonzero(z.numpy())
    space = ParameterSpace.of(base.model, "weights")
    names = {name: (space.offsets[i], size) for i, (name, size) in enumerate(zip(space.names, space.sizes, strict=True))}
    flat = np.concatenate([positions + names[name][0] for name, _, positions in coordinates.by_tensor])
    assert np.array_equal(flat[moved], made.coordinates(base.model, base.fingerprint).index)
    torch.testing.assert_close(z[torch.as_tensor(moved)], made.z, rtol=0, atol=0)


def test_shira_refuses_what_it_cannot_hold(base):
    for k, scope, message in ((200, "norms", "linear layers only"), (19_100, "encoder feed-forward", "tune fewer")):
        made, _ = tuned(base, k=k, scope=scope)
        with pytest.raises(UsageError, match=message):
            shira.to_shira(copy.deepcopy(base.model), made.coordinates(base.model, base.fingerprint), made.z)


def test_new_parameters_come_back_with_their_values_and_what_was_drawn(base, tmp_path: Path):
    operations = ("add", "prefix", "plug", "bias")
    model = copy.deepcopy(base.model)
    space = tunable_space(model, operations)
    z = 0.1 * torch.randn(3000, generator=torch.Generator().manual_seed(0))
    index = place(space, 3000, 3).index
    Coordinates(space, index).attach(model).bind(z)
    expected, law = logits(model), artefact.PlacementRule("entry", "random", 3, 3000)
    made = artefact.Artefact(
        z,
        base.name, None, base.fingerprint, "float32", law, digest([index]), space=space.fingerprint, operations=operations,
    )  # fmt: skip
    made.save(tmp_path / "a")
    again = copy.deepcopy(base.model)
    artefact.load(tmp_path / "a").attach(again, base.fingerprint)
    assert torch.equal(logits(again), expected) and not torch.equal(logits(base.model), expected)
