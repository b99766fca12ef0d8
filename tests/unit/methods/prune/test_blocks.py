"""The penalty by hand, whole groups or none, groups that stay together in the file and through training."""

from types import SimpleNamespace

import pytest
import torch

from bertpress.artifact import packing
from bertpress.artifact.codecs import TensorSpec
from bertpress.artifact.codecs.bitmap import block_of_zeros
from bertpress.encoder.blueprint import HeadSpec, uniform
from bertpress.encoder.model import build_model
from bertpress.methods.base import Context
from bertpress.methods.empty import cut_empty
from bertpress.methods.prune.blocks import Blocks, Reweight, factors, group_block, group_lasso, squared_norms
from bertpress.methods.weights import matrices
from bertpress.tasks import resolve

TASK = resolve("sst2").replace(labels=("negative", "positive"))
IDS = torch.randint(5, 50, (3, 7), generator=torch.Generator().manual_seed(0))


def context():
    return Context(task=TASK, tokenizer=None, seed=0)


def tiny():
    torch.manual_seed(3)
    shape = uniform(layers=2, hidden_size=20, heads=2, ffn=28, vocabulary=50, head=HeadSpec(kind="sequence"))
    model = build_model(shape)
    for _, weight in model.unique_weights():
        weight.data += 0.05 * torch.randn_like(weight)
    return model


def groups(weight, group, size):
    """Every group of a matrix, by plain loops; those at the edge are smaller."""
    rows = weight.detach() if group == "row" else weight.detach().t()
    return [row[at : at + size] for row in rows for at in range(0, row.numel(), size)]


def test_penalty_by_hand():
    weight = torch.tensor([[3.0, 4.0, 1.0], [0.0, 0.0, 2.0]], requires_grad=True)
    block = group_block(weight.shape, "row", 2)  # groups (3 4), (1), (0 0), (2)
    beta = factors(weight, block, 0.5)
    torch.testing.assert_close(beta, torch.tensor([[1 / 25.5, 1 / 1.5], [1 / 0.5, 1 / 4.5]]))
    value = group_lasso(weight, beta, block)
    assert float(value.detach()) == pytest.approx(5 / 25.5 + 1 / 1.5 + 0 + 2 / 4.5)
    value.backward()
    by_hand = [[0.6 / 25.5, 0.8 / 25.5, 1 / 1.5], [0, 0, 1 / 4.5]]  # beta W / ||W||, and nothing where W is zero
    torch.testing.assert_close(weight.grad, torch.tensor(by_hand))
    column = group_block(weight.shape, "column", 2)
    found = group_lasso(weight, torch.ones(1, 3), column)
    assert float(found.detach()) == pytest.approx(3 + 4 + 5**0.5)


@pytest.mark.parametrize("group", ["row", "column"])
@pytest.mark.parametrize("shape", [(6, 8), (7, 9), (3, 2)])
def test_norms_against_plain_loops(group, shape):
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    norms = squared_norms(weight, group_block(shape, group, 4))
    norms = norms if group == "row" else norms.t()
    expected = torch.stack([part.square().sum() for part in groups(weight, group, 4)])
    torch.testing.assert_close(norms.flatten(), expected)


def test_the_penalty_of_the_model_is_the_sum_and_its_factors_follow_when_asked():
    model, ctx, method = tiny(), context(), Blocks(size=8, refresh=3)
    method.attach(model, ctx)
    (term,), (callback,) = method.objectives(ctx), method.callbacks(ctx)
    assert isinstance(callback, Reweight)

    def expected(held):
        total = 0.0
        for name in matrices(model, head=False):
            before = groups(held[name], "row", 8)
            for part, old in zip(groups(model.get_parameter(name).detach(), "row", 8), before, strict=True):
                total += float(part.norm() / (old.square().sum() + method.epsilon))
        return total

    start = {name: weight.detach().clone() for name, weight in model.unique_weights()}
    assert float(term(None).detach()) == pytest.approx(expected(start), rel=1e-5)
    for weight in model.parameters():
        weight.data *= 0.5
    halved = {name: weight.detach().clone() for name, weight in model.unique_weights()}
    for step, held in ((0, start), (1, start), (2, start), (3, halved)):
        callback.on_step_begin(None, SimpleNamespace(global_step=step), None)
        assert float(term(None).detach()) == pytest.approx(expected(held), rel=1e-5)
    again = context()
    Blocks(size=8).attach(tiny(), again)
    again.state.load_state_dict(ctx.state.state_dict())  # as a resumed run does
    assert all(torch.equal(a, b) for a, b in zip(ctx.state.buffers(), again.state.buffers(), strict=True))
    assert not list(ctx.state.parameters())  # the weights are the model's


@pytest.mark.parametrize("scope", ["matrix", "model"])
@pytest.mark.parametrize("group", ["row", "column"])
def test_groups_are_zero_or_untouched_and_the_weakest_go(scope, group, tmp_path):
    whole, method = tiny(), Blocks(size=8, keep=0.4, scope=scope, group=group, cut=False)
    pruned = method.finish(tiny(), context())
    gone, stayed, left, total = [], [], 0, 0
    for name in matrices(whole, head=False):
        parts = list(zip(groups(whole.get_parameter(name).detach(), group, 8),
                         groups(pruned.get_parameter(name).detach(), group, 8), strict=True))  # fmt: skip
        assert all(torch.equal(a, b) or not b.any() for a, b in parts)
        here = [float(a.norm()) for a, b in parts if b.any()]
        away = [float(a.norm()) for a, b in parts if not b.any()]
        stayed, gone, left, total = stayed + here, gone + away, left + len(here), total + len(parts)
        if scope == "matrix":
            assert len(here) == round(0.4 * len(parts))
            assert min(here) >= max(away)
        assert block_of_zeros(pruned.storage[name]) == group_block(whole.get_parameter(name).shape, group, 8)
    if scope == "model":
        assert left == round(0.4 * total)
        assert min(stayed) >= max(gone)
    untouched = {name for name, _ in whole.unique_weights()} - set(matrices(whole, head=False))
    assert all(torch.equal(whole.get_parameter(name), pruned.get_parameter(name)) for name in untouched)
    size_on_disk_and_products(pruned, tmp_path)


def size_on_disk_and_products(model, folder):
    """What the file decodes to multiplies alike, and takes a bit a group and four bytes a value that is left."""
    packing.write(folder / "model.safetensors", model.state_dict(), model.storage)
    state, storage = packing.read(folder / "model.safetensors")
    for name in matrices(model, head=False):
        weight = model.get_parameter(name).detach()
        x = torch.randn(5, weight.shape[1], generator=torch.Generator().manual_seed(2))
        torch.testing.assert_close(x @ state[name].t(), x @ weight.t(), atol=1e-5, rtol=0)
        packed = storage[name].encode(weight)
        assert torch.equal(storage[name].decode(packed, TensorSpec(weight.dtype, tuple(weight.shape))), weight)
        block = block_of_zeros(storage[name])
        count = (-(-weight.shape[0] // block[0])) * (-(-weight.shape[1] // block[1]))
        size = sum(part.nbytes for part in packed.parts.values())
        assert size == -(-count // 8) + 4 * int(weight.count_nonzero())


def test_a_group_that_fades_goes_first_and_keeping_all_changes_nothing():
    model = tiny()
    model.encoder.layers[1].attention.key.weight.data[3, 8:16] *= 1e-4
    pruned = Blocks(size=8, keep=0.999, cut=False).finish(model, context())
    zeros = {name for name, weight in pruned.unique_weights() if weight.ndim == 2 and not weight.all()}
    assert zeros == {"encoder.layers.1.attention.key.weight"}
    assert not pruned.encoder.layers[1].attention.key.weight[3, 8:16].any()
    whole = tiny()
    same = Blocks(size=8, keep=1.0).finish(tiny(), context())
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), same.parameters(), strict=True))
    assert not same.storage


def test_neurons_and_heads_without_weights_are_cut_and_nothing_changes():
    model = tiny()
    unit, network = model.encoder.layers[0].attention, model.encoder.layers[1].ffn[0]
    unit.value.weight.data[:10] *= 1e-6  # nothing enters head 0, which gives its bias to every token
    network.inner.weight.data[[2, 5]] *= 1e-6
    network.outer.weight.data[:, 7] *= 1e-6
    keep = 1 - (10 + 2 + 20 / 20) / sum(
        w.shape[0] for n, w in model.unique_weights() if n in matrices(model, head=False)
    )
    masked, cut = (
        Blocks(size=20, keep=keep, cut=cut, group="row").finish(copy_of(model), context()) for cut in (False, True)
    )
    assert cut.blueprint.layers[0].attention.heads == (1,)
    assert cut.blueprint.layers[1].ffn == (26,)
    with torch.no_grad():
        torch.testing.assert_close(cut(IDS).logits, masked(IDS).logits, atol=1e-5, rtol=0)


@pytest.mark.parametrize(("multiple_of", "left"), [(1, 25), (4, 28), (27, 27), (64, 28)])
def test_widths_are_rounded_up_with_neurons_that_do_nothing(multiple_of, left):
    model = tiny()
    network = model.encoder.layers[1].ffn[0]
    network.inner.weight.data[[2, 5]] = 0
    network.outer.weight.data[:, 7] = 0
    cut = cut_empty(model, multiple_of)
    assert cut.blueprint.layers[1].ffn == (left,)
    with torch.no_grad():
        torch.testing.assert_close(cut(IDS).logits, model(IDS).logits, atol=1e-6, rtol=0)


def copy_of(model):
    new = tiny()
    new.load_state_dict(model.state_dict())
    return new
