"""Sizes against enumeration, a constraint that is met, pruned is masked, gates and weights both learn."""

from itertools import pairwise, product
from types import SimpleNamespace

import pytest
import torch
from matched_models import context, padded, step_of
from matched_models import tiny as matched

from bertpress.encoder.blueprint import HeadSpec, uniform
from bertpress.encoder.model import build_model
from bertpress.encoder.surgery import keep_heads, keep_hidden, keep_neurons, share
from bertpress.encoder.transforms import transformed
from bertpress.errors import RecipeError
from bertpress.methods.dimensions import kept_norm, size_of, unit_costs
from bertpress.methods.hard_concrete import open_probability
from bertpress.methods.prune.cofi import BOUND, Cofi, Gates, Target, coarse
from bertpress.methods.transform import bake
from bertpress.training import TaskLoss, TrainSettings
from bertpress.training.objectives import total
from bertpress.training.optimizer import make_groups, make_optimizer

IDS = torch.randint(5, 50, (3, 7), generator=torch.Generator().manual_seed(0))
MASK = (torch.arange(7) < torch.tensor([[7], [4], [1]])).long()


def tiny(kind="sequence", **shape):
    torch.manual_seed(3)
    head = HeadSpec(kind=kind, activation="gelu" if kind == "masked_lm" else "tanh")
    sizes = {"layers": 2, "hidden_size": 16, "heads": 4, "ffn": 12, "vocabulary": 50, "positions": 20} | shape
    model = build_model(uniform(**sizes, head=head, dropout=0.0))
    for _, weight in model.unique_weights():
        weight.data += 0.1 * torch.randn_like(weight)
    return model


def attached(model=None, teacher=None, **options):
    model = model or tiny()
    ctx = context(teacher or tiny())
    method = Cofi(**{"multiple_of": 1} | options)
    return method, method.attach(model, ctx), ctx.state["cofi"], ctx


def spread(gates, seed=0):
    """Logits all over their range, a few sub-units and dimensions nearly closed."""
    random = torch.Generator().manual_seed(seed)
    for logits in gates.logits.values():
        logits.data.uniform_(-BOUND, BOUND, generator=random)


def logits_of(model):
    with torch.no_grad():
        return model(IDS, MASK).logits


def close(a, b, within=1e-5):
    torch.testing.assert_close(a, b, atol=within, rtol=0)


def heads_and_neurons(model):
    """Parameters beside tables, norms, head and output biases, counted from the weights."""
    parts = ("query", "key", "value", "inner", "output.weight", "outer.weight")
    return sum(w.numel() for name, w in model.unique_weights() if ".layers." in name and any(p in name for p in parts))


def test_costs_are_the_parameters_that_surgery_frees():
    for model in (tiny(), keep_hidden(tiny(), range(11))):
        costs, hidden = unit_costs(model.blueprint), model.blueprint.hidden_size
        cuts = {"1/heads": keep_heads(model, {1: (0, 2, 3)}), "0/ffn0": keep_neurons(model, {(0, 0): range(11)})}
        for name, cut in cuts.items():
            each, beside = costs[name]
            assert each * hidden + beside == heads_and_neurons(model) - heads_and_neurons(cut), name
        whole = size_of(costs, {name: 4 if "heads" in name else 12 for name in costs}, hidden)
        assert whole == heads_and_neurons(model)


def test_the_expected_size_is_the_mean_over_all_masks():
    shape = uniform(layers=1, hidden_size=2, heads=2, ffn=3, vocabulary=9, positions=4)
    gates = Gates(shape, hidden=True, multiple=1, learning_rate=0.1, random=torch.Generator())
    gates.double()
    spread(gates)
    names = list(gates.logits)
    likely = torch.cat([open_probability(gates.logits[name].detach()) for name in names]).tolist()
    places = [name for name in names for _ in gates.logits[name]]
    assert len(likely) == 2 + 3 + 2 + 1 + 1
    mean = 0.0
    for mask in product((0, 1), repeat=len(likely)):
        chance, found = 1.0, dict.fromkeys(names, 0)
        for bit, p, name in zip(mask, likely, places, strict=True):
            chance *= p if bit else 1 - p
            found[name] += bit
        heads = found["0/heads"] * found[coarse("0/heads")]
        neurons = found["0/ffn0"] * found[coarse("0/ffn0")]
        # heads are one dimension wide: three rows and a column, three biases; neurons: a row, a column, a bias
        mean += chance * (heads * (4 * found["hidden"] + 3) + neurons * (2 * found["hidden"] + 1))
    whole = 2 * (4 * 2 + 3) + 3 * (2 * 2 + 1)
    assert float(gates.expected().detach()) == pytest.approx(1 - mean / whole, rel=1e-6)


def test_gates_that_are_open_change_nothing():
    plain = logits_of(tiny())
    _, model, gates, _ = attached()
    assert torch.equal(logits_of(model), plain)
    model.train()
    assert torch.equal(logits_of(model), plain)  # not at work yet
    gates.target = 0.0
    for logits in gates.logits.values():
        logits.data.fill_(30.0)
    close(logits_of(model), plain)
    close(logits_of(model.eval()), plain)


def test_gates_are_drawn_in_training_alone():
    _, model, gates, _ = attached()
    spread(gates)
    gates.target = 0.5
    assert torch.equal(logits_of(model), logits_of(model))
    model.train()
    torch.manual_seed(1)
    first, second = logits_of(model), logits_of(model)
    assert not torch.allclose(first, second, atol=1e-3)
    torch.manual_seed(1)
    assert torch.equal(logits_of(model), first)


@pytest.mark.parametrize("kind", ["sequence", "token", "masked_lm"])
@pytest.mark.parametrize("seed", [0, 1])
def test_what_is_cut_computes_what_was_masked(kind, seed):
    method, model, gates, ctx = attached(tiny(kind), sparsity=0.55)
    spread(gates, seed)
    gates.logits[coarse("0/heads")].data.fill_(-BOUND)
    gates.logits[coarse("1/ffn0")].data.fill_(-BOUND)
    gates.settle(method.sparsity)
    expected = logits_of(model)
    assert not torch.allclose(expected, logits_of(tiny(kind)), atol=1e-2)
    bake(model)
    close(logits_of(model), expected)
    cut = method.finish(model, ctx)
    close(logits_of(cut), expected)
    first, second = cut.blueprint.layers
    assert first.attention.heads == ()
    assert second.ffn == (0,)
    assert 0 < len(second.attention.heads) < 4
    assert 0 < first.ffn[0] < 12
    assert 0 < cut.blueprint.hidden_size < 16
    bias = cut.get_parameter("encoder.layers.1.ffn.0.outer.bias")
    kept = gates.now["hidden"].nonzero().flatten()
    assert torch.equal(bias, tiny(kind).get_parameter("encoder.layers.1.ffn.0.outer.bias")[kept])
    assert sum(ctx.notes["heads"][1]["kept"]) == len(second.attention.heads)
    assert sum(ctx.notes["neurons"][0]["kept"]) == first.ffn[0]
    for entry in (*ctx.notes["heads"], *ctx.notes["neurons"]):
        assert [score > 0 for score in entry["scores"]] == entry["kept"]


def test_a_norm_over_some_dimensions_is_that_of_what_is_kept():
    norm = torch.nn.LayerNorm(6)
    norm.weight.data.uniform_(0.5, 2)
    norm.bias.data.normal_()
    x, kept = torch.randn(2, 3, 6), torch.tensor([True, False, True, True, False, True])
    narrow = torch.nn.functional.layer_norm(x[..., kept], (4,), norm.weight[kept], norm.bias[kept], norm.eps)
    close(kept_norm(x, kept, norm)[..., kept], narrow)


@pytest.mark.parametrize("sparsity", [0.0, 0.3, 0.6, 0.9, 0.99])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_settled_gates_keep_the_target_to_a_unit(sparsity, seed):
    shape = tiny(layers=3).blueprint
    gates = Gates(shape, hidden=True, multiple=1, learning_rate=0.1, random=torch.Generator())
    spread(gates, seed)
    gates.settle(sparsity)
    masks, again = gates.masks(), gates.masks()
    assert all(torch.equal(masks[name], again[name]) for name in masks)
    found = {name: int((mask > 0).sum()) for name, mask in masks.items()}
    assert found == gates.counts(float(gates.shift))
    assert gates.sparsity(found) >= sparsity
    if sparsity:
        more = gates.counts(float(gates.shift) + 1e-4)
        assert sum(more.values()) == sum(found.values()) + 1  # the next unit, and it is too much
        assert gates.sparsity(more) < sparsity
    for name, mask in masks.items():
        if found[name] < len(mask):
            logits = gates.logits[name].detach()
            assert not mask[logits < logits.topk(found[name] + 1).values[-1]].any()


def test_converged_gates_are_not_moved_far():
    gates = Gates(tiny().blueprint, hidden=True, multiple=1, learning_rate=0.1, random=torch.Generator())
    spread(gates)
    found = gates.sparsity(gates.counts(0.0))
    gates.settle(found)
    assert gates.counts(float(gates.shift)) == gates.counts(0.0)


def test_sizes_are_multiples():
    method, model, gates, ctx = attached(tiny(ffn=48), multiple_of=8, sparsity=0.5)
    spread(gates, 2)
    gates.settle(0.5)
    bake(model)
    cut = method.finish(model, ctx)
    assert cut.blueprint.hidden_size % 8 == 0
    assert all(width % 8 == 0 for layer in cut.blueprint.layers for width in layer.ffn)
    assert heads_and_neurons(cut) <= 0.5 * heads_and_neurons(tiny(ffn=48))


def test_the_multipliers_climb_and_the_size_comes_to_the_target():
    _, _, gates, ctx = attached(learning_rate=0.05)
    optimizer = make_optimizer([ctx.state["cofi"]], TrainSettings())
    gates.target = 0.6
    distance = gates.expected().detach() - 0.6
    before = gates.multipliers(distance).detach()
    pressure, seen = [], []
    for _ in range(1200):
        gates().backward()
        optimizer.step()
        optimizer.zero_grad()
        for logits in gates.logits.values():
            logits.data.clamp_(-BOUND, BOUND)
        pressure.append((float(gates.multipliers.linear.detach()), float(gates.multipliers.quadratic.detach())))
        seen.append(float(gates.expected().detach()))
    assert float(gates.multipliers(distance).detach()) > float(before)
    # too little is gone at first: the linear one turns towards more, the quadratic one only grows
    start = next(i for i, value in enumerate(seen) if value >= 0.6)
    assert all(b[0] < a[0] for a, b in pairwise(pressure[:start]))
    assert all(b[1] >= a[1] for a, b in pairwise(pressure))
    assert sum(seen[-400:]) / 400 == pytest.approx(0.6, abs=0.03)


def test_rates_and_directions():
    _, model, gates, ctx = attached(learning_rate=0.25)
    groups = make_groups([model, ctx.state], TrainSettings(weight_decay=0.1, learning_rate=1e-3))
    of = {id(weight): group for group in groups for weight in group["params"]}
    for logits in gates.logits.values():
        group = of[id(logits)]
        assert (group["lr"], group["weight_decay"], group["maximize"], group["scheduled"]) == (0.25, 0, False, False)
    for multiplier in gates.multipliers.parameters():
        group = of[id(multiplier)]
        assert (group["lr"], group["weight_decay"], group["maximize"], group["scheduled"]) == (0.25, 0, True, False)
    assert of[id(ctx.state["cofi_map"].weight)]["lr"] == 1e-3
    assert not {id(logits) for logits in gates.parameters()} & {id(weight) for weight in model.parameters()}


def test_gates_weights_and_the_map_get_gradients():
    student, teacher, batch = matched(1), matched(2), padded()
    method, model, gates, ctx = attached(student, teacher)
    for logits in gates.logits.values():
        logits.data.normal_(2.0, 0.1)
    gates.target = 0.3
    gates.multipliers.linear.data.fill_(-1.0)
    model.train()
    torch.manual_seed(0)
    terms = [TaskLoss(), *method.objectives(ctx)]
    assert [(term.name, term.weight) for term in terms[1:]] == [("constraint", 1.0), ("layers", 0.9)]
    loss, _ = total(terms, step_of(terms, model, teacher, batch, ctx.state))
    loss.backward()
    assert all(logits.grad.any() for logits in gates.logits.values())
    assert ctx.state["cofi_map"].weight.grad.any()
    assert model.get_parameter("encoder.layers.0.attention.query.weight").grad.any()
    assert not any(weight.grad is not None for weight in teacher.parameters())
    alone = {name: logits.grad.clone() for name, logits in gates.logits.items()}
    for logits in gates.logits.values():
        logits.grad = None
    gates().backward()
    told = [name for name, logits in gates.logits.items() if not torch.allclose(logits.grad, alone[name])]
    assert told  # the losses have a say too, not the constraint alone


def test_layers_that_are_gone_teach_nobody():
    _, _, gates, _ = attached(tiny(layers=3))
    assert gates.layers() == [True, True, True]
    gates.now |= {coarse("0/heads"): torch.zeros(1), coarse("0/ffn0"): torch.zeros(1)}
    gates.now |= {coarse("2/heads"): torch.zeros(1)}
    assert gates.layers() == [False, True, True]


def test_the_target_rises():
    method = Cofi(sparsity=0.8, begin=0.1, warmup=0.4)
    assert [method.target(step, 100) for step in (0, 9)] == [None, None]
    assert [method.target(step, 100) for step in (10, 30, 50, 99)] == pytest.approx([0.0, 0.4, 0.8, 0.8])
    _, _, gates, ctx = attached(begin=0.1, warmup=0.4, sparsity=0.8)
    (callback,) = method.callbacks(ctx)
    assert isinstance(callback, Target)
    callback.on_step_begin(None, SimpleNamespace(global_step=5, max_steps=100), None)
    assert gates.target is None
    assert float(gates()) == 0
    callback.on_step_begin(None, SimpleNamespace(global_step=30, max_steps=100), None)
    assert gates.target == pytest.approx(0.4)
    gates.logits["hidden"].data.fill_(9.0)
    callback.on_optimizer_step(None, None, None)
    assert float(gates.logits["hidden"].detach().max()) == pytest.approx(BOUND)
    callback.on_train_end(None, None, None)
    assert gates.sparsity(gates.counts(float(gates.shift))) >= 0.8


def test_hidden_dimensions_may_stay():
    method, model, gates, ctx = attached(hidden=False, sparsity=0.5)
    spread(gates)
    assert "hidden" not in gates.logits
    gates.settle(0.5)
    expected = logits_of(model)
    bake(model)
    cut = method.finish(model, ctx)
    close(logits_of(cut), expected)
    assert cut.blueprint.hidden_size == 16
    assert heads_and_neurons(cut) <= 0.5 * heads_and_neurons(tiny())


def test_shared_layers_have_gates_once():
    method, model, gates, ctx = attached(share(tiny(), {1: 0}), sparsity=0.4)
    spread(gates)
    assert gates.wholes == {"0/heads": 4, "0/ffn0": 12, "hidden": 16}
    gates.now |= {coarse("0/heads"): torch.zeros(1), coarse("0/ffn0"): torch.zeros(1)}
    assert gates.layers() == [False, False]
    gates.settle(0.4)
    expected = logits_of(model)
    bake(model)
    close(logits_of(method.finish(model, ctx)), expected)


def test_nothing_of_the_gates_is_left():
    method, model, gates, ctx = attached(sparsity=0.5)
    assert list(transformed(model))
    names = {name for name, _ in tiny().unique_weights()}
    assert {name for name, _ in model.unique_weights()} == names
    gates.settle(0.5)
    bake(model)
    cut = method.finish(model, ctx)
    assert set(cut.state_dict()) <= names
    assert not cut._forward_pre_hooks
    assert not any(module._forward_hooks for module in cut.modules())


def test_a_resumed_run_finds_its_gates():
    _, model, gates, ctx = attached(sparsity=0.5)
    spread(gates)
    gates.settle(0.5)
    _, again, other, ctx_again = attached(sparsity=0.5)
    again.load_state_dict(model.state_dict())
    ctx_again.state.load_state_dict(ctx.state.state_dict())
    other.target = 0.5
    assert torch.equal(logits_of(again), logits_of(model))


def test_what_cannot_be_done_is_refused():
    with pytest.raises(RecipeError, match=r"^prune/cofi: teacher_layers=\[1, 3\] must be in \[1, 2\]$"):
        attached(teacher_layers=(1, 3))
    bare = keep_neurons(keep_heads(tiny(), {0: (), 1: ()}), {(0, 0): (), (1, 0): ()})
    with pytest.raises(RecipeError, match=r"^prune/cofi: the model has neither heads nor neurons to prune$"):
        attached(bare)
    with pytest.raises(ValueError, match=r"warmup=0.6 must be at most 1 - begin=0.5"):
        Cofi(begin=0.5, warmup=0.6)
