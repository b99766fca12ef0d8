"""Several passes in one update: their gradients add up, one pass is the plain step, and a kill loses nothing."""

import os
import signal
from contextlib import contextmanager

import pytest
import torch
from sample_run import make_data, make_model
from transformers import TrainerCallback

from bertpress.errors import Interrupted, RecipeError
from bertpress.training import Pass, TaskLoss, Teacher, TrainSettings, train


class Spread:
    """The logits' mean square; a second term."""

    name, weight, captures, needs_teacher = "spread", 0.25, frozenset(), False

    def __call__(self, step):
        return step.student.logits.square().mean()


class Near(Spread):
    """Squared distance from the teacher's logits."""

    name, needs_teacher = "near", True

    def __call__(self, step):
        return (step.student.logits - step.teacher.logits).square().mean()


@contextmanager
def without_last_layer(model):
    whole = model.encoder.plan
    model.encoder.plan = lambda encoder: iter(list(encoder.layers)[:-1])
    try:
        yield
    finally:
        model.encoder.plan = whole


def run(folder, passes=(), *, objectives=None, callbacks=(), teacher=None, dropout=0.1, **changes):
    task, data, _, tokenizer = make_data()
    settings = {"epochs": 1, "batch_size": 8, "learning_rate": 1e-3, "precision": "float32", "log_points": 1000}
    return train(
        make_model(task, tokenizer, dropout=dropout), task=task, data=data, tokenizer=tokenizer, folder=folder,
        settings=TrainSettings(**{**settings, **changes}), objectives=objectives, callbacks=list(callbacks),
        passes=passes, teacher=teacher, progress="none",
    )  # fmt: skip


def same(one, other):
    ours, theirs = one.model.state_dict(), other.model.state_dict()
    return all(torch.equal(ours[name], theirs[name]) for name in ours)


def strip(log):
    return [{key: entry[key] for key in ("loss", "terms", "gradient_norm")} for entry in log]


def test_one_plain_pass_is_a_step_without_passes(tmp_path):
    plain = run(tmp_path / "a", accumulate=2)
    one = run(tmp_path / "b", [Pass()], accumulate=2)
    assert same(plain, one)
    assert strip(plain.log) == strip(one.log)


class Gradients(TrainerCallback):
    """Keeps what the first update is made of."""

    def __init__(self):
        self.kept = None

    def on_pre_optimizer_step(self, args, state, control, model=None, **_):
        if self.kept is None:
            self.kept = {
                name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None
            }


def gradients(folder, passes, **changes):
    found = Gradients()
    result = run(folder, passes, callbacks=[found], dropout=0.0, max_grad_norm=0, **changes)
    return found.kept, result.log[0]


@pytest.mark.parametrize("accumulate", [1, 3])
def test_gradients_of_passes_add_up_with_their_weights(tmp_path, accumulate):
    first, second = Pass("whole", weight=2.0), Pass("short", without_last_layer, objectives=[Spread()], weight=0.5)
    apart = [gradients(tmp_path / each.name, [each], accumulate=accumulate) for each in (first, second)]
    together, entry = gradients(tmp_path / "both", [first, second], accumulate=accumulate)
    for name, gradient in together.items():
        parts = [found[name] for found, _ in apart if name in found]
        torch.testing.assert_close(gradient, sum(parts), atol=1e-6, rtol=1e-5)
    plain, _ = gradients(tmp_path / "plain", [], accumulate=accumulate)
    name = "encoder.layers.1.ffn.0.inner.weight"  # the shorter pass does not reach it
    torch.testing.assert_close(together[name], 2 * plain[name], atol=1e-6, rtol=1e-5)
    assert entry["loss"] == pytest.approx(sum(log["loss"] for _, log in apart), rel=1e-5)
    assert set(entry["terms"]) == {"whole/task", "short/task", "short/spread"}
    terms = entry["terms"]
    expected = 2 * terms["whole/task"] + 0.5 * (terms["short/task"] + 0.25 * terms["short/spread"])
    assert entry["loss"] == pytest.approx(expected, rel=1e-5)


class Kill(TrainerCallback):
    def on_step_end(self, args, state, control, **_):
        if state.global_step == 5:
            os.kill(os.getpid(), signal.SIGINT)


class Idle(Kill):
    def on_step_end(self, *args, **_):
        pass


@contextmanager
def at_random(model):
    """Another depth at each step, drawn from the generator that training seeds."""
    whole, keep = model.encoder.plan, int(torch.randint(1, 3, ()))
    model.encoder.plan = lambda encoder: iter(list(encoder.layers)[:keep])
    try:
        yield
    finally:
        model.encoder.plan = whole


def test_a_stopped_run_goes_on_to_the_same_bits(tmp_path):
    passes = [Pass("a"), Pass("b", at_random, objectives=[Spread()])]
    Kill.__qualname__ = Idle.__qualname__ = "Callback"  # a checkpoint knows its callbacks by name
    with pytest.raises(Interrupted):
        run(tmp_path / "a", passes, callbacks=[Kill()])
    assert same(run(tmp_path / "a", passes, callbacks=[Idle()]), run(tmp_path / "b", passes, callbacks=[Idle()]))


class Counting(torch.nn.Module):
    """A teacher that counts how often it runs, and in which configuration."""

    def __init__(self, model):
        super().__init__()
        self.model, self.calls, self.mode = model, [], "whole"

    def forward(self, **inputs):
        self.calls.append(self.mode)
        return self.model(**inputs)


def test_passes_share_the_answer_of_a_teacher_in_one_configuration(tmp_path):
    task, _, _, tokenizer = make_data()
    model = Counting(make_model(task, tokenizer, seed=5))

    @contextmanager
    def narrow(counting):
        counting.mode = "narrow"
        yield
        counting.mode = "whole"

    passes = [Pass("a", teacher=narrow), Pass("b"), Pass("c", teacher=narrow), Pass("d")]
    teacher = Teacher(model, cache=tmp_path / "cache")
    run(tmp_path / "run", passes, objectives=[Near()], teacher=teacher)
    assert model.calls == ["narrow", "whole"] * 12
    model.calls.clear()
    run(tmp_path / "cached", [Pass("a"), Pass("b")], objectives=[Near()], teacher=teacher)
    assert len(model.calls) < 12  # answers of the teacher as it is come from the cache


def test_terms_of_a_pass_are_checked_with_those_of_the_run(tmp_path):
    with pytest.raises(RecipeError, match="objectives task, task: names must be distinct"):
        run(tmp_path, [Pass("a", objectives=[TaskLoss()])])
    with pytest.raises(RecipeError, match="objective near needs a teacher"):
        run(tmp_path, [Pass("a", objectives=[Near()])])
