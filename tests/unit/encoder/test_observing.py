"""Observers see what a linear layer multiplies: every real token once, no pad."""

import torch

from bertpress.encoder.blueprint import HeadSpec, uniform
from bertpress.encoder.model import build_model
from bertpress.encoder.observers import observing

MASK = (torch.arange(9) < torch.tensor([[9], [4], [1]])).long()


def tiny():
    torch.manual_seed(1)
    head = HeadSpec(kind="sequence", labels=2)
    return build_model(uniform(layers=2, hidden_size=16, heads=2, ffn=24, vocabulary=40, head=head))


def seen(names, pad, mask=MASK):
    model, found = tiny(), {name: [] for name in names}
    ids = torch.where(mask.bool(), torch.arange(27).reshape(3, 9) + 5, pad)
    with torch.no_grad(), observing(model, {name: found[name].append for name in names}):
        model(ids, mask)
    with torch.no_grad():
        model(ids, mask)  # no longer watched
    return {name: torch.cat(parts) for name, parts in found.items()}


def test_pads_are_left_out_wherever_they_could_be():
    names = ["encoder.layers.0.attention.query", "encoder.layers.1.ffn.0.outer", "head.dense", "head.classifier"]
    first, second = seen(names, 0), seen(names, 3)
    for name in names:
        assert first[name].shape == (3 if name.startswith("head") else 14, 24 if name.endswith("outer") else 16)
        torch.testing.assert_close(first[name], second[name])


def test_without_pads_every_token_counts():
    assert seen(["encoder.layers.0.attention.query"], 0, torch.ones(3, 9).long())[
        "encoder.layers.0.attention.query"
    ].shape == (27, 16)
