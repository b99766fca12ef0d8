"""Several tasks in one run: whose weights move, and what each task's loss is."""

from functools import partial

import pytest
import torch
from sample_run import make_data, make_model
from torch import nn
from transformers import TrainerCallback

from bertpress.encoder.heads import make_head
from bertpress.methods.matching import TeacherLoss
from bertpress.training import Lesson, Pass, Teacher, TrainSettings, collate_for, train, under_head
from bertpress.training.teacher import model_inputs

KINDS = ["text-regression", "token-classification", "question-answering", "sentence-similarity"]
SETTINGS = TrainSettings(epochs=1, batch_size=8, learning_rate=1e-3, precision="float32", log_points=1000)


def lesson_of(kind, student, folder=None):
    """Another task with a teacher, its lesson under a fresh head, and the head."""
    task, data, _, tokenizer = make_data(kind, count=24, seed=3)
    teacher = make_model(task, tokenizer, seed=7, dropout=0.0)
    spec = teacher.blueprint.head
    torch.manual_seed(4)
    head = make_head(student.blueprint.replace(head=spec), lambda: None) or nn.Identity()
    turn = Pass("other", partial(under_head, head=head, spec=spec))
    terms = [TeacherLoss("mse", 1.0, spec.kind)]
    return Lesson(task, data, terms, Teacher(teacher, cache=folder), (turn,)), head


class Watch(TrainerCallback):
    """What has a gradient at each update, and how far everything moved in it."""

    def __init__(self, model, heads):
        self.parts = {"encoder": model.encoder, "own": model.head, **heads}
        self.touched, self.moved = [], []

    def on_pre_optimizer_step(self, *_, **__):
        graded = {name for name, part in self.parts.items() if any(w.grad is not None for w in part.parameters())}
        self.touched.append(graded)
        self.before = {name: nn.utils.parameters_to_vector(part.parameters()) for name, part in self.parts.items()}

    def on_optimizer_step(self, *_, **__):
        after = {name: nn.utils.parameters_to_vector(part.parameters()) for name, part in self.parts.items()}
        self.moved.append({name for name in after if not torch.equal(after[name], self.before[name])})


def run(folder, kind, **changes):
    task, data, _, tokenizer = make_data(count=48)
    model = make_model(task, tokenizer, dropout=0.0)
    lesson, head = lesson_of(kind, model, folder / "cache")
    watch = Watch(model, {"other": head} if list(head.parameters()) else {})
    settings = SETTINGS.model_copy(update=changes)
    result = train(
        model, task=task, data=data, tokenizer=tokenizer, settings=settings, callbacks=[watch],
        folder=folder / "run", others=[lesson], state=nn.ModuleDict({"heads": nn.ModuleList([head])}), progress="none",
    )  # fmt: skip
    return model, lesson, head, watch, result


def test_a_step_moves_the_encoder_and_the_head_of_its_task_alone(tmp_path):
    model, _, _, watch, result = run(tmp_path, "token-classification", weight_decay=0.1)
    names = [set(point["terms"]) for point in result.log]
    assert sorted(map(sorted, names)) == [["other/logits"]] * 3 + [["task"]] * 6
    expected = [{"encoder", "own"} if each == {"task"} else {"encoder", "other"} for each in names]
    assert watch.touched == watch.moved == expected
    assert model.head is watch.parts["own"]
    assert model.blueprint.head.kind == "sequence"
    assert result.examples == 48 + 24


@pytest.mark.parametrize("kind", KINDS)
def test_each_tasks_loss_is_the_one_computed_by_hand(kind, tmp_path):
    """Nothing moves at a learning rate of 1e-30: the loss of the epoch's batches is that of the first weights."""
    model, lesson, head, _, result = run(tmp_path, kind, learning_rate=1e-30, log_points=1, batch_size=24)
    assert lesson.teacher.cache is not None
    told = result.log[-1]["terms"]
    _, data, _, tokenizer = make_data(count=48)
    pads = collate_for(tokenizer)
    with torch.no_grad():
        batch = pads([data[row] for row in range(48)])
        own = nn.functional.cross_entropy(model(**model_inputs(batch)).logits, batch["labels"])
        batch = pads([lesson.data[row] for row in range(len(lesson.data))])
        hidden = model(**model_inputs(batch)).last_hidden_state
        errors = head.eval()(hidden, batch["attention_mask"]) - lesson.teacher.model(**model_inputs(batch)).logits
    if kind in ("token-classification", "question-answering"):  # pads do not count
        errors = errors[batch["attention_mask"] == 1]
    assert told["task"] == pytest.approx(float(own), rel=1e-4)
    assert told["other/logits"] == pytest.approx(float(errors.square().mean()), rel=1e-4)


def fails_under(model, head, spec):
    with under_head(model, head=head, spec=spec):
        assert model.head is head
        raise KeyError


def test_a_head_is_put_back_after_a_fault():
    task, _, _, tokenizer = make_data()
    model = make_model(task, tokenizer)
    own, blueprint, names = model.head, model.blueprint, list(model.state_dict())
    _, head = lesson_of("text-regression", model)
    with pytest.raises(KeyError):
        fails_under(model, head, blueprint.head.model_copy(update={"labels": 1}))
    assert (model.head, model.blueprint) == (own, blueprint)
    assert list(model.state_dict()) == names


def test_an_answer_has_the_form_of_the_head_that_gave_it():
    task, data, _, tokenizer = make_data("question-answering", count=8)
    model = make_model(task, tokenizer)
    lesson, _ = lesson_of("text-regression", model)
    batch = collate_for(tokenizer)([data[row] for row in range(4)])
    with lesson.passes[0].configure(model):
        found = model(**model_inputs(batch))
    assert (found.logits.shape, found.start_logits) == ((4, 1), None)
    assert model(**model_inputs(batch)).start_logits is not None
