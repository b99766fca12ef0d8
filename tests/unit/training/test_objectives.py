from dataclasses import dataclass

import pytest
import torch
from torch import nn
from transformers.utils import ModelOutput

from bertpress.tasks import resolve
from bertpress.training import Step, TaskLoss
from bertpress.training.objectives import captures, teacher_reads, total


@dataclass
class Constant:
    name: str
    weight: float
    value: float
    captures: frozenset = frozenset()
    needs_teacher: bool = False

    def __call__(self, step):
        return torch.tensor(self.value, requires_grad=True)


def a_step(logits, labels):
    task = resolve("text-classification").model_copy(update={"labels": ("a", "b")})
    return Step({"labels": torch.tensor(labels)}, ModelOutput(logits=logits), None, task, nn.ModuleDict())


def test_task_loss_is_cross_entropy_worked_by_hand():
    step = a_step(torch.tensor([[0.0, 0.0], [1.0, 3.0]]), [0, 1])
    by_hand = (torch.log(torch.tensor(2.0)) + torch.log1p(torch.exp(torch.tensor(-2.0)))) / 2
    assert TaskLoss()(step) == pytest.approx(float(by_hand))


def test_terms_are_weighted_and_logged_without_their_weight():
    loss, terms = total([Constant("a", 0.5, 4.0), Constant("b", 2.0, 3.0)], a_step(torch.zeros(1, 2), [0]))
    assert loss.item() == 0.5 * 4 + 2 * 3
    assert {name: float(value) for name, value in terms.items()} == {"a": 4.0, "b": 3.0}
    assert not terms["a"].requires_grad


def test_a_term_of_weight_zero_is_not_computed():
    class Explodes(Constant):
        def __call__(self, step):
            raise AssertionError

    loss, terms = total([Constant("a", 1.0, 4.0), Explodes("b", 0.0, 0.0)], a_step(torch.zeros(1, 2), [0]))
    assert loss.item() == 4
    assert list(terms) == ["a"]
    with pytest.raises(ValueError, match="weight"):
        total([Explodes("b", 0.0, 0.0)], a_step(torch.zeros(1, 2), [0]))


def test_the_teacher_captures_only_what_is_compared_with_it():
    terms = [
        Constant("a", 1, 0, frozenset({"hidden_states"}), needs_teacher=True),
        Constant("b", 1, 0, frozenset({"attentions"})),
    ]
    assert captures(terms, teacher=False) == {"hidden_states", "attentions"}
    assert captures(terms, teacher=True) == {"hidden_states"}


def test_the_teacher_keeps_the_places_that_are_read_and_all_where_a_term_does_not_say():
    states = frozenset({"hidden_states"})
    few, more, scores, student = (
        Constant(name, 1, 0, read, needs_teacher=teacher)
        for name, read, teacher in (
            ("a", states, True),
            ("b", states, True),
            ("c", {"scores"}, True),
            ("d", states, False),
        )
    )
    few.teacher_places, more.teacher_places = frozenset({0, 3}), frozenset({6})
    assert teacher_reads([few, more, scores, student]) == {"hidden_states": {0, 3, 6}, "scores": None}
    del few.teacher_places
    assert teacher_reads([more, few, more]) == {"hidden_states": None}
    assert teacher_reads([student]) == {}
