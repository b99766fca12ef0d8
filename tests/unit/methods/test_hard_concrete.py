"""The distribution of drawn gates against samples and a grid; settled ones by hand."""

import math

import pytest
import torch

from bertpress.methods.hard_concrete import drawn, open_probability, settled

LOGITS = torch.tensor([-4.0, -1.6, 0.0, 0.7, 3.0])


def test_gates_by_hand():
    half = torch.full((3,), 0.5)
    # s = sigmoid(1.5 l): 1/2, and so far to one side that 1.2 s - 0.1 leaves [0, 1]
    assert drawn(torch.tensor([0.0, 4.0, -4.0]), half).tolist() == [0.5, 1.0, 0.0]
    noise = torch.tensor([0.2])
    s = 1 / (1 + math.exp(-1.5 * (math.log(0.25) + 1.0)))
    assert float(drawn(torch.tensor([1.0]), noise)) == pytest.approx(1.2 * s - 0.1)


def test_as_many_are_open_as_the_closed_form_says():
    count = 100_001
    grid = (torch.arange(count, dtype=torch.float64) + 0.5) / count  # each part of the interval once
    for logit in LOGITS.double():
        share = (drawn(logit, grid) > 0).double().mean()
        assert float(share) == pytest.approx(float(open_probability(logit)), abs=1.5 / count)
    torch.manual_seed(0)
    sampled = (drawn(LOGITS, torch.rand(40_000, 5)) > 0).float().mean(0)
    torch.testing.assert_close(sampled, open_probability(LOGITS), atol=4 * 0.5 / 200, rtol=0)


def test_settled_gates_by_hand():
    gates = settled(torch.tensor([2.0, -1.0, 0.0, -1.0]), 3)
    expected = [1 / (1 + math.exp(-2.4)), 1 / (1 + math.exp(1.2)), 0.5, 0.0]  # of equals the first is open
    assert gates.tolist() == pytest.approx(expected)
    assert not settled(LOGITS, 0).any()
    assert settled(LOGITS, 5).all()
