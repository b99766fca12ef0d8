"""Tiny models whose layers let tokens go, with the weights of one that keeps all."""

import torch

from bertpress.encoder.blueprint import HeadSpec, RelativeSpec, uniform
from bertpress.encoder.model import build_model
from bertpress.encoder.surgery import rebuild
from bertpress.encoder.token_specs import MergeSpec, ThresholdSpec, TopSpec


def top(keep):
    return TopSpec(kind="top", keep=keep)


def threshold(value):
    return ThresholdSpec(kind="threshold", threshold=value)


def merge(**how):
    return MergeSpec(kind="merge", **how)


RULES = {
    "shares": {0: top(0.7), 2: top(0.3)},
    "counts": {0: top(6), 1: top(4)},
    "threshold": {0: threshold(0.1), 1: threshold(0.15)},
    "pairs": {0: merge(pairs=2), 1: merge(pairs=1)},
    "merged share": {0: merge(keep=0.8), 2: merge(keep=0.5)},
}


def tiny(layers=3, *, relative=False, pooling="cls", kind="sequence", seed=0):
    """Weights large enough for attention to matter."""
    torch.manual_seed(seed)
    head = HeadSpec(kind=kind, labels=3, pooling=pooling)
    shape = uniform(layers=layers, hidden_size=16, heads=2, ffn=24, vocabulary=40, positions=32, head=head, dropout=0.0)
    if relative:
        shape = shape.replace(relative=RelativeSpec(buckets=8, max_distance=16, heads=2))
    model = build_model(shape)
    for weight in model.parameters():
        weight.data += torch.randn_like(weight) * (0.4 if weight.ndim > 1 else 0.1)
    return model


def ruled(model, rules):
    """The same weights; ``rules`` by layer."""
    layers = [layer.model_copy(update={"leave": rules.get(i)}) for i, layer in enumerate(model.blueprint.layers)]
    return rebuild(model, model.blueprint.with_layers(tuple(layers)), model.state_dict())


def texts(rows=6, longest=11, seed=0):
    """Padded rows of unequal length, from one token up."""
    random = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, longest + 1, (rows, 1), generator=random)
    lengths[0] = longest
    mask = (torch.arange(longest) < lengths).long()
    return {"input_ids": torch.randint(1, 40, (rows, longest), generator=random) * mask, "attention_mask": mask}


def logits(model, batch):
    with torch.no_grad():
        return model(**batch).logits


def kept_by(model, batch):
    """For each rule that is followed, the weights and places of the tokens behind it."""
    seen = []

    def watch(rule):
        def follow(present, read, states):
            out = rule(present, read, states)
            seen.append((present.weights.clone(), present.places.clone()))
            return out

        follow.reads = rule.reads
        return follow

    layers = [layer for layer in model.encoder.layers if layer.rule is not None]
    rules = [layer.rule for layer in layers]
    for layer, rule in zip(layers, rules, strict=True):
        layer.rule = watch(rule)
    try:
        logits(model, batch)
    finally:
        for layer, rule in zip(layers, rules, strict=True):
            layer.rule = rule
    return seen
