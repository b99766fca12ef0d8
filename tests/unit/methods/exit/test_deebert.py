"""DeeBERT: the backbone stays bit for bit, the loss is the sum over the exits, poolers start as the trained one."""

import pytest
import torch
import torch.nn.functional as F
from exit_training import assert_only_exits_moved, batch, context, regression, step_of, tiny, train, value_of

from bertpress.encoder.blueprint import HeadSpec
from bertpress.encoder.model import build_model
from bertpress.errors import RecipeError
from bertpress.methods.exit.deebert import Deebert


def test_every_layer_but_the_last_has_an_exit_whose_pooler_is_the_heads():
    model = tiny(layers=3)
    made = Deebert(speed=0.2).attach(model, context())
    assert made.blueprint.exits == (1, 2, 3)
    assert (made.blueprint.exit.criterion, made.blueprint.exit.speed) == ("entropy", 0.2)
    for layer in list(made.encoder.layers)[:-1]:
        assert torch.equal(layer.exit.dense.weight, model.head.dense.weight)
        assert not torch.equal(layer.exit.classifier.weight, model.head.classifier.weight)
    given = batch(0)
    inputs = given["input_ids"], given["attention_mask"]
    with torch.no_grad():
        assert torch.equal(made(*inputs).logits, model(*inputs).logits)
    again = Deebert(speed=0.2).attach(model, context())
    assert all(torch.equal(a, b) for a, b in zip(made.parameters(), again.parameters(), strict=True))


def test_the_backbone_stays_bit_for_bit():
    assert_only_exits_moved(*train(Deebert()))


def test_the_loss_is_the_sum_of_the_exits_alone():
    ctx, given = context(), batch(3)
    model = Deebert().attach(tiny(layers=3), ctx)
    out = model(given["input_ids"], given["attention_mask"])
    expected = sum(F.cross_entropy(logits, given["labels"]) for logits in out.captured["exits"])
    torch.testing.assert_close(step_of(Deebert(), model, ctx, given), expected)


def test_exits_learn():
    ctx, given = context(), batch(0, rows=8)
    before, model = train(Deebert(), 40, given=lambda step: given, ctx=ctx)
    learnt = value_of(Deebert(), model, ctx, given)
    model.load_state_dict(before)
    assert learnt < 0.8 * value_of(Deebert(), model, ctx, given)


def test_what_cannot_have_exits_is_refused_in_a_line():
    with pytest.raises(RecipeError, match=r"exit/deebert: a score has no entropy to leave by .*use exit/pabee"):
        Deebert().attach(tiny(layers=3), regression())
    with pytest.raises(RecipeError, match="exit/deebert: there is one layer only"):
        Deebert().attach(tiny(layers=1), context())
    with pytest.raises(RecipeError, match="exit/deebert: the model has early exits already"):
        Deebert().attach(Deebert().attach(tiny(layers=3), context()), context())
    token = build_model(tiny(layers=3).blueprint.replace(head=HeadSpec(kind="token")))
    with pytest.raises(RecipeError, match="exit/deebert: exits answer whole texts"):
        Deebert().attach(token, context())


def test_exits_behind_every_second_layer():
    assert Deebert(every=2).attach(tiny(layers=5), context()).blueprint.exits == (2, 4, 5)
    assert Deebert(every=3).attach(tiny(layers=4), context()).blueprint.exits == (3, 4)
    assert Deebert(every=3).attach(tiny(layers=3), context()).blueprint.exits == (2, 3)
