"""Tiny students and teachers, and what a method makes of them: its terms, their sum on one batch."""

import torch

from bertpress.encoder.blueprint import HeadSpec, uniform
from bertpress.encoder.model import build_model
from bertpress.methods.base import Context
from bertpress.tasks import resolve
from bertpress.training.objectives import Step, captures
from bertpress.training.teacher import Teacher

TASK = resolve("sst2").replace(labels=("negative", "positive"))


def tiny(seed=0, **shape):
    """A model without dropout whose attention scores differ."""
    torch.manual_seed(seed)
    head = HeadSpec(kind="sequence", labels=2)
    sizes = {"layers": 2, "hidden_size": 16, "heads": 2, "ffn": 24, "vocabulary": 40, "head": head} | shape
    model = build_model(uniform(**sizes, dropout=0.0))
    for name, weight in model.named_parameters():
        if "query" in name or "key" in name:
            weight.data *= 20
    return model


def padded(pads=0, pad=0):
    """Rows of 5 and 3 tokens, with so many more pads; ``pad`` is what stands there."""
    mask = (torch.arange(5 + pads) < torch.tensor([[5], [3]])).long()
    ids = torch.arange(6, 11 + pads).expand(2, -1)
    return {"input_ids": torch.where(mask == 1, ids, pad), "attention_mask": mask, "labels": torch.tensor([0, 1])}


def context(teacher, seed=0):
    """A stage that has a teacher and no data."""
    return Context(task=TASK, tokenizer=None, seed=seed, teacher=teacher)


def terms_of(method, student, teacher):
    """What the method adds to the loss, and the modules that train beside the student."""
    ctx = context(teacher)
    assert method.attach(student, ctx) is student
    return method.objectives(ctx), ctx.state


def step_of(terms, student, teacher, batch, state=None):
    """One batch, as the terms see it."""
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    own = student(**inputs, capture=captures(terms, teacher=False))
    return Step(batch, own, Teacher(teacher)(batch, captures(terms, teacher=True)), TASK, state)


def value_of(terms, student, teacher, batch):
    """The terms with their weights, summed."""
    step = step_of(terms, student, teacher, batch)
    return sum(term.weight * term(step) for term in terms)
