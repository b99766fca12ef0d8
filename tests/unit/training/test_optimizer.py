import copy

import pytest
import torch
from torch import nn

from bertpress.training import Optimization, TrainSettings
from bertpress.training import optimizer as subject
from bertpress.training.optimizer import TableGradients, clip, make_groups, make_optimizer

SETTINGS = TrainSettings(learning_rate=1e-3, weight_decay=0.1)


def test_matrices_decay_vectors_do_not_and_frozen_weights_stay_out():
    model = nn.Sequential(nn.Linear(2, 3), nn.LayerNorm(3), nn.Linear(3, 1))
    model[2].requires_grad_(False)
    groups = make_groups([model], SETTINGS)
    assert [(group["weight_decay"], len(group["params"])) for group in groups] == [(0.1, 1), (0.0, 3)]


def test_shared_weights_are_updated_once():
    layer = nn.Linear(2, 2)
    groups = make_groups([nn.Sequential(layer, layer), nn.ModuleList([layer])], SETTINGS)
    assert sum(len(group["params"]) for group in groups) == 2


def test_a_module_states_its_own_rate_decay_and_direction():
    inner = nn.Linear(1, 1, bias=False)
    state = nn.ModuleDict({"scores": nn.Sequential(inner), "multiplier": nn.Linear(1, 1, bias=False)})
    state["scores"].optimization = Optimization(learning_rate=1.0, weight_decay=0.0)
    state["multiplier"].optimization = Optimization(learning_rate=0.5, ascend=True, weight_decay=0.0, scheduled=False)
    first, second = make_groups([state], SETTINGS)
    assert (first["lr"], first["maximize"], first["scheduled"]) == (1.0, False, True)
    assert (second["lr"], second["maximize"], second["scheduled"]) == (0.5, True, False)
    before = [weight.item() for weight in state.parameters()]
    adam = make_optimizer([state], SETTINGS)
    for weight in state.parameters():
        weight.grad = torch.ones_like(weight)
    adam.step()
    after = [weight.item() for weight in state.parameters()]  # Adam's first step has the size of the rate
    assert after[0] == pytest.approx(before[0] - 1.0, abs=1e-4)
    assert after[1] == pytest.approx(before[1] + 0.5, abs=1e-4)


def test_nothing_to_train_is_refused():
    with pytest.raises(ValueError, match="requires a gradient"):
        make_optimizer([nn.Linear(1, 1).requires_grad_(False)], SETTINGS)


class Tagger(nn.Module):
    def __init__(self, tied):
        super().__init__()
        self.table, self.out = nn.Embedding(50, 4), nn.Linear(4, 2)
        self.tied = tied

    def forward(self, ids):
        x = self.table(ids)
        return (x @ self.table.weight.T).sum() ** 2 / 1e3 + self.out(x).pow(2).sum() if self.tied else self.out(x).sum()


@pytest.mark.parametrize("tied", [False, True])
def test_row_wise_table_gradients_train_like_dense_ones(monkeypatch, tied):
    monkeypatch.setattr(subject, "_LARGE_TABLE", 1)
    torch.manual_seed(0)
    dense = Tagger(tied)
    rows = copy.deepcopy(dense)
    batches = [torch.randint(0, 50, (3, 5)) for _ in range(12)]
    adams = [make_optimizer([model], SETTINGS) for model in (dense, rows)]
    with TableGradients(rows) as tables:
        assert len(tables.tables) == 1
        for first, second in zip(batches[::2], batches[1::2], strict=True):
            for ids in (first, second):  # two batches a step
                dense(ids).backward()
                rows(ids).backward()
            tables.gather()
            for model, adam in zip((dense, rows), adams, strict=True):
                clip(list(model.parameters()), 1.0)
                adam.step()
                adam.zero_grad(set_to_none=True)
    assert not rows.table.sparse
    for mine, theirs in zip(rows.parameters(), dense.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-6, rtol=0)


def test_a_parametrized_table_is_left_alone(monkeypatch):
    monkeypatch.setattr(subject, "_LARGE_TABLE", 1)
    model = Tagger(tied=False)
    nn.utils.parametrize.register_parametrization(model.table, "weight", nn.Tanh())
    assert not TableGradients(model).tables


def test_clipping_is_that_of_torch():
    weights = [nn.Parameter(torch.randn(3, 2)), nn.Parameter(torch.randn(4)), nn.Parameter(torch.randn(1))]
    twins = [nn.Parameter(weight.detach().clone()) for weight in weights]
    for weight, twin in zip(weights[:2], twins, strict=False):
        weight.grad = 10 * torch.randn_like(weight)
        twin.grad = weight.grad.clone()
    norm = clip(weights, 1.0)
    torch.testing.assert_close(norm, nn.utils.clip_grad_norm_(twins, 1.0))
    torch.testing.assert_close(weights[0].grad, twins[0].grad)
    before = weights[1].grad.clone()
    clip(weights, 0.0)
    assert torch.equal(weights[1].grad, before)
