"""One-hot forward and soft gradient, the cost by hand, plain cross-entropy without it, the network that is cut out."""

import math

import pytest
import torch
from safetensors import safe_open
from sample_run import make_data, make_model
from teaching import collated

from bertpress import artifact
from bertpress.encoder.imports import load_pretrained
from bertpress.encoder.mixer_specs import CONVOLUTIONS, OPERATIONS
from bertpress.errors import RecipeError
from bertpress.methods.base import Context
from bertpress.methods.student.adabert import (
    STATE,
    Adabert,
    Architecture,
    Gates,
    efficiency,
    gumbel,
    operation_costs,
    straight_through,
)
from bertpress.training import TaskLoss, TrainSettings, train
from bertpress.training.objectives import Step, total

SMALL = {"hidden_size": 8, "nodes": 2, "cells": 3, "dense": 6, "dropout": 0.0}
TASK, DATA, _, TOKENIZER = make_data(count=64)
BATCH = collated(DATA, range(8))
INPUTS = {name: BATCH[name] for name in ("input_ids", "attention_mask")}


def built(seed=0, scores=None, **fields):
    """A method, its super-net and context; scores of the choices at random, where ``scores`` is a seed."""
    method = Adabert(**{**SMALL, **fields})
    ctx = Context(task=TASK, tokenizer=TOKENIZER, seed=seed)
    model = method.attach(make_model(TASK, TOKENIZER), ctx)
    if scores is not None:
        random = torch.Generator().manual_seed(scores)
        for weight in ctx.state[STATE].parameters():
            weight.data.normal_(generator=random)
    return method, model, ctx


def trained(method, model, ctx, folder, **settings):
    """The super-net after a run, and its log."""
    settings = {"batch_size": 8, "learning_rate": 1e-3, "precision": "float32", "schedule": "constant"} | settings
    found = train(
        model, task=TASK, data=DATA, tokenizer=TOKENIZER, settings=TrainSettings(**settings), folder=folder,
        objectives=[TaskLoss(), *method.objectives(ctx)], callbacks=method.callbacks(ctx), state=ctx.state,
        progress="none",
    )  # fmt: skip
    return found.model, found.log


def at_step(method, model, ctx, step):
    """The loss of one step, after its callbacks."""
    state = type("State", (), {"global_step": step, "max_steps": 10})
    (turns,) = method.callbacks(ctx)
    model.train()
    turns.on_train_begin(None, state, None, model=model)
    torch.manual_seed(step)
    turns.on_step_begin(None, state, None)
    terms = [TaskLoss(), *method.objectives(ctx)]
    return total(terms, Step(BATCH, model(**INPUTS), None, TASK, ctx.state))[0]


def test_the_forward_pass_is_one_hot_and_the_gradient_that_of_a_softmax():
    scores = torch.tensor([[0.1, 2.0, -1.0], [0.5, 0.5, 0.0]], requires_grad=True)
    values = torch.tensor([[1.0, -2.0, 0.5], [3.0, 1.0, 2.0]])
    for temperature in (1.0, 0.2):
        gates = straight_through(scores, torch.tensor(temperature))
        assert gates.tolist() == [[0, 1, 0], [1, 0, 0]]
        (found,) = torch.autograd.grad((gates * values).sum(), scores)
        for row in range(2):
            weights = [math.exp(score / temperature) for score in scores[row].tolist()]
            p = [weight / sum(weights) for weight in weights]
            mean = sum(a * b for a, b in zip(p, values[row].tolist(), strict=True))
            expected = [a * (b - mean) / temperature for a, b in zip(p, values[row].tolist(), strict=True)]
            assert found[row].tolist() == pytest.approx(expected, abs=1e-6)


def test_operations_are_drawn_as_often_as_their_probability_says():
    torch.manual_seed(0)
    p = torch.tensor([0.7, 0.2, 0.1])
    drawn = straight_through(p.log() + gumbel(torch.zeros(20_000, 3)), torch.tensor(0.5)).mean(0)
    torch.testing.assert_close(drawn, p, atol=0.01, rtol=0)


def test_draws_depend_on_the_global_seed_and_hold_for_a_step():
    found = Architecture(2, 3, 1e-3)
    torch.manual_seed(5)
    found.draw(0.5)
    first = found.gates(True)
    assert all(a.equal(b) for a, b in zip(first, found.gates(True), strict=True))
    torch.manual_seed(5)
    found.draw(0.5)
    assert all(a.equal(b) for a, b in zip(first, found.gates(True), strict=True))
    found.draw(0.5)
    assert not first.edges.equal(found.gates(True).edges)


def test_the_cost_by_hand():
    cost = dict(zip(OPERATIONS, operation_costs(16).tolist(), strict=True))
    assert [cost[name] for name in ("zero", "skip", "average3", "maximum3")] == [0, 0, 0, 0]
    for name, (kernel, _) in CONVOLUTIONS.items():
        size = (kernel * 256 + 16) / (7 * 256 + 16)
        assert cost[name] == pytest.approx((size + kernel / 7) / 2)
    soft = Gates(torch.tensor([[0.0, 1.0], [0.5, 0.5]]), torch.tensor([0.25, 0.0, 0.25, 0.5]))
    # 0.25 x 1 + 0.25 x 3 + 0.5 x 4 = 3 of 4 cells; edges cost 0.8 and 0.5
    assert efficiency(soft, torch.tensor([0.2, 0.8])).item() == pytest.approx(3 / 4 * 0.65)


def test_the_temperature_falls_in_equal_steps():
    method = Adabert()
    assert [method.temperature_at(step, 18_000) for step in (0, 9_000, 18_000)] == pytest.approx([1.0, 0.6, 0.2])


def test_without_cost_the_loss_is_plain_cross_entropy():
    method, model, ctx = built(beta=0.0)
    assert method.objectives(ctx) == []
    loss = at_step(method, model, ctx, 0)
    expected = torch.nn.functional.cross_entropy(model(**INPUTS).logits, BATCH["labels"])
    assert loss.equal(expected)
    priced, _, _ = built(beta=3.0)
    cost = efficiency(ctx.state[STATE].gates(True), operation_costs(8))
    torch.testing.assert_close(at_step(priced, model, ctx, 0), expected + 3 * cost)


def test_weights_and_choices_learn_in_turn():
    method, model, ctx = built(scores=1, cells=2)
    scores = list(ctx.state[STATE].parameters())
    at_step(method, model, ctx, 0).backward()
    gates = ctx.state[STATE].gates(True)
    drawn = [OPERATIONS[i] for i in gates.edges.argmax(-1)]
    cells = int(gates.depth.argmax()) + 1
    assert all(weight.grad is None for weight in scores)
    learnt = {name for name, weight in model.named_parameters() if weight.grad is not None and "choices" in name}
    assert learnt == {
        f"encoder.layers.{i}.mixer.choices.{node}_{state}.{operation}.dense.{part}"
        for i in range(cells)
        for (node, state), operation in zip(ctx.state[STATE].places, drawn, strict=True)
        if operation in CONVOLUTIONS
        for part in ("weight", "bias")
    }
    model.zero_grad()
    at_step(method, model, ctx, 1).backward()
    assert all(weight.grad is None for weight in model.parameters())
    assert all(weight.grad.abs().min() > 0 for weight in scores)


def relaxed(model, places, gates):
    """Logits of the network in which every edge is the sum of all operations, and every cell there, times its gate."""
    mask = INPUTS["attention_mask"]
    real = mask[..., None].double()
    before = x = model.encoder.embeddings(INPUTS["input_ids"], None)
    for number, layer in enumerate(model.encoder.layers):
        cell, states = layer.mixer, [before * real, x * real]
        for node in range(cell.nodes):
            found = torch.zeros_like(x)
            for (of, at), shares in zip(places, gates.edges, strict=True):
                for name, edge in cell.choices[f"{of}_{at}"].items() if of == node else ():
                    found = found + shares[OPERATIONS.index(name)] * edge(states[at])
            states.append(found * real)
        mixed = sum(share * state for share, state in zip(cell.shares.softmax(0), states[2:], strict=True))
        there = gates.depth[number:].sum()
        before, x = x, (1 - there) * x + there * cell.norm(x + mixed)
    return model.head(x, mask)


def test_operations_and_cells_that_were_not_drawn_have_their_gradient():
    _, model, ctx = built(scores=2)
    architecture = ctx.state[STATE].double()
    model.double().train()
    architecture.draw(0.7)
    found = model(**INPUTS).logits
    gates = architecture.gates(True)
    expected = relaxed(model, architecture.places, gates)
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=0)
    scores = list(architecture.parameters())
    pairs = [torch.autograd.grad(logits[:, 0].square().sum(), scores) for logits in (found, expected)]
    for ours, by_hand in zip(*pairs, strict=True):
        torch.testing.assert_close(ours, by_hand, atol=1e-12, rtol=1e-9)
    assert all(gradient.abs().min() > 0 for gradient in pairs[0])


@pytest.mark.parametrize("seed", range(6))
def test_what_is_cut_out_equals_the_super_net_of_the_likeliest_choices(seed):
    method, model, ctx = built(scores=seed, nodes=3)
    model.eval()
    architecture = ctx.state[STATE]
    with torch.no_grad():
        expected = model(**INPUTS).logits
        chosen = Gates(*(torch.nn.functional.one_hot(scores.argmax(-1), scores.shape[-1]).float()
                         for scores in (architecture.edges, architecture.depth)))  # fmt: skip
    for layer in model.encoder.layers:
        layer.mixer.gates = lambda _: Gates(*(each.requires_grad_() for each in chosen))
    everything = model(**INPUTS).logits  # every operation is computed, and all but one of each edge times 0
    student = method.finish(model, ctx)
    found = student(**INPUTS).logits
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)
    torch.testing.assert_close(found, everything, atol=1e-5, rtol=0)
    assert len(student.blueprint.layers) == int(architecture.depth.argmax()) + 1
    assert student.blueprint.total_parameters == sum(weight.numel() for _, weight in student.unique_weights())


def test_edges_that_are_not_used_are_not_in_the_file(tmp_path):
    method, model, ctx = built(scores=3)
    student = method.finish(model, ctx)
    artifact.save(student, TOKENIZER, TASK, tmp_path / "made", seed=0)
    with safe_open(tmp_path / "made" / "model.safetensors", "pt") as file:
        names = {name for name in file.keys() if ".layers." in name}  # noqa: SIM118
    edges = student.blueprint.layers[0].mixer.edges
    weights = {
        f"edges.{node}_{state}.dense.{part}"
        for node, operations in enumerate(edges)
        for state, name in enumerate(operations)
        if name in CONVOLUTIONS
        for part in ("weight", "bias")
    }
    assert 0 < len(weights) < 10
    assert names == {
        f"encoder.layers.{i}.mixer.{name}"
        for i in range(len(student.blueprint.layers))
        for name in {*weights, "shares", "norm.weight", "norm.bias"}
    }
    again = load_pretrained(tmp_path / "made").model
    assert again(**INPUTS).logits.equal(student(**INPUTS).logits)


def test_a_large_price_leaves_nothing_that_costs(tmp_path):
    fields = {"beta": 1000.0, "architecture_learning_rate": 0.1}
    method, model, ctx = built(**fields)
    architecture = ctx.state[STATE]
    with torch.no_grad():  # what costs most is the likeliest at first
        architecture.edges[:, OPERATIONS.index("conv7")] = 1
        architecture.depth[-1] = 1
    model, log = trained(method, model, ctx, tmp_path, epochs=10)
    student = method.finish(model, ctx)
    (layer,) = student.blueprint.layers
    assert {name for node in layer.mixer.edges for name in node} <= {"zero", "skip", "average3", "maximum3"}
    assert student.blueprint.parameters()["mixer"] == 2 + 2 * 8
    assert log[-1]["terms"].keys() == {"task", "efficiency"}


def test_a_search_finds_the_words_that_decide(tmp_path):
    method, model, ctx = built(beta=0.01, cells=2, architecture_learning_rate=0.02)
    model, log = trained(method, model, ctx, tmp_path, epochs=20, learning_rate=1e-2)
    student = method.finish(model, ctx)
    everything = collated(DATA, range(64))
    ids = {name: everything[name] for name in ("input_ids", "attention_mask")}
    assert (student(**ids).logits.argmax(-1) == everything["labels"]).float().mean() > 0.8
    assert log[-1]["terms"]["task"] < 0.7 * log[0]["terms"]["task"]


def test_as_deep_as_the_teacher_and_never_wider():
    _, model, ctx = built(cells=None, hidden_size=32)
    assert len(model.blueprint.layers) == len(ctx.state[STATE].depth) == 2
    assert (model.blueprint.embeddings.size, model.blueprint.hidden_size) == (16, 32)
    head = model.blueprint.head
    assert (head.activation, head.pooling, head.dense_size) == ("tanh", "mean", 6)


def test_first_weights_depend_on_the_seed_alone():
    torch.manual_seed(0)
    first = built()[1].state_dict()
    torch.manual_seed(99)
    again, other = built()[1].state_dict(), built(seed=1)[1].state_dict()
    assert all(value.equal(again[name]) for name, value in first.items())
    name = "encoder.layers.0.mixer.choices.0_0.conv3.dense.weight"
    assert not first[name].equal(other[name])


def test_a_stage_in_which_the_model_is_built_anew_is_refused():
    method, model, ctx = built()
    (turns,) = method.callbacks(ctx)
    words = "student/adabert: another method of its stage builds the model anew; give that a later stage"
    with pytest.raises(RecipeError, match=words):
        turns.on_train_begin(None, None, None, model=method.finish(model, ctx))
