"""Tiny students and teachers, one step of a method by hand, and a run of one on any kind of task."""

import torch
from sample_run import make_data

from bertpress.encoder.blueprint import HeadSpec, uniform
from bertpress.encoder.model import build_model
from bertpress.methods.base import Context
from bertpress.tasks import Collate, resolve
from bertpress.training import TaskLoss, Teacher, TrainSettings, train
from bertpress.training.objectives import Step, captures, total
from bertpress.training.optimizer import make_optimizer

TASK = resolve("sst2").replace(labels=("negative", "positive"))
KINDS = [
    "sentence-similarity", "text-regression", "token-classification", "question-answering", "text-classification",
    "masked-lm",
]  # fmt: skip


def tiny(seed=0, **shape):
    """A model with scores that differ, and without dropout."""
    torch.manual_seed(seed)
    sizes = {"layers": 2, "hidden_size": 16, "heads": 2, "ffn": 24, "vocabulary": 40, "positions": 16} | shape
    model = build_model(uniform(**sizes, dropout=0.0, head=HeadSpec(kind="sequence", labels=2)))
    for name, weight in model.named_parameters():
        if any(part in name for part in ("query", "key", "value")):
            weight.data *= 20
    return model


def padded(pads=0, fill=0):
    """Rows of 5 and 3 tokens of two classes, with so many more pads."""
    mask = (torch.arange(5 + pads) < torch.tensor([[5], [3]])).long()
    ids = torch.where(mask == 1, torch.tensor([[6], [20]]) + torch.arange(5 + pads), fill)
    return {"input_ids": ids, "attention_mask": mask, "labels": torch.tensor([0, 1]), "index": torch.tensor([0, 1])}


def context(teacher=None, **fields):
    return Context(task=TASK, tokenizer=None, seed=0, teacher=teacher, **fields)


def step_of(terms, student, ctx, batch):
    """What the terms see of a batch; the teacher answers as it does in training."""
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    answer = Teacher(ctx.teacher)(batch, captures(terms, teacher=True)) if ctx.teacher is not None else None
    return Step(batch, student(**inputs, capture=captures(terms, teacher=False)), answer, ctx.task, ctx.state)


def loss_of(method, student, ctx, batch):
    """The weighted sum of an attached method's terms on a batch, and each term by name."""
    terms = method.objectives(ctx)
    return total(terms, step_of(terms, student, ctx, batch))


def before_and_after(method, student, ctx, batches, steps=50, rate=1e-2):
    """The first term of the method on the first batch, before and after so many updates of its loss alone."""
    method.attach(student, ctx)
    terms = method.objectives(ctx)
    for callback in method.callbacks(ctx):
        callback.on_train_begin(None, None, None, model=student)
    optimizer = make_optimizer([student, ctx.state], TrainSettings(learning_rate=rate))
    found = []
    for step in range(steps + 1):
        batch = batches[step % len(batches)] if step < steps else batches[0]
        loss, named = total(terms, step_of(terms, student, ctx, batch))
        found.append(next(iter(named.values())).item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return found[0], found[-1]


def run_on(kind, method, folder, student=None, teacher=None, **changes):
    """Train a student of one layer on a kind of task for two steps; returns the log and the context."""
    task, data, _, tokenizer = make_data(kind, count=16)
    shape = {"vocabulary": len(tokenizer), "positions": 64}

    def model(seed, **sizes):
        torch.manual_seed(seed)
        return build_model(uniform(**{"hidden_size": 16, "heads": 2, "ffn": 24} | shape | sizes, head=task.head()))

    student, teacher = student or model(0, layers=1), teacher or model(1, layers=2)
    ctx = Context(task=task, tokenizer=tokenizer, seed=0, teacher=teacher)
    ctx.calibration = lambda examples, *_: [collated(data, range(8)), collated(data, range(8, 16))]
    student = method.attach(student, ctx)
    ctx.train = data
    terms = method.objectives(ctx)
    alone = method.supervises or method.unsupervised
    settings = TrainSettings(epochs=1, batch_size=8, learning_rate=1e-3, precision="float32", log_points=1)
    result = train(
        student, task=task, data=data, tokenizer=tokenizer, settings=settings, folder=folder, teacher=Teacher(teacher),
        objectives=terms if alone else [TaskLoss(), *terms], callbacks=method.callbacks(ctx),
        state=ctx.state, progress="none",
    )  # fmt: skip
    return result.log, ctx


def collated(data, rows):
    return Collate(0)([data[row] for row in rows])
