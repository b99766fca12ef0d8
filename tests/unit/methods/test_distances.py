"""Distances of layers by hand, on two tokens."""

import math

import pytest
import torch

from bertpress.methods.distances import attention_map_kl, head_state_mse, hidden_state_cosine, logit_distance

MASK = torch.tensor([[1, 1, 0]])


def test_cosines_by_hand():
    student = torch.tensor([[[3.0, 4.0], [1.0, 0.0], [9.0, 9.0]]])
    teacher = torch.tensor([[[4.0, 3.0], [0.0, 7.0], [-1.0, 0.0]]])
    value = hidden_state_cosine(student=student, teacher=teacher, mask=MASK)
    assert value.item() == pytest.approx(((1 - 24 / 25) + (1 - 0)) / 2)
    assert hidden_state_cosine(student=5 * student, teacher=student, mask=MASK).item() == pytest.approx(0, abs=1e-6)


def test_attention_maps_by_hand():
    # the first token's map: 3/4 1/4 at the teacher, 1/2 1/2 at the student; the second's agree; the third is a pad
    student = torch.tensor([[[[0.0, 0.0, 5.0], [0.0, 1.0, 5.0], [0.0, 9.0, 5.0]]]])
    teacher = torch.tensor([[[[math.log(3), 0.0, -3e38], [2.0, 3.0, 0.0], [0.0, 0.0, 0.0]]]])
    first = 0.75 * math.log(0.75 / 0.5) + 0.25 * math.log(0.25 / 0.5)
    value = attention_map_kl(student=student, teacher=teacher, mask=MASK)
    assert value.item() == pytest.approx(first / 2)
    heads = [torch.cat([a, b], 1) for a, b in ((student, teacher), (teacher, teacher))]
    halved = attention_map_kl(student=heads[0], teacher=heads[1], mask=MASK)
    assert halved.item() == pytest.approx(first / 4)


def test_attention_maps_stay_numbers_where_a_probability_is_zero():
    student = torch.tensor([[[[0.0, -200.0], [0.0, 0.0]]]], requires_grad=True)
    teacher = torch.tensor([[[[-200.0, 0.0], [0.0, 0.0]]]])
    value = attention_map_kl(student=student, teacher=teacher, mask=torch.ones(1, 2))
    value.backward()
    assert value.item() == pytest.approx(100)
    assert student.grad.flatten().tolist() == pytest.approx([0.5, -0.5, 0, 0])


def test_what_heads_hold_by_hand():
    # two heads of width 1, tokens 1 and 2 real
    student = torch.tensor([[[[1.0], [2.0], [50.0]], [[0.0], [5.0], [50.0]]]])
    teacher = torch.tensor([[[[0.0], [0.0], [0.0]], [[3.0], [5.0], [0.0]]]])
    assert head_state_mse(student=student, teacher=teacher, mask=MASK).item() == pytest.approx((1 + 4 + 9 + 0) / 4)


def test_logit_distance_by_hand():
    mask = {"attention_mask": torch.tensor([[1, 0]])}
    own, target = torch.tensor([[[1.0, 2.0], [9.0, 9.0]]]), torch.tensor([[[1.0, 5.0], [0.0, 0.0]]])
    assert float(logit_distance(own, target, mask)) == 4.5  # (0 + 9) / 2; the pad does not count
    assert float(logit_distance(own[0], target[0], mask)) == pytest.approx((0 + 9 + 81 + 81) / 4)
    assert float(logit_distance(own, own, mask)) == 0
