"""Each stage against the two distances by hand, zero for the teacher itself, gradient for one layer alone."""

import pytest
import torch
from teaching import KINDS, context, padded, run_on, step_of, tiny

from bertpress.encoder.surgery import keep_heads, keep_layers, share
from bertpress.errors import RecipeError
from bertpress.methods.distances import attention_map_kl, hidden_state_mse
from bertpress.methods.distill.progressive import Progressive
from bertpress.training.objectives import total

DEPTH = 2


class State:
    """What the callback reads of the Trainer's."""

    def __init__(self, step, steps):
        self.global_step, self.max_steps = step, steps


def at_stage(stage, student, teacher, batch=None, **fields):
    """The terms of a stage on a batch, and the step that they saw."""
    method, ctx = Progressive(**fields), context(teacher)
    student = method.attach(student, ctx).train()
    (callback,) = method.callbacks(ctx)
    callback.on_train_begin(None, None, None, model=student)
    callback.on_step_begin(None, State(stage, len(student.encoder.layers) + 1), None)
    terms = method.objectives(ctx)
    return terms, step_of(terms, student, ctx, batch or padded())


@pytest.mark.parametrize(("stage", "theirs"), [(0, 0), (1, 2), (2, 4)])
def test_a_stage_compares_its_own_layer(stage, theirs):
    student, teacher, batch = tiny(0), tiny(1, layers=4), padded(2)
    (hidden, attention), step = at_stage(stage, student, teacher, batch, hidden=2.0, attention=3.0)
    mask = batch["attention_mask"]
    inputs = {
        "input_ids": batch["input_ids"],
        "attention_mask": mask,
        "capture": frozenset({"hidden_states", "scores"}),
    }
    own, there = student.eval()(**inputs).captured, teacher(**inputs).captured
    expected = hidden_state_mse(student=own["hidden_states"][stage], teacher=there["hidden_states"][theirs], mask=mask)
    torch.testing.assert_close(hidden(step), expected)
    maps = torch.zeros(())
    if stage:
        maps = attention_map_kl(student=own["scores"][stage - 1], teacher=there["scores"][theirs - 1], mask=mask)
    torch.testing.assert_close(attention(step), maps)
    torch.testing.assert_close(total([hidden, attention], step)[0], 2 * expected + 3 * maps)


@pytest.mark.parametrize("stage", range(DEPTH + 1))
def test_the_teacher_itself_has_nothing_to_learn(stage):
    terms, step = at_stage(stage, tiny(1), tiny(1))
    assert [term(step).item() for term in terms] == [0, 0]
    terms, step = at_stage(stage, tiny(0), tiny(1))
    assert [term(step).item() > 0 for term in terms] == [True, stage > 0]


@pytest.mark.parametrize("stage", range(DEPTH + 1))
def test_gradient_reaches_one_layer_alone(stage):
    student, teacher = tiny(0), tiny(1)
    terms, step = at_stage(stage, student, teacher)
    total(terms, step)[0].backward()
    parts = {0: "encoder.embeddings.", **{i: f"encoder.layers.{i - 1}." for i in range(1, DEPTH + 1)}}
    learnt = {name for name, weight in student.named_parameters() if weight.grad is not None and weight.grad.any()}
    assert learnt
    assert all(name.startswith(parts[stage]) for name in learnt)
    assert all(weight.grad is None for name, weight in student.named_parameters() if not name.startswith(parts[stage]))
    assert all(weight.grad is None for weight in teacher.parameters())


def test_slow_layers_learn_too():
    student = tiny(0)
    terms, step = at_stage(2, student, tiny(1), lower_rate=0.1)
    total(terms, step)[0].backward()
    for part in (student.encoder.embeddings.word, student.encoder.layers[0].ffn[0].inner, student.encoder.layers[1]):
        assert any(weight.grad is not None and weight.grad.any() for weight in part.parameters())


def test_pads_do_not_count():
    losses = []
    for batch in (padded(), padded(3), padded(3, fill=7)):
        terms, step = at_stage(2, tiny(0), tiny(1), batch)
        losses.append(total(terms, step)[0].item())
    assert losses == pytest.approx(losses[:1] * 3, rel=1e-5)


def test_without_weight_the_maps_are_not_compared():
    terms, _ = at_stage(1, tiny(0, heads=4), tiny(1), attention=0.0)
    assert [term.name for term in terms] == ["hidden"]


@pytest.mark.parametrize(
    ("student", "teacher", "message"),
    [
        (tiny(0, hidden_size=8), tiny(1), "the student's hidden_size=8 must be the teacher's 16"),
        (share(tiny(0), {1: 0}), tiny(1), "the student must not share weights among its layers"),
        (keep_heads(tiny(0), {1: [0]}), tiny(1), "layer 2 of the student has 1 heads, layer 2 of the teacher 2; give"),
        (tiny(0), keep_layers(tiny(1), [0]), "layer_map=uniform needs a student of at most 1 layers, not 2"),
    ],
)
def test_what_cannot_be_compared_is_refused(student, teacher, message):
    with pytest.raises(RecipeError, match=f"distill/progressive: {message}"):
        Progressive().attach(student, context(teacher))


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_task(kind, tmp_path):
    log, _ = run_on(kind, Progressive(), tmp_path)
    assert log[-1]["terms"].keys() == {"hidden", "attention"}
