"""A stage with a method of early exits, hook by hook, on a tiny model that has none yet."""

from dataclasses import replace
from types import SimpleNamespace

import torch
from short_training import SETTINGS, TASK, batch, context, tiny

from bertpress.training.objectives import Step, total
from bertpress.training.optimizer import make_optimizer


def step_of(method, model, ctx, given):
    """The loss of one batch, as the trainer sees it."""
    inputs = {name: given[name] for name in ("input_ids", "attention_mask")}
    return total(method.objectives(ctx), Step(given, model(**inputs), None, ctx.task, ctx.state))[0]


def value_of(*args):
    """That loss as a number."""
    return float(step_of(*args).detach())


def train(method, steps=8, *, given=batch, ctx=None, model=None):
    """The model before, with fresh exits, and after ``steps`` updates."""
    ctx = ctx or context()
    model = method.attach(model or tiny(layers=3), ctx)
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    callbacks, state = method.callbacks(ctx), SimpleNamespace(global_step=0, max_steps=steps)
    optimizer = make_optimizer([model], SETTINGS)
    for callback in callbacks:
        callback.on_train_begin(None, state, None, model=model)
    model.train()
    for step in range(steps):
        step_of(method, model, ctx, given(step)).backward()
        optimizer.step()
        optimizer.zero_grad()
    for callback in callbacks:
        callback.on_train_end(None, state, None, model=model)
    return before, method.finish(model.eval(), ctx)


def assert_only_exits_moved(before, model):
    """Bit for bit, and every exit did move."""
    after = model.state_dict()
    for name, weight in before.items():
        assert torch.equal(after[name], weight) == (".exit." not in name), name
    assert all(weight.requires_grad for weight in model.parameters())


def regression():
    """A stage whose labels are scores."""
    return replace(context(), task=TASK.replace(kind="text-regression", labels=None, metric="pearson"))
