"""Probes that read the classes in a layer, the loss by hand, trained once, frozen; each kind of task with classes."""

import math

import pytest
import torch
from sample_run import make_data
from teaching import before_and_after, collated, context, loss_of, padded, run_on, tiny

from bertpress.encoder.blueprint import HeadSpec
from bertpress.errors import RecipeError
from bertpress.methods.distill.probes import (
    STATE,
    Classifiers,
    Probes,
    confidence,
    labelled_rows,
    probe_loss,
    probed_layers,
)  # fmt: skip
from bertpress.tasks import resolve

QUICK = {"examples": 8, "epochs": 2}


def attached(student, teacher, **fields):
    method, ctx = Probes(**{**QUICK, **fields}), context(teacher)
    ctx.calibration = lambda examples, *_: [padded(), padded(2)]
    return method, method.attach(student, ctx), ctx


def test_layers_that_are_matched():
    assert probed_layers(4, 12) == [0, 3, 6, 9, 12]
    assert probed_layers(5, 12) == [0, 2, 4, 6, 8, 10]
    assert probed_layers(2, 2) == [0, 1, 2]


def test_the_loss_by_hand():
    student = torch.tensor([[[0.0, 0.0]], [[math.log(3), 0.0]]])  # 1/2 1/2 and 3/4 1/4
    teacher = torch.tensor([[[math.log(3), 0.0]], [[0.0, 0.0]]])
    layers = [math.log(2), (math.log(4 / 3) + math.log(4)) / 2]
    counts = torch.tensor([[0.25], [0.75]])
    value = probe_loss(student=student, teacher=teacher, counts=counts, temperature=1.0)
    assert value.item() == pytest.approx(0.25 * layers[0] + 0.75 * layers[1])
    two = [each.repeat(1, 2, 1) for each in (student, teacher)]
    value = probe_loss(student=two[0], teacher=two[1], counts=counts.repeat(1, 2), temperature=1.0)
    assert value.item() == pytest.approx(0.25 * layers[0] + 0.75 * layers[1])
    halves = probe_loss(student=student * 2, teacher=teacher * 2, counts=counts, temperature=2.0)
    assert halves.item() == pytest.approx(4 * (0.25 * layers[0] + 0.75 * layers[1]))


def test_layers_count_as_their_probes_believe_in_the_label():
    teacher = torch.tensor([[[math.log(3), 0.0], [0.0, 0.0]], [[0.0, 0.0], [0.0, math.log(3)]]])
    found = confidence(teacher, torch.tensor([0, 1]))  # of the label: 3/4 and 1/2 of the first, 1/2 and 3/4
    torch.testing.assert_close(found, torch.tensor([[0.6, 0.4], [0.4, 0.6]]))


def test_layers_count_alike_for_a_text_without_a_label():
    teacher = torch.tensor([[[math.log(3), 0.0], [0.0, 0.0]], [[0.0, 0.0], [0.0, math.log(3)]]])
    found = confidence(teacher, torch.tensor([0, -100]))
    torch.testing.assert_close(found, torch.tensor([[0.6, 0.5], [0.4, 0.5]]))


def test_the_cache_is_asked_for_the_layers_that_are_read():
    method, _, ctx = attached(tiny(0), tiny(1, layers=5))
    assert [term.teacher_places for term in method.objectives(ctx)] == [{0, 2, 4}]


def test_probes_read_a_planted_class_where_it_is():
    teacher = tiny(1)
    batch = {"input_ids": torch.tensor([[6, 7], [7, 6]] * 4), "attention_mask": torch.ones(8, 2, dtype=torch.long)}
    batch |= {"labels": torch.tensor([0, 1] * 4), "index": torch.arange(8)}
    ctx = context(teacher)
    ctx.calibration = lambda examples, *_: [batch]
    Probes(epochs=300, learning_rate=0.05).attach(tiny(0), ctx)
    ids = {name: batch[name] for name in ("input_ids", "attention_mask")}
    hidden = teacher(**ids, output_hidden_states=True).hidden_states
    said = ctx.state[STATE]["teacher"](hidden, batch["attention_mask"])
    right = (said.argmax(-1) == batch["labels"]).float().mean(1)
    assert right[1:].tolist() == [1.0, 1.0]


def test_the_term_by_hand():
    for weighting in ("labels", "equal"):
        method, student, ctx = attached(tiny(0, layers=1), tiny(1, layers=3), weighting=weighting)
        batch = padded(2)
        inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
        own, target = (side(**inputs, output_hidden_states=True).hidden_states for side in (student, ctx.teacher))
        mask = batch["attention_mask"][..., None]
        total = torch.zeros(2)
        beliefs, losses = [], []
        for i, j in ((0, 0), (1, 3)):
            mine, probe = (
                ctx.state[STATE][side][i]((states * mask).sum(1) / mask.sum(1))
                for side, states in (("student", own[i]), ("teacher", target[j]))
            )
            losses.append(-(probe.softmax(-1) * mine.log_softmax(-1)).sum(-1))
            beliefs.append(probe.softmax(-1)[range(2), batch["labels"]])
        for loss, belief in zip(losses, beliefs, strict=True):
            total = total + loss * (belief / sum(beliefs) if weighting == "labels" else 0.5)
        torch.testing.assert_close(loss_of(method, student, ctx, batch)[1]["probes"], total.mean())


def test_rows_are_texts_labelled_tokens_and_ends():
    logits = torch.arange(24.0).reshape(1, 2, 3, 4)
    tags = {"labels": torch.tensor([[-100, 2, -100], [0, -100, -100]])}
    ((rows, labels),) = labelled_rows("token", logits, tags)
    assert rows.tolist() == [[logits[0, 0, 1].tolist(), logits[0, 1, 0].tolist()]]
    assert labels.tolist() == [2, 0]
    batch = {"attention_mask": torch.tensor([[1, 1, 0], [1, 1, 1]]), "start_positions": torch.tensor([1, 2]),
             "end_positions": torch.tensor([1, 0])}  # fmt: skip
    start, end = labelled_rows("span", logits[..., :2], batch)
    assert start[0][0].tolist() == [[0.0, 4.0, -1e4], [12.0, 16.0, 20.0]]
    assert end[0][0].tolist() == [[1.0, 5.0, -1e4], [13.0, 17.0, 21.0]]
    assert (start[1].tolist(), end[1].tolist()) == ([1, 2], [1, 0])


def test_classifiers_that_say_what_the_probes_say_have_no_gradient():
    """The student's hidden states are the teacher's, and so are its classifiers: cross-entropy is at its least."""
    method, student, ctx = attached(tiny(1), tiny(1))
    both = ctx.state[STATE]
    both["student"].load_state_dict(both["teacher"].state_dict())
    value, _ = loss_of(method, student, ctx, padded())
    value.backward()
    assert all(weight.grad.abs().max() < 1e-6 for weight in both["student"].parameters())
    with torch.no_grad():
        both["student"][0].bias += torch.tensor([1.0, 0.0])
    assert loss_of(method, student, ctx, padded())[0] > value


def test_the_probes_are_frozen_and_the_teacher_untouched():
    teacher = tiny(1)
    kept = {name: value.clone() for name, value in teacher.state_dict().items()}
    method, student, ctx = attached(tiny(0), teacher)
    loss_of(method, student, ctx, padded(2))[0].backward()
    assert not any(weight.requires_grad for weight in ctx.state[STATE]["teacher"].parameters())
    assert ctx.state[STATE]["student"][1].weight.grad.abs().sum() > 0
    assert student.encoder.layers[0].attention.value.weight.grad.abs().sum() > 0
    assert all(weight.grad is None for weight in teacher.parameters())
    assert all(value.equal(kept[name]) for name, value in teacher.state_dict().items())


def test_probes_are_trained_once_and_found_again(tmp_path):
    said = []

    def attach(batches):
        ctx = context(tiny(1), folder=tmp_path, say=said.append)
        ctx.calibration = batches
        Probes(**QUICK).attach(tiny(0), ctx)
        return ctx.state[STATE]

    first = attach(lambda *_: [padded()])
    again = attach(None)  # would raise if it looked at a text
    assert said == ["distill/probes: 3 probes trained on 2 examples"]
    for (name, a), (_, b) in zip(first.state_dict().items(), again.state_dict().items(), strict=True):
        assert a.equal(b), name
    assert not any(weight.requires_grad for weight in again["teacher"].parameters())


def test_training_the_probes_lowers_their_loss():
    task, data, _, _ = make_data(count=16)
    batch = collated(data, range(16))
    teacher = tiny(1, vocabulary=64, positions=64)
    losses = []
    for epochs in (1, 100):
        ctx = context(teacher)
        ctx.task, ctx.calibration = task, lambda *_: [batch]
        Probes(epochs=epochs, learning_rate=0.05).attach(tiny(0), ctx)
        ids = {name: batch[name] for name in ("input_ids", "attention_mask", "token_type_ids") if name in batch}
        said = ctx.state[STATE]["teacher"](
            teacher(**ids, output_hidden_states=True).hidden_states, ids["attention_mask"]
        )
        losses.append(torch.nn.functional.cross_entropy(said.flatten(0, 1), batch["labels"].repeat(3)).item())
    assert losses[1] < 0.5 * losses[0]


def test_fifty_steps_lower_the_term():
    ctx = context(tiny(1))
    ctx.calibration = lambda examples, *_: [padded()]
    first, last = before_and_after(Probes(epochs=200, learning_rate=0.05), tiny(0), ctx, [padded()])
    assert last < 0.8 * first


def test_tokens_are_classified_one_by_one():
    head = HeadSpec(kind="token", labels=4)
    found = Classifiers(2, 8, head, torch.Generator().manual_seed(0))([torch.zeros(3, 5, 8)] * 2, torch.ones(3, 5))
    assert found.shape == (2, 3, 5, 4)


@pytest.mark.parametrize("kind", ["text-classification", "token-classification", "question-answering"])
def test_every_kind_of_task_with_classes(kind, tmp_path):
    log, _ = run_on(kind, Probes(**QUICK), tmp_path)
    assert log[-1]["terms"].keys() == {"task", "probes"}
    assert math.isfinite(log[-1]["terms"]["probes"])


def test_other_tasks_and_deeper_students_are_refused():
    ctx = context(tiny(1))
    ctx.task = resolve("text-regression", text_columns=("text",), label_column="score")
    words = "distill/probes: the task .* must have one class for each text or token, not text-regression"
    with pytest.raises(RecipeError, match=words):
        Probes().attach(tiny(0), ctx)
    with pytest.raises(RecipeError, match="distill/probes: the student's 3 layers must be 1 to 2, the teacher's"):
        Probes().attach(tiny(0, layers=3), context(tiny(1)))
