"""Who runs, who learns, the schedules by hand, and what is left in the end."""

import pytest
import torch
from sample_run import make_model
from stopped_runs import TASK, TOKENIZER, fit, undisturbed_and_resumed
from torch import nn

from bertpress.encoder.model import all_layers
from bertpress.encoder.surgery import share
from bertpress.errors import RecipeError
from bertpress.methods.base import Context
from bertpress.methods.prune.theseus import STATE, Theseus, mixed, replacing_rate

IDS = torch.randint(5, 40, (3, 6), generator=torch.Generator().manual_seed(0))


def model_of(depth, dropout=0.0):
    model = make_model(TASK, TOKENIZER, layers=depth, dropout=dropout)
    torch.manual_seed(0)
    for weight in model.encoder.layers.parameters():  # so that one layer more or less makes a difference
        weight.data += 0.2 * torch.randn_like(weight)
    return model


def attached(model, **fields):
    """Method, context, and the successor."""
    method, ctx = Theseus(**fields), Context(task=TASK, tokenizer=None, seed=0)
    return method, ctx, method.attach(model, ctx)


def begun(successor, method, ctx):
    (callback,) = method.callbacks(ctx)
    callback.on_train_begin(None, None, None, model=successor)
    successor.train()
    return callback


def test_before_anything_is_replaced_the_predecessor_answers():
    model = model_of(4)
    method, ctx, successor = attached(model)
    callback = begun(successor, method, ctx)
    callback.rate = 0.0
    expected = model(IDS).logits
    assert torch.equal(successor(IDS).logits, expected)
    callback.rate = 1.0
    assert torch.equal(successor(IDS).logits, successor.eval()(IDS).logits)
    assert (successor(IDS).logits - expected).abs().max() > 1e-3


def test_a_module_stands_for_its_layers_in_order():
    encoder, predecessor = model_of(3).encoder, nn.ModuleList(nn.Identity() for _ in range(6))
    torch.manual_seed(1)
    replaced = (torch.rand(3) < 0.5).tolist()
    assert 0 < sum(replaced) < 3
    expected = []
    for i in range(3):
        expected += [encoder.layers[i]] if replaced[i] else [predecessor[2 * i], predecessor[2 * i + 1]]
    torch.manual_seed(1)
    assert list(mixed(encoder, predecessor, 0.5)) == expected


def test_modules_are_replaced_independently_with_the_rate():
    encoder, predecessor = model_of(3).encoder, nn.ModuleList(nn.Identity() for _ in range(6))
    torch.manual_seed(0)
    draws = []
    for _ in range(4000):
        layers = set(mixed(encoder, predecessor, 0.3))
        draws.append([float(layer in layers) for layer in encoder.layers])
    ran = torch.tensor(draws)
    torch.testing.assert_close(ran.mean(0), torch.full((3,), 0.3), atol=0.03, rtol=0)
    together = torch.cov(ran.T)
    assert (together - torch.diag(torch.diag(together))).abs().max() < 0.02


def test_evaluation_runs_the_successor_alone():
    method, ctx, successor = attached(model_of(4))
    callback = begun(successor, method, ctx)
    callback.rate = 0.5
    successor.eval()
    assert list(successor.encoder.plan(successor.encoder)) == list(successor.encoder.layers)
    callback.on_train_end(None, None, None, model=successor)
    assert successor.encoder.plan is all_layers


def test_the_successor_starts_from_the_first_layers_or_those_chosen():
    model = model_of(6)
    for which, kept in (("top", [0, 1, 2]), ("uniform", [0, 3, 5])):
        _, ctx, successor = attached(model, which=which)
        assert [layer.origin for layer in successor.blueprint.layers] == kept
        for layer, source in zip(successor.encoder.layers, kept, strict=True):
            theirs = model.encoder.layers[source].state_dict()
            assert all(torch.equal(tensor, theirs[name]) for name, tensor in layer.state_dict().items())
        assert len(ctx.state[STATE]) == 6
        assert not {id(p) for p in ctx.state.parameters()} & {id(p) for p in model.parameters()}


@pytest.mark.parametrize(
    ("schedule", "rates"),
    [("constant", [0.3, 0.3, 0.3, 1.0, 1.0]), ("linear", [0.3, 0.65, 0.93, 1.0, 1.0])],
)
def test_the_schedules_by_hand(schedule, rates):
    steps = (0, 50, 90, 100, 200)
    found = [replacing_rate(step, 200, rate=0.3, schedule=schedule, until=0.5) for step in steps]
    assert found == pytest.approx(rates)
    assert found[-1] == found[-2] == 1.0  # to the last bit: the predecessor is out


def test_until_zero_is_the_successor_from_the_start():
    for schedule in ("constant", "linear"):
        assert replacing_rate(0, 10, rate=0.3, schedule=schedule, until=0.0) == 1.0


@pytest.mark.parametrize("freeze", [True, False])
def test_only_the_successor_learns(tmp_path, freeze):
    method, ctx, successor = attached(model_of(4), freeze=freeze, schedule="linear")
    before = {name: weight.detach().clone() for name, weight in successor.unique_weights()}
    predecessor = {name: tensor.clone() for name, tensor in ctx.state.state_dict().items()}
    fit(successor, tmp_path, method.callbacks(ctx), ctx.state)
    assert all(torch.equal(tensor, predecessor[name]) for name, tensor in ctx.state.state_dict().items())
    assert all(weight.grad is None for weight in ctx.state.parameters())
    for name, weight in successor.unique_weights():
        if name.startswith("encoder.layers."):
            assert not torch.equal(weight, before[name]), name
        elif freeze:
            assert torch.equal(weight, before[name]), name
    assert freeze == torch.equal(successor.head.classifier.weight, before["head.classifier.weight"])


def test_only_the_successor_is_left(tmp_path):
    method, ctx, successor = attached(model_of(6), layers=2)
    left = method.finish(fit(successor, tmp_path, method.callbacks(ctx), ctx.state), ctx)
    assert len(left.encoder.layers) == 2
    assert left.state_dict().keys() == model_of(2).state_dict().keys()


def test_a_resumed_run_replaces_the_same_modules(tmp_path):
    def make():
        method, ctx, successor = attached(model_of(4, dropout=0.1), schedule="linear", until=0.9)
        return successor, method.callbacks(ctx), ctx.state

    whole, resumed = undisturbed_and_resumed(tmp_path, make)
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), resumed.parameters(), strict=True))


def test_modules_of_unequal_length_and_shared_layers_are_refused():
    for layers in (4, 0.67, 7):
        with pytest.raises(RecipeError, match=rf"prune/theseus: layers={layers} must divide the 6 layers of the model"):
            attached(model_of(6), layers=layers)
    with pytest.raises(RecipeError, match="prune/theseus: the model must not share weights among its layers"):
        attached(share(model_of(4), {1: 0}))
