"""The stop rule with a stub metric, equal sizes, rewound survivors, removed networks against masked ones."""

from functools import partial

import pytest
import torch
from sample_run import make_model
from stopped_runs import DATA, TASK, TOKENIZER, fit

from bertpress.encoder.surgery import keep_layers
from bertpress.encoder.transforms import transforms
from bertpress.errors import RecipeError
from bertpress.methods.base import Context
from bertpress.methods.prune.all_tickets import AllTickets, Units, cut, masked, search, sparsest, ticket
from bertpress.methods.selection import normalized
from bertpress.methods.weights import matrices
from bertpress.tasks import Collate
from bertpress.training.importance import head_gates, network_gates, task_importance

BATCH = Collate(0)([DATA[i] for i in range(16)])
INPUTS = {name: BATCH[name] for name in ("input_ids", "attention_mask")}


def model_of(layers=3, seed=0):
    model = make_model(TASK, TOKENIZER, layers=layers, dropout=0.0)
    torch.manual_seed(seed)
    for weight in model.encoder.layers.parameters():
        weight.data += 0.2 * torch.randn_like(weight)
    return model


def context(pretrained, metric, seed=0):
    return Context(
        task=TASK, tokenizer=TOKENIZER, seed=seed, pretrained=pretrained, calibration=lambda *_: [BATCH],
        metric=lambda model, _: metric(model),
    )  # fmt: skip


def heads_of(model):
    return {(i, head) for i, layer in enumerate(model.blueprint.layers) for head in layer.attention.heads}


def networks_of(model):
    return {(i, j) for i, layer in enumerate(model.blueprint.layers) for j, width in enumerate(layer.ffn) if width}


def logits(model):
    with torch.no_grad():
        return model(**INPUTS).logits


HEADS = [(layer, head) for layer in range(4) for head in range(5)]
NETWORKS = [(layer, 0) for layer in range(4)]


def falling(calls, gone):
    """The least important is the first that is left."""
    calls.append(gone)
    return Units([u for u in HEADS if u not in gone.heads], [u for u in NETWORKS if u not in gone.networks])


def test_the_stop_rule_by_hand():
    calls, scores = [], {0: 100.0, 2: 97.0, 4: 93.0, 6: 90.0, 8: 89.9, 10: 99.0}
    gone, left = search(partial(falling, calls), lambda gone: scores[len(gone.heads)] >= 0.9 * 100.0, 0.1)
    assert gone == (HEADS[:6], NETWORKS[:3])  # 2 of 20 heads and a network each time, while 90 are left of 100
    assert left == (HEADS[6:], NETWORKS[3:])
    assert [len(each.heads) for each in calls] == [0, 2, 4, 6]  # ranked anew after each step


def test_one_head_and_one_network_always_stay():
    gone, left = search(partial(falling, []), lambda _: True, 0.3)
    assert (left.heads, left.networks) == (HEADS[-1:], NETWORKS[-1:])
    gone, left = search(partial(falling, []), lambda _: False, 0.3)
    assert gone == ([], [])


def test_tickets_by_hand():
    gone, left = Units(HEADS[:6], NETWORKS[:3]), Units(HEADS[6:], NETWORKS[3:])
    going = {which: ticket(gone, left, which, torch.Generator().manual_seed(1)) for which in ("good", "random", "bad")}
    assert going["good"] == gone
    assert going["bad"] == (HEADS[14:], NETWORKS[1:])  # the 14 least important heads stay, and the least network
    assert [len(units) for units in going["random"]] == [6, 3]
    assert set(going["random"].heads) < set(HEADS)
    assert going["random"] == ticket(gone, left, "random", torch.Generator().manual_seed(1))
    assert going["random"] != ticket(gone, left, "random", torch.Generator().manual_seed(2))


def test_removed_units_are_masked_ones():
    model, gone = model_of(), Units([(0, 1), (2, 0), (2, 1)], [(0, 0), (1, 0)])
    silent = model_of()
    for layer, head in gone.heads:
        silent.encoder.layers[layer].attention.output.weight.data[:, head * 8 : head * 8 + 8] = 0
    for layer, _ in gone.networks:
        silent.encoder.layers[layer].ffn[0].outer.weight.data.zero_()  # its bias and norm stay
    small = cut(model, gone)
    torch.testing.assert_close(logits(small), logits(silent), atol=1e-5, rtol=0)
    assert torch.equal(small.encoder.layers[1].ffn[0].outer.bias, model.encoder.layers[1].ffn[0].outer.bias)
    assert torch.equal(small.encoder.layers[1].ffn[0].norm.weight, model.encoder.layers[1].ffn[0].norm.weight)


def test_each_step_removes_what_is_least_important_then():
    model, seen = model_of(), []

    def metric(candidate):
        seen.append((heads_of(candidate), networks_of(candidate)))
        return 100.0 if len(seen) <= 3 else 0.0  # the full model, and two steps

    small = AllTickets(step=1 / 6).attach(model, context(model_of(seed=1), metric))
    expected = model
    for _ in range(2):
        scores = normalized(task_importance(expected, TASK, head_gates(expected), [BATCH]))
        ranking = {
            (layer, head): float(value)
            for layer, values in scores.items()
            for head, value in zip(expected.blueprint.layers[layer].attention.heads, values, strict=True)
        }
        networks = task_importance(expected, TASK, network_gates(expected), [BATCH])
        expected = cut(expected, Units([min(ranking, key=ranking.get)], [min(networks, key=lambda key: networks[key])]))
    assert heads_of(small) == heads_of(expected)
    assert networks_of(small) == networks_of(expected)
    assert [len(heads) for heads, _ in seen] == [6, 5, 4, 3]


@pytest.mark.parametrize("which", ["good", "random", "bad"])
def test_survivors_are_rewound_and_of_one_size(which):
    model, pretrained = model_of(), model_of(seed=1)

    def metric(candidate):
        return 100.0 if len(heads_of(candidate)) >= 4 else 0.0

    ctx = context(pretrained, metric)
    small = AllTickets(which=which, step=1 / 6).attach(model, ctx)
    assert (len(heads_of(small)), len(networks_of(small))) == (4, 1)
    same = cut(
        pretrained, Units(sorted(heads_of(model) - heads_of(small)), sorted(networks_of(model) - networks_of(small)))
    )
    assert all(torch.equal(tensor, same.state_dict()[name]) for name, tensor in small.state_dict().items())
    assert sum(sum(entry["kept"]) for entry in ctx.notes["heads"]) == 4


def test_a_bad_ticket_is_what_went_first():
    found = {}
    for which in ("good", "bad"):
        ctx = context(model_of(), lambda candidate: float(len(heads_of(candidate)) >= 3))
        found[which] = heads_of(AllTickets(which=which, step=1 / 6).attach(model_of(), ctx))
    assert found["good"] | found["bad"] == heads_of(model_of())  # 3 of 6 each
    assert not found["good"] & found["bad"]


def test_the_share_of_weights_by_hand():
    asked = []

    def holds(share):
        asked.append(share)
        return share <= 0.4

    assert sparsest(holds, 0.1) == 0.4
    assert asked == [0.1, 0.2, 0.3, 0.4, 0.5]
    assert sparsest(lambda _: True, 0.1) == 0.9
    assert sparsest(lambda _: False, 0.1) == 0.0
    assert sparsest(lambda _: True, 0.4) == 0.8


@pytest.mark.parametrize("which", ["good", "random", "bad"])
def test_weights_are_rewound_and_masked_by_their_size_after_training(which):
    model, pretrained = model_of(), model_of(seed=1)
    names = matrices(model)
    total = sum(model.get_parameter(name).numel() for name in names)

    def metric(candidate):
        kept = sum(int((weight_of(candidate, name) != 0).sum()) for name in names)
        return kept / total

    method = AllTickets(prune="magnitude", which=which, threshold=0.65)
    small = method.attach(model, context(pretrained, metric))
    sizes = torch.cat([model.get_parameter(name).detach().abs().flatten() for name in names])
    kept = torch.cat([(weight_of(small, name) != 0).flatten() for name in names])
    assert int(kept.sum()) == round(0.7 * total)
    if which == "good":
        assert sizes[kept].min() >= sizes[~kept].max()
    elif which == "bad":
        assert sizes[kept].max() <= sizes[~kept].min()
    else:
        assert sizes[kept].mean() == pytest.approx(float(sizes.mean()), rel=0.05)
    for name in names:
        mask = transforms(small, name)[0].kept
        assert torch.equal(weight_of(small, name)[mask], pretrained.get_parameter(name)[mask])


def weight_of(model, name):
    owner, _, attribute = name.rpartition(".")
    return getattr(model.get_submodule(owner), attribute).detach()


def test_masked_weights_stay_zero_while_training(tmp_path):
    model = model_of(2)
    masks = {name: torch.rand_like(model.get_parameter(name)) > 0.5 for name in matrices(model)}
    trained = fit(masked(model, masks), tmp_path, epochs=1)
    for name, kept in masks.items():
        assert not weight_of(trained, name)[~kept].any()
        assert not torch.equal(weight_of(trained, name)[kept], model.get_parameter(name)[kept])


def test_another_shape_cannot_be_rewound():
    model = model_of()
    with pytest.raises(RecipeError, match="prune/all_tickets: must come before all that changes the model's shape"):
        AllTickets().attach(keep_layers(model, [0, 1]), context(model, lambda _: 1.0))
