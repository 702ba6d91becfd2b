"""Text -> tokens -> span-corrupted batches, and pretraining that resumes bitwise."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from apet.corpus import EOS, FIRST_SENTINEL, corpus_files, span_corruption, token_stream, train_tokenizer, windows
from apet.errors import MissingInput, UsageError
from apet.ladder import LADDER, TOKENIZER, card, ladder_names
from apet.models import load_model
from apet.pretrain import SCHEDULE, Recipe, learning_rate, pretrain, shorter


def test_span_corruption_loses_no_token():
    tokens = np.arange(100, 100 + 4 * 64).reshape(4, 64)
    inputs, targets = span_corruption(tokens, np.random.default_rng(0))
    for row, kept, masked in zip(tokens, inputs, targets, strict=True):
        assert kept[-1] == masked[-1] == EOS
        spans = np.split(masked[:-1], np.flatnonzero((masked[:-1] >= FIRST_SENTINEL) & (masked[:-1] < 38)))[1:]
        filled = []
        for token in kept[:-1]:
            filled += list(spans[token - FIRST_SENTINEL][1:]) if token < 38 else [token]
        assert filled == list(row)


def test_fifteen_percent_is_masked():
    inputs, targets = span_corruption(np.full((8, 64), 99), np.random.default_rng(0))
    assert inputs.shape == (8, 64 - 10 + 3 + 1)
    assert targets.shape == (8, 10 + 3 + 1)


def test_an_epoch_of_windows_visits_each_once():
    stream = np.arange(1000, dtype=np.uint16)
    seen = np.concatenate([windows(stream, 0, step, 5, 10) for step in range(20)])
    assert np.array_equal(np.sort(seen.ravel()), np.arange(1000))
    assert not np.array_equal(windows(stream, 0, 0, 5, 10), windows(stream, 0, 20, 5, 10))


def test_tokenised_treebank_text_reads_like_running_text():
    from tokenizers import Tokenizer

    encode = Tokenizer.from_file(str(TOKENIZER)).encode
    assert encode("They wo n't sit still , ever .").ids == encode("they won't sit still, ever.").ids
    assert "<extra_id_0>" in "".join(encode("it was <extra_id_0>.").tokens)


def test_a_tokenizer_is_trained_and_a_stream_cached(tmp_path):
    text = "the quick brown fox jumps over the lazy dog, and the dog sleeps. " * 3
    words = [f"{a}{b}{c}" for a in "bcdfg" for b in "aeiou" for c in "lmnrst"]
    (tmp_path / "train.txt").write_text("\n".join([text] * 30 + [" ".join(words)] * 4), encoding="utf-8")
    files = corpus_files(tmp_path, [], heldout=False)
    stream = token_stream(TOKENIZER, files, tmp_path / "cache")
    assert stream.dtype == np.uint16
    assert len(list((tmp_path / "cache").iterdir())) == 1
    assert np.array_equal(stream, token_stream(TOKENIZER, files, tmp_path / "cache"))
    train_tokenizer(files, tmp_path / "tokenizer", every=1)
    assert (tmp_path / "tokenizer" / "tokenizer.json").exists()


def test_a_missing_corpus_is_named(tmp_path):
    with pytest.raises(MissingInput, match="no corpus folder"):
        corpus_files(tmp_path / "nowhere", [], heldout=False)
    with pytest.raises(MissingInput, match="no valid"):
        corpus_files(tmp_path, [], heldout=True)


RECIPE = Recipe("240k", shorter(6), batch=4)


def stream() -> np.ndarray:
    return np.random.default_rng(0).integers(40, 4096, 4000).astype(np.uint16)


def weights(model: torch.nn.Module) -> list[torch.Tensor]:
    return [p.detach() for p in model.parameters()]


def test_pretraining_stopped_and_resumed_is_bitwise_the_uninterrupted_one(tmp_path: Path):
    whole, curve, finished = pretrain(RECIPE, stream(), stream(), tmp_path / "a")
    assert finished
    assert curve[-1]["step"] == 6
    for _ in range(6):
        part, other, finished = pretrain(RECIPE, stream(), stream(), tmp_path / "b", minutes=0)
    assert finished
    assert other == curve
    assert all(map(torch.equal, weights(whole), weights(part)))


def test_a_checkpoint_of_another_recipe_is_refused(tmp_path):
    pretrain(RECIPE, stream(), stream(), tmp_path / "a", minutes=0)
    with pytest.raises(UsageError, match="another recipe"):
        pretrain(replace(RECIPE, seed=1), stream(), stream(), tmp_path / "a")


def test_the_learning_rate_warms_up_holds_and_falls_to_zero():
    recipe = Recipe("240k")
    rates = [learning_rate(recipe, step) for step in range(recipe.steps + 1)]
    assert rates[0] == pytest.approx(2e-2 / 200)
    assert rates[200] == rates[3999] == 2e-2
    assert rates[5999] == pytest.approx(1e-2)
    assert rates[7999] == rates[8000] == 0


def test_a_sqrt_stretch_moves_fast_first():
    recipe = Recipe("240k", ((1, 1.0, "linear"), (100, 0.0, "sqrt")))
    assert learning_rate(recipe, 25) == pytest.approx(0.5)


@pytest.mark.parametrize("steps", [2, 6, 399, 8000])
def test_a_shorter_schedule_has_the_asked_number_of_steps(steps):
    assert Recipe("240k", shorter(steps)).steps == steps
    assert shorter(8000) == SCHEDULE


@pytest.mark.parametrize("name", ladder_names())
def test_the_cards_of_the_ladder_hold_what_the_weights_are(name):
    about, model = card(name), load_model(name).model
    assert about["parameters"] == sum(p.numel() for p in model.parameters())
    assert about["curve"][-1]["heldout_loss"] == about["heldout_loss"]
    assert about["tokens"] == about["curve"][-1]["tokens"]


def test_held_out_loss_falls_strictly_with_size():
    losses = [(card(name)["parameters"], card(name)["heldout_loss"]) for name in ladder_names()]
    assert len(losses) >= 3
    assert [loss for _, loss in sorted(losses)] == sorted((loss for _, loss in losses), reverse=True)
    assert max(losses)[0] / min(losses)[0] >= 20


def test_the_shipped_weights_are_small_enough():
    sizes = [p.stat().st_size for p in LADDER.rglob("*.safetensors")]
    assert sum(sizes) <= 18e6
    assert max(sizes) <= 16 * 2**20
