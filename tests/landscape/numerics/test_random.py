"""Streams are pinned, whatever numpy is installed, and have the distributions that they are named after."""

import numpy as np
import pytest
import torch
from scipy import stats

from landscape.numerics.random import Stream, normal, rademacher


def test_streams_are_pinned():
    """Literal numbers, from the raw bits of Philox, which numpy promises to keep."""
    stream = Stream(0, "x")
    assert stream.random(2).tolist() == [0.8470425086586147, 0.561542009810193]
    assert stream.standard_normal(3) == pytest.approx([-0.6109200458027074, -1.2684483685982624, -0.38691221375053636], rel=1e-12)
    assert stream.signs(8).tolist() == [1, 1, 1, -1, -1, -1, -1, -1]
    assert stream.permutation(6).tolist() == [2, 5, 0, 4, 1, 3]
    assert stream.choice(np.arange(4.0), 6, p=np.array([0.1, 0.2, 0.3, 0.4])).tolist() == [1, 3, 1, 0, 3, 0]


def test_draws_have_their_distribution():
    stream, count = Stream(1, "distribution"), 20_000
    assert stats.kstest(stream.random(count), "uniform").pvalue > 1e-3
    assert stats.kstest(stream.standard_normal(count), "norm").pvalue > 1e-3
    assert abs(stream.signs(count).mean()) < 4 / count**0.5
    p = np.array([0.5, 0.0, 0.2, 0.3])
    drawn = np.bincount(stream.choice(np.arange(4), count, p=p), minlength=4)
    assert drawn[1] == 0
    assert stats.chisquare(drawn[[0, 2, 3]], count * p[[0, 2, 3]]).pvalue > 1e-3
    firsts = np.bincount([stream.permutation(5)[0] for _ in range(2000)], minlength=5)
    assert stats.chisquare(firsts).pvalue > 1e-3


def test_a_probe_is_named_by_seed_and_role_alone():
    for draw in (normal, rademacher):
        one, again, other = (draw(0, role, 130, torch.float64, torch.device("cpu")) for role in ("a", "a", "b"))
        assert torch.equal(one, again) and not torch.equal(one, other)
        assert torch.equal(draw(0, "a", 130, torch.float32, torch.device("cpu")), one.float())
    assert set(rademacher(0, "a", 130, torch.float64, torch.device("cpu")).tolist()) == {-1.0, 1.0}
