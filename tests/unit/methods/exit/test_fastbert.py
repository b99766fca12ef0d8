"""FastBERT: no label is read, the backbone stays bit for bit, divergences by hand and in both directions."""

import math

import pytest
import torch
from exit_training import assert_only_exits_moved, batch, context, regression, tiny, train, value_of

from bertpress.errors import RecipeError
from bertpress.methods.exit.fastbert import Fastbert, divergences

SMALL = {"size": 8, "heads": 2}


def test_divergences_by_hand():
    exit, head = torch.tensor([[0.5, 0.5]]).log(), torch.tensor([[0.8, 0.2]]).log()
    student = 0.5 * math.log(0.5 / 0.8) + 0.5 * math.log(0.5 / 0.2)
    teacher = 0.8 * math.log(0.8 / 0.5) + 0.2 * math.log(0.2 / 0.5)
    assert float(divergences((exit, exit), head, "student").detach()) == pytest.approx(2 * student, rel=1e-5)
    assert float(divergences((exit, head), head, "teacher").detach()) == pytest.approx(teacher, rel=1e-5)


def test_the_head_gets_no_gradient():
    exit, head = torch.randn(4, 3, requires_grad=True), torch.randn(4, 3, requires_grad=True)
    for side in ("student", "teacher"):
        divergences((exit,), head, side).backward()
    assert head.grad is None
    assert exit.grad.abs().sum() > 0


def unlabelled(step):
    return {name: value for name, value in batch(step).items() if name != "labels"}


@pytest.mark.parametrize("side", ["student", "teacher"])
def test_branches_learn_without_labels_and_the_backbone_stays(side):
    before, model = train(Fastbert(**SMALL, divergence=side), given=unlabelled)
    assert_only_exits_moved(before, model)


def test_branches_come_closer_to_the_head():
    method, ctx, given = Fastbert(**SMALL), context(), unlabelled(0)
    model = tiny(layers=3)
    model.head.classifier.weight.data *= 40  # an opinion to learn
    before, model = train(method, 60, given=lambda step: given, ctx=ctx, model=model)
    learnt = value_of(method, model, ctx, given)
    model.load_state_dict(before)
    assert learnt < 0.5 * value_of(method, model, ctx, given)


def test_what_cannot_be_is_refused():
    with pytest.raises(RecipeError, match="exit/fastbert: size=8 must be a multiple of heads=3"):
        Fastbert(size=8, heads=3).attach(tiny(layers=3), context())
    with pytest.raises(RecipeError, match="exit/fastbert: a score has no entropy"):
        Fastbert().attach(tiny(layers=3), regression())
