"""With the values alone and as many heads, MiniLM's term; the chosen layer; heads that divide; every kind of task."""

import pytest
import torch
from teaching import KINDS, before_and_after, context, loss_of, padded, run_on, tiny

from bertpress.encoder.surgery import keep_heads
from bertpress.errors import RecipeError
from bertpress.methods.distill.minilm import MiniLM
from bertpress.methods.distill.minilmv2 import MiniLMv2
from bertpress.methods.relations import log_relations, regroup, relation_kl


def attached(student, teacher, **fields):
    method, ctx = MiniLMv2(**fields), context(teacher)
    return method, method.attach(student, ctx), ctx


def test_zero_where_student_equals_teacher_and_positive_elsewhere():
    method, student, ctx = attached(tiny(0), tiny(0))
    assert loss_of(method, student, ctx, padded(2))[0].item() == pytest.approx(0, abs=1e-6)
    terms = loss_of(method, tiny(1), ctx, padded(2))[1]
    assert set(terms) == {"queries", "keys", "values"}
    assert all(term > 1e-3 for term in terms.values())


def test_values_alone_in_the_models_own_heads_are_minilms_value_relations():
    student, teacher = tiny(0, layers=1, hidden_size=8), tiny(1)
    method, student, ctx = attached(student, teacher, relation_heads=2, queries=0, keys=0)
    expected = loss_of(MiniLM(attention=0), student, ctx, padded(2))[0]
    torch.testing.assert_close(loss_of(method, student, ctx, padded(2))[0], expected)
    assert expected > 1e-3


def test_relation_heads_are_cut_out_of_both_widths():
    student, teacher, batch = tiny(0, hidden_size=24), tiny(1, heads=4), padded(1)
    method, student, ctx = attached(student, teacher, relation_heads=8)
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    own, target = (side(**inputs, capture=frozenset({"keys"})).captured["keys"][-1] for side in (student, teacher))
    mask = batch["attention_mask"]
    expected = relation_kl(
        student=log_relations(regroup(own, 8), mask), teacher=log_relations(regroup(target, 8), mask), mask=mask
    )
    assert (regroup(own, 8).shape, regroup(target, 8).shape) == ((2, 8, 6, 3), (2, 8, 6, 2))
    torch.testing.assert_close(loss_of(method, student, ctx, batch)[1]["keys"], expected)


def test_the_layer_is_the_one_asked_for():
    teacher = tiny(1, layers=3)
    losses = []
    for layer in (1, 2, 3, None):
        method, student, ctx = attached(tiny(0), teacher, teacher_layer=layer)
        losses.append(loss_of(method, student, ctx, padded())[0].item())
    assert losses[2] == losses[3]
    assert len(set(losses)) == 3
    headless = keep_heads(teacher, {0: []})  # records one layer less: the third is the second on the tape
    method, student, ctx = attached(headless, headless, teacher_layer=3)
    assert loss_of(method, student, ctx, padded())[0].item() == pytest.approx(0, abs=1e-6)
    with pytest.raises(RecipeError, match="distill/minilmv2: teacher_layer=4 must be at most 3"):
        attached(tiny(0), teacher, teacher_layer=4)
    with pytest.raises(RecipeError, match="distill/minilmv2: layer 1 of 3 has no heads left"):
        attached(tiny(0), headless, teacher_layer=1)


def test_heads_that_do_not_divide_are_refused_and_so_is_nothing_to_learn():
    with pytest.raises(ValueError, match="queries=0 must not go with keys=0, values=0 and task=0"):
        MiniLMv2(queries=0, keys=0, values=0)
    words = "distill/minilmv2: relation_heads=3 must divide the widths 24, 16 of student and teacher"
    with pytest.raises(RecipeError, match=words):
        attached(tiny(0, hidden_size=24), tiny(1), relation_heads=3)


def test_pads_never_count_and_the_student_alone_learns():
    method, student, ctx = attached(tiny(0), tiny(1))
    expected = loss_of(method, student, ctx, padded())[0]
    loss, _ = loss_of(method, student, ctx, padded(3, fill=30))
    torch.testing.assert_close(loss, expected)
    loss.backward()
    assert student.encoder.layers[0].attention.query.weight.grad.abs().sum() > 0
    assert all(weight.grad is None for weight in ctx.teacher.parameters())


def test_fifty_steps_lower_the_term():
    first, last = before_and_after(MiniLMv2(), tiny(0, layers=1), context(tiny(1)), [padded(), padded(2)])
    assert last < 0.5 * first


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_task(kind, tmp_path):
    log, _ = run_on(kind, MiniLMv2(queries=0.5, task=0.1), tmp_path)
    assert set(log[-1]["terms"]) == {"queries", "keys", "values", "task"}
