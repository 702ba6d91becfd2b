"""Checkpoints are small, complete or refused, and the previous checkpoint is kept."""

import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from train_cases import OPTIONS, ROWS, ready, same, state

from apet.errors import ApetError
from apet.training.checkpoints import Refused, load_checkpoint, previous, read, save_checkpoint
from apet.training.loop import train

TENSORS = {
    "z": torch.linspace(-1, 1, 50),
    "half": torch.arange(6, dtype=torch.bfloat16).view(2, 3),
    "step": torch.tensor(3.0),
    "none": torch.zeros(0, 4),
    "rng.cpu": torch.get_rng_state(),
}
STATE = {"progress": {"step": 7, "best": float("inf"), "history": [[0, 0.5]]}, "run": {"lr": 0.1}}


def checkpoint(folder: Path, steps: int) -> Path:
    """Save checkpoints of `steps` one after the other. Each holds its own step number."""
    path = folder / "checkpoint.safetensors"
    for step in range(steps):
        save_checkpoint(path, TENSORS, {**STATE, "step": step})
    return path


def damage(path: Path, where: int) -> None:
    content = bytearray(path.read_bytes())
    content[where] ^= 1
    path.write_bytes(content)


def test_what_is_saved_is_loaded_bitwise(tmp_path):
    save_checkpoint(tmp_path / "new" / "c.safetensors", {**TENSORS, "turned": TENSORS["half"].t()}, STATE)
    found = load_checkpoint(tmp_path / "new" / "c.safetensors")
    assert found is not None
    assert same(found[0], {**TENSORS, "turned": TENSORS["half"].t()})
    assert found[1] == STATE
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["c.safetensors"]


def test_without_a_checkpoint_there_is_nothing(tmp_path):
    assert load_checkpoint(tmp_path / "c.safetensors") is None


def test_a_checkpoint_that_is_cut_short_anywhere_is_refused(tmp_path):
    path = checkpoint(tmp_path, 1)
    content = path.read_bytes()
    for length in [*range(0, 900, 7), *range(900, len(content), 211), len(content) - 1]:
        path.write_bytes(content[:length])
        with pytest.raises(Refused):
            read(path)


def test_a_checkpoint_with_any_changed_byte_is_refused_or_reads_the_same(tmp_path):
    path = checkpoint(tmp_path, 1)
    content, refused = path.read_bytes(), 0
    places = [*range(0, 900, 3), *np.random.default_rng(0).integers(0, len(content), 200)]
    for where in places:
        damage(path, where)
        try:
            tensors, found = read(path)
        except Refused:
            refused += 1
        else:
            assert same(tensors, TENSORS) and found == {**STATE, "step": 0}
        path.write_bytes(content)
    assert refused > 0.98 * len(places)


@pytest.mark.parametrize("how", ["changed", "cut", "empty", "not one"])
def test_a_broken_newest_one_is_refused_with_one_line_and_the_one_before_is_used(how, tmp_path, caplog):
    path = checkpoint(tmp_path, 3)
    content = path.read_bytes()
    if how == "changed":
        damage(path, len(content) - 4)
    else:
        path.write_bytes({"cut": content[:500], "empty": b"", "not one": b"{}" * 40}[how])
    with caplog.at_level(logging.WARNING):
        found = load_checkpoint(path)
    assert found is not None and found[1]["step"] == 1
    (record,) = caplog.records
    assert str(path) in record.message and "\n" not in record.message
    save_checkpoint(path, TENSORS, {**STATE, "step": 2})  # the broken checkpoint must not become the previous one
    assert read(previous(path))[1]["step"] == 1


def test_a_writer_killed_between_its_two_renamings_leaves_the_one_before(tmp_path, monkeypatch, caplog):
    path = checkpoint(tmp_path, 2)

    def killed(source, target):
        raise KeyboardInterrupt

    monkeypatch.setattr(
        "apet.files.os.replace", lambda source, target: Path(source).rename(target) if target == previous(path) else killed(0, 0)
    )
    with pytest.raises(KeyboardInterrupt):
        save_checkpoint(path, TENSORS, {**STATE, "step": 2})
    monkeypatch.undo()
    found = load_checkpoint(path)
    assert found is not None and found[1]["step"] == 1
    assert not caplog.records
    assert [p.name for p in tmp_path.iterdir()] == [previous(path).name]


def test_if_no_checkpoint_is_whole_the_error_names_them_and_force(tmp_path):
    path = checkpoint(tmp_path, 2)
    for each in (path, previous(path)):
        damage(each, 1500)
    with pytest.raises(ApetError, match=r"checkpoint\.safetensors and .*checkpoint\.previous\.safetensors.*force: true"):
        load_checkpoint(path)


def test_a_run_whose_newest_checkpoint_is_broken_ends_bitwise_the_same(tmp_path):
    states = []
    for broken in (False, True):
        path = tmp_path / str(broken) / "c.safetensors"
        model, mounted, scorer = ready(k=50)

        def stop(progress):
            if progress.step == 20:
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            train(model, mounted, scorer, ROWS, ROWS[:8], OPTIONS, path, True, stop, checkpoint_every=0)
        if broken:
            damage(path, path.stat().st_size - 1)
        model, mounted, scorer = ready(k=50)
        train(model, mounted, scorer, ROWS, ROWS[:8], OPTIONS, path, True)
        states.append(state(mounted))
    assert same(*states)


@pytest.mark.parametrize("method", ["apet", "bitfit"])
def test_a_checkpoint_of_another_method_or_size_is_said_to_be(method, tmp_path):
    path = tmp_path / "c.safetensors"
    train(*ready(k=50), ROWS, ROWS[:8], OPTIONS, path, False, checkpoint_every=0)
    model, mounted, scorer = ready(method, k=60)
    with pytest.raises(ApetError, match="belongs to another run: .*force: true"):
        train(model, mounted, scorer, ROWS, ROWS[:8], OPTIONS, path, False)
    assert not any(p.any() for name, p in mounted.trainable.items() if method == "apet")


def test_the_checkpoint_of_a_few_parameters_is_kilobytes(tmp_path):
    path = tmp_path / "c.safetensors"
    train(*ready(k=200), ROWS, ROWS[:8], OPTIONS, path, True, checkpoint_every=0)
    assert path.stat().st_size < 12_000
