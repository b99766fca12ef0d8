"""Losses by hand on two rows, zero where both agree, the entropy identity, temperature, masking."""

import math

import pytest
import torch

from bertpress.methods.base import Context
from bertpress.methods.distances import logit_mae, logit_mse, soft_binary, soft_cross_entropy, soft_kl
from bertpress.methods.distill.logits import Logits
from bertpress.methods.matching import TeacherLoss, comparable_rows
from bertpress.tasks import resolve
from bertpress.training.objectives import Step, TaskLoss

STUDENT = torch.tensor([[0.0, 0.0], [math.log(3), 0.0]])  # probabilities 1/2 1/2 and 3/4 1/4
TEACHER = torch.tensor([[math.log(3), 0.0], [0.0, 0.0]])  # 3/4 1/4 and 1/2 1/2
SST2 = resolve("sst2").replace(labels=("negative", "positive"))


def test_by_hand():
    ce = (math.log(2) + (-0.5 * math.log(0.75) - 0.5 * math.log(0.25))) / 2
    kl = (0.75 * math.log(1.5) + 0.25 * math.log(0.5) + 0.5 * math.log(2 / 3) + 0.5 * math.log(2)) / 2
    assert soft_cross_entropy(student=STUDENT, teacher=TEACHER, temperature=1.0).item() == pytest.approx(ce)
    assert soft_kl(student=STUDENT, teacher=TEACHER, temperature=1.0).item() == pytest.approx(kl)
    assert soft_kl(student=TEACHER, teacher=STUDENT, temperature=1.0).item() == pytest.approx(
        (0.5 * math.log(2 / 3) + 0.5 * math.log(2) + 0.75 * math.log(1.5) + 0.25 * math.log(0.5)) / 2
    )
    one = {"student": STUDENT[:1], "teacher": TEACHER[:1], "temperature": 1.0}
    assert soft_kl(**one).item() == pytest.approx(0.75 * math.log(1.5) + 0.25 * math.log(0.5))
    swapped = {"student": TEACHER[:1], "teacher": STUDENT[:1], "temperature": 1.0}
    assert soft_kl(**swapped).item() == pytest.approx(0.5 * math.log(2 / 3) + 0.5 * math.log(2))
    assert logit_mse(**one).item() == pytest.approx(math.log(3) ** 2 / 2)
    assert logit_mae(**one).item() == pytest.approx(math.log(3) / 2)
    binary = -(0.75 * math.log(0.5) + 0.25 * math.log(0.5)) - math.log(0.5)
    assert soft_binary(**one).item() == pytest.approx(binary)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_cross_entropy_is_kl_plus_entropy_and_agreement_costs_nothing(temperature):
    torch.manual_seed(0)
    student, teacher = torch.randn(2, 5, 7).unbind(0)
    arguments = {"student": student, "teacher": teacher, "temperature": temperature}
    p = (teacher / temperature).softmax(-1)
    entropy = -(p * p.log()).sum(-1).mean() * temperature**2
    torch.testing.assert_close(soft_cross_entropy(**arguments), soft_kl(**arguments) + entropy)
    assert soft_kl(student=teacher, teacher=teacher, temperature=temperature).abs() < 1e-6
    assert soft_kl(**arguments) > 0


def test_the_gradient_keeps_its_size_when_the_temperature_rises():
    torch.manual_seed(0)
    teacher, sizes = torch.randn(64, 5), []
    for temperature in (8.0, 16.0):
        student = torch.zeros(64, 5, requires_grad=True)
        soft_kl(student=student, teacher=teacher, temperature=temperature).backward()
        sizes.append(student.grad.norm())
    assert sizes[1] / sizes[0] == pytest.approx(1, abs=0.05)


def test_pads_and_other_positions_do_not_count():
    mask = torch.tensor([[1, 1, 0], [1, 0, 0]])
    torch.manual_seed(0)
    logits = torch.randn(2, 3, 4)
    noisy = torch.where(mask.bool()[..., None], logits, torch.randn(2, 3, 4))
    batch = {"attention_mask": mask, "labels": torch.tensor([[-100, 3, -100], [1, -100, -100]])}
    assert torch.equal(comparable_rows("token", logits, batch)[0], comparable_rows("token", noisy, batch)[0])
    assert comparable_rows("token", logits, batch)[0].shape == (3, 4)
    assert torch.equal(comparable_rows("masked_lm", logits, batch)[0], torch.stack([logits[0, 1], logits[1, 0]]))
    for clean, dirty in zip(comparable_rows("span", logits, batch), comparable_rows("span", noisy, batch), strict=True):
        assert torch.equal(clean, dirty)


class Out:
    def __init__(self, logits):
        self.logits = logits


def step(task, student, teacher, batch):
    return Step(batch=batch, student=Out(student), teacher=Out(teacher), task=task, state=torch.nn.ModuleDict())


def test_a_batch_without_anything_to_compare_costs_nothing():
    task, batch = resolve("masked-lm"), {"labels": torch.full((2, 3), -100)}
    logits = torch.randn(2, 3, 5, requires_grad=True)
    found = TeacherLoss("kl", 2.0, "masked_lm")(step(task, logits, torch.randn(2, 3, 5), batch))
    found.backward()
    assert found.item() == 0
    assert not logits.grad.any()


def test_terms_and_their_weights():
    ctx = Context(task=SST2, tokenizer=None, seed=0)
    assert [(type(t), t.weight) for t in Logits(alpha=0.0).objectives(ctx)] == [(TaskLoss, 1.0)]
    assert [(type(t), t.weight) for t in Logits(alpha=1.0).objectives(ctx)] == [(TeacherLoss, 1.0)]
    both = Logits(alpha=0.75).objectives(ctx)
    assert [(t.name, t.weight) for t in both] == [("task", 0.25), ("logits", 0.75)]


def test_regression_learns_the_teachers_number():
    task = resolve("text-regression", text_columns=("text",), label_column="score")
    loss = TeacherLoss("kl", 2.0, "sequence")
    value = loss(step(task, torch.tensor([[1.0], [3.0]]), torch.tensor([[2.0], [3.0]]), {}))
    assert value.item() == pytest.approx(0.5)


def test_vectors_of_another_width_agree_where_all_cosines_do():
    torch.manual_seed(0)
    teacher = torch.randn(6, 5)
    wider = 3 * torch.cat([teacher, torch.zeros(6, 4)], 1)  # turned and scaled: the same cosines
    task, loss = resolve("sentence-similarity"), TeacherLoss("kl", 2.0, "embedding")
    assert loss(step(task, wider, teacher, {})).item() == pytest.approx(0, abs=1e-12)
    assert loss(step(task, 3 * teacher, teacher, {})).item() == pytest.approx(4 * float(teacher.square().mean()))
    right = torch.tensor([[1.0, 0.0, 0.0], [1.0, 0.0, 0.0]])
    assert loss(step(task, right, torch.eye(2), {})).item() == pytest.approx(0.5)  # 1 for 0 in two of four places


def test_spans_average_start_and_end():
    task = resolve("squad")
    batch = {"attention_mask": torch.ones(1, 2, dtype=torch.long)}
    student = torch.stack([STUDENT[:1], TEACHER[:1]], -1)  # starts as the student's row, ends as the teacher's
    teacher = torch.stack([TEACHER[:1], TEACHER[:1]], -1)
    start = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    assert TeacherLoss("kl", 1.0, "span")(step(task, student, teacher, batch)).item() == pytest.approx(start / 2)


@pytest.mark.parametrize("loss", ["ce", "kl", "mse", "mae"])
@pytest.mark.parametrize(("name", "kind", "width"), [("squad", "span", 2), ("wnut17", "token", 4)])
def test_more_pads_change_nothing(loss, name, kind, width):
    torch.manual_seed(0)
    found, (student, teacher) = [], torch.randn(2, 2, 3, width)
    for pads in (0, 1, 9):
        mask = torch.tensor([[1, 1, 0], [1, 1, 1]])
        batch = {"attention_mask": torch.cat([mask, torch.zeros(2, pads, dtype=torch.long)], 1)}
        logits = [torch.cat([side, torch.randn(2, pads, width)], 1) for side in (student, teacher)]
        found.append(TeacherLoss(loss, 2.0, kind)(step(resolve(name), *logits, batch)))
    torch.testing.assert_close(found[1:], found[:1] * 2)


def test_several_labels_agree_at_no_cost():
    task = resolve("text-classification", text_columns=("text",), label_column="label").replace(
        labels=("a", "b"), multi_label=True, metric="f1_micro"
    )
    for loss, least in (("kl", 0.0), ("ce", float(soft_binary(student=TEACHER, teacher=TEACHER, temperature=2.0)))):
        term = TeacherLoss(loss, 2.0, "sequence")
        assert term(step(task, TEACHER, TEACHER, {})).item() == pytest.approx(least, abs=1e-6)
        assert term(step(task, STUDENT, TEACHER, {})).item() > least + 0.1
