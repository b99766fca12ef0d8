"""A training run by hand, hook by hook as the runner and the trainer call them, on a tiny model."""

from types import SimpleNamespace

import torch

from bertpress.encoder.blueprint import HeadSpec, uniform
from bertpress.encoder.model import build_model
from bertpress.methods.base import Context
from bertpress.methods.masks import hold_zeros
from bertpress.methods.transform import bake
from bertpress.tasks import resolve
from bertpress.training import TaskLoss, TrainSettings
from bertpress.training.objectives import Step, total
from bertpress.training.optimizer import make_optimizer

TASK = resolve("sst2").replace(labels=("negative", "positive"))
SETTINGS = TrainSettings(learning_rate=1e-2, weight_decay=0.1)


def tiny(layers=1, seed=1):
    torch.manual_seed(seed)
    head = HeadSpec(kind="sequence", labels=2)
    return build_model(
        uniform(layers=layers, hidden_size=16, heads=2, ffn=24, vocabulary=40, positions=16, head=head, dropout=0)
    )


def batch(seed=0, rows=4):
    random = torch.Generator().manual_seed(seed)
    mask = (torch.arange(9) < torch.randint(2, 10, (rows, 1), generator=random)).long()
    ids = torch.randint(5, 40, (rows, 9), generator=random) * mask
    return {"input_ids": ids, "attention_mask": mask, "labels": torch.arange(rows) % 2}


def context(**fields):
    return Context(task=TASK, tokenizer=None, seed=0, calibration=lambda n, *_: [batch(9, rows=n)], **fields)


def train(model, method, ctx, steps, look=lambda step, model: None, settings=SETTINGS):
    """Attach, ``steps`` updates, bake, finish; ``look`` sees the model after each update."""
    model = method.attach(model, ctx)
    hold_zeros(model)
    optimizer = make_optimizer([model, ctx.state], settings)
    objectives, callbacks = [TaskLoss(), *method.objectives(ctx)], method.callbacks(ctx)
    state = SimpleNamespace(global_step=0, max_steps=steps)
    given = {"model": model, "optimizer": optimizer}
    model.train()
    for step in range(steps):
        for callback in callbacks:
            callback.on_step_begin(None, state, None, **given)
        inputs = batch(step)
        logits = model(inputs["input_ids"], inputs["attention_mask"]).logits
        loss, _ = total(objectives, Step(inputs, SimpleNamespace(logits=logits), None, TASK, ctx.state))
        loss.backward()
        optimizer.step()
        for callback in callbacks:
            callback.on_optimizer_step(None, state, None, **given)
        optimizer.zero_grad()
        look(step, model)
        state.global_step += 1
    for callback in callbacks:
        callback.on_train_end(None, state, None, **given)
    bake(model)
    return method.finish(model.eval(), ctx)
