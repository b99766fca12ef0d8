"""Zero for planted projections, sums of squares by hand, what is shared, which weights are compared and learn."""

import pytest
import torch
from teaching import KINDS, before_and_after, context, padded, run_on, tiny

from bertpress.encoder.surgery import keep_layers, keep_neurons
from bertpress.errors import RecipeError
from bertpress.methods.distill.projection import STATE, Projection, aligned_layer, projected


def attached(student, teacher, **fields):
    method, ctx = Projection(**fields), context(teacher)
    student = method.attach(student, ctx)
    for callback in method.callbacks(ctx):
        callback.on_train_begin(None, None, None, model=student)
    return ctx.state[STATE]


def projected_by_hand():
    left, right = torch.tensor([[1.0, 2.0]]), torch.tensor([[1.0], [0.0], [3.0]])
    return left, right, torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])


def test_projecting_by_hand():
    left, right, weight = projected_by_hand()
    assert projected(weight, left, right).tolist() == [[9.0 + 3 * 15.0]]
    assert projected(weight, left, None).tolist() == [[9.0, 12.0, 15.0]]
    assert projected(weight, None, right).tolist() == [[10.0], [22.0]]
    assert projected(torch.tensor([3.0, 4.0]), left).tolist() == [11.0]


def test_layers_are_spaced_evenly_and_end_with_the_last():
    assert [aligned_layer(i, 3, 12) for i in range(3)] == [3, 7, 11]
    assert [aligned_layer(i, 4, 6) for i in range(4)] == [0, 2, 3, 5]
    assert [aligned_layer(i, 6, 6) for i in range(6)] == list(range(6))


def planted(direction):
    """Two models of which one is the other under the projections of an alignment."""
    student, teacher = tiny(0, hidden_size=8, ffn=12), tiny(1)
    alignment = attached(student, teacher, direction=direction)
    sides = [student, teacher] if direction == "up" else [teacher, student]
    source, target = (dict(model.named_parameters()) for model in sides)
    for name, weight in target.items():
        if name.startswith("encoder.layers."):
            before = source[name]
            keys = [f"left_{weight.shape[0]}_{before.shape[0]}"]
            keys += [f"right_{a}_{b}" for a, b in zip(before.shape[1:], weight.shape[1:], strict=True)]
            weight.data.copy_(projected(before.detach(), *map(alignment.maps.get, keys)))
    return alignment, source


@pytest.mark.parametrize("direction", ["up", "down"])
def test_zero_for_weights_that_are_projections_and_positive_elsewhere(direction):
    alignment, source = planted(direction)
    assert alignment.distance().item() == pytest.approx(0, abs=1e-6)
    source["encoder.layers.1.attention.value.weight"].data[0, 0] += 1
    assert alignment.distance().item() > 0.01


def test_the_sum_of_squares_by_hand_where_no_width_differs():
    student, teacher = tiny(0), tiny(1)
    expected = sum(
        (a - b).square().sum()
        for (name, a), (_, b) in zip(student.named_parameters(), teacher.named_parameters(), strict=True)
        if name.startswith("encoder.layers.")
    )
    for direction, times in (("up", 1), ("down", 1), ("both", 2)):
        alignment = attached(student, teacher, direction=direction)
        assert not list(alignment.parameters())
        torch.testing.assert_close(alignment.distance(), times * expected)
    assert attached(tiny(1), teacher).distance().item() == 0
    assert attached(keep_layers(tiny(1), [1]), teacher).distance().item() == 0  # the last layer, to the last
    assert attached(keep_layers(tiny(1), [0]), teacher).distance().item() > 0


def test_one_pair_of_projections_serves_all_layers_and_kinds():
    alignment = attached(tiny(0, hidden_size=8, layers=3), tiny(1, layers=6))
    assert {name: tuple(value.shape) for name, value in alignment.maps.items()} == {
        "left_16_8": (16, 8), "right_8_16": (8, 16),
    }  # fmt: skip
    narrow = attached(tiny(0, hidden_size=8, ffn=12), tiny(1), direction="both")
    assert {tuple(value.shape) for name, value in narrow.maps.items() if name.startswith("left")} == {
        (16, 8), (8, 16), (24, 12), (12, 24),
    }  # fmt: skip
    assert len(narrow.maps) == 8


def test_the_first_projections_are_orthogonal_and_of_the_seed():
    first, second = (attached(tiny(0, hidden_size=8), tiny(1)).maps["left_16_8"] for _ in range(2))
    assert first.equal(second)
    torch.testing.assert_close(first.T @ first, torch.eye(8))


def test_only_weights_of_the_layers_and_projections_learn():
    student, teacher = tiny(0, hidden_size=8), tiny(1)
    alignment = attached(student, teacher)
    alignment.distance().backward()
    for name, weight in student.named_parameters():
        assert (weight.grad is not None) == name.startswith("encoder.layers."), name
    assert all(weight.grad.abs().sum() > 0 for weight in alignment.parameters())
    assert all(weight.grad is None for weight in teacher.parameters())
    assert len(list(alignment.parameters())) == 2  # the teacher's weights are none of its own


def test_what_cannot_be_aligned_is_refused():
    with pytest.raises(RecipeError, match="distill/projection: the student's 3 layers must be at most the teacher's 2"):
        attached(tiny(0, layers=3), tiny(1))
    alignment = attached(tiny(0), tiny(1))
    with pytest.raises(RecipeError, match="distill/projection: must stand after the methods that cut the student"):
        alignment.follow(keep_neurons(tiny(0), {(0, 0): [1, 2]}))


def test_fifty_steps_lower_the_term():
    first, last = before_and_after(Projection(), tiny(0, hidden_size=8), context(tiny(1)), [padded()])
    assert last < 0.8 * first


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_task(kind, tmp_path):
    log, ctx = run_on(kind, Projection(), tmp_path)
    assert log[-1]["terms"].keys() == {"task", "projection"}
    assert not list(ctx.state[STATE].maps)
