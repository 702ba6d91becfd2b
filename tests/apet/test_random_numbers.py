"""A name stands for the same numbers for ever: runs and files of the past depend on them."""

import hashlib

import numpy as np
import torch

from apet.random_numbers import generator, normals, weights


def test_a_name_of_numbers_and_letters_is_a_seed_of_integers():
    for name, entropy in (((7, "PLAC"), [7, 0x504C4143]), ((7, "BATC", 3), [7, 0x42415443, 3]), ((7, 1, 3), [7, 1, 3]), ((7,), 7)):
        assert np.array_equal(generator(*name).integers(2**62, size=9), np.random.default_rng(entropy).integers(2**62, size=9))


def test_weights_follow_from_their_parameters_name_alone():
    seed = int.from_bytes(hashlib.sha256(b"classifier.weight").digest()[:7], "little")
    torch.manual_seed(1)
    expected = torch.randn(3, 4, generator=torch.Generator().manual_seed(seed))
    assert torch.equal(weights("classifier.weight", torch.Size([3, 4])), expected)
    assert not torch.equal(weights("score.weight", torch.Size([3, 4])), expected)


def test_normal_numbers_have_mean_zero_and_variance_one():
    numbers = normals(0, "some role", 0, 2**16).astype(np.float64)
    assert abs(numbers.mean()) < 4 / 2**8 and abs(numbers.var() - 1) < 4 * 2**0.5 / 2**8
    assert np.array_equal(numbers[:10], normals(0, "some role", 0, 10))
    assert not np.array_equal(numbers[:10], normals(0, "some role", 1, 10))
