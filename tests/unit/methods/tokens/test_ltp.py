"""Learned token pruning: scores and masks by hand, soft masks that end in hard ones, thresholds that learn."""

import pytest
import torch
from sample_run import make_model
from short_training import context
from stopped_runs import DATA, TASK, TOKENIZER, fit, undisturbed_and_resumed
from token_models import RULES, kept_by, logits, ruled, texts, threshold, tiny

from bertpress.errors import RecipeError
from bertpress.methods.base import Context
from bertpress.methods.tokens.ltp import Ltp, soft_mask
from bertpress.training import TaskLoss


def searching(method, ctx, model):
    """The model in the middle of training, and the callbacks that put it there."""
    model, callbacks = method.attach(model, ctx), method.callbacks(ctx)
    for callback in callbacks:
        callback.on_train_begin(None, None, None, model=model)
    return model, callbacks


def test_soft_masks_by_hand():
    mask = soft_mask(torch.tensor([[0.0, 0.02, 0.03, 0.01]]), torch.tensor(0.02), 0.01)
    torch.testing.assert_close(mask, torch.tensor([[1.0, 0.5, 1 / (1 + 2.718281828**-1), 1 / (1 + 2.718281828)]]))


def test_thresholds_rise_from_below_to_the_last_layers():
    ctx = context()
    Ltp(last=0.03).attach(tiny(layers=3), ctx)
    torch.testing.assert_close(ctx.state["thresholds"].values().detach(), torch.tensor([0.01, 0.02, 0.03]))


@pytest.mark.parametrize("pooling", ["cls", "mean"])
@pytest.mark.parametrize("relative", [False, True])
def test_at_a_small_temperature_soft_is_hard(pooling, relative):
    ctx, given, values = context(), texts(), [0.1, 0.15, 0.2]
    model = tiny(pooling=pooling, relative=relative)
    hard = ruled(model, {i: threshold(value) for i, value in enumerate(values)})
    soft, callbacks = searching(Ltp(temperature=1e-7), ctx, model)
    learnt = ctx.state["thresholds"]
    learnt.deltas.data.copy_(torch.tensor(values) - learnt.start)
    expected = logits(hard, given)
    assert (expected - logits(ruled(model, {}), given)).abs().max() > 1e-2
    torch.testing.assert_close(logits(soft, given), expected, atol=1e-5, rtol=1e-5)
    for callback in callbacks:
        callback.on_train_end(None, None, None, model=soft)
    torch.testing.assert_close(logits(soft, given), logits(ruled(model, {}), given))


def test_the_penalty_is_the_mean_mask_over_real_tokens():
    ctx, method = context(), Ltp(temperature=1e-7, penalty=0.5)
    model, _ = searching(method, ctx, tiny(layers=2))
    learnt = ctx.state["thresholds"]
    learnt.deltas.data.copy_(torch.tensor([0.1, 0.15]) - learnt.start)
    given = texts()
    hard = ruled(tiny(layers=2), {0: threshold(0.1), 1: threshold(0.15)})
    first = kept_by(hard, given)[0][0].sum() / given["attention_mask"].sum()
    logits(model, given)
    (term,) = method.objectives(ctx)
    assert term.weight == 0.5
    torch.testing.assert_close(learnt.means[0], first)
    torch.testing.assert_close(term(None), (learnt.means[0] + learnt.means[1]) / 2)


def test_gradients_reach_the_thresholds_and_raise_them(tmp_path):
    left = []
    for penalty in (1e-4, 5.0):
        ctx = Context(task=TASK, tokenizer=TOKENIZER, seed=0, train=DATA)
        method = Ltp(penalty=penalty, temperature=0.05, last=0.1, learning_rate=0.02)
        model = method.attach(make_model(TASK, TOKENIZER), ctx)
        fit(model, tmp_path / f"{penalty}", method.callbacks(ctx), ctx.state, [TaskLoss(), *method.objectives(ctx)])
        assert all(layer.rule is None and not layer._forward_hooks for layer in model.encoder.layers)
        left.append(ctx.state["thresholds"].values().detach())
    assert (left[1] > left[0]).all()
    made = method.finish(model, ctx)
    assert [layer.leave.threshold for layer in made.blueprint.layers] == left[1].double().tolist()


def test_longer_texts_lose_a_larger_share():
    model = ruled(tiny(layers=1), {0: threshold(0.08)})
    shares = []
    for length in (6, 24):
        given = {"input_ids": torch.randint(1, 40, (16, length), generator=torch.Generator().manual_seed(0))}
        shares.append(float(kept_by(model, given)[0][0].sum()) / (16 * length))
    assert shares[1] < 0.8 * shares[0]


def test_given_thresholds_are_put_at_once_and_zeros_put_none():
    made = Ltp(thresholds=(0.0, 0.15)).attach(tiny(), context())
    assert [layer.leave for layer in made.blueprint.layers] == [None, threshold(0.15), threshold(0.15)]
    assert Ltp.noop().attach(tiny(), context()).blueprint == tiny().blueprint
    assert Ltp.noop().objectives(context()) == Ltp.noop().callbacks(context()) == []
    with pytest.raises(RecipeError, match="tokens/ltp: a head of kind span reads every token"):
        Ltp().attach(tiny(kind="span"), context())
    with pytest.raises(RecipeError, match="tokens/ltp: tokens leave on the model's way already"):
        Ltp().attach(ruled(tiny(), RULES["threshold"]), context())


def test_a_killed_run_goes_on_bit_for_bit(tmp_path):
    method, states = Ltp(last=0.1, temperature=0.02, learning_rate=0.01), []

    def make():
        ctx = Context(task=TASK, tokenizer=TOKENIZER, seed=0, train=DATA)
        model = method.attach(make_model(TASK, TOKENIZER), ctx)
        states.append(ctx.state)
        return model, method.callbacks(ctx), ctx.state

    whole, resumed = undisturbed_and_resumed(tmp_path, make)
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), resumed.parameters(), strict=True))
    assert torch.equal(states[0]["thresholds"].deltas, states[2]["thresholds"].deltas)
    assert states[0]["thresholds"].deltas.abs().max() > 0
