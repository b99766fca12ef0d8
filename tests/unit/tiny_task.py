"""Six rows of ids and labels, of unequal length, and a tiny model for them."""

import torch

from bertpress.encoder.blueprint import HeadSpec, uniform
from bertpress.encoder.model import build_model
from bertpress.methods.base import Context
from bertpress.tasks import resolve

TASK = resolve("sst2").replace(labels=("negative", "positive"))
BATCH = {
    "input_ids": torch.randint(5, 50, (6, 7), generator=torch.Generator().manual_seed(0)),
    "attention_mask": (torch.arange(7) < torch.tensor([[7], [5], [3], [7], [1], [6]])).long(),
    "labels": torch.tensor([0, 1, 1, 0, 1, 0]),
}
INPUTS = {key: BATCH[key] for key in ("input_ids", "attention_mask")}


def context():
    return Context(task=TASK, tokenizer=None, seed=0, calibration=lambda *_: [BATCH])


def tiny(layers=3, loud=False):
    torch.manual_seed(3)
    shape = uniform(layers=layers, hidden_size=16, heads=4, ffn=24, vocabulary=50, head=HeadSpec(kind="sequence"))
    model = build_model(shape)
    if loud:  # so that every head has a say
        for weight in model.encoder.layers.parameters():
            weight.data += 0.3 * torch.randn_like(weight)
    return model


def logits(model):
    with torch.no_grad():
        return model(**INPUTS).logits
