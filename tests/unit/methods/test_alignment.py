"""Matches of layers by hand, with and without their order; the distance is that of the chosen ones alone."""

import pytest
import torch
from matched_models import context, padded, step_of, tiny

from bertpress.methods.alignment import NearestLayers, linear_map, nearest, quarters

COSTS = [[5.0, 1.0, 4.0, 0.5], [3.0, 9.0, 2.0, 1.0], [4.0, 0.1, 7.0, 6.0]]
ALL = [True] * 4


def test_matches_by_hand():
    assert nearest(COSTS, ALL, ordered=False) == [3, 3, 1]
    # the last takes 1; below it there is 0 alone, and below that nothing
    assert nearest(COSTS, ALL, ordered=True) == [0, 0, 1]
    assert nearest(COSTS[:2], ALL, ordered=True) == [1, 3]
    assert nearest([[2.0, 2.0]], [True, True], ordered=False) == [0]


def test_layers_that_are_gone_are_no_choice():
    assert nearest(COSTS, [True, False, True, False], ordered=False) == [2, 2, 0]
    assert nearest(COSTS, [True, False, True, True], ordered=True) == [0, 0, 0]
    assert nearest(COSTS[:2], [True, False, True, True], ordered=True) == [2, 3]
    assert nearest(COSTS, [False] * 4, ordered=False) == [3, 3, 1]  # all gone: norms are left to learn


@pytest.mark.parametrize(
    ("depth", "layers"), [(12, (3, 6, 9, 12)), (24, (6, 12, 18, 24)), (6, (2, 3, 5, 6)), (2, (1, 2))]
)
def test_quarters(depth, layers):
    assert quarters(depth) == layers


def states_of(model, batch):
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    return model(**inputs, capture=frozenset({"hidden_states"})).captured["hidden_states"]


def test_the_distance_is_that_of_the_nearest_layers():
    student, teacher, batch = tiny(1, layers=3), tiny(2, layers=4), padded(pads=2)
    ctx = context(teacher)
    projection = linear_map(student, ctx)
    assert torch.equal(projection.weight, torch.eye(16))
    term = NearestLayers((2, 4), projection, lambda: [True, False, True])
    assert term.teacher_places == {2, 4}
    with torch.no_grad():
        own, target, real = states_of(student, batch), states_of(teacher, batch), batch["attention_mask"].bool()
        costs = {(t, s): float((own[s][real] - target[t][real]).square().mean()) for t in (2, 4) for s in (1, 2, 3)}
    expected = sum(min(costs[t, s] for s in (1, 3)) for t in (2, 4))
    value = term(step_of([term], student, teacher, batch))
    assert float(value.detach()) == pytest.approx(expected, rel=1e-5)
    value.backward()
    assert projection.weight.grad.any()
    assert student.get_parameter("encoder.layers.0.ffn.0.outer.weight").grad.any()
    assert not any(weight.grad is not None for weight in teacher.parameters())


def test_no_gradient_reaches_layers_above_the_chosen_ones():
    student, teacher, batch = tiny(1, layers=3), tiny(2, layers=3), padded()
    term = NearestLayers((1, 3), linear_map(student, context(teacher)), lambda: [False, True, False])
    term(step_of([term], student, teacher, batch)).backward()
    above = student.get_parameter("encoder.layers.2.ffn.0.outer.weight").grad
    assert above is None or not above.any()


def test_equal_models_cost_nothing_and_pads_do_not_count():
    student, teacher = tiny(), tiny()
    term = NearestLayers((1, 2), linear_map(student, context(teacher)), lambda: [True, True])
    assert float(term(step_of([term], student, teacher, padded())).detach()) == 0
    other = tiny(5)
    values = [float(term(step_of([term], other, teacher, padded(pads, pad=9))).detach()) for pads in (0, 3)]
    assert values[0] == pytest.approx(values[1], rel=1e-4)


def test_other_widths_meet_behind_an_orthogonal_map():
    student, teacher = tiny(hidden_size=8), tiny()
    weight = linear_map(student, context(teacher)).weight
    torch.testing.assert_close(weight.t() @ weight, torch.eye(8))
    assert torch.equal(weight, linear_map(student, context(teacher)).weight)
    term = NearestLayers((1, 2), linear_map(student, context(teacher)), lambda: [True, True])
    assert float(term(step_of([term], student, teacher, padded())).detach()) > 0
