"""PABEE: weights of the losses, the whole model learns, patience and tolerance reach the rule; scores too."""

import pytest
import torch
import torch.nn.functional as F
from exit_training import batch, context, regression, step_of, tiny, train, value_of

from bertpress.encoder.blueprint import HeadSpec
from bertpress.encoder.model import build_model
from bertpress.methods.exit.pabee import Pabee, by_depth


def test_shares_by_hand():
    assert by_depth(3) == pytest.approx([1 / 6, 2 / 6, 3 / 6])
    assert sum(by_depth(12)) == pytest.approx(1)


def test_the_loss_is_the_weighted_mean_of_all_answers():
    ctx, given = context(), batch(3)
    model = Pabee().attach(tiny(layers=3), ctx)
    out = model(given["input_ids"], given["attention_mask"])
    first, second, last = (F.cross_entropy(x, given["labels"]) for x in (*out.captured["exits"], out.logits))
    torch.testing.assert_close(step_of(Pabee(), model, ctx, given), (first + 2 * second + 3 * last) / 6)


def test_everything_learns():
    before, model = train(Pabee(), 3)
    assert all(not torch.equal(weight, before[name]) for name, weight in model.named_parameters() if "key" not in name)
    assert model.encoder.layers[0].exit.dense is None


def test_scores_have_squared_errors():
    model = build_model(tiny(layers=3).blueprint.replace(head=HeadSpec(kind="sequence", labels=1)))
    ctx, given = regression(), {**batch(2), "labels": torch.tensor([0.0, 1.5, 3.0, 5.0])}
    made = Pabee(tolerance=0.25, speed=0.5).attach(model, ctx)
    assert (made.blueprint.exit.criterion, made.blueprint.exit.tolerance) == ("patience", 0.25)
    out = made(given["input_ids"], given["attention_mask"])
    answers = (*out.captured["exits"], out.logits)
    errors = [(x[:, 0] - given["labels"]).square().mean().item() for x in map(torch.Tensor.detach, answers)]
    expected = (errors[0] + 2 * errors[1] + 3 * errors[2]) / 6
    assert value_of(Pabee(), made, ctx, given) == pytest.approx(expected, rel=1e-5)
