"""Pretext tasks: no token is lost, no target leaks, and the losses equal the models' own losses."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from apet.models.ladder import build_ladder_model
from apet.models.vocabulary import CLS, EOS, FIRST_SENTINEL, MASK, POSITIONS, SEP
from apet.pretraining.pretext import PRETEXTS, masked_pairs, span_corruption


def tokens(rows: int = 40, length: int = 128) -> np.ndarray:
    """Return ids that encode their row and column."""
    return 100 + np.arange(rows)[:, None] * 97 % 3900 + np.arange(length)


def test_span_corruption_loses_no_token():
    tokens = np.arange(100, 100 + 4 * 64).reshape(4, 64)
    batch = span_corruption(tokens, np.random.default_rng(0))
    for row, kept, masked in zip(tokens, batch["input_ids"], batch["labels"], strict=True):
        assert kept[-1] == masked[-1] == EOS
        spans = np.split(masked[:-1], np.flatnonzero((masked[:-1] >= FIRST_SENTINEL) & (masked[:-1] < 38)))[1:]
        filled = []
        for token in kept[:-1]:
            filled += list(spans[token - FIRST_SENTINEL][1:]) if token < 38 else [token]
        assert filled == list(row)


def test_fifteen_percent_is_masked():
    batch = span_corruption(np.full((8, 64), 99), np.random.default_rng(0))
    assert batch["input_ids"].shape == (8, 64 - 10 + 3 + 1)
    assert batch["labels"].shape == (8, 10 + 3 + 1)


def filled(batch: dict[str, np.ndarray]) -> np.ndarray:
    ids = batch["input_ids"].copy()
    np.put_along_axis(ids, batch["positions"], batch["targets"], axis=1)
    return ids


def test_masked_pairs_are_two_parts_of_a_window_or_of_two():
    rows = tokens()
    batch = masked_pairs(rows, np.random.default_rng(0))
    for i, (ids, types, strange) in enumerate(zip(filled(batch), batch["token_type_ids"], batch["next_sentence_label"], strict=True)):
        cut = int(types.argmax()) - 2
        second = rows[(i + 1) % len(rows)] if strange else rows[i]
        assert [ids[0], ids[cut + 1], ids[-1]] == [CLS, SEP, SEP]
        assert list(ids[1 : cut + 1]) == list(rows[i, :cut])
        assert list(ids[cut + 2 : -1]) == list(second[cut : len(second) - 3])
        assert set(types[: cut + 2]) == {0} and set(types[cut + 2 :]) == {1}
    assert batch["next_sentence_label"].mean() == 0.5


def test_short_windows_stand_anywhere_in_the_table_of_positions():
    places = masked_pairs(tokens(200, 64), np.random.default_rng(0))["position_ids"]
    assert (np.diff(places, axis=1) == 1).all()
    assert (places.min(), places.max()) == (0, POSITIONS - 1)
    assert (masked_pairs(tokens(4, POSITIONS), np.random.default_rng(0))["position_ids"] == np.arange(POSITIONS)).all()


def test_of_the_chosen_pieces_most_are_masked_and_no_frame_is_chosen():
    batch = masked_pairs(tokens(200), np.random.default_rng(0), density=0.2)
    shown = np.take_along_axis(batch["input_ids"], batch["positions"], axis=1)
    assert batch["positions"].shape == (200, 25)
    assert not np.isin(batch["targets"], (CLS, SEP)).any()
    assert (shown == MASK).mean() == pytest.approx(0.8, abs=0.03)
    assert (shown == batch["targets"]).mean() == pytest.approx(0.1, abs=0.02)
    assert (batch["input_ids"] == MASK).sum() == (shown == MASK).sum()


@pytest.mark.parametrize("family", PRETEXTS)
def test_an_untrained_model_is_near_the_uniform_loss(family):
    torch.manual_seed(0)
    pretext = PRETEXTS[family]
    rows = np.random.default_rng(0).integers(40, 4096, (4, pretext.length))
    batch = {name: torch.as_tensor(array) for name, array in pretext.make_batch(rows, np.random.default_rng(0)).items()}
    losses = pretext.losses(build_ladder_model(family, "130k" if family == "t5" else "120k"), batch)
    assert losses["language"].item() == pytest.approx(np.log(4096), rel=0.1)


def test_berts_losses_are_those_of_transformers():
    torch.manual_seed(0)
    model = build_ladder_model("bert", "120k")
    arrays = masked_pairs(tokens(6), np.random.default_rng(1))
    batch = {name: torch.as_tensor(array) for name, array in arrays.items()}
    labels = np.full_like(arrays["input_ids"], -100)
    np.put_along_axis(labels, arrays["positions"], arrays["targets"], axis=1)
    whole = model(
        input_ids=batch["input_ids"], token_type_ids=batch["token_type_ids"], labels=torch.as_tensor(labels),
        next_sentence_label=batch["next_sentence_label"],
    )  # fmt: skip
    found = PRETEXTS["bert"].losses(model, batch)
    torch.testing.assert_close(sum(found.values()), whole.loss)
    torch.testing.assert_close(found["next sentence"], F.cross_entropy(whole.seq_relationship_logits, batch["next_sentence_label"]))


def test_bloom_predicts_every_piece_from_those_before_it():
    model, ids = build_ladder_model("bloom", "120k"), torch.as_tensor(tokens(3, 16))
    logits = model(input_ids=ids).logits
    wanted = F.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
    torch.testing.assert_close(PRETEXTS["bloom"].losses(model, {"input_ids": ids, "labels": ids})["language"], wanted)
