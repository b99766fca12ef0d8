"""Who trains when, by hand; what is frozen does not change by a bit; a resumed run is the undisturbed one."""

import pytest
import torch
from sample_run import make_model
from stopped_runs import TASK, TOKENIZER, fit, undisturbed_and_resumed
from transformers import TrainerCallback

from bertpress.encoder.surgery import share
from bertpress.methods.base import Context
from bertpress.methods.distill.unfreeze import Unfreeze, parts_of, trained_parts

PARTS = 4  # embeddings, two layers, head
ORDERS = {
    ("top_down", False): [[3], [3], [2, 3], [2, 3], [1, 2, 3], [1, 2, 3], [0, 1, 2, 3], [0, 1, 2, 3]],
    ("top_down", True): [[3], [3], [2], [2], [1], [1], [0], [0]],
    ("bottom_up", False): [[0], [0], [0, 1], [0, 1], [0, 1, 2], [0, 1, 2], [0, 1, 2, 3], [0, 1, 2, 3]],
    ("bottom_up", True): [[0], [0], [1], [1], [2], [2], [3], [3]],
}


def model_of(dropout=0.0):
    return make_model(TASK, TOKENIZER, dropout=dropout)


def callbacks(**fields):
    return Unfreeze(**fields).callbacks(Context(task=TASK, tokenizer=None, seed=0))


class Watch(TrainerCallback):
    """Notes after each step which parts have moved in it."""

    def __init__(self, model):
        self.parts, self.moved = parts_of(model), []
        self.before = self.values()

    def values(self):
        return [torch.cat([weight.detach().flatten() for weight in part]) for part in self.parts]

    def on_step_end(self, args, state, control, **_):
        now = self.values()
        self.moved.append([i for i, (a, b) in enumerate(zip(self.before, now, strict=True)) if not torch.equal(a, b)])
        self.before = now


@pytest.mark.parametrize(("order", "alone"), ORDERS)
def test_the_order_by_hand(order, alone):
    found = [list(trained_parts(step, 12, parts=PARTS, until=0.5, order=order, alone=alone)) for step in range(12)]
    assert found == [*ORDERS[order, alone], *[ORDERS[order, alone][-1]] * 4]


def test_everything_trains_from_the_start_where_the_time_is_0():
    for total in (1, 10):
        assert list(trained_parts(0, total, parts=3, until=0, order="top_down", alone=False)) == [0, 1, 2]


@pytest.mark.parametrize(("order", "alone"), ORDERS)
def test_only_the_parts_of_the_step_move(order, alone, tmp_path):
    model = model_of()
    watch = Watch(model)
    fit(model, tmp_path, [*callbacks(order=order, alone=alone), watch], warmup_ratio=0.0, schedule="constant")
    assert watch.moved == [*ORDERS[order, alone], *[ORDERS[order, alone][-1]] * 4]
    assert all(weight.requires_grad for weight in model.parameters())


def test_parts_hold_every_weight_once_from_the_bottom_up():
    model = model_of()
    parts = parts_of(model)
    assert sum(map(len, parts)) == len(list(model.parameters()))
    assert parts[0][0] is model.encoder.embeddings.word.weight
    assert parts[-1][-1] is model.head.classifier.bias
    assert {id(weight) for weight in parts[2]} == {id(weight) for weight in model.encoder.layers[1].parameters()}


def test_layers_without_weights_of_their_own_take_no_time():
    assert len(parts_of(share(model_of(), {1: 0}))) == 3


def test_what_somebody_else_froze_stays_frozen(tmp_path):
    class Freeze(TrainerCallback):
        def on_train_begin(self, args, state, control, model=None, **_):
            model.encoder.embeddings.requires_grad_(False)

    model = model_of()
    before = model.encoder.embeddings.word.weight.detach().clone()
    fit(model, tmp_path, [*callbacks(until=0.0), Freeze()])
    assert torch.equal(model.encoder.embeddings.word.weight, before)
    assert not model.encoder.embeddings.word.weight.requires_grad


@pytest.mark.parametrize("alone", [False, True])
def test_a_resumed_run_unfreezes_alike(tmp_path, alone):
    def make():
        return model_of(dropout=0.1), callbacks(alone=alone, until=0.9), torch.nn.ModuleDict()

    whole, resumed = undisturbed_and_resumed(tmp_path, make)
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), resumed.parameters(), strict=True))
