"""Tiny models with early exits whose answers differ from layer to layer and from text to text."""

import numpy as np
import torch

from bertpress.encoder.blueprint import ExitRule, ExitSpec, HeadSpec, RelativeSpec, uniform
from bertpress.encoder.leaving import chosen_exits
from bertpress.encoder.model import build_model


def shape(kind="pooled", rule=None, layers=4, labels=3, relative=False, every=1, **head):
    """A blueprint with an exit behind every layer but the last, or behind every so many of them."""
    spec = HeadSpec(kind="sequence", labels=labels, **head)
    bare = uniform(layers=layers, hidden_size=16, heads=2, ffn=24, vocabulary=40, head=spec, dropout=0.0)
    made = ExitSpec(kind=kind, size=8)
    with_exits = [
        layer if number % every else layer.model_copy(update={"exit": made})
        for number, layer in enumerate(bare.layers[:-1], start=1)
    ]
    extra = {"relative": RelativeSpec(buckets=8, max_distance=16, heads=2)} if relative else {}
    rule = rule or ExitRule(criterion="entropy")
    return bare.replace(layers=(*with_exits, bare.layers[-1]), exit=rule, **extra)


def tiny(seed=0, **wanted):
    """A model of that shape with large weights."""
    torch.manual_seed(seed)
    model = build_model(shape(**wanted))
    for weight in model.parameters():
        weight.data += torch.randn_like(weight) * (0.4 if weight.ndim > 1 else 0.1)
    return model


def texts(rows=6, longest=9, seed=0):
    """Padded rows of unequal length, in two segments."""
    random = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, longest + 1, (rows, 1), generator=random)
    lengths[0] = longest
    mask = (torch.arange(longest) < lengths).long()
    ids = torch.randint(1, 40, (rows, longest), generator=random) * mask
    return {"input_ids": ids, "attention_mask": mask, "token_type_ids": (torch.arange(longest) > 3).long() * mask}


def answers(model, batch):
    """(rows, exits, labels) of the plain forward pass."""
    with torch.no_grad():
        out = model(**batch)
    return torch.stack([*out.captured["exits"], out.logits], dim=1).numpy()


def mixed_speed(model, batch):
    """A speed at which rows leave at several exits."""
    everything, rule, exits = answers(model, batch), model.blueprint.exit, model.blueprint.exits
    for speed in np.linspace(0.02, 0.98, 49):
        if len(set(chosen_exits(rule, speed, exits, everything))) > 1:
            return speed
    raise AssertionError("no speed tells the rows apart")
