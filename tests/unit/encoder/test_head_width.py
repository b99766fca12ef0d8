"""A cut inside the heads computes what the whole model computes with these dimensions zeroed, at the old scale."""

import pytest
import torch

from bertpress.encoder.blueprint import HeadSpec, uniform
from bertpress.encoder.model import build_model
from bertpress.encoder.surgery import keep_head_width, share

IDS = torch.randint(5, 90, (3, 11), generator=torch.Generator().manual_seed(1))
MASK = (torch.arange(11) < torch.tensor([[11], [7], [1]])).long()
QUERIES, VALUES = [[0, 4], [5, 1], [2, 3], [0, 5]], [[5, 0, 2], [1, 2, 3], [0, 1, 5], [3, 4, 5]]


def tiny():
    torch.manual_seed(0)
    model = build_model(
        uniform(layers=3, hidden_size=24, heads=4, ffn=20, vocabulary=90, head=HeadSpec(kind="sequence"))
    )
    for _, weight in model.unique_weights():
        weight.data += 0.1 * torch.randn_like(weight)
    return model


def logits(model):
    with torch.no_grad():
        return model(IDS, MASK).logits


def zeroed(model, layer):
    unit = model.encoder.layers[layer].attention
    for part, kept in ((unit.query, QUERIES), (unit.value, VALUES)):
        for head, dimensions in enumerate(kept):
            for row in set(range(6)) - set(dimensions):
                part.weight.data[head * 6 + row] = 0
                part.bias.data[head * 6 + row] = 0
    return model


def test_it_equals_zeroed_dimensions_and_cuts_twice(tmp_path):
    cut = keep_head_width(tiny(), {1: (QUERIES, VALUES)})
    spec = cut.blueprint.layers[1].attention
    assert (spec.head_size, spec.value_size) == (2, 3)
    assert spec.scale == pytest.approx(6**-0.5)
    assert cut.blueprint.total_parameters == sum(weight.numel() for _, weight in cut.unique_weights())
    torch.testing.assert_close(logits(cut), logits(zeroed(tiny(), 1)), atol=1e-5, rtol=0)
    first = [[0]] * 4
    again = keep_head_width(cut, {1: (first, [[0, 1, 2]] * 4)})
    assert again.blueprint.layers[1].attention.scale == spec.scale
    straight = keep_head_width(tiny(), {1: ([[min(each)] for each in QUERIES], VALUES)})
    assert torch.equal(logits(again), logits(straight))
    again.save_pretrained(tmp_path)
    assert torch.equal(logits(type(again).from_pretrained(tmp_path)), logits(again))


def test_layers_that_share_weights_are_cut_together():
    cut = keep_head_width(share(tiny(), {2: 1}), {1: (QUERIES, VALUES)})
    masked = share(zeroed(tiny(), 1), {2: 1})
    torch.testing.assert_close(logits(cut), logits(masked), atol=1e-5, rtol=0)
    assert cut.blueprint.layers[2].attention == cut.blueprint.layers[1].attention


@pytest.mark.parametrize(
    "queries", [[[0], [1], [2]], [[0], [1], [2], [0, 1]], [[6], [0], [0], [0]], [[-1], [0], [0], [0]], [[], [], [], []]]
)
def test_impossible_cuts_are_named(queries):
    with pytest.raises(
        ValueError, match=r"layer 0: needs equally many dimensions in \[0, 5\] for each of \(0, 1, 2, 3"
    ):
        keep_head_width(tiny(), {0: (queries, VALUES)})
