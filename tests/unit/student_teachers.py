"""Teachers of every kind of task for students built afresh, and the context that they are built in."""

from types import SimpleNamespace

import torch

from bertpress.encoder.blueprint import HeadSpec, uniform
from bertpress.encoder.model import build_model
from bertpress.methods.base import Context
from bertpress.tasks import resolve

TASKS = {
    "sequence": ("sst2", HeadSpec(kind="sequence", labels=2)),
    "pair": ("mrpc", HeadSpec(kind="sequence", labels=2)),
    "token": ("wnut17", HeadSpec(kind="token", labels=5)),
    "span": ("squad", HeadSpec(kind="span")),
    "embedding": ("sentence-similarity", HeadSpec(kind="embedding", pooling="mean")),
}
BATCH = {
    "input_ids": torch.tensor([[2, 11, 12, 3, 21, 22, 3], [2, 13, 3, 23, 3, 0, 0]]),
    "attention_mask": torch.tensor([[1, 1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 1, 0, 0]]),
    "token_type_ids": torch.tensor([[0, 0, 0, 0, 1, 1, 1], [0, 0, 0, 1, 1, 0, 0]]),
}


def teacher(kind="sequence", seed=3):
    """Two layers of 32 dimensions and 4 heads."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return build_model(
            uniform(layers=2, hidden_size=32, heads=4, ffn=64, vocabulary=50, positions=40, head=TASKS[kind][1])
        )


def context(kind="sequence", segments=True, seed=0):
    """The context of a stage on a task of that kind."""
    names = ["input_ids", "attention_mask", *(["token_type_ids"] if segments else [])]
    return Context(task=resolve(TASKS[kind][0]), tokenizer=SimpleNamespace(model_input_names=names), seed=seed)
