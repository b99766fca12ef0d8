"""PoWER-BERT: soft extraction starts as the model, its mass is what is kept, more penalty keeps fewer tokens."""

import pytest
import torch
from sample_run import make_model
from short_training import context
from stopped_runs import DATA, TASK, TOKENIZER, fit, undisturbed_and_resumed
from token_models import logits, ruled, texts, tiny, top

from bertpress.encoder.blueprint import HeadSpec
from bertpress.encoder.model import build_model
from bertpress.errors import RecipeError
from bertpress.methods.base import Context
from bertpress.methods.tokens.power import INTERVALS, Power, by_share, configuration, ranks
from bertpress.training import TaskLoss


def searching(method, model, ctx):
    """The model in the middle of the search, and what takes it back."""
    model = method.attach(model, ctx)
    callbacks = method.callbacks(ctx)
    for callback in callbacks:
        callback.on_train_begin(None, None, None, model=model)
    return model


def test_ranks_by_hand():
    scores = torch.tensor([[0.1, 0.2, 0.9, 0.5], [0.1, 0.7, 0.9, 0.8]])
    weights = torch.tensor([[1.0, 1, 1, 1], [1, 1, 0, 0]])
    assert ranks(scores, weights)[:, :2].tolist() == [[0, 3], [0, 1]]
    assert ranks(scores, weights)[0].tolist() == [0, 3, 1, 2]


def test_a_token_has_the_mean_of_its_part_of_the_function():
    retained = torch.tensor([1.0, 0.5, 0.0, 0.0])
    places = torch.arange(5)[None].expand(3, -1)
    found = by_share(retained, places, torch.tensor([[4.0], [2.0], [3.0]]))
    torch.testing.assert_close(found[0, :4], retained)
    torch.testing.assert_close(found[1], torch.tensor([0.75, 0.0, 0.0, 0.0, 0.0]))
    torch.testing.assert_close(found[2, :3], torch.tensor([0.875, 0.25, 0.0]))
    torch.testing.assert_close(found.sum(1), retained.mean() * torch.tensor([4.0, 2.0, 3.0]))


@pytest.mark.parametrize("unit", ["share", "tokens"])
@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_the_search_starts_as_the_model(unit, pooling):
    model, given = tiny(pooling=pooling), texts()
    expected = logits(model, given)
    torch.testing.assert_close(
        logits(searching(Power(unit=unit), model, context()), given), expected, atol=1e-5, rtol=0
    )


def test_the_penalty_is_the_papers():
    ctx = context()
    method = Power(penalty=0.5, unit="tokens")
    method.attach(tiny(layers=3), ctx)
    ctx.state["retained"].shares.data.copy_(torch.tensor([1.0, 0.5, 0.25])[:, None].expand(-1, ctx.task.max_length))
    (term,) = method.objectives(ctx)
    assert float(term(None).detach()) * term.weight == 0.5 * ctx.task.max_length * (1 + 2 * 0.5 + 3 * 0.25)


def test_soft_tokens_are_multiplied_by_what_is_kept_of_their_rank():
    ctx, seen = context(), []
    model = searching(Power(unit="tokens"), tiny(layers=1), ctx)
    ctx.state["retained"].shares.data[0, :4] = torch.tensor([1.0, 0.5, 0.25, 0.0])
    soft = model.encoder.layers[0].rule

    class Watched:
        reads = soft.reads

        def __call__(self, present, read, states):
            out = soft(present, read, states)
            received = read.sum((1, 2))[0] - read.diagonal(dim1=-2, dim2=-1).sum(1)[0]
            order = [0, *(1 + received[1:].argsort(descending=True))]
            seen.extend((out[0] / states[0])[0, int(place)].mean() for place in order)
            return out

    model.encoder.layers[0].rule = Watched()
    logits(model, {"input_ids": torch.tensor([[3, 9, 5, 17]])})
    torch.testing.assert_close(torch.stack(seen), torch.tensor([1.0, 0.5, 0.25, 0.0]))


def test_what_a_search_wants_becomes_a_configuration_that_falls():
    assert configuration([0.95, 0.8, 0.85, 0.75, 0.4], 1.0, 0.1) == [None, 0.8, None, None, 0.4]
    assert configuration([30, 30, 12], 32, 0.0) == [30, None, 12]
    assert configuration([1.0, 1.0], 1.0, 0.0) == [None, None]


@pytest.mark.parametrize(("unit", "expected"), [("share", 0.5), ("tokens", 7)])
def test_the_sums_are_what_is_kept(unit, expected):
    ctx, method = context(), Power(unit=unit)
    model = method.attach(tiny(layers=2), ctx)
    shares = ctx.state["retained"].shares.data.zero_()
    if unit == "share":
        shares[0, : INTERVALS // 2] = 1
    else:
        shares[0, :6], shares[0, 6] = 1, 0.2
    shares[1] = shares[0]
    shares[1, 0] = 0.9  # too little to let any more go
    made = method.finish(model, ctx)
    assert [layer.leave and layer.leave.keep for layer in made.blueprint.layers] == [expected, None]


def test_more_penalty_keeps_fewer_tokens(tmp_path):
    kept = []
    for penalty in (0.0, 1e-2):
        method = Power(penalty=penalty, learning_rate=0.05, least=0.0)
        ctx = Context(task=TASK, tokenizer=TOKENIZER, seed=0, train=DATA)
        model = method.attach(make_model(TASK, TOKENIZER), ctx)
        fit(model, tmp_path / f"{penalty}", method.callbacks(ctx), ctx.state, [TaskLoss(), *method.objectives(ctx)])
        shares = ctx.state["retained"].shares.detach()
        assert 0 <= float(shares.min()) <= float(shares.max()) <= 1
        rules = [layer.leave for layer in method.finish(model, ctx).blueprint.layers if layer.leave]
        assert all(layer.rule is None for layer in model.encoder.layers)
        kept.append((float(shares.sum()), rules[-1].keep))
    assert kept[0][0] > kept[1][0]
    assert kept[0][1] > kept[1][1]


def test_given_counts_are_put_at_once_and_hold_for_the_layers_above():
    ctx = context()
    made = Power(keep=(0.75, 0.5)).attach(tiny(layers=3), ctx)
    assert [layer.leave for layer in made.blueprint.layers] == [top(0.75), top(0.5), None]
    assert Power(keep=(0.5,)).objectives(ctx) == Power(keep=(0.5,)).callbacks(ctx) == []
    given = texts()
    assert torch.equal(logits(made, given), logits(ruled(tiny(layers=3), {0: top(0.75), 1: top(0.5)}), given))
    assert Power.noop().attach(tiny(), ctx).blueprint == tiny().blueprint
    assert Power(keep=(12, 5)).keep == (12, 5)
    assert isinstance(Power(keep=[1.0]).keep[0], float)
    with pytest.raises(ValueError, match="must be all numbers of tokens or all shares, and never rise"):
        Power(keep=(0.5, 0.6))


def test_what_cannot_let_tokens_go_is_refused_in_a_line():
    method = Power()
    token = build_model(tiny().blueprint.replace(head=HeadSpec(kind="token")))
    with pytest.raises(RecipeError, match="tokens/power: a head of kind token reads every token"):
        method.attach(token, context())
    with pytest.raises(RecipeError, match="tokens/power: tokens leave on the model's way already"):
        method.attach(ruled(tiny(), {0: top(0.5)}), context())


def test_a_killed_search_goes_on_bit_for_bit(tmp_path):
    method, states = Power(learning_rate=0.05), []

    def make():
        ctx = Context(task=TASK, tokenizer=TOKENIZER, seed=0, train=DATA)
        model = method.attach(make_model(TASK, TOKENIZER), ctx)
        states.append(ctx.state)
        return model, method.callbacks(ctx), ctx.state

    whole, resumed = undisturbed_and_resumed(tmp_path, make)
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), resumed.parameters(), strict=True))
    assert torch.equal(states[0]["retained"].shares, states[2]["retained"].shares)
    assert not torch.equal(states[0]["retained"].shares, torch.ones_like(states[0]["retained"].shares))
    assert not any("retained" in name for name in whole.state_dict())
