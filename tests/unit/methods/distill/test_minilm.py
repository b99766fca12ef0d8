"""Zero where both agree, pads, which layers learn, unequal widths and depths, other head counts; every kind of task."""

import pytest
import torch
from teaching import KINDS, before_and_after, context, loss_of, padded, run_on, step_of, tiny

from bertpress.encoder.surgery import keep_heads, keep_layers
from bertpress.errors import RecipeError
from bertpress.methods.distill.minilm import MiniLM
from bertpress.training import TaskLoss


def attached(student, teacher, **fields):
    method, ctx = MiniLM(**fields), context(teacher)
    return method, method.attach(student, ctx), ctx


def test_zero_where_student_equals_teacher_and_positive_elsewhere():
    method, student, ctx = attached(tiny(0), tiny(0))
    assert loss_of(method, student, ctx, padded(2))[0].item() == pytest.approx(0, abs=1e-6)
    value, terms = loss_of(method, tiny(1), ctx, padded(2))
    assert set(terms) == {"attention", "values"}
    assert all(term > 1e-3 for term in terms.values())
    torch.testing.assert_close(value, sum(terms.values()))


def test_maps_are_those_of_the_last_layer():
    method, student, ctx = attached(tiny(0, layers=1), tiny(1, layers=3))
    batch = padded(2)
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    own, target = (side(**inputs, output_attentions=True).attentions[-1] for side in (student, ctx.teacher))
    rows = []
    for row, count in enumerate((5, 3)):
        p, q = (maps[row, :, :count, :count] for maps in (target, own))
        rows.append((p * (p / q).log()).sum(-1).mean(0))
    torch.testing.assert_close(loss_of(method, student, ctx, batch)[1]["attention"], torch.cat(rows).mean())


def test_pads_never_count():
    method, student, ctx = attached(tiny(0), tiny(1))
    expected = loss_of(method, student, ctx, padded())[0]
    for batch in (padded(3), padded(3, fill=30)):
        torch.testing.assert_close(loss_of(method, student, ctx, batch)[0], expected)


def test_the_student_alone_learns_below_the_last_layers_values():
    method, student, ctx = attached(tiny(0), tiny(1))
    loss_of(method, student, ctx, padded(2))[0].backward()
    for layer in student.encoder.layers:
        assert all(getattr(layer.attention, part).weight.grad.abs().sum() > 0 for part in ("query", "key", "value"))
    assert student.encoder.layers[0].ffn[0].inner.weight.grad.abs().sum() > 0
    assert student.encoder.layers[1].ffn[0].inner.weight.grad is None
    assert student.head.classifier.weight.grad is None
    assert all(weight.grad is None for weight in ctx.teacher.parameters())
    assert all(weight.grad is None or weight.grad.isfinite().all() for weight in student.parameters())


def test_width_and_depth_may_differ_but_heads_must_not():
    for student in (tiny(0, hidden_size=8, layers=1), tiny(0, hidden_size=32, layers=4)):
        method, student, ctx = attached(student, tiny(1))
        assert loss_of(method, student, ctx, padded())[0] > 0
    words = "distill/minilm: the student's last layer has 1 heads and must have the teacher's 2; distill/minilmv2"
    with pytest.raises(RecipeError, match=words):
        attached(keep_heads(tiny(0), {1: [0]}), tiny(1))
    attached(keep_heads(tiny(0), {0: [0]}), tiny(1))  # only the last layers are compared


def test_a_weight_of_zero_switches_a_term_off():
    names = [[term.name for term in attached(tiny(0), tiny(1), **fields)[0].objectives(context(tiny(1)))]
             for fields in ({}, {"attention": 0}, {"values": 0}, {"task": 0.5})]  # fmt: skip
    assert names == [["attention", "values"], ["values"], ["attention"], ["attention", "values", "task"]]
    with pytest.raises(ValueError, match="attention=0 must not go with values=0 and task=0"):
        MiniLM(attention=0, values=0)
    method, student, ctx = attached(tiny(0), tiny(1), attention=0, values=0, task=2.0)
    terms = method.objectives(ctx)
    assert [type(term) for term in terms] == [TaskLoss]
    torch.testing.assert_close(
        loss_of(method, student, ctx, padded())[0], 2 * TaskLoss()(step_of(terms, student, ctx, padded()))
    )


def test_the_cache_is_asked_for_the_last_layer_alone():
    method, _, ctx = attached(tiny(0), tiny(1, layers=4))
    assert [term.teacher_places for term in method.objectives(ctx)] == [{3}, {3}]
    teacher = keep_heads(tiny(1, layers=4), {0: []})  # which records nothing
    assert [term.teacher_places for term in method.objectives(context(teacher))] == [{2}, {2}]


def test_fifty_steps_lower_the_term_and_leave_the_teacher():
    student, ctx = keep_layers(tiny(0), [0]), context(tiny(1))
    kept = {name: value.clone() for name, value in ctx.teacher.state_dict().items()}
    first, last = before_and_after(MiniLM(), student, ctx, [padded(), padded(2)])
    assert last < 0.5 * first
    assert all(value.equal(kept[name]) for name, value in ctx.teacher.state_dict().items())
    assert not ctx.teacher.training
    assert not ctx.state


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_task(kind, tmp_path):
    log, _ = run_on(kind, MiniLM(), tmp_path)
    assert set(log[-1]["terms"]) == {"attention", "values"}
