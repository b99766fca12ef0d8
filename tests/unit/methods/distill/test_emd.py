"""Flows against brute force and marginals, a planted permutation, layer weights by hand, which side gets a gradient."""

import math
from itertools import permutations

import ot
import pytest
import torch
from teaching import KINDS, before_and_after, context, loss_of, padded, run_on, tiny

from bertpress.encoder.blueprint import ShorteningSpec
from bertpress.encoder.model import build_model
from bertpress.encoder.surgery import keep_heads
from bertpress.errors import RecipeError
from bertpress.methods.distill.emd import EMD, STATE, cost_table, next_weights, transport
from bertpress.methods.matching import attention_score_mse, hidden_state_mse


def attached(student, teacher, **fields):
    method, ctx = EMD(**fields), context(teacher)
    return method, method.attach(student, ctx), ctx


def even(count):
    return torch.full((count,), 1 / count, dtype=torch.float64)


@pytest.mark.parametrize(("rows", "columns"), [(3, 6), (4, 12), (5, 3)])
def test_flows_have_their_marginals_and_no_fixed_mapping_is_cheaper(rows, columns):
    random = torch.Generator().manual_seed(rows)
    costs = torch.rand(rows, columns, generator=random, dtype=torch.float64)
    sources, targets = (torch.rand(n, generator=random, dtype=torch.float64) + 0.1 for n in (rows, columns))
    sources, targets = sources / sources.sum(), targets / targets.sum()
    flows = transport(costs, sources, targets)
    assert (flows >= 0).all()
    torch.testing.assert_close(flows.sum(1), sources, atol=1e-9, rtol=0)
    torch.testing.assert_close(flows.sum(0), targets, atol=1e-9, rtol=0)
    assert (flows * costs).sum() < (torch.outer(sources, targets) * costs).sum()


@pytest.mark.parametrize(("rows", "columns"), [(1, 4), (3, 6), (4, 12), (7, 5)])
def test_flows_are_those_of_the_optimal_transport_library(rows, columns):
    random = torch.Generator().manual_seed(10 * rows + columns)
    costs = torch.rand(rows, columns, generator=random, dtype=torch.float64)
    sources, targets = (torch.rand(n, generator=random, dtype=torch.float64) + 0.01 for n in (rows, columns))
    sources, targets = sources / sources.sum(), targets / targets.sum()
    theirs = torch.from_numpy(ot.emd(sources.numpy(), targets.numpy(), costs.numpy()))
    torch.testing.assert_close(transport(costs, sources, targets), theirs, atol=1e-9, rtol=0)


def test_flows_are_the_cheapest_of_all_permutations():
    costs = torch.rand(4, 4, generator=torch.Generator().manual_seed(0))
    best = min(permutations(range(4)), key=lambda order: sum(costs[i, j].item() for i, j in enumerate(order)))
    flows = transport(costs, even(4), even(4))
    expected = torch.zeros(4, 4, dtype=torch.float64)
    expected[range(4), list(best)] = 0.25
    torch.testing.assert_close(flows, expected)


def test_flows_by_hand():
    costs = torch.tensor([[0.0, 1.0, 5.0], [5.0, 1.0, 0.0]])
    flows = transport(costs, torch.tensor([0.5, 0.5]), even(3))
    third, sixth = 1 / 3, 1 / 6
    torch.testing.assert_close(flows, torch.tensor([[third, sixth, 0], [0, sixth, third]], dtype=torch.float64))


def test_weights_by_hand():
    paid, weights = torch.tensor([0.2, 0.1]).double(), torch.tensor([0.5, 0.5]).double()  # units 0.4 and 0.2
    inverse = next_weights(paid, weights, update="inverse", temperature=1.0)
    torch.testing.assert_close(inverse, torch.tensor([1 / 3, 2 / 3]).double())
    for temperature in (1.0, 4.0):
        ratio = torch.tensor([0.6 / 0.4, 0.6 / 0.2]).double()
        found = next_weights(paid, weights, update="softmax", temperature=temperature)
        torch.testing.assert_close(found, (ratio / temperature).softmax(0))
    assert next_weights(paid, weights, update="none", temperature=1.0).equal(weights)
    uneven = torch.tensor([0.8, 0.2]).double()  # units 0.25 and 0.5
    found = next_weights(paid, uneven, update="inverse", temperature=1.0)
    torch.testing.assert_close(found, torch.tensor([2 / 3, 1 / 3]).double())


@pytest.mark.parametrize("update", ["inverse", "softmax"])
def test_a_layer_that_costs_nothing_is_no_division_by_zero(update):
    for paid in ([0.0, 0.0, 0.0], [0.0, 1.0, 1.0], [1e-30, 1.0, 1e9]):
        weights = even(3)
        for _ in range(5):
            weights = next_weights(torch.tensor(paid).double(), weights, update=update, temperature=1.0)
            assert weights.sum().item() == pytest.approx(1, abs=1e-12)
            assert (weights > 0).all()
    assert next_weights(torch.zeros(3).double(), even(3), update=update, temperature=1.0).allclose(even(3))


def test_permuted_layers_are_found_again():
    teacher = tiny(1, layers=4)
    order = [2, 0, 3, 1]
    states = teacher(**{k: padded()[k] for k in ("input_ids", "attention_mask")}, capture=frozenset({"hidden_states"}))
    layers = states.captured["hidden_states"][1:]
    costs = cost_table([layers[i] for i in order], layers, hidden_state_mse, padded()["attention_mask"])
    flows = transport(costs, even(4), even(4))
    assert flows.argmax(1).tolist() == order
    assert (flows * costs).sum() == 0


def test_zero_where_student_equals_teacher_and_positive_elsewhere():
    method, student, ctx = attached(tiny(0), tiny(0))
    assert loss_of(method, student, ctx, padded(2))[0].item() == 0
    method, student, ctx = attached(tiny(0), tiny(1))
    assert loss_of(method, student, ctx, padded(2))[0] > 1e-3


def test_the_term_is_the_sum_of_its_parts():
    student, teacher, batch = tiny(0, layers=1), tiny(1), padded(2)
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    asked = frozenset({"scores", "hidden_states"})
    own, target = (side(**inputs, capture=asked).captured for side in (student, teacher))
    mask, parts = batch["attention_mask"], {}
    # one layer has to serve both of the teacher's, half and half
    parts["attention"] = sum(
        attention_score_mse(student=own["scores"][0], teacher=each, mask=mask) / 2 for each in target["scores"]
    )
    parts["hidden"] = sum(
        hidden_state_mse(student=own["hidden_states"][1], teacher=each, mask=mask) / 2
        for each in target["hidden_states"][1:]
    )
    parts["embeddings"] = hidden_state_mse(
        student=own["hidden_states"][0], teacher=target["hidden_states"][0], mask=mask
    )
    for name, value in parts.items():
        method, student, ctx = attached(student, teacher, **{each: each == name for each in parts})
        torch.testing.assert_close(loss_of(method, student, ctx, batch)[1]["emd"], value)
    method, student, ctx = attached(student, teacher, weight=0.5)
    torch.testing.assert_close(loss_of(method, student, ctx, batch)[0], sum(parts.values()) / 2)


def stepped(method, ctx):
    """What the callbacks do at the end of a step."""
    for callback in method.callbacks(ctx):
        callback.on_optimizer_step(None, None, None)


def test_the_weights_follow_the_mean_of_what_the_passes_of_a_step_paid():
    found, texts = [], [{name: value[row : row + 1] for name, value in padded().items()} for row in (0, 1)]
    for passes in ((0, 0), (0, 1), (1, 1)):
        method, student, ctx = attached(tiny(0), tiny(1, layers=3), update="inverse", attention=False)
        for text in passes:
            loss_of(method, student, ctx, texts[text])
        paid = [each[0] for each in ctx.state[STATE].paid]
        stepped(method, ctx)
        assert not ctx.state[STATE].paid
        now = next_weights(torch.stack(paid).mean(0).sum(1), even(2), update="inverse", temperature=1.0)
        torch.testing.assert_close(ctx.state[STATE].student, now)
        found.append(now)
    assert not any(found[1].allclose(alone) for alone in (found[0], found[2]))


def test_weights_of_the_layers_follow_the_mean_of_both_costs():
    found = {}
    for name, fields in {"both": {}, "attention": {"hidden": False}, "hidden": {"attention": False}}.items():
        method, student, ctx = attached(tiny(0), tiny(1, layers=3), update="inverse", **fields)
        before = even(2)
        for _ in range(2):  # forward passes of one step
            loss_of(method, student, ctx, padded())
            assert ctx.state[STATE].student.equal(before)
        stepped(method, ctx)
        found[name] = ctx.state[STATE]
    for side, count in (("student", 2), ("teacher", 3)):
        both, *parts = (getattr(found[name], side) for name in ("both", "attention", "hidden"))
        torch.testing.assert_close(both, (parts[0] + parts[1]) / 2)
        assert both.sum().item() == pytest.approx(1)
        assert not both.allclose(even(count))


def test_the_gradient_flows_through_the_costs_alone():
    method, student, ctx = attached(tiny(0, hidden_size=8), tiny(1), update="none")
    loss_of(method, student, ctx, padded())[0].backward()
    gradients = [weight.grad for weight in student.parameters() if weight.grad is not None]
    assert all(gradient.isfinite().all() for gradient in gradients)
    assert student.encoder.layers[0].attention.query.weight.grad.abs().sum() > 0
    assert ctx.state[STATE].project.weight.grad.abs().sum() > 0
    assert all(weight.grad is None for weight in ctx.teacher.parameters())
    assert not any(buffer.requires_grad for buffer in ctx.state[STATE].buffers())


def test_pads_never_count():
    method, student, ctx = attached(tiny(0), tiny(1), update="none")
    expected = loss_of(method, student, ctx, padded())[0]
    for batch in (padded(3), padded(3, fill=30)):
        torch.testing.assert_close(loss_of(method, student, ctx, batch)[0], expected)


def test_other_heads_are_refused_unless_only_hidden_states_are_compared():
    narrow = keep_heads(tiny(0), {0: [0]})
    with pytest.raises(RecipeError, match="the same number of heads, not 1 and 2; attention=false leaves their scores"):
        attached(narrow, tiny(1))
    method, student, ctx = attached(narrow, tiny(1), attention=False)
    assert loss_of(method, student, ctx, padded())[0] > 0
    with pytest.raises(ValueError, match="attention=false must not go with hidden=false and embeddings=false"):
        EMD(attention=False, hidden=False, embeddings=False)


def test_fifty_steps_lower_the_term_and_leave_the_teacher():
    ctx = context(tiny(1, layers=3))
    kept = {name: value.clone() for name, value in ctx.teacher.state_dict().items()}
    first, last = before_and_after(EMD(), tiny(0, hidden_size=8, heads=2), ctx, [padded(), padded(2)])
    assert last < 0.5 * first
    assert all(value.equal(kept[name]) for name, value in ctx.teacher.state_dict().items())


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_task(kind, tmp_path):
    log, ctx = run_on(kind, EMD(), tmp_path)
    assert math.isfinite(log[-1]["terms"]["emd"])
    assert not ctx.state[STATE].teacher.allclose(even(2))


def test_a_shortened_student_is_refused():
    shape = tiny(0).blueprint.replace(shortening=ShorteningSpec(stride=2))
    with pytest.raises(RecipeError, match="^distill/emd: needs layers that work on the tokens as they come"):
        attached(build_model(shape), tiny(1))
