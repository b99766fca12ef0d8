"""Which stage a step belongs to, whose weights train in it, what does not run, what is slow; a run that goes on."""

import pytest
import torch
from sample_run import make_model
from stopped_runs import TASK, TOKENIZER, fit, undisturbed_and_resumed
from torch import nn
from transformers import TrainerCallback

from bertpress.methods.layerwise import Layerwise, parts_by_stage, stage_of

STAGES = [0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2]  # embeddings and two layers in twelve steps


def model_of(dropout=0.0):
    return make_model(TASK, TOKENIZER, dropout=dropout)


class Watch(TrainerCallback):
    """Notes after each step which parts have moved in it, by how much, and how many layers ran."""

    def __init__(self, model):
        self.parts, self.moved, self.ran = parts_by_stage(model), [], []
        self.before, self.calls = self.values(), 0
        for layer in model.encoder.layers:
            layer.register_forward_hook(self.count)

    def count(self, *_):
        self.calls += 1

    def values(self):
        return [torch.cat([weight.detach().flatten() for weight in part]) for part in self.parts]

    def on_step_end(self, args, state, control, **_):
        now = self.values()
        self.moved.append([(a - b).norm().item() for a, b in zip(self.before, now, strict=True)])
        self.ran.append(self.calls)
        self.before, self.calls = now, 0


def watched(folder, **fields):
    model = model_of()
    watch = Watch(model)
    fit(model, folder, [Layerwise(**fields), watch], warmup_ratio=0.0, schedule="constant")
    return model, watch


def test_stages_have_equal_times():
    assert [stage_of(step, 12, 3) for step in range(12)] == STAGES
    assert [stage_of(step, 5, 3) for step in range(5)] == [0, 0, 1, 1, 2]
    assert [stage_of(step, 2, 4) for step in range(2)] == [0, 2]
    assert stage_of(12, 12, 3) == 2


def test_every_weight_of_the_encoder_is_in_one_part():
    model = model_of()
    parts = parts_by_stage(model)
    assert sum(map(len, parts)) == len(list(model.encoder.parameters()))
    assert parts[0][0] is model.encoder.embeddings.word.weight
    for part, layer in zip(parts[1:], model.encoder.layers, strict=True):
        assert {id(weight) for weight in part} == {id(weight) for weight in layer.parameters()}


def test_only_the_part_of_the_stage_moves_and_no_layer_above_it_runs(tmp_path):
    model, watch = watched(tmp_path)
    assert [[part for part, size in enumerate(sizes) if size] for sizes in watch.moved] == [[i] for i in STAGES]
    assert watch.ran == STAGES
    assert all(weight.requires_grad for weight in model.parameters())


def test_slow_parts_go_their_share_of_the_way(tmp_path):
    step = STAGES.index(1)  # the first in which the embeddings are below
    _, slow = watched(tmp_path / "slow", lower_rate=0.25)
    _, even = watched(tmp_path / "even", lower_rate=1.0)
    assert slow.moved[:step] == even.moved[:step]
    assert slow.moved[step][0] == pytest.approx(0.25 * even.moved[step][0], rel=1e-3)
    assert slow.moved[step][1] == even.moved[step][1]
    assert slow.ran == STAGES


def test_what_somebody_else_froze_stays_frozen(tmp_path):
    model = model_of()
    model.encoder.embeddings.position.requires_grad_(False)
    before = model.encoder.embeddings.position.weight.detach().clone()
    fit(model, tmp_path, [Layerwise()])
    assert torch.equal(model.encoder.embeddings.position.weight, before)
    assert not model.encoder.embeddings.position.weight.requires_grad


@pytest.mark.parametrize("rate", [0.0, 0.3])
def test_a_resumed_run_trains_alike(tmp_path, rate):
    def make():
        return model_of(dropout=0.1), [Layerwise(lower_rate=rate)], nn.ModuleDict()

    whole, resumed = undisturbed_and_resumed(tmp_path, make)
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), resumed.parameters(), strict=True))
